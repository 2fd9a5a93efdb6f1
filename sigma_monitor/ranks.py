"""Several processes, one conclusion: rank 0 writes and decides, the others follow."""

from __future__ import annotations

from typing import TypeVar

import torch.distributed as dist

__all__ = ["from_all", "from_main", "is_main"]

T = TypeVar("T")


def _several() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def is_main() -> bool:
    """Whether this process writes and decides."""
    return not _several() or dist.get_rank() == 0


def from_main(value: T) -> T:
    """Rank 0's `value` on every rank; a collective, to be reached by all of them."""
    if not _several():
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def from_all(value: T) -> list[T]:
    """The `value` of every rank, in their order; a collective, to be reached by all of them."""
    if not _several():
        return [value]
    values: list[T] = [value] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values
