"""What tests need that run several processes."""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import json
import os
import random
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import start_processes

REPOSITORY = Path(__file__).parents[1]
HANGS_AFTER = 150  # seconds


def free_port() -> int:
    """Below those that the system gives to anybody who connects, and may give until it is used."""
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def leave() -> NoReturn:
    """End the process of a rank once all have come here, with its files closed and nothing more.

    The end of a process group waits for gloo's threads and keeps the interpreter's lock meanwhile;
    one that has still to let go of a tensor waits for that lock. On a busy machine that happened.
    """
    dist.barrier()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def reports(
    module: str, folder: Path, *arguments: object, world: int, timeout: float = 240
) -> list[dict[str, Any]]:
    """What each rank leaves in `folder` where `module` is run, which begins the ranks itself."""
    ended = subprocess.run(
        [sys.executable, "-m", module, str(folder), *map(str, arguments)],
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        timeout=timeout,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr.decode()[-6000:]
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(world)]


def forked(world: int, work: Callable[..., None], *arguments: Any) -> None:
    """Run `work(*arguments)` in so many processes of one group, which share what was imported.

    As the processes of `torchrun` they find their place in the environment. One that hangs says
    where, and ends; so do the others where one fails.
    """
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(world)}
    os.environ.update(shared)
    gc.freeze()  # accelerate collects garbage in every `train()`, and pages would be copied
    start_processes(_begin, (work, *arguments), nprocs=world, start_method="fork")


def _begin(rank: int, work: Callable[..., None], *arguments: Any) -> None:
    faulthandler.dump_traceback_later(HANGS_AFTER, exit=True)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank))
    work(*arguments)
    leave()


def spawned(world: int, work: Callable[[int, int, Path], None], folder: Path) -> None:
    """Run `work(rank, world, folder)` in so many new processes of one group; hangs as in `forked`.

    Args:
        world: Number of processes.
        work: Of a module that imports little, since each process begins anew.
        folder: New, and of all of them.
    """
    start_processes(_join, (world, work, folder), nprocs=world, start_method="spawn")


def _join(rank: int, world: int, work: Callable[[int, int, Path], None], folder: Path) -> None:
    faulthandler.dump_traceback_later(HANGS_AFTER, exit=True)
    torch.set_num_threads(1)
    store = f"file://{folder / 'store'}"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=world)
    work(rank, world, folder)
    leave()
