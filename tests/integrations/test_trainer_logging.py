"""Every metric once in every logger, at its step; everything else of the Trainer's as it was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import PrinterCallback, Trainer, TrainerCallback

from sigma_monitor import SigmaCallback
from tests.compatibility import shows
from tests.integrations.hosts import (
    Listener,
    eager,
    expected_metrics,
    loss_entries,
    make_trainer,
    our_warnings,
    place_of,
    sigma_entries,
)

LAST = 18
CHECKS = 6  # at least: before the first step, and every third but where it waits for a train log

# How the train log falls on the checks at 0, 3, 6, ..., 18.
RHYTHMS: dict[str, dict[str, Any]] = {
    "every_5": {"logging_steps": 5},
    "at_every_check": {"logging_steps": 3},
    "every_step": {"logging_steps": 1},
    "at_no_check": {"logging_steps": 17},
    "first_step": {"logging_steps": 7, "logging_first_step": True},
    "share_of_the_run": {"logging_steps": 0.2},
    "epochs": {"logging_strategy": "epoch"},
    "never": {"logging_strategy": "no"},
}


def run(folder: Path, *callbacks: Any, **arguments: Any) -> Trainer:
    trainer = make_trainer(folder, *callbacks, **{"max_steps": LAST, **arguments})
    trainer.train()
    return trainer


@shows("Trainer", "same numbers")
@pytest.mark.parametrize("rhythm", RHYTHMS)
def test_every_logger_gets_every_metric_once_and_the_train_logs_as_they_are(
    rhythm: str, tmp_path: Path
) -> None:
    before, after = Listener(), Listener()
    watched = run(tmp_path, before, eager(), after, **RHYTHMS[rhythm])
    expected = expected_metrics(tmp_path)
    assert [step for step, _ in expected] == sorted({step for step, _ in expected})
    assert {0, LAST} <= {step for step, _ in expected}
    assert len(expected) >= CHECKS
    assert before.sigma == after.sigma == expected
    assert sigma_entries(watched.state.log_history) == expected

    plain = run(tmp_path, **RHYTHMS[rhythm])
    losses = loss_entries(plain.state.log_history)
    assert loss_entries(watched.state.log_history) == losses
    assert bool(losses) == (rhythm != "never")


def test_checks_and_train_logs_at_the_same_steps_are_two_records(tmp_path: Path) -> None:
    """Merged into the train log, a logger that refuses our metrics would end the training."""
    trainer = run(tmp_path, eager(every=1), logging_steps=1, max_steps=6)
    history = trainer.state.log_history
    assert [step for step, _ in sigma_entries(history)] == list(range(7))
    assert [entry["step"] for entry in loss_entries(history)] == list(range(1, 7))
    assert not any("loss" in entry and "sigma/status" in entry for entry in history)
    assert sigma_entries(history) == expected_metrics(tmp_path)


def test_metrics_are_finite_python_floats_under_harmless_names(tmp_path: Path) -> None:
    trainer = run(tmp_path, eager(layers=["last", 0]))
    json.dumps(trainer.state.log_history, allow_nan=False)
    allowed = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_/-")
    for _, metrics in sigma_entries(trainer.state.log_history):
        assert {type(value) for value in metrics.values()} == {float}
        assert set("".join(metrics)) <= allowed
        assert {"sigma/status", "sigma/finite", "sigma/loss", "sigma/0/effective_rank"} <= set(
            metrics
        )


def test_entries_with_metrics_hold_nothing_else_but_step_and_epoch(tmp_path: Path) -> None:
    trainer = run(tmp_path, eager())
    own = [entry for entry in trainer.state.log_history if "sigma/status" in entry]
    assert len(own) >= CHECKS
    for entry in own:
        assert {name for name in entry if not name.startswith("sigma/")} == {"step", "epoch"}


def test_the_console_shows_the_metrics(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trainer = run(tmp_path, eager(), disable_tqdm=True)
    assert any(
        isinstance(callback, PrinterCallback) for callback in trainer.callback_handler.callbacks
    )
    shown = capsys.readouterr().out
    assert shown.count("'sigma/last/effective_rank':") == len(expected_metrics(tmp_path))
    assert shown.count("'loss':") == 3


class AddsItsOwn(Trainer):
    """As TRL does: metrics gathered since the last log go into the next one."""

    extra = 0

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        self.extra += 1
        return super().training_step(*args, **kwargs)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        logs = {**logs, "extra": self.extra}
        self.extra = 0
        super().log(logs, start_time)


class KeepsOnlyLosses(Trainer):
    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        super().log({name: logs[name] for name in logs if "loss" in name}, start_time)


class RenamesTheLoss(Trainer):
    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        super().log({name.replace("loss", "objective"): logs[name] for name in logs}, start_time)


class LogsNothing(Trainer):
    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        pass


@pytest.mark.parametrize("logging_steps", [3, 5])
@pytest.mark.parametrize("kind", [AddsItsOwn, KeepsOnlyLosses, RenamesTheLoss, LogsNothing])
def test_a_trainer_that_overrides_log_loses_nothing(
    kind: type[Trainer], logging_steps: int, tmp_path: Path
) -> None:
    listener = Listener()
    trainer = run(tmp_path, eager(), listener, kind=kind, logging_steps=logging_steps)
    expected = expected_metrics(tmp_path)
    assert len(expected) >= CHECKS
    assert sigma_entries(trainer.state.log_history) == expected
    assert listener.sigma == expected


def test_metrics_of_a_trainer_that_overrides_log_are_not_stolen(tmp_path: Path) -> None:
    trainer = run(tmp_path, eager(), kind=AddsItsOwn)
    extras = {e["step"]: e["extra"] for e in trainer.state.log_history if "loss" in e}
    assert extras == dict.fromkeys((5, 10, 15), 5)


@pytest.mark.parametrize("as_class", [False, True], ids=["instance", "class"])
def test_a_callback_that_was_added_later_works_alike(as_class: bool, tmp_path: Path) -> None:
    listener = Listener()
    trainer = make_trainer(tmp_path, listener, max_steps=LAST)
    trainer.add_callback(SigmaCallback if as_class else eager())
    trainer.train()
    expected = expected_metrics(tmp_path)
    assert len(expected) >= (2 if as_class else CHECKS)
    assert listener.sigma == expected
    assert sigma_entries(trainer.state.log_history) == expected


def test_it_stands_behind_the_flow_control_once(tmp_path: Path) -> None:
    callback = eager()
    trainer = make_trainer(tmp_path, Listener(), callback)
    assert place_of(callback, trainer) == 0
    trainer.train()
    callback.attach(trainer)
    callbacks = trainer.callback_handler.callbacks
    assert place_of(callback, trainer) == 0
    assert callbacks.count(callback) == 1
    assert sum(isinstance(other, Listener) for other in callbacks) == 1


class CountsCalls(TrainerCallback):
    def __init__(self) -> None:
        self.calls: list[str] = []

    def on_init_end(self, *_: Any, **__: Any) -> None:
        self.calls.append("on_init_end")

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.calls.append("on_train_begin")


@pytest.mark.parametrize("later", [False, True], ids=["given", "added_later"])
def test_taking_its_place_calls_nobody_twice(later: bool, tmp_path: Path) -> None:
    """The list of callbacks is being iterated over while the place is taken."""
    before, after, callback = CountsCalls(), CountsCalls(), eager()
    given = [before] if later else [before, callback, after]
    trainer = make_trainer(tmp_path, *given, max_steps=2)
    for late in [callback, after] if later else []:
        trainer.add_callback(late)
    trainer.train()
    assert place_of(callback, trainer) == 0
    assert before.calls == ["on_init_end", "on_train_begin"]
    assert after.calls == (["on_train_begin"] if later else before.calls)


@pytest.mark.parametrize("logging_steps", [4, 6], ids=["own_log", "with_the_train_log"])
def test_evaluation_and_checkpoint_at_a_checked_step_still_happen(
    logging_steps: int, tmp_path: Path
) -> None:
    arguments = {
        "eval_strategy": "steps",
        "eval_steps": 6,
        "save_strategy": "steps",
        "save_steps": 6,
        "logging_steps": logging_steps,
    }
    plain = run(tmp_path / "plain", **arguments)
    watched = run(tmp_path / "watched", eager(every=2), **arguments)
    checked = {step for step, _ in expected_metrics(tmp_path / "watched")}
    assert set(range(6, LAST + 1, 6)) <= checked

    def evaluations(trainer: Trainer) -> list[tuple[int, float]]:
        entries = [e for e in trainer.state.log_history if "eval_loss" in e]
        return [(entry["step"], entry["eval_loss"]) for entry in entries]

    def checkpoints(folder: Path) -> list[str]:
        return sorted(path.name for path in folder.glob("checkpoint-*"))

    assert [step for step, _ in evaluations(watched)] == list(range(6, LAST + 1, 6))
    assert evaluations(watched) == evaluations(plain)
    assert checkpoints(tmp_path / "watched") == checkpoints(tmp_path / "plain")
    assert len(checkpoints(tmp_path / "watched")) == 3
    # Best-model bookkeeping must not take our entry for an evaluation.
    assert not any("eval_loss" in entry for _, entry in sigma_entries(watched.state.log_history))


def test_without_a_trainer_to_find_it_says_who_misses_the_metrics(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    listener = Listener()
    callback = eager()
    monkeypatch.setattr("gc.get_objects", list)
    trainer = run(tmp_path, callback, listener, logging_steps=17)
    expected = expected_metrics(tmp_path)
    assert len(expected) >= CHECKS
    assert sigma_entries(trainer.state.log_history) == expected
    (missing,) = [text for text in our_warnings(caplog) if "Trainer was not found" in text]
    assert "callback.attach(trainer)" in missing


def test_attach_helps_where_no_trainer_was_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    listener = Listener()
    callback = eager()
    monkeypatch.setattr("gc.get_objects", list)
    trainer = make_trainer(tmp_path, callback, listener)
    callback.attach(trainer)
    trainer.train()
    assert listener.sigma == expected_metrics(tmp_path)
    assert not any("Trainer was not found" in text for text in our_warnings(caplog))
