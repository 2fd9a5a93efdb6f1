"""Hosts on one, two and four processes: the same numbers, also where one is resumed on fewer."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.compatibility import shows
from tests.integrations.hosts import (
    assert_same_numbers,
    events_of,
    kinds,
    numbers,
    our_warnings,
    record_of,
)
from tests.integrations.worlds import HOSTS, ONSET, SAVED, STEPS, resumes
from tests.processes import reports

pytestmark = pytest.mark.long


@dataclass(frozen=True)
class World:
    """What a number of processes has come to: the reports of all, and the folder of their runs."""

    host: str
    folder: Path
    ranks: list[dict[str, Any]]

    def of(self, training: str) -> dict[str, Any]:
        """The report of rank 0 on a training; all others have to say the same, clocks apart."""
        first, *others = (rank[training] for rank in self.ranks)
        assert all({**other, "heard": None} == {**first, "heard": None} for other in others)
        assert first["world"] == len(self.ranks)
        assert first["failures"] == 0
        return dict(first)


def worlds(*demands: str) -> pytest.MarkDecorator:
    """The test is of each host on two and on four processes."""
    names = {"Trainer": "DDP", "Lightning": "ddp"}
    return pytest.mark.parametrize(
        "world",
        [
            pytest.param(
                (host, world),
                id=f"{host}-{world}",
                marks=shows(host, *demands, strategy=f"{name}, {world} processes"),
            )
            for host, name in names.items()
            for world in (2, 4)
        ],
        indirect=True,
    )


@pytest.fixture(scope="module")
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> World:
    host, processes = request.param
    folder = tmp_path_factory.mktemp("world")
    ranks = reports("tests.integrations.worlds", folder, host, processes, world=processes)
    return World(host, folder, ranks)


@pytest.fixture(scope="module")
def singles(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], World]:
    """The same training on one process, by host."""

    @cache
    def single(host: str) -> World:
        folder = tmp_path_factory.mktemp("single")
        return World(host, folder, [{"whole": HOSTS[host](folder / "whole")}])

    return single


@pytest.fixture
def single(world: World, singles: Callable[[str], World]) -> World:
    return singles(world.host)


def happened(alerts: list[dict[str, Any]]) -> list[tuple[str, int]]:
    return [(alert["kind"], alert["step"]) for alert in alerts]


@worlds("same weights")
def test_training_is_bitwise_what_it_is_without_the_monitor(world: World, single: World) -> None:
    for name in ("step", "weights", "generators"):
        assert world.of("alone")[name] == world.of("whole")[name]
    assert world.of("alone")["weights"] == single.of("whole")["weights"]


@worlds("same numbers")
def test_every_logger_gets_the_numbers_of_one_process(world: World, single: World) -> None:
    whole, (ours, theirs) = (
        world.of("whole"),
        (record_of(w.folder / "whole") for w in (world, single)),
    )
    assert_same_numbers(ours.snapshots, theirs.snapshots)
    assert len(ours.snapshots) > ONSET / 2
    assert happened(ours.alerts) == happened(theirs.alerts)
    assert [metrics for _, metrics in whole["heard"]] == [s.metrics() for s in ours.snapshots]


@worlds("resumed")
def test_a_resumed_run_goes_on_as_if_nothing_had_happened(world: World) -> None:
    if not resumes(world.host):
        pytest.skip("the Trainer of transformers 4 cannot resume on several CPUs with this torch")
    ours, theirs = (record_of(world.folder / name) for name in ("resumed", "whole"))
    assert [numbers(s) for s in ours.snapshots] == [numbers(s) for s in theirs.snapshots]
    assert ours.alerts == theirs.alerts
    assert [event["step"] for event in events_of(world.folder / "resumed", "resumed")] == [SAVED]
    assert world.of("resumed")["weights"] == world.of("whole")["weights"]
    # The check at the step of the checkpoint is not done again.
    checks = (world.of("whole")["step"] - SAVED) / 2
    assert len(world.of("resumed")["heard"]) == checks


@worlds("resumed")
def test_a_run_goes_on_on_one_process(
    world: World, single: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = Path(shutil.copytree(world.folder / "left", tmp_path / "left"))
    left = HOSTS[world.host](folder, resume=True)
    assert our_warnings(caplog) == []
    ours, theirs = record_of(folder), record_of(single.folder / "whole")
    assert_same_numbers(ours.snapshots, theirs.snapshots)
    assert happened(ours.alerts) == happened(theirs.alerts)
    assert [event["step"] for event in events_of(folder, "resumed")] == [SAVED]
    assert left["step"] == single.of("whole")["step"]


@worlds("stopped")
def test_all_stop_at_one_step(world: World) -> None:
    whole, folder = world.of("whole"), world.folder / "whole"
    assert ONSET < whole["step"] < STEPS
    assert whole["reason"] == f"COLLAPSED at step {whole['step']}"
    assert kinds(record_of(folder).alerts) == ["BASELINE", "WARNING", "COLLAPSED", "STOPPED"]
    assert len(events_of(folder, "started")) == len(events_of(folder, "closed")) == 1
