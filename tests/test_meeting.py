"""Ranks that meet: all of them wait, and what failed on one is raised on all."""

from __future__ import annotations

import json
import time
from datetime import timedelta

import torch.distributed as dist
import torch.multiprocessing as multiprocessing

from sigma_monitor.ranks import RankError, failed, meet
from tests.processes import leave

LATE = 0.5
PATIENCE = timedelta(seconds=30)  # of a rank whose meeting the other does not reach


def work(rank, folder):
    store = f"file://{folder / 'store'}"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=2, timeout=PATIENCE)
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
    leave()


def test_a_rank_waits_for_the_other_and_hears_of_its_failure(tmp_path):
    multiprocessing.spawn(work, (tmp_path,), nprocs=2)
    first, second = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1))
    assert first["waited"] > LATE / 2  # less by what one rank left the first meeting earlier
    assert first["told"] == second["told"] == "on rank 1: ValueError: no room"


def test_one_process_meets_nobody():
    meet()
