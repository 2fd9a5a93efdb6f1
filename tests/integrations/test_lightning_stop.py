"""Stopping a Lightning run on collapse, on one process and on two."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest

from sigma_monitor import Status
from tests.compatibility import shows
from tests.integrations.begins import TROUBLES
from tests.integrations.hosts import events_of, kinds, record_of
from tests.integrations.lightning_hosts import (
    From,
    Kept,
    checked_at,
    eager,
    fit,
    flatten,
    make_trainer,
)

ONSET = 10
START = {"every": 2, "baseline": "start"}
REPOSITORY = Path(__file__).parents[2]


def run(folder: Path, callback: Any, **arguments: Any) -> pl.Trainer:
    trainer = make_trainer(folder, From(ONSET, flatten), callback, **arguments)
    fit(trainer)
    return trainer


@shows("Lightning", "stopped")
@pytest.mark.parametrize("stop", [True, 0.6, 0.2])
def test_a_collapse_stops_the_run_at_its_check(stop: bool | float, tmp_path: Path) -> None:
    callback, logger = eager(stop_on_collapse=stop, **START), Kept()
    trainer = run(tmp_path, callback, logger=[logger])
    record = record_of(tmp_path)
    assert kinds(record.alerts) == ["BASELINE", "WARNING", "COLLAPSED", "STOPPED"]
    stopped = record.alerts[-1]["step"]
    assert ONSET < stopped <= ONSET + 10
    assert trainer.global_step == stopped == record.snapshots[-1].step
    assert callback.monitor.stop_reason == f"COLLAPSED at step {stopped}"
    assert logger.sigma[-1] == (stopped - 1, record.snapshots[-1].metrics())
    assert len(events_of(tmp_path, "closed")) == 1


@pytest.mark.parametrize("stop", [False, 0.05])
def test_a_run_that_was_not_to_stop_goes_on(stop: bool | float, tmp_path: Path) -> None:
    callback = eager(stop_on_collapse=stop, **START)
    trainer = run(tmp_path, callback)
    assert trainer.global_step == 30
    assert not trainer.should_stop
    assert callback.monitor.status is (Status.WARNING if stop else Status.COLLAPSED)


def test_min_steps_delays_the_stop(tmp_path: Path) -> None:
    callback = eager(stop_on_collapse=True, **START)
    trainer = run(tmp_path, callback, min_steps=25)
    assert trainer.global_step == 25
    assert callback.monitor.should_stop
    # No further than the stop itself would have gone, but for the last check.
    assert checked_at(tmp_path) == [*range(0, 25, 2), 25]
    assert kinds(record_of(tmp_path).alerts).count("STOPPED") == 1


def test_a_stop_that_somebody_else_asked_for_stays(tmp_path: Path) -> None:
    class StopAt(pl.Callback):
        def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
            trainer.should_stop |= trainer.global_step == 6

    trainer = make_trainer(tmp_path, StopAt(), eager(every=1, stop_on_collapse=True))
    fit(trainer)
    assert trainer.global_step == checked_at(tmp_path)[-1] == 7


def two_ranks(folder: Path, trouble: str) -> list[dict[str, Any]]:
    """What each of them reports."""
    command = [sys.executable, "-m", "tests.integrations.lightning_ranks", str(folder), trouble]
    ended = subprocess.run(command, cwd=REPOSITORY, capture_output=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stderr.decode()[-3000:]
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in (0, 1)]


@pytest.mark.long
@pytest.mark.parametrize("trouble", [f"{trouble}_1" for trouble in TROUBLES])
def test_where_one_rank_cannot_begin_none_of_them_watches(trouble: str, tmp_path: Path) -> None:
    for rank in two_ranks(tmp_path, trouble):
        assert rank["active"] == (trouble == "probes_1")  # rows may be observed all the same
        assert (rank["step"], rank["heard"], rank["failures"]) == (30, 0, 0)


@shows("Lightning", "stopped", strategy="ddp, 2 processes")
@pytest.mark.parametrize(
    "fails",
    [
        pytest.param("nowhere", marks=pytest.mark.long),
        pytest.param("rank_0", marks=pytest.mark.long),
        "rank_1",
    ],
)
def test_two_ranks_check_and_stop_together_and_the_record_is_written_once(
    fails: str, tmp_path: Path
) -> None:
    ranks = two_ranks(tmp_path, fails)
    assert [rank["failures"] for rank in ranks] == [fails != "nowhere"] * 2
    assert ranks[0]["step"] == ranks[1]["step"]
    assert ranks[0]["stop_reason"] == ranks[1]["stop_reason"]
    assert (ranks[0]["heard"], ranks[1]["heard"]) == (len(checked_at(tmp_path)), 0)
    assert len(events_of(tmp_path, "started")) == len(events_of(tmp_path, "closed")) == 1
    if fails == "nowhere":
        stopped = record_of(tmp_path).alerts[-1]
        assert stopped["kind"] == "STOPPED"
        assert ONSET < ranks[0]["step"] == stopped["step"] < 30
