"""`monitor.step` in a loop under accelerate: metrics, checkpoints, bitwise equality, ranks."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from sigma_monitor import ProbeSet, SigmaMonitor, Snapshot, Status
from sigma_monitor.errors import RecordError
from sigma_monitor.monitor.options import CHANNELS
from sigma_monitor.sinks import MetricsSink, Record
from tests.compatibility import DEMANDS, shows
from tests.integrations.accelerate_hosts import STEPS, Kept, eager, forget_accelerators, train
from tests.integrations.bitwise import differences
from tests.integrations.hosts import (
    assert_same_numbers,
    events_of,
    expected_metrics,
    kinds,
    our_warnings,
    record_of,
)
from tests.integrations.models import tiny_llama, token_rows
from tests.processes import reports

ONSET = 12  # of a collapse
EVERY_THIRD = list(range(0, STEPS + 1, 3))

precisions = pytest.mark.parametrize("precision", ["no", "bf16"])


@pytest.fixture(autouse=True)
def _own_accelerator() -> Iterator[None]:
    forget_accelerators()
    yield
    forget_accelerators()


def checked_at(folder: Path) -> list[int]:
    return [snapshot.step for snapshot in record_of(folder).snapshots]


# Metrics


@shows("accelerate", "same numbers")
@precisions
@pytest.mark.parametrize("accumulate", [1, 2])
def test_every_tracker_gets_every_metric_once_at_its_step(
    precision: str, accumulate: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trackers = [Kept(), Kept()]
    left = train(eager(tmp_path), trackers=trackers, precision=precision, accumulate=accumulate)
    assert left["step"] == STEPS
    assert checked_at(tmp_path) == EVERY_THIRD
    for tracker in trackers:
        assert tracker.sigma == expected_metrics(tmp_path)
        assert [step for step, values in tracker.heard if "loss" in values] == [
            *range(1, STEPS + 1)
        ]
    assert {type(value) for _, part in trackers[0].sigma for value in part.values()} == {float}
    assert our_warnings(caplog) == []
    assert left["monitor"].failures == 0


def test_a_tracker_that_refuses_costs_the_record_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train(eager(tmp_path), trackers=[Kept(refuses=True)])
    assert checked_at(tmp_path) == EVERY_THIRD
    (closed,) = events_of(tmp_path, "closed")
    assert closed["lost"] == {"MetricsSink": len(EVERY_THIRD)}
    assert "no such metric here" in our_warnings(caplog)[0]


# The training


@shows("accelerate", "same weights")
@pytest.mark.parametrize("channels", [CHANNELS[:1], CHANNELS], ids=["reads", "writes_too"])
@pytest.mark.parametrize("accumulate", [1, 2])
@precisions
def test_the_training_is_bitwise_the_one_without(
    precision: str, accumulate: int, channels: tuple[str, ...], tmp_path: Path
) -> None:
    how = {"precision": precision, "accumulate": accumulate}
    options = {"channels": channels, "generation": {"every": 2}}
    alone = train(**how)
    forget_accelerators()
    beside = train(eager(tmp_path, **options), **how)
    assert checked_at(tmp_path) == EVERY_THIRD
    assert events_of(tmp_path, "writing_failed") == []
    assert bool(record_of(tmp_path).snapshots[0].generation) is (len(channels) == 2)
    for left in (alone, beside):
        del left["accelerator"], left["model"], left["monitor"]
    assert differences(alone, beside) == []


def test_a_prepared_model_is_measured_in_the_precision_of_its_training(tmp_path: Path) -> None:
    """As the bare model inside autocast, which single precision is not."""
    train(eager(tmp_path), precision="bf16", stop_at=1)
    measured = record_of(tmp_path).snapshots[0].layers
    torch.manual_seed(0)
    model = tiny_llama(attention_dropout=0.1)
    probes = ProbeSet.from_dataset(token_rows(16, seed=1))
    monitors = [SigmaMonitor(probes, sinks=[]) for _ in range(2)]
    monitors[1].instrument.call_within(lambda: torch.autocast("cpu", torch.bfloat16))
    single, half = (monitor.check(model, 0).layers for monitor in monitors)
    assert measured["last"]["effective_rank"] == half["last"]["effective_rank"]
    assert measured["last"]["effective_rank"] != single["last"]["effective_rank"]


@shows("accelerate", "stopped")
def test_a_collapse_ends_a_loop_that_asks(tmp_path: Path) -> None:
    left = train(eager(tmp_path, stop_on_collapse=True, every=1), flat_from=ONSET)
    record = record_of(tmp_path)
    assert kinds(record.alerts) == ["BASELINE", "WARNING", "COLLAPSED", "STOPPED"]
    assert ONSET < left["step"] == record.alerts[-1]["step"] < STEPS


# Checkpoints


def measured(snapshot: Snapshot) -> dict[str, Any]:
    """A snapshot without what a clock has measured."""
    clocks = ("time", "seconds", "overhead")
    return {name: value for name, value in vars(snapshot).items() if name not in clocks}


def lasting(state: dict[str, Any]) -> dict[str, Any]:
    """A monitor's state without what a clock has measured."""
    cadence = {name: state["cadence"][name] for name in ("last_step", "next_step", "spacing")}
    return {**state, "cadence": cadence}


def resumable(folder: Path, *, resume_from: int | None = None, **options: Any) -> dict[str, Any]:
    """The same training in every run, saved at each tenth step."""
    return train(
        eager(folder, every=2),
        rows=4,
        flat_from=ONSET,
        save=lambda step: None if step % 10 else folder / str(step),
        resume=None if resume_from is None else (folder / str(resume_from), resume_from),
        **options,
    )


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SigmaMonitor]:
    folder = tmp_path_factory.mktemp("uninterrupted")
    forget_accelerators()
    return folder, resumable(folder)["monitor"]


def test_the_run_that_is_not_interrupted_has_something_to_lose(
    uninterrupted: tuple[Path, SigmaMonitor],
) -> None:
    folder, monitor = uninterrupted
    assert kinds(record_of(folder).alerts) == ["BASELINE", "WARNING", "COLLAPSED"]
    assert monitor.status is Status.COLLAPSED


@shows("accelerate", "resumed")
@pytest.mark.parametrize(("saved", "killed"), [(10, 10), (10, 17), (20, 25)])
def test_a_resumed_run_goes_on_as_if_nothing_had_happened(
    saved: int,
    killed: int,
    uninterrupted: tuple[Path, SigmaMonitor],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    whole, expected = uninterrupted
    resumable(tmp_path, stop_at=killed)
    forget_accelerators()
    tracker = Kept()
    monitor = resumable(tmp_path, resume_from=saved, trackers=[tracker])["monitor"]
    assert our_warnings(caplog) == []
    assert [event["step"] for event in events_of(tmp_path, "resumed")] == [saved]
    assert len(events_of(tmp_path, "started")) == 1
    ours, theirs = record_of(tmp_path), record_of(whole)
    assert [measured(s) for s in ours.snapshots] == [measured(s) for s in theirs.snapshots]
    assert ours.alerts == theirs.alerts
    states = [lasting(each.state_dict()) for each in (expected, monitor)]
    assert differences(*states) == []
    # The check at the step of the checkpoint is not done again.
    assert [step for step, _ in tracker.sigma] == list(range(saved + 2, STEPS + 1, 2))


@shows("accelerate", "same weights")
def test_a_resumed_training_is_bitwise_the_one_that_was_not_interrupted(tmp_path: Path) -> None:
    whole = train(rows=4, flat_from=ONSET)
    forget_accelerators()
    resumable(tmp_path, stop_at=10)
    forget_accelerators()
    resumed = resumable(tmp_path, resume_from=10)
    for name in ("parameters", "optimizer", "scheduler"):
        assert differences(whole[name], resumed[name]) == []


def test_the_saved_state_needs_no_unpickling(uninterrupted: tuple[Path, SigmaMonitor]) -> None:
    folder, monitor = uninterrupted
    saved = torch.load(folder / "30" / "custom_checkpoint_0.pkl", weights_only=True)
    assert differences(lasting(saved), lasting(monitor.state_dict())) == []


CORRUPTIONS: dict[str, Callable[[Any], Any]] = {
    "other_version": lambda state: {**state, "version": 99},
    "missing_field": lambda state: {k: v for k, v in state.items() if k != "watch"},
    "no_layers": lambda state: {**state, "watch": {**state["watch"], "order": []}},
    "text": lambda state: "not a state",
    "nothing": lambda state: None,
}


@pytest.mark.parametrize("corruption", CORRUPTIONS)
def test_a_bad_state_is_refused_and_the_monitor_begins_anew(
    corruption: str, tmp_path: Path
) -> None:
    left = resumable(tmp_path, stop_at=10)
    path = tmp_path / "10" / "custom_checkpoint_0.pkl"
    torch.save(CORRUPTIONS[corruption](torch.load(path, weights_only=True)), path)
    accelerator = left["accelerator"]
    monitor = eager(tmp_path / "again")(accelerator)
    accelerator._custom_objects[:] = [monitor]
    with pytest.raises(RecordError):
        accelerator.load_state(tmp_path / "10")
    assert monitor.step(tiny_llama(), 10) is not None
    assert [event["step"] for event in events_of(tmp_path / "again", "started")] == [10]
    assert events_of(tmp_path / "again", "resumed") == []


# Several processes


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Record:
    """The record of a training of which several processes have the numbers."""
    folder = tmp_path_factory.mktemp("single")
    forget_accelerators()
    train(eager(folder), rows=1, flat_from=ONSET)
    return record_of(folder)


@pytest.mark.parametrize(
    ("world", "accumulate"),
    [
        pytest.param(
            world,
            accumulate,
            marks=[
                shows("accelerate", *DEMANDS, strategy=f"DDP, {world} processes"),
                *([pytest.mark.long] if (world, accumulate) != (2, 2) else []),
            ],
        )
        for world, accumulate in [(2, 1), (2, 2), (4, 1)]
    ],
)
def test_all_ranks_check_and_stop_together_and_the_record_is_written_once(
    world: int, accumulate: int, single: Record, tmp_path: Path
) -> None:
    ranks = reports(
        "tests.integrations.accelerate_ranks",
        tmp_path,
        world,
        accumulate,
        world=world,
        timeout=200,
    )
    heard, alike = ([rank.pop(name) for rank in ranks] for name in ("heard", "alike"))
    first, *others = ranks
    assert all(other == first for other in others)
    assert first["wrapped"] == "DistributedDataParallel"
    assert (first["failures"], first["changed"]) == (0, [])
    record = record_of(tmp_path)
    assert record.alerts[-1]["kind"] == "STOPPED"
    assert ONSET < first["step"] == record.alerts[-1]["step"] < STEPS
    assert first["stop_reason"] == f"COLLAPSED at step {first['step']}"
    # Resumed from the state of step 10, which rank 0 had saved for both.
    assert heard == [list(range(11, first["step"] + 1)), *[[]] * (world - 1)]
    assert checked_at(tmp_path) == list(range(first["step"] + 1))
    assert [event["step"] for event in events_of(tmp_path, "resumed")] == [10]
    assert len(events_of(tmp_path, "started")) == 1
    assert len(events_of(tmp_path, "closed")) == 2
    folder = tmp_path / "alike"
    assert_same_numbers(record_of(folder).snapshots, single.snapshots)
    assert kinds(record_of(folder).alerts) == kinds(single.alerts)
    assert [(step, metrics) for step, metrics in alike[0]] == expected_metrics(folder)
    assert alike[1:] == [[]] * (world - 1)


def test_a_monitor_needs_no_accelerator(caplog: pytest.LogCaptureFixture) -> None:
    """The same sink logs for any loop."""
    caplog.set_level(logging.WARNING)
    kept: dict[int, dict[str, float]] = {}
    sink = MetricsSink(lambda values, step: kept.update({step: values}))
    monitor = SigmaMonitor(ProbeSet.from_dataset(token_rows(16)), sinks=[sink])
    snapshot = monitor.step(tiny_llama(), 7)
    assert snapshot is not None
    assert kept == {7: snapshot.metrics()}
