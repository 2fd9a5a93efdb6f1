"""Lightning trainers as the tests want them, and callbacks that do things to their training."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.loggers import Logger
from torch import Tensor, nn
from torch.utils.data import DataLoader

from sigma_monitor import SigmaLightningCallback
from tests.integrations.hosts import record_of, sigma_part
from tests.integrations.models import Rows, tiny_llama, token_rows


class Wrapped(pl.LightningModule):
    """A transformers model in an attribute, and nothing else."""

    def __init__(self, model: nn.Module | None = None) -> None:
        super().__init__()
        self.model = tiny_llama() if model is None else model

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        loss = self.model(**batch).loss
        self.log("train_loss", loss)
        return loss

    def validation_step(
        self, batch: dict[str, Tensor], batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self.log("val_loss", self.model(**batch).loss)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=1e-3)
        scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, total_iters=20)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }


class TwoOptimizers(Wrapped):
    """Two steps of the global step in each batch."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        for optimizer in self.optimizers():
            loss = self.model(**batch).loss
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
        self.log("train_loss", loss)

    def configure_optimizers(self) -> Any:
        body = set(self.model.model.parameters())
        head = [p for p in self.model.parameters() if p not in body]
        return [torch.optim.SGD(part, lr=1e-3) for part in (list(body), head)]


class Kept(Logger):
    """A logger that keeps what it is given; it refuses our metrics if told to."""

    def __init__(self, *, refuses: bool = False) -> None:
        super().__init__()
        self.refuses = refuses
        self.heard: list[tuple[int, dict[str, Any]]] = []

    @property
    def name(self) -> str:
        return "kept"

    @property
    def version(self) -> int:
        return 0

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        pass

    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        if self.refuses and sigma_part(metrics):
            raise ValueError("no such metric here")
        assert step is not None
        self.heard.append((step, dict(metrics)))

    @property
    def sigma(self) -> list[tuple[int, dict[str, float]]]:
        """Step and `sigma/` part of what has one."""
        parts = [(step, sigma_part(metrics)) for step, metrics in self.heard]
        return [(step, part) for step, part in parts if part]

    def of(self, name: str) -> list[tuple[int, float]]:
        return [(step, metrics[name]) for step, metrics in self.heard if name in metrics]


class From(pl.Callback):
    """Does something to the model at the start of every batch from `onset` on."""

    def __init__(self, onset: int, act: Callable[[Any], None]) -> None:
        self.onset = onset
        self.act = act

    def on_train_batch_start(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        if trainer.global_step >= self.onset:
            with torch.no_grad():
                self.act(pl_module.model)


class StopAt(pl.Callback):
    """Ends the training after `step`, as an impatient user would: its length is that of the run."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        trainer.should_stop |= trainer.global_step >= self.step


def flatten(model: Any) -> None:
    """Leaves a few features of the last hidden state alive."""
    model.model.norm.weight[4:] = 0.0


def make_trainer(folder: Path, *callbacks: Any, **arguments: Any) -> pl.Trainer:
    """Of 30 short steps on a CPU, silent, without loggers and checkpoints unless told otherwise."""
    return pl.Trainer(
        callbacks=list(callbacks),
        **{
            "default_root_dir": folder,
            "accelerator": "cpu",
            "devices": 1,
            "max_steps": 30,
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "log_every_n_steps": 5,
            **arguments,
        },
    )


def loader(rows: Any, **options: Any) -> DataLoader[Any]:
    return DataLoader(rows, **{"batch_size": 4, **options})


def fit(
    trainer: pl.Trainer,
    module: pl.LightningModule | None = None,
    train: Any = None,
    held_out: Any = "default",
    **options: Any,
) -> pl.LightningModule:
    """Trains, from the same state of the generators every time."""
    module = Wrapped() if module is None else module
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    trainer.fit(
        module,
        loader(token_rows(96), shuffle=True) if train is None else train,
        loader(token_rows(32, seed=1)) if isinstance(held_out, str) else held_out,
        **options,
    )
    return module


def eager(**options: Any) -> SigmaLightningCallback:
    """Every third step, whatever it costs."""
    return SigmaLightningCallback(**{"every": 3, "max_overhead": None, **options})


def checked_at(folder: Path) -> list[int]:
    return [snapshot.step for snapshot in record_of(folder).snapshots]


def rows_of(probes: Any) -> set[tuple[int, ...]]:
    return {tuple(row) for row in probes.tensors["input_ids"].tolist()}


def token_tuples(rows: Rows | Sequence[Any]) -> set[tuple[int, ...]]:
    return {tuple(row["input_ids"].tolist()) for row in rows}


def remains(trainer: pl.Trainer) -> dict[str, Any]:
    """Model, optimisers, schedulers and generators after `fit`."""
    module = trainer.lightning_module
    return {
        "parameters": dict(module.named_parameters()),
        "buffers": dict(module.named_buffers()),
        "modes": {name: part.training for name, part in module.named_modules()},
        "hooks": {
            name: len(part._forward_hooks) + len(part._forward_pre_hooks)
            for name, part in module.named_modules()
        },
        "optimizers": [optimizer.state_dict() for optimizer in trainer.optimizers],
        "schedulers": [config.scheduler.state_dict() for config in trainer.lr_scheduler_configs],
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "torch": torch.get_rng_state(),
        "grad_enabled": torch.is_grad_enabled(),
        "autocast_cache": torch.is_autocast_cache_enabled(),
        "default_dtype": str(torch.get_default_dtype()),
    }
