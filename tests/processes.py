"""What tests need that run several processes."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import sys
from typing import NoReturn

import torch.distributed as dist


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
