"""Rows that a user observes from inside a host's run, through the monitor of the callback."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from transformers import TrainerCallback, TrainerState

from sigma_monitor import SigmaCallback
from tests.integrations import hosts, lightning_hosts
from tests.integrations.hosts import record_of
from tests.observing_ranks import WIDTH, spread

ONSET, SELDOM = 8, {"every": 100, "baseline": "start"}


def observe(monitor: Any, step: int) -> None:
    rows = spread(rank=WIDTH if step < ONSET else 2, shift=1.0)
    monitor.observe("codebook", torch.nn.Parameter(rows), step)


class Observes(TrainerCallback):
    """Before every step."""

    def __init__(self, monitor: Any) -> None:
        self.monitor = monitor

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        observe(self.monitor, state.global_step)


def stopped_by_rows(folder: Path, monitor: Any) -> int:
    """The step of the observation that asked for the stop, where nothing else could have."""
    record = record_of(folder)
    assert monitor.stop_reason.startswith("observed codebook: COLLAPSED at step ")
    assert {a["channel"] for a in record.alerts if a["kind"] == "STOPPED"} == {"observed"}
    assert all(snapshot.step in (0, record.snapshots[-1].step) for snapshot in record.snapshots)
    return record.observations[-1].step


def test_a_trainer_stops_at_the_hook_after_the_observation(tmp_path: Path) -> None:
    callback = hosts.eager(stop_on_collapse=True, **SELDOM)
    trainer = hosts.make_trainer(tmp_path, callback, Observes(callback.monitor))
    trainer.train()
    step = stopped_by_rows(tmp_path, callback.monitor)
    assert ONSET < step < 25
    assert trainer.state.global_step == step + 1  # the step that had begun was finished


def test_a_lightning_trainer_stops_at_the_hook_after_the_observation(tmp_path: Path) -> None:
    callback = lightning_hosts.eager(stop_on_collapse=True, **SELDOM)

    class Observes(pl.Callback):
        def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
            observe(callback.monitor, trainer.global_step)

    trainer = lightning_hosts.make_trainer(tmp_path, callback, Observes())
    lightning_hosts.fit(trainer)
    step = stopped_by_rows(tmp_path, callback.monitor)
    assert ONSET < step < 25
    assert trainer.global_step == step + 1


def test_a_checkpoint_holds_what_was_observed_where_a_check_waits_for_it(tmp_path: Path) -> None:
    callback = SigmaCallback(max_overhead=None)
    trainer = hosts.make_trainer(
        tmp_path,
        callback,
        Observes(callback.monitor),
        save_strategy="steps",
        save_steps=4,
        max_steps=6,
    )
    trainer.train()
    assert 4 not in [snapshot.step for snapshot in record_of(tmp_path).snapshots]
    saved = TrainerState.load_from_json(str(tmp_path / "checkpoint-4/trainer_state.json"))
    observer = saved.stateful_callbacks["sigma_monitor"]["observer"]
    assert observer["series"]["codebook"]["number"] == 4
