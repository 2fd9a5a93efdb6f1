"""Ranks that meet: all of them wait, and what failed on one is raised on all."""

from __future__ import annotations

import json
import time

from sigma_monitor.ranks import RankError, failed, meet
from tests.processes import spawned

LATE = 0.5


def work(rank, world, folder):
    meet()
    started = time.perf_counter()
    if rank == 1:
        time.sleep(LATE)
    meet()
    waited = time.perf_counter() - started
    told = None
    try:
        if rank == 1:
            raise failed(ValueError("no room"))
        meet()
    except RankError as error:
        told = str(error)
    meet()  # and the next meeting is one again
    (folder / f"rank{rank}.json").write_text(json.dumps({"waited": waited, "told": told}))


def test_a_rank_waits_for_the_other_and_hears_of_its_failure(tmp_path):
    spawned(2, work, tmp_path)
    first, second = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1))
    assert first["waited"] > LATE / 2  # less by what one rank left the first meeting earlier
    assert first["told"] == second["told"] == "on rank 1: ValueError: no room"


def test_one_process_meets_nobody():
    meet()
