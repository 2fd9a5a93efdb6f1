"""Several processes: one stop, one record, no rank waits for the trouble of another."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.compatibility import shows
from tests.integrations.begins import TROUBLES
from tests.integrations.hosts import record_of
from tests.integrations.sharded_loop import STEPS
from tests.integrations.trainer_ranks import EVERY, ONSET, TROUBLE_AT
from tests.processes import free_port


def code_of(process: subprocess.Popen[bytes]) -> int:
    """Its exit code; one that hangs is made to say where, and ended."""
    try:
        return process.wait(timeout=200)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGABRT)
        return process.wait(timeout=20)


def ranks(
    folder: Path, *arguments: str, module: str = "trainer_ranks", world: int = 2
) -> list[dict[str, Any]]:
    """What each of the processes reports."""
    folder.mkdir(exist_ok=True)
    port = str(free_port())
    running = []
    for rank in map(str, range(world)):
        shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(world)}
        own = {"RANK": rank, "LOCAL_RANK": rank, "OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": "1"}
        running.append(
            subprocess.Popen(
                [sys.executable, "-m", f"tests.integrations.{module}", str(folder), *arguments],
                env={**os.environ, **shared, **own},
                # A file: a pipe that nobody reads yet would stop one rank, and so the other.
                stdout=(folder / f"rank{rank}.log").open("w"),
                stderr=subprocess.STDOUT,
            )
        )
    codes = [code_of(process) for process in running]
    errors = [(folder / f"rank{rank}.log").read_text()[-6000:] for rank in range(world)]
    assert not any(codes), "\n".join(errors)
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(world)]


@shows("Trainer", "stopped", strategy="DDP, 2 processes")
@pytest.mark.parametrize("trouble", ["raises_0", "raises_1", "nan_1"])
def test_both_ranks_stop_at_one_step_whatever_happens_to_a_probe(
    trouble: str, tmp_path: Path
) -> None:
    first, second = ranks(tmp_path, trouble)
    assert first["world"] == 2
    assert ONSET < first["step"] == second["step"] <= ONSET + 6 * EVERY
    assert first["reason"] == second["reason"] == f"COLLAPSED at step {first['step']}"
    assert first["weights"] == second["weights"]
    assert first["failures"] == second["failures"] == trouble.startswith("raises")
    record = record_of(tmp_path)
    failed = [event["error"] for event in record.events if event["event"] == "failed"]
    rank = trouble[-1]
    told = f"RankError: on rank {rank}: RuntimeError: cannot embed this time"
    assert failed == ([told] if trouble.startswith("raises") else [])
    finite = {snapshot.step: snapshot.finite for snapshot in record.snapshots}
    assert finite.get(TROUBLE_AT) == (0.5 if trouble.startswith("nan") else None)
    assert [a["kind"] for a in record.alerts].count("STOPPED") == 1
    assert [event["event"] for event in record.events].count("closed") == 1
    assert first["logged"] == len(record.snapshots)


@shows("Trainer", "same weights", "stopped", strategy="DDP, 2 processes")
def test_two_ranks_train_bitwise_as_they_do_without_the_monitor(tmp_path: Path) -> None:
    watched, plain = tmp_path / "watched", tmp_path / "plain"
    beside, alone = ranks(watched, "none"), ranks(plain, "unwatched")
    assert beside[0]["step"] == beside[1]["step"] == alone[0]["step"]  # it was stopped there
    assert beside[0]["reason"] == beside[1]["reason"] is not None
    assert beside[0]["weights"] == beside[1]["weights"] == alone[0]["weights"]


@pytest.mark.parametrize("trouble", [f"{trouble}_1" for trouble in TROUBLES])
def test_where_one_rank_cannot_begin_none_of_them_watches(trouble: str, tmp_path: Path) -> None:
    for rank in ranks(tmp_path, trouble):
        assert not rank["active"]
        assert (rank["step"], rank["logged"]) == (30, 0)


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What one process reports of the plain loop."""
    folder = tmp_path_factory.mktemp("single")
    command = [sys.executable, "-m", "tests.integrations.sharded_loop", str(folder), "none"]
    subprocess.run(command, check=True, capture_output=True, timeout=240)
    found: dict[str, Any] = json.loads((folder / "rank0.json").read_text())
    return found


def strategies(*demands: str, of: dict[str, str]) -> list[Any]:
    return [
        pytest.param(name, id=name, marks=shows("plain PyTorch", *demands, strategy=strategy))
        for name, strategy in of.items()
    ]


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
        },
    ),
)
def test_a_model_that_is_spread_gives_the_same_numbers_and_is_left_as_it_was(
    strategy: str, single: dict[str, Any], tmp_path: Path
) -> None:
    """With the generation channel."""
    beside = ranks(tmp_path / "watched", strategy, module="sharded_loop")
    stopped = beside[0]["step"]
    alone = ranks(tmp_path / "plain", strategy, str(stopped), module="sharded_loop")
    assert [rank["weights"] for rank in beside] == [rank["weights"] for rank in alone]
    record = record_of(tmp_path / "watched")
    assert not [event for event in record.events if event["event"] == "writing_failed"]
    for rank in beside:
        assert rank["failures"] == 0
        assert rank["ranks"] == beside[0]["ranks"]
        assert rank["step"] == stopped < STEPS
        assert rank["reason"] == f"COLLAPSED at step {stopped}"
    assert len(record.snapshots) == len(beside[0]["ranks"])
    if strategy == "tp":  # its products are sums of two parts, and training makes more of that
        assert beside[0]["ranks"][0] == pytest.approx(single["ranks"][0], rel=1e-6)
    else:
        assert beside[0]["ranks"] == single["ranks"][: len(record.snapshots)]


@pytest.mark.parametrize(
    "strategy", strategies("same numbers", "stopped", of={"ddp": "DDP, 4 processes"})
)
def test_four_ranks_give_the_numbers_of_one(
    strategy: str, single: dict[str, Any], tmp_path: Path
) -> None:
    """Micro-batches of 4 examples instead of 16, and gradients that are means of four."""
    found = ranks(tmp_path, strategy, module="sharded_loop", world=4)
    for rank in found:
        assert rank["failures"] == 0
        assert rank["ranks"] == found[0]["ranks"]
        assert rank["reason"] == f"COLLAPSED at step {rank['step']}"
        assert rank["step"] == found[0]["step"]
        assert rank["weights"] == found[0]["weights"]
    assert found[0]["ranks"][0] == pytest.approx(single["ranks"][0], rel=1e-6)
    assert len(record_of(tmp_path).snapshots) == len(found[0]["ranks"])
