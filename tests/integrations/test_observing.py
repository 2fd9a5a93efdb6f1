"""Rows that a user observes from inside a host's run, through the monitor of the callback."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from transformers import TrainerCallback

from tests.integrations import hosts, lightning_hosts
from tests.integrations.hosts import record_of
from tests.observing_ranks import WIDTH, spread

ONSET, SELDOM = 8, {"every": 100, "baseline": "start"}


def observe(monitor: Any, step: int) -> None:
    rows = spread(rank=WIDTH if step < ONSET else 2, shift=1.0)
    monitor.observe("codebook", torch.nn.Parameter(rows), step)


def stopped_by_rows(folder: Path, monitor: Any) -> int:
    """The step of the observation that asked for the stop, where nothing else could have."""
    record = record_of(folder)
    assert monitor.stop_reason.startswith("observed codebook: COLLAPSED at step ")
    assert {a["channel"] for a in record.alerts if a["kind"] == "STOPPED"} == {"observed"}
    assert all(snapshot.step in (0, record.snapshots[-1].step) for snapshot in record.snapshots)
    return record.observations[-1].step


def test_a_trainer_stops_at_the_hook_after_the_observation(tmp_path: Path) -> None:
    callback = hosts.eager(stop_on_collapse=True, **SELDOM)

    class Observes(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            observe(callback.monitor, state.global_step)

    trainer = hosts.make_trainer(tmp_path, callback, Observes())
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
