"""A plain loop with a model that is spread over processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.compatibility import shows
from tests.integrations.hosts import record_of
from tests.integrations.sharded_loop import STEPS, train
from tests.processes import reports

pytestmark = pytest.mark.long


def ranks(folder: Path, strategy: str, world: int, module: str = "sharded_loop") -> list[Any]:
    """What each of the processes reports, watched and not."""
    return reports(f"tests.integrations.{module}", folder, strategy, world, world=world)


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What one process comes to."""
    return train(tmp_path_factory.mktemp("single"), "none")


def strategies(*demands: str, of: dict[str, str]) -> list[Any]:
    return [
        pytest.param(name, id=name, marks=shows("plain PyTorch", *demands, strategy=strategy))
        for name, strategy in of.items()
    ]


def assert_stopped_together(found: list[dict[str, Any]], folder: Path) -> None:
    """With nothing failed, in either channel."""
    record, stopped = record_of(folder), found[0]["step"]
    assert not [event for event in record.events if event["event"] == "writing_failed"]
    for rank in found:
        assert rank["failures"] == 0
        assert rank["ranks"] == found[0]["ranks"]
        assert rank["step"] == stopped < STEPS
        assert rank["reason"] == f"COLLAPSED at step {stopped}"
    assert len(record.snapshots) == len(found[0]["ranks"])


@pytest.mark.parametrize(
    "strategy",
    strategies(
        "same weights",
        "same numbers",
        "stopped",
        of={
            "fsdp2": "FSDP2, 2 processes",
            "fsdp1": "FSDP1, 2 processes",
            "tp": "tensor parallel, 2 processes",
            "tp_plan": 'tensor parallel by tp_plan="auto", 2 processes',
        },
    ),
)
def test_a_model_that_is_spread_gives_the_same_numbers_and_is_left_as_it_was(
    strategy: str, single: dict[str, Any], tmp_path: Path
) -> None:
    """With the generation channel."""
    found = ranks(tmp_path, strategy, 2)
    beside = [rank["beside"] for rank in found]
    assert [rank["weights"] for rank in beside] == [rank["alone"]["weights"] for rank in found]
    assert_stopped_together(beside, tmp_path / "watched")
    if strategy.startswith("tp"):  # its products are sums of two parts, training makes more of that
        assert beside[0]["ranks"][0] == pytest.approx(single["ranks"][0], rel=1e-6)
    else:
        assert beside[0]["ranks"] == single["ranks"][: len(beside[0]["ranks"])]
    # The head alone, of which each process has a part, gives no logits.
    has_loss = strategy not in ("fsdp1", "tp_plan")
    assert {loss is not None for loss in beside[0]["losses"]} == {has_loss}


@pytest.mark.parametrize(
    "strategy",
    strategies("same weights", "same numbers", "stopped", of={"ddp": "DDP, 4 processes"}),
)
def test_four_ranks_give_the_numbers_of_one(
    strategy: str, single: dict[str, Any], tmp_path: Path
) -> None:
    """Micro-batches of 4 examples instead of 16, and gradients that are means of four."""
    found = ranks(tmp_path, strategy, 4)
    beside = [rank["beside"] for rank in found]
    assert_stopped_together(beside, tmp_path / "watched")
    assert {rank["weights"] for rank in beside} == {rank["alone"]["weights"] for rank in found}
    assert len({rank["weights"] for rank in beside}) == 1
    assert beside[0]["ranks"][0] == pytest.approx(single["ranks"][0], rel=1e-6)
