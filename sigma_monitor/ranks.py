"""Several processes, one conclusion: rank 0 writes and decides, and a failure is one of all.

A rank that fails says so at the meeting where the others wait for it, whichever that is. So every
meeting is a `meet` or an `exchanged`, and between two of them a rank is free to raise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from sigma_monitor.errors import ProbeError

__all__ = [
    "RankError",
    "carried",
    "exchanged",
    "failed",
    "from_main",
    "gathered",
    "is_main",
    "meet",
    "rank_and_size",
    "room_for",
]

T = TypeVar("T")


class RankError(ProbeError):
    """A failure on one rank or more, which every rank has been told."""


def rank_and_size() -> tuple[int, int]:
    """Rank of this process and number of processes: (0, 1) where there is no group."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def _several() -> bool:
    return rank_and_size()[1] > 1


def is_main() -> bool:
    """Whether this process writes and decides."""
    return rank_and_size()[0] == 0


def meet() -> None:
    """Wait for all ranks; a collective, to be reached by all of them.

    Raises:
        RankError: On every rank, when one of them came by `failed` instead.
    """
    exchanged(None)


def exchanged(value: T) -> list[T]:
    """The small values of all ranks, in their order; a collective.

    Raises:
        RankError: As `meet`.
    """
    return _met(None, value) if _several() else [value]


def failed(error: Exception) -> Exception:
    """Tell the ranks that wait in a meeting, or in `failed` themselves; what all of them raise.

    That is `error` itself where there is one rank, or where all have been told already.
    """
    if not _several() or isinstance(error, RankError):
        return error
    try:
        _met(f"{type(error).__name__}: {error}", None)
    except RankError as told:
        told.__cause__ = error
        return told
    except Exception:  # the group is broken: nobody can be told
        return error
    raise AssertionError("a rank that failed is among those that were told of")


def from_main(value: T) -> T:
    """Rank 0's `value` on every rank; a collective, as `exchanged`."""
    return exchanged(value)[0]


def _met(error: str | None, value: T | None) -> list[T]:
    met: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(met, (error, value))
    errors = [f"on rank {rank}: {told}" for rank, (told, _) in enumerate(met) if told is not None]
    if errors:
        more = f" (and on {len(errors) - 1} more)" if len(errors) > 1 else ""
        raise RankError(errors[0] + more)
    return [value for _, value in met]


def room_for(tensors: Sequence[Tensor], sizes: Sequence[int]) -> tuple[Tensor, list[Tensor]]:
    """These tensors as one, and room for those of all ranks, where the backend can carry them.

    Args:
        tensors: Of this rank, of any type and shape.
        sizes: Bytes of the tensors of each rank.
    """
    device = carried(tensors[0].device)
    own = torch.zeros(max(sizes), dtype=torch.uint8, device=device)
    start = 0
    for tensor in tensors:
        data = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
        own[start : start + len(data)] = data
        start += len(data)
    return own, [torch.empty_like(own) for _ in sizes]


def gathered(own: Tensor, room: list[Tensor]) -> list[Tensor]:
    """The bytes of all ranks, in what `room_for` gave; a collective."""
    dist.all_gather(room, own)
    return room


def carried(device: torch.device) -> torch.device:
    """`device`, or another between which the default group can send tensors."""
    backends = dict(pair.split(":") for pair in dist.get_backend_config().split(","))
    if backends.get(device.type, "gloo") != "gloo":
        return device
    if "cpu" in backends:  # gloo gathers nothing that lies on an accelerator
        return torch.device("cpu")
    other = next(iter(backends))
    return torch.device(other, torch.get_device_module(other).current_device())
