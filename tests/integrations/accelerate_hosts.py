"""A loop under accelerate, as a user writes it."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from accelerate.tracking import GeneralTracker
from torch.utils.data import DataLoader

from sigma_monitor import ProbeSet, SigmaMonitor
from sigma_monitor.sinks import MetricsSink
from tests.integrations.hosts import sigma_part
from tests.integrations.models import Letters, tiny_llama, token_rows

STEPS = 30

Watch = Callable[[Accelerator], SigmaMonitor]


class Kept(GeneralTracker):  # type: ignore[misc]
    """A tracker that keeps what it is given; it refuses our metrics if told to."""

    name = "kept"
    requires_logging_directory = False

    def __init__(self, *, refuses: bool = False) -> None:
        super().__init__()
        self.refuses = refuses
        self.heard: list[tuple[int, dict[str, Any]]] = []

    @property
    def tracker(self) -> list[tuple[int, dict[str, Any]]]:
        return self.heard

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        pass

    def log(self, values: dict[str, Any], step: int | None = None, **_: Any) -> None:
        if self.refuses and sigma_part(values):
            raise ValueError("no such metric here")
        assert step is not None
        self.heard.append((step, dict(values)))

    @property
    def sigma(self) -> list[tuple[int, dict[str, float]]]:
        """Step and `sigma/` part of what has one."""
        parts = [(step, sigma_part(values)) for step, values in self.heard]
        return [(step, part) for step, part in parts if part]


def forget_accelerators() -> None:
    """Their settings are those of the process, and the next one may want others."""
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def eager(folder: Path, **options: Any) -> Watch:
    """Every third step, whatever it costs; into the record, the console and the trackers."""

    def watch(accelerator: Accelerator) -> SigmaMonitor:
        return SigmaMonitor(
            ProbeSet.from_dataset(token_rows(16, seed=1)),
            **{
                "every": 3,
                "max_overhead": None,
                "max_steps": STEPS,
                "baseline": "start",
                "tokenizer": Letters(),
                "output_dir": folder,
                "sinks": ["default", MetricsSink(accelerator.log)],
                **options,
            },
        )

    return watch


def train(
    watch: Watch | None = None,
    *,
    trackers: Sequence[GeneralTracker] = (),
    precision: str = "no",
    accumulate: int = 1,
    rows: int = 32,
    flat_from: int = STEPS,
    stop_at: int = STEPS,
    save: Callable[[int], Path | None] = lambda step: None,
    resume: tuple[Path, int] | None = None,
) -> dict[str, Any]:
    """What such a training leaves behind.

    Args:
        watch: Makes the monitor; None trains without.
        trackers: Of accelerate.
        precision: Likewise.
        accumulate: Micro-batches in a step.
        rows: Of training data, four to a micro-batch; without dropout where they are four. One: it
            comes 32 times, so that every process of many has the batches of a single one.
        flat_from: The first step at which little is left of the last hidden state.
        stop_at: The last step.
        save: Where to save the state after a step.
        resume: A saved state and its step.
    """
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    accelerator = Accelerator(
        cpu=True,
        mixed_precision=precision,
        gradient_accumulation_steps=accumulate,
        log_with=list(trackers) or None,
    )
    accelerator.init_trackers("test")
    model = tiny_llama(attention_dropout=0.0 if rows <= 4 else 0.1)
    examples = token_rows(rows) * (32 if rows == 1 else 1)
    # accelerate steps a scheduler once for each process.
    first = 1.0 if rows == 1 else 1 / 3
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    model, optimizer, loader, scheduler = accelerator.prepare(
        model,
        optimizer,
        DataLoader(examples, batch_size=4, shuffle=True),  # type: ignore[arg-type]
        torch.optim.lr_scheduler.LinearLR(optimizer, first, total_iters=20),
    )
    monitor = None if watch is None else watch(accelerator)
    if monitor is not None:
        accelerator.register_for_checkpointing(monitor)
    step = 0
    if resume is not None:
        folder, step = resume
        accelerator.load_state(folder)
    if monitor is not None:
        monitor.step(model, step)
    for batch in _endless(loader):
        with accelerator.accumulate(model):
            loss = model(**batch).loss
            accelerator.backward(loss)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
        if accelerator.sync_gradients:
            step += 1
            accelerator.log({"loss": loss.item()}, step=step)
            if step >= flat_from:
                with torch.no_grad():
                    accelerator.unwrap_model(model).model.norm.weight[4:] = 0.0
        if monitor is not None:  # after each micro-batch, as one may write it
            monitor.step(model, step)
        if not accelerator.sync_gradients:
            continue
        if (path := save(step)) is not None:
            accelerator.save_state(path)
        if step >= stop_at or (monitor is not None and monitor.should_stop):
            break
    if monitor is not None:
        monitor.close()
    actors = {"accelerator": accelerator, "model": model, "monitor": monitor}
    return {**actors, "step": step, **_remains(model, optimizer, scheduler)}


def _endless(loader: Any) -> Iterator[Any]:
    while True:
        yield from loader


def _remains(model: Any, optimizer: Any, scheduler: Any) -> dict[str, Any]:
    return {
        "parameters": {name: part.detach().clone() for name, part in model.named_parameters()},
        "buffers": dict(model.named_buffers()),
        "modes": {name: part.training for name, part in model.named_modules()},
        "hooks": {
            name: len(part._forward_hooks) + len(part._forward_pre_hooks)
            for name, part in model.named_modules()
        },
        "optimizer": optimizer.state_dict(),
        "scheduler": scheduler.state_dict(),
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "torch": torch.get_rng_state(),
        "grad_enabled": torch.is_grad_enabled(),
        "autocast_cache": torch.is_autocast_cache_enabled(),
    }
