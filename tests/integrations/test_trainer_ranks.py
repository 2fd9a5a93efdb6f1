"""Two processes: one stop, one record, no rank waits for the trouble of the other."""

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
from tests.integrations.trainer_ranks import EVERY, ONSET, TROUBLE_AT
from tests.processes import free_port


def code_of(process: subprocess.Popen[bytes]) -> int:
    """Its exit code; one that hangs is made to say where, and ended."""
    try:
        return process.wait(timeout=200)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGABRT)
        return process.wait(timeout=20)


def ranks(folder: Path, *arguments: str) -> list[dict[str, Any]]:
    """What each of the processes reports."""
    folder.mkdir(exist_ok=True)
    port = str(free_port())
    running = []
    for rank in map(str, range(2)):
        shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
        own = {"RANK": rank, "LOCAL_RANK": rank, "OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": "1"}
        running.append(
            subprocess.Popen(
                [sys.executable, "-m", "tests.integrations.trainer_ranks", str(folder), *arguments],
                env={**os.environ, **shared, **own},
                # A file: a pipe that nobody reads yet would stop one rank, and so the other.
                stdout=(folder / f"rank{rank}.log").open("w"),
                stderr=subprocess.STDOUT,
            )
        )
    codes = [code_of(process) for process in running]
    errors = [(folder / f"rank{rank}.log").read_text()[-6000:] for rank in range(2)]
    assert not any(codes), "\n".join(errors)
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(2)]


@shows("Trainer", "stopped", strategy="DDP, 2 processes")
@pytest.mark.parametrize(
    "trouble",
    [
        pytest.param("raises_0", marks=pytest.mark.long),
        "raises_1",
        pytest.param("nan_1", marks=pytest.mark.long),
    ],
)
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


@pytest.mark.long
@shows("Trainer", "same weights", "stopped", strategy="DDP, 2 processes")
def test_two_ranks_train_bitwise_as_they_do_without_the_monitor(tmp_path: Path) -> None:
    watched, plain = tmp_path / "watched", tmp_path / "plain"
    beside, alone = ranks(watched, "none"), ranks(plain, "unwatched")
    assert beside[0]["step"] == beside[1]["step"] == alone[0]["step"]  # it was stopped there
    assert beside[0]["reason"] == beside[1]["reason"] is not None
    assert beside[0]["weights"] == beside[1]["weights"] == alone[0]["weights"]


@pytest.mark.long
@pytest.mark.parametrize("trouble", [f"{trouble}_1" for trouble in TROUBLES])
def test_where_one_rank_cannot_begin_none_of_them_watches(trouble: str, tmp_path: Path) -> None:
    for rank in ranks(tmp_path, trouble):
        assert rank["active"] == (trouble == "probes_1")  # rows may be observed all the same
        assert (rank["step"], rank["logged"], rank["failures"]) == (30, 0, 0)
