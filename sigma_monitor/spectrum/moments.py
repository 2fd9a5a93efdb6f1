"""Trace and participation ratio without each example: moments of the spectrum, in closed form."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sigma_monitor.spectrum.exact import decompose
from sigma_monitor.spectrum.gram import Gram

__all__ = ["MomentsWithout", "moments_without"]


@dataclass(frozen=True, eq=False)
class MomentsWithout:
    """Moments of the product of the rows without each example, in the order of the examples."""

    total: float  # tr G of all
    trace: NDArray[np.float64]  # (examples,) tr G
    square: NDArray[np.float64]  # (examples,) tr G²

    @property
    def participation_ratio(self) -> NDArray[np.float64]:
        """(examples,) (tr G)²/tr G²; 1, its least value, where rounding is all that is left."""
        rounding = np.finfo(np.float64).eps * self.total**2
        ratio: NDArray[np.float64] = self.trace**2 / np.maximum(self.square, rounding)
        return np.maximum(ratio, 1.0)


def moments_without(gram: Gram, *, center: bool, groups: Tensor | None = None) -> MomentsWithout:
    """Leave each example out in turn: what is left of the trace and of the sum of squares.

    With Y the rows of an example, and when centred one row more, `ȳ T/sqrt(n − T)` for the mean
    that moves with its T rows: `tr G' = tr G − ‖Y‖²` and `tr G'² = tr G² − 2 tr(Y G Yᵀ) +
    ‖Y Yᵀ‖²`, in the eigenbasis of G.

    Args:
        gram: The rows.
        center: Whether they are centred, those that are left about their own mean.
        groups: (n,) example of each row, non-decreasing; None when every row is an example.

    Raises:
        ZeroTraceError: As `decompose`.

    Cost: a decomposition, `2 n m r` flops for the rows in its basis, and `n T r` for the deletions.
    """
    pairs = decompose(gram, center=center)
    rows = gram.coordinates(pairs.values, pairs.vectors, center=center)  # (n, r)
    trace, square = pairs.values.sum(), pairs.values.square().sum()
    if groups is None:
        sizes = [1] * gram.n
    else:
        sizes = torch.unique_consecutive(groups, return_counts=True)[1].tolist()
    left = torch.empty(2, len(sizes), dtype=torch.float64, device=rows.device)
    for example, own in enumerate(torch.split(rows, sizes)):
        remaining = gram.n - len(own)
        if center and remaining:
            own = torch.cat([own, own.sum(0, keepdim=True) / remaining**0.5])
        energy = own.square()
        left[0, example] = trace - energy.sum()
        left[1, example] = square - 2 * (energy @ pairs.values).sum() + (own @ own.T).square().sum()
    traces, squares = left.clamp_min(0).cpu().numpy()
    return MomentsWithout(float(trace), traces, squares)
