"""ZeRO on two processes, in a plain loop and in a Trainer; skipped where deepspeed is missing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.compatibility import shows
from tests.integrations.hosts import (
    assert_same_numbers,
    events_of,
    expected_metrics,
    numbers,
    record_of,
)

pytest.importorskip("deepspeed", reason="deepspeed is not installed")

from tests.integrations import deepspeed_ranks, sharded_loop
from tests.integrations.deepspeed_ranks import ONSET, SAVED, STEPS, WORLD
from tests.processes import reports

pytestmark = pytest.mark.timeout(900)  # of which its first use takes minutes, to compile


class Ran(NamedTuple):
    stage: int
    folder: Path
    reports: list[dict[str, Any]]  # by rank

    def of(self, training: str) -> list[dict[str, Any]]:
        return [report[training] for report in self.reports]


def stages(host: str, *demands: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(
        "ranks",
        [
            pytest.param(
                stage,
                id=f"zero{stage}",
                marks=shows(host, *demands, strategy=f"DeepSpeed ZeRO-{stage}, {WORLD} processes"),
            )
            for stage in (2, 3)
        ],
        indirect=True,
    )


@pytest.fixture(scope="module")
def ranks(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    folder = tmp_path_factory.mktemp("zero")
    found = reports(
        "tests.integrations.deepspeed_ranks", folder, request.param, world=WORLD, timeout=800
    )
    return Ran(request.param, folder, found)


@stages("plain PyTorch", "same weights", "same numbers", "stopped")
def test_a_plain_loop_has_the_numbers_of_one_process_and_is_left_as_it_was(
    ranks: Ran, tmp_path: Path
) -> None:
    """The monitor is given the engine, whose head it does not know: held-out loss is missing."""
    beside, alone = ranks.of("loop"), ranks.of("loop alone")
    assert [rank["weights"] for rank in beside] == [rank["weights"] for rank in alone]
    single = sharded_loop.train(tmp_path, "none")
    for rank in beside:
        assert rank["failures"] == 0
        assert rank["ranks"] == beside[0]["ranks"]
        assert rank["ranks"][0] == pytest.approx(single["ranks"][0], rel=1e-6)
        assert rank["step"] == beside[0]["step"] < STEPS
        assert rank["reason"] == f"COLLAPSED at step {rank['step']}"
        assert set(rank["losses"]) == {None}
    assert events_of(ranks.folder / "loop", "writing_failed") == []
    assert len(record_of(ranks.folder / "loop").snapshots) == len(beside[0]["ranks"])


@stages("Trainer", "same weights")
def test_a_trainer_trains_bitwise_as_without_the_monitor(ranks: Ran) -> None:
    for beside, alone in zip(ranks.of("trainer"), ranks.of("alone"), strict=True):
        assert beside["kind"] == "DistributedType.DEEPSPEED"
        for name in ("step", "weights", "generators"):
            assert beside[name] == alone[name]


@stages("Trainer", "same numbers")
def test_the_loggers_of_a_trainer_get_the_numbers_of_one_process(
    ranks: Ran, tmp_path: Path
) -> None:
    deepspeed_ranks.trainer(tmp_path, None, stop_at=ONSET)
    ours, single = (
        [s for s in record_of(folder).snapshots if s.step <= ONSET]
        for folder in (ranks.folder / "trainer", tmp_path)
    )
    # From the onset on, rounding makes more and more of itself.
    assert len(ours) == ONSET / 2 + 1
    # A head that is spread over the processes gives no logits.
    assert {snapshot.loss is None for snapshot in ours} == {ranks.stage == 3}
    if ranks.stage == 3:
        single = [replace(snapshot, loss=None) for snapshot in single]
    assert_same_numbers(ours, single)
    heard = [(step, metrics) for step, metrics in ranks.of("trainer")[0]["heard"]]
    assert heard == expected_metrics(ranks.folder / "trainer")


@stages("Trainer", "resumed")
def test_a_trainer_goes_on_as_if_nothing_had_happened(ranks: Ran) -> None:
    folder = ranks.folder
    ours, theirs = record_of(folder / "resumed"), record_of(folder / "trainer")
    assert [numbers(s) for s in ours.snapshots] == [numbers(s) for s in theirs.snapshots]
    assert ours.alerts == theirs.alerts
    assert [event["step"] for event in events_of(folder / "resumed", "resumed")] == [SAVED]
    for rank, whole in zip(ranks.of("resumed"), ranks.of("trainer"), strict=True):
        assert rank["weights"] == whole["weights"]


@stages("Trainer", "stopped")
def test_a_trainer_stops_on_both_at_one_step(ranks: Ran) -> None:
    first, second = ranks.of("trainer")
    assert ONSET < first["step"] == second["step"] < STEPS
    assert first["reason"] == second["reason"] == f"COLLAPSED at step {first['step']}"
    assert first["failures"] == second["failures"] == 0
