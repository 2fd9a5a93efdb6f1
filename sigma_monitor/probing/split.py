"""The probe set over the ranks of a distributed run: who reads what, and everything back."""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sigma_monitor.errors import InputError
from sigma_monitor.probing.pooling import Rows
from sigma_monitor.ranks import exchanged, gathered, meet, rank_and_size, room_for

__all__ = ["Part", "Share", "can_split", "from_all_ranks", "waits_for_ranks"]

_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass(frozen=True, eq=False)
class Part:
    """What one micro-batch gave."""

    layers: Mapping[str, Rows]
    losses: tuple[Tensor, Tensor] | None  # (examples,) sums and tokens; None: not to be had


@dataclass(frozen=True)
class Share:
    """The micro-batches of one rank, dealt in turn, of which each rank has as many.

    The last ones are there for that alone, where the others have one more: a sharded model needs
    all ranks in each of its forward passes.
    """

    size: int  # examples in a micro-batch
    total: int  # micro-batches of all ranks
    own: tuple[int, ...]  # numbers of those of this rank; one that is not below `total` is filler

    @classmethod
    def of(cls, examples: int, largest: int, *, rank: int = 0, ranks: int = 1) -> Share:
        """That of `rank`, in micro-batches of at most `largest` examples."""
        size = min(largest, math.ceil(examples / ranks))
        total = math.ceil(examples / size)
        rounds = math.ceil(total / ranks)
        return cls(size, total, tuple(range(rank, rounds * ranks, ranks)))


def can_split(model: nn.Module, fingerprint: str) -> bool:
    """Whether each rank may read another part of the probe set; a collective.

    It may where the ranks hold the same weights, whole or in the shards of FSDP and ZeRO, and the
    same buffers. Under tensor parallelism, and wherever else these differ, all ranks read the same
    examples.

    Args:
        model: As on this rank.
        fingerprint: Of the probe set; where that differs between ranks, rank 0's counts.

    Raises:
        InputError: When it differs and the forward passes of the ranks wait for each other.
    """
    if rank_and_size()[1] == 1:
        return False
    content = None if _is_tensor_parallel(model) else _content(model)
    contents, fingerprints = zip(*exchanged((content, fingerprint)), strict=True)
    if len(set(fingerprints)) > 1 and waits_for_ranks(model):
        raise InputError(
            f"the ranks have different probe sets ({', '.join(fingerprints)}): a sharded model "
            "needs the same on all. Choose it from data that are the same there, by one seed."
        )
    return len(set(contents)) == len(set(fingerprints)) == 1 and content is not None


def waits_for_ranks(model: nn.Module) -> bool:
    """Whether a forward pass of `model` waits for other ranks, which FSDP and ZeRO-3 make it do."""
    return (
        next(_sharded_modules(model, "FSDPModule"), None) is not None
        or _is_flat(model)
        or any(hasattr(parameter, "ds_id") for parameter in model.parameters())
    )


def _sharded_modules(model: nn.Module, kind: str) -> Iterator[nn.Module]:
    fsdp = sys.modules.get("torch.distributed.fsdp")  # which has not been used if it is missing
    wanted = getattr(fsdp, kind, None)
    return (m for m in model.modules() if wanted is not None and isinstance(m, wanted))


def _is_flat(model: nn.Module) -> bool:
    """Whether FSDP's first version has it."""
    return next(_sharded_modules(model, "FullyShardedDataParallel"), None) is not None


def _is_tensor_parallel(model: nn.Module) -> bool:
    """Whether single weights are spread over ranks that must read the same examples."""
    by_fsdp = {id(p) for m in _sharded_modules(model, "FSDPModule") for p in m.parameters()}
    spread: Any
    for spread in model.parameters():
        if not hasattr(spread, "device_mesh"):
            continue
        several = sum(not placement.is_replicate() for placement in spread.placements) > 1
        named = "tp" in (spread.device_mesh.mesh_dim_names or ())
        if several or named or id(spread) not in by_fsdp:
            return True
    return False


def _content(model: nn.Module) -> int:
    """Made of the bits of all that is whole on each rank, by sums exact in any order.

    That is weights, and buffers such as running statistics, which DDP leaves to each rank.
    """
    weights = () if _is_flat(model) else model.parameters()
    buffers = (buffer for buffer in model.buffers() if buffer.is_floating_point())
    sums = [
        tensor.detach().view(_INTEGERS[tensor.element_size()]).sum(dtype=torch.int64)
        for tensor in itertools.chain(weights, buffers)
        if not hasattr(tensor, "device_mesh")
        and type(tensor.data) is Tensor  # and no packed weights of some library's own
        and not tensor.is_meta
        and tensor.layout is torch.strided  # the values of others have no plain view
        and tensor.element_size() in _INTEGERS
    ]
    by_device: dict[torch.device, list[Tensor]] = {}
    for total in sums:
        by_device.setdefault(total.device, []).append(total)
    found = [value for totals in by_device.values() for value in torch.stack(totals).tolist()]
    return hash(tuple(found))


def from_all_ranks(own: Sequence[Part], total: int) -> list[Part]:
    """The micro-batches of all ranks, in order; a collective.

    Args:
        own: Those of this rank's share.
        total: How many there are, fillers left out.
    """
    packed = [_packed(part) for part in own]
    tensors = [tensor for part in packed for tensor in part.values()]
    shapes = exchanged([[_shape(name, t) for name, t in part.items()] for part in packed])
    sizes = [sum(_bytes(shape) for part in rank for shape in part) for rank in shapes]
    own_bytes, room = room_for(tensors, sizes)
    meet()  # all of them have found the room
    ranks = gathered(own_bytes, room)
    device = next(iter(own[0].layers.values())).finite.device
    parts = [_unpacked(data, s, device) for data, s in zip(ranks, shapes, strict=True)]
    # The filler of the last round comes last.
    return [part for turn in zip(*parts, strict=True) for part in turn][:total]


_Shape = tuple[str, torch.dtype, tuple[int, ...]]


def _shape(name: str, tensor: Tensor) -> _Shape:
    return name, tensor.dtype, tuple(tensor.shape)


def _bytes(shape: _Shape) -> int:
    _, dtype, sizes = shape
    return dtype.itemsize * math.prod(sizes)


def _packed(part: Part) -> dict[str, Tensor]:
    """Its tensors by name; what is missing is None, or pooled rows that are the rows."""
    found: dict[str, Tensor] = {}
    for layer, rows in part.layers.items():
        found[f"embeddings {layer}"] = rows.embeddings
        found[f"finite {layer}"] = rows.finite
        if rows.groups is not None:
            found[f"groups {layer}"] = rows.groups
        if rows.pooled is not rows.embeddings:
            found[f"pooled {layer}"] = rows.pooled
    if part.losses is not None:
        found["sums"], found["tokens"] = part.losses
    return found


def _unpacked(data: Tensor, shapes: Sequence[Sequence[_Shape]], device: torch.device) -> list[Part]:
    """The parts of one rank."""
    parts, start = [], 0
    for part in shapes:
        tensors = {}
        for shape in part:
            name, dtype, sizes = shape
            end = start + _bytes(shape)
            # A copy, which begins where its type can.
            tensors[name] = data[start:end].clone().view(dtype).reshape(sizes).to(device)
            start = end
        parts.append(_part(tensors))
    return parts


def _part(tensors: Mapping[str, Tensor]) -> Part:
    layers = {}
    for name, embeddings in tensors.items():
        kind, _, layer = name.partition(" ")
        if kind == "embeddings":
            layers[layer] = Rows(
                embeddings=embeddings,
                groups=tensors.get(f"groups {layer}"),
                pooled=tensors.get(f"pooled {layer}", embeddings),
                finite=tensors[f"finite {layer}"],
            )
    losses = (tensors["sums"], tensors["tokens"]) if "sums" in tensors else None
    return Part(layers, losses)
