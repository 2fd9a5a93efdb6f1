"""Several processes, one lineage: each embeds its share, and all of them know the result."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from sigma_monitor.errors import InputError
from sigma_monitor.lineage.embed import CHUNK, Embedder
from sigma_monitor.ranks import carried, exchanged, failed, rank_and_size

__all__ = ["agree", "device_of_group", "embed_shared", "is_own", "launched", "together"]

T = TypeVar("T")


@contextmanager
def launched() -> Iterator[None]:
    """Inside is the group of `accelerate launch` or `torchrun`, where one began this process."""
    several = "LOCAL_RANK" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1
    if not several or dist.is_initialized():
        yield
        return
    from accelerate import PartialState

    state = PartialState()
    try:
        yield
    finally:
        state.destroy_process_group()


def together(make: Callable[[], T]) -> T:
    """What `make()` gives on this rank; bad input on one is bad input on all; a collective.

    Raises:
        InputError: On every rank, when `make` raised one on any.
        RankError: Likewise, on any other failure.
    """
    made: T | None = None
    told = None
    try:
        made = make()
    except InputError as error:
        told = error
    except Exception as error:
        raise failed(error) from error
    others = [message for message in exchanged(None if told is None else str(told)) if message]
    if told is not None:
        raise told
    if others:
        raise InputError(others[0])
    return made  # type: ignore[return-value]


def agree(value: object, what: str) -> None:
    """Refuse ranks that differ; a collective.

    Raises:
        InputError: On every rank, unless all have this value.
    """
    if len(set(exchanged(value))) > 1:
        raise InputError(
            f"the processes read different {what}: all of them need the same files, in the same "
            "order."
        )


def is_own(chunk: int) -> bool:
    """Whether this rank embeds chunk number `chunk`."""
    rank, size = rank_and_size()
    return chunk % size == rank


def embed_shared(embedder: Embedder, texts: Sequence[str]) -> Tensor:
    """(n, m) embeddings of the texts, of which each rank embeds its share; a collective.

    Chunks are those of one process, so that the cache and the numbers are.

    Raises:
        InputError: On every rank, as `Embedder.embed` on any.
    """
    starts = range(0, len(texts), CHUNK)

    def own() -> list[Tensor]:
        return [
            embedder.embed(texts[start : start + CHUNK])
            for number, start in enumerate(starts)
            if is_own(number)
        ]

    shares = [iter(share) for share in exchanged(together(own))]
    return torch.cat([next(shares[number % len(shares)]) for number in range(len(starts))])


def device_of_group() -> torch.device:
    """Where a tensor must lie for the group to sum it: the CPU, unless it only carries others."""
    cpu = torch.device("cpu")
    return carried(cpu) if rank_and_size()[1] > 1 else cpu
