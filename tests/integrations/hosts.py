"""Trainers as the tests want them, and callbacks that do things to their training."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    DefaultFlowCallback,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from sigma_monitor import SigmaCallback, Snapshot
from sigma_monitor.sinks import Record, read_record
from tests.integrations.models import tiny_llama, token_rows

QUIET = {  # arguments of a short Trainer on a CPU
    "per_device_train_batch_size": 4,
    "learning_rate": 1e-3,
    "lr_scheduler_type": "constant",
    "logging_steps": 5,
    "save_strategy": "no",
    "report_to": [],
    "disable_tqdm": True,
    "use_cpu": True,
    "seed": 0,
}

# What the two sides of a comparison must not share is made anew in each Trainer.


def make_trainer(
    output_dir: Path,
    *callbacks: TrainerCallback,
    model: torch.nn.Module | None = None,
    train: Any = None,
    held_out: Any = "default",
    kind: type[Trainer] = Trainer,
    data_collator: Any = None,
    **arguments: Any,
) -> Trainer:
    """A Trainer of 30 short steps on a CPU, silent unless told otherwise."""
    trainer = kind(
        model=tiny_llama() if model is None else model,
        args=TrainingArguments(
            str(output_dir),
            **{
                **QUIET,
                "max_steps": 30,
                "per_device_eval_batch_size": 16,
                **arguments,
            },
        ),
        train_dataset=token_rows(96) if train is None else train,
        eval_dataset=token_rows(32, seed=1) if isinstance(held_out, str) else held_out,
        data_collator=data_collator,
        callbacks=list(callbacks),
    )
    if "disable_tqdm" not in arguments:
        trainer.remove_callback(PrinterCallback)
    return trainer


def eager(**options: Any) -> SigmaCallback:
    """Every third step, whatever it costs."""
    return SigmaCallback(**{"every": 3, "max_overhead": None, **options})


def record_path(output_dir: Path, name: str = "sigma") -> Path:
    return output_dir / name / "record.jsonl"


def record_of(output_dir: Path, name: str = "sigma") -> Record:
    return read_record(record_path(output_dir, name))


def record_lines(output_dir: Path) -> list[dict[str, Any]]:
    """The raw lines, each of them strict JSON."""

    def reject(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    lines = record_path(output_dir).read_text().splitlines()
    return [json.loads(line, parse_constant=reject) for line in lines]


def events_of(output_dir: Path, name: str, of: str = "sigma") -> list[dict[str, Any]]:
    return [event for event in record_of(output_dir, of).events if event["event"] == name]


def kinds(alerts: Sequence[dict[str, Any]]) -> list[str]:
    return [alert["kind"] for alert in alerts]


def sigma_entries(history: Sequence[dict[str, Any]]) -> list[tuple[int, dict[str, float]]]:
    """Step and `sigma/` part of each entry of a log history that has one."""
    parts = [(entry["step"], sigma_part(entry)) for entry in history]
    return [(step, part) for step, part in parts if part]


def sigma_part(logs: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in logs.items() if name.startswith("sigma/")}


def loss_entries(history: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The Trainer's own records of the training loss."""
    return [
        {name: value for name, value in entry.items() if not name.startswith("sigma/")}
        for entry in history
        if "loss" in entry
    ]


def expected_metrics(output_dir: Path) -> list[tuple[int, dict[str, float]]]:
    """What every logger should have got, from the record."""
    return [(snapshot.step, snapshot.metrics()) for snapshot in record_of(output_dir).snapshots]


def numbers(snapshot: Snapshot) -> dict[str, float]:
    """What a snapshot says, but for what a clock has measured."""
    clocks = ("sigma/check_seconds", "sigma/overhead")
    return {name: value for name, value in snapshot.metrics().items() if name not in clocks}


def assert_same_numbers(ours: Sequence[Snapshot], theirs: Sequence[Snapshot]) -> None:
    """As near as the rounding of smaller micro-batches lets them be."""
    assert [snapshot.step for snapshot in ours] == [snapshot.step for snapshot in theirs]
    for one, other in zip(ours, theirs, strict=True):
        assert numbers(one) == pytest.approx(numbers(other), rel=1e-6, abs=1e-6)


def our_warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        entry.getMessage()
        for entry in caplog.records
        if entry.name == "sigma_monitor" and entry.levelno >= logging.WARNING
    ]


def place_of(callback: TrainerCallback, trainer: Trainer) -> int:
    """How many callbacks stand between the Trainer's flow control and this one."""
    callbacks = trainer.callback_handler.callbacks
    flow = next(i for i, other in enumerate(callbacks) if isinstance(other, DefaultFlowCallback))
    return callbacks.index(callback) - flow - 1


class Listener(TrainerCallback):
    """A logger that keeps what it is given."""

    def __init__(self) -> None:
        self.heard: list[tuple[int, dict[str, Any]]] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        self.heard.append((state.global_step, dict(logs)))

    @property
    def sigma(self) -> list[tuple[int, dict[str, float]]]:
        parts = [(step, sigma_part(logs)) for step, logs in self.heard]
        return [(step, part) for step, part in parts if part]


class LearningRateJump(TrainerCallback):
    """Multiplies the learning rate from the end of `onset` on."""

    def __init__(self, onset: int, factor: float = 100.0) -> None:
        self.onset = onset
        self.factor = factor

    def on_step_begin(
        self, args: Any, state: Any, control: Any, optimizer: Any = None, **_: Any
    ) -> None:
        if state.global_step >= self.onset:
            for group in optimizer.param_groups:
                group["lr"] = args.learning_rate * self.factor


class Flatten(TrainerCallback):
    """Leaves a few features of the last hidden state alive, from the end of `onset` on."""

    def __init__(self, onset: int, kept: int = 4) -> None:
        self.onset = onset
        self.kept = kept

    def on_step_begin(
        self, args: Any, state: Any, control: Any, model: Any = None, **_: Any
    ) -> None:
        if state.global_step >= self.onset:
            with torch.no_grad():
                model.model.norm.weight[self.kept :] = 0.0


class Poison(TrainerCallback):
    """Makes the weights NaN at the end of `onset`."""

    def __init__(self, onset: int) -> None:
        self.onset = onset

    def on_step_begin(
        self, args: Any, state: Any, control: Any, model: Any = None, **_: Any
    ) -> None:
        if state.global_step == self.onset:
            with torch.no_grad():
                model.model.norm.weight.fill_(float("nan"))


class StopAt(TrainerCallback):
    """Ends the training after `step`, as an impatient user would."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        control.should_training_stop |= state.global_step >= self.step
