"""Hidden states to rows of an embedding matrix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from sigma_monitor.errors import InputError

__all__ = ["Pooling", "Rows", "check_pooling", "pool"]

Pooling = Literal["tokens", "mean", "last"]


@dataclass(frozen=True, eq=False)
class Rows:
    """The rows of some probe examples at one layer."""

    embeddings: Tensor  # (rows, m): token rows, or one row per example
    groups: Tensor | None  # (rows,) example of each row; None when each example is one row
    pooled: Tensor  # (examples, m) mean over the tokens of each example
    finite: Tensor  # (examples,) bool: the example has tokens, and every value of them is finite

    def first(self, n: int) -> Rows:
        """The rows of the first `n` examples."""
        kept = slice(n) if self.groups is None else self.groups < n
        return Rows(
            self.embeddings[kept],
            None if self.groups is None else self.groups[kept],
            self.pooled[:n],
            self.finite[:n],
        )


def check_pooling(pooling: str) -> None:
    """Raise an `InputError` unless `pooling` is known."""
    if pooling not in get_args(Pooling):
        raise InputError(f'pooling={pooling!r}: pass "tokens", "mean" or "last".')


def pool(hidden: Tensor, mask: Tensor | None, pooling: Pooling) -> Rows:
    """Rows of a batch.

    The first token of each example is left out wherever tokens are averaged or kept: its massive
    activation (attention sink) would dominate the spectrum.

    Args:
        hidden: (examples, tokens, m), or (examples, m) when the model pools by itself.
        mask: (examples, tokens), non-zero where a token is not padding; None: no padding.
        pooling: `"tokens"`: every token but the first is a row. `"mean"`: their mean is. `"last"`:
            the last token is.
    """
    if hidden.ndim == 2:
        return Rows(hidden, None, hidden, torch.isfinite(hidden).all(1))
    used = _used_tokens(hidden, mask)
    # Padding can hold anything, NaN too, so it is replaced rather than multiplied by zero.
    kept = torch.where(used[..., None], hidden, hidden.new_zeros(()))
    finite = torch.isfinite(kept).all(2).all(1) & used.any(1)
    wide = torch.promote_types(hidden.dtype, torch.float32)
    pooled = kept.sum(1, dtype=wide) / used.sum(1, keepdim=True)
    if pooling == "mean":
        return Rows(pooled, None, pooled, finite)
    if pooling == "last":
        position = torch.arange(used.shape[1], device=used.device)
        last = (used * position).argmax(1)
        rows = kept[torch.arange(len(kept), device=kept.device), last]
        return Rows(rows, None, pooled, finite)
    example = torch.arange(len(used), device=used.device)[:, None].expand_as(used)
    return Rows(hidden[used], example[used], pooled, finite)


def _used_tokens(hidden: Tensor, mask: Tensor | None) -> Tensor:
    """(examples, tokens) bool: not padding, and not the first token unless it is the only one."""
    shape = hidden.shape[:2]
    if mask is None or mask.shape != shape:
        used = torch.ones(shape, dtype=torch.bool, device=hidden.device)
    else:
        used = mask.to(hidden.device) != 0
    first = used & (used.cumsum(1) == 1)
    several = used.sum(1, keepdim=True) > 1
    return used & ~(first & several)
