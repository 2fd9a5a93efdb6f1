"""Checks keep off the steps at which the Trainer evaluates or saves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import TrainerCallback

from sigma_monitor import SigmaCallback
from tests.integrations.hosts import Listener, StopAt, eager, make_trainer, record_of, sigma_entries

EVALUATES: dict[str, Any] = {"eval_strategy": "steps", "eval_steps": 3}
EVERY_STEP = list(range(13))


def checked(folder: Path, callback: SigmaCallback, **arguments: Any) -> list[int]:
    make_trainer(folder, callback, max_steps=12, **arguments).train()
    return [snapshot.step for snapshot in record_of(folder).snapshots]


@pytest.mark.parametrize(
    ("arguments", "busy"),
    [
        (EVALUATES, {3, 6, 9}),  # the last step is checked whatever happens there
        ({"save_strategy": "steps", "save_steps": 4}, {4, 8}),
        ({**EVALUATES, "eval_steps": 1}, {1, 3, 5, 7, 9, 11}),  # each waits once and no longer
        ({"eval_strategy": "epoch", "per_device_train_batch_size": 24}, {4, 8}),
        ({"save_strategy": "epoch", "per_device_train_batch_size": 24}, {4, 8}),
        ({**EVALUATES, "metric_for_best_model": "sigma/ratio"}, set()),
        ({}, set()),
    ],
    ids=["evaluate", "save", "always", "epoch", "epoch_save", "asked_for", "idle"],
)
def test_a_check_waits_for_an_evaluation_or_a_save(
    arguments: dict[str, Any], busy: set[int], tmp_path: Path
) -> None:
    found = checked(tmp_path, SigmaCallback(max_overhead=None), **arguments)
    assert found == [step for step in EVERY_STEP if step not in busy]


def test_a_spacing_that_was_asked_for_is_kept(tmp_path: Path) -> None:
    assert checked(tmp_path, eager(every=3), **EVALUATES) == [0, 3, 6, 9, 12]


class StopDuring(TrainerCallback):
    """Asks for the end of the training while `step` is still being made."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        control.should_training_stop |= state.global_step == self.step - 1


class StopAtEvaluation(StopAt):
    """As `EarlyStoppingCallback` does, whose evaluation may be after the end of the epoch."""

    def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        super().on_step_end(args, state, control)

    def on_step_end(self, *_: Any, **__: Any) -> None:
        pass


SAVES = {"save_strategy": "steps", "save_steps": 4}
BEST = {"load_best_model_at_end": True}
EPOCHS = {
    "eval_strategy": "epoch",
    "save_strategy": "epoch",
    "per_device_train_batch_size": 24,
}


@pytest.mark.parametrize(
    ("stop", "arguments", "checked", "logged"),
    [
        (StopDuring, SAVES, True, True),
        (StopAt, SAVES, True, True),
        (StopAt, {**EVALUATES, "eval_steps": 4, **SAVES, **BEST}, True, True),
        (StopAtEvaluation, EPOCHS, True, False),  # loggers may be closed by now
        (StopAtEvaluation, {**EPOCHS, **BEST}, False, False),  # nor the weights of that step
    ],
)
def test_a_check_that_waits_is_not_lost_where_training_ends(
    stop: type[Any], arguments: dict[str, Any], checked: bool, logged: bool, tmp_path: Path
) -> None:
    callback = SigmaCallback(max_overhead=None)
    logger = Listener()
    trainer = make_trainer(tmp_path, callback, stop(8), logger, max_steps=12, **arguments)
    trainer.train()
    assert trainer.state.global_step == 8
    found = [snapshot.step for snapshot in record_of(tmp_path).snapshots]
    assert found == [0, 1, 2, 3, 5, 6, 7, *[8] * checked]
    assert [step for step, _ in sigma_entries(trainer.state.log_history)] == found
    assert [step for step, _ in logger.sigma] == found[: 7 + logged]
