"""Rows of one layer to everything a check keeps of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sigma_monitor.errors import ZeroTraceError
from sigma_monitor.estimate import Estimate
from sigma_monitor.probing import Rows
from sigma_monitor.spectrum import Gram, SpectralSummary, summarize

__all__ = ["FLOORED", "WATCHED", "Measured", "measure"]

# Keys in a snapshot: the series of the relative rule, and that of the absolute floor.
WATCHED = "effective_rank"
FLOORED = "pooled/uncentred/effective_rank"


@dataclass(frozen=True, eq=False)
class Measured:
    """The spectra of one layer at one check."""

    estimates: dict[str, Estimate]  # by key, see `Snapshot.layers`
    leave_one_out: NDArray[np.float64] | None  # (examples,) log effective rank, centred rows
    rows: int  # rows of the spectrum
    pooled_limit: int  # the largest rank that the mean-pooled rows can have
    unmeasured: float = 0.0  # NaN: non-finite embeddings; −inf: vanished; 0: measured

    def log_of(self, key: str) -> float:
        """Natural log of an estimate; NaN or −inf where nothing could be measured."""
        estimate = self.estimates.get(key)
        return self.unmeasured if estimate is None else math.log(estimate.value)


def measure(
    rows: Rows,
    *,
    functionals: Sequence[str],
    relative_ridge: float,
    method: Literal["auto", "exact"],
) -> Measured:
    """Centred and uncentred spectrum of the rows, and the uncentred one of mean-pooled rows."""
    size, limit = len(rows.embeddings), min(rows.pooled.shape)
    if not bool(rows.finite.all()):
        return Measured({}, None, size, limit, math.nan)

    def spectrum(gram: Gram, *, center: bool, groups: Tensor | None) -> SpectralSummary:
        return summarize(
            gram, center=center, relative_ridge=relative_ridge, method=method, groups=groups
        )

    gram = _gram(rows.embeddings)
    pooled_gram = gram if rows.pooled is rows.embeddings else _gram(rows.pooled)
    try:
        centred = spectrum(gram, center=True, groups=rows.groups)
        uncentred = spectrum(gram, center=False, groups=rows.groups)
        pooled = spectrum(pooled_gram, center=False, groups=None)
    except ZeroTraceError:
        return Measured({}, None, size, limit, -math.inf)
    estimates = {name: getattr(centred, name) for name in functionals if name != "mean_cosine"}
    estimates |= {f"uncentred/{name}": getattr(uncentred, name) for name in functionals}
    estimates[FLOORED] = pooled.effective_rank
    without = centred.leave_one_out
    log_ranks = None if without is None else without.log_effective_rank
    return Measured(estimates, log_ranks, size, limit)


def _gram(embeddings: Tensor) -> Gram:
    with torch.no_grad():
        return Gram.from_embeddings(embeddings)
