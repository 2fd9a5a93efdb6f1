"""Rows of one layer to everything a check keeps of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sigma_monitor.errors import ZeroTraceError
from sigma_monitor.estimate import Estimate
from sigma_monitor.probing import Rows
from sigma_monitor.snapshot import FLOORED, SHARES, UNCENTRED_PREFIX, WATCHED
from sigma_monitor.spectrum import Gram, Method, SpectralSummary, summarize
from sigma_monitor.spectrum.subspace import leading_directions

__all__ = [
    "CENTRED",
    "POOLED",
    "UNCENTRED",
    "Measured",
    "VectorValues",
    "measure",
]

_DIRECTIONS = 8  # of the leading eigenspace whose rotation is followed

CENTRED, UNCENTRED, POOLED = "centred", "uncentred", "pooled"  # the spectra of a layer


@dataclass(frozen=True, eq=False)
class Measured:
    """The spectra of one layer at one check."""

    estimates: dict[str, Estimate]  # by key, see `Snapshot.layers`
    spectra: dict[str, SpectralSummary]  # centred, uncentred, pooled: the next check follows them
    rows: int  # rows of the spectrum
    pooled_limit: int  # the largest rank that the mean-pooled rows can have
    directions: Tensor | None = None  # (few, m) leading ones of the centred rows
    unmeasured: float = 0.0  # NaN: non-finite embeddings; −inf: vanished; 0: measured

    @property
    def methods(self) -> dict[str, Method]:
        """The way each spectrum was found."""
        return {name: summary.method for name, summary in self.spectra.items()}

    @property
    def counts(self) -> tuple[int, ...]:
        """(48,) centred eigenvalues in the bins of `SHARES`, smaller ones in the first."""
        shares = self.spectra[CENTRED].shares if self.spectra else np.empty(0)
        counts, _ = np.histogram(shares.clip(SHARES[0], SHARES[-1]), SHARES)
        return tuple(counts.tolist())

    @property
    def log_rank_without(self) -> NDArray[np.float64] | None:
        """(examples,) log effective rank of the centred rows without each example."""
        return self.spectra[CENTRED].log_rank_without if self.spectra else None

    @property
    def vector_values(self) -> VectorValues | None:
        """What each test vector said of it; None where nothing was random."""
        randomized = self.spectra[CENTRED].randomized if self.spectra else None
        if randomized is None or not len(randomized.parts[WATCHED].per_vector):
            return None
        found = randomized.parts[WATCHED]
        return VectorValues(found.per_vector, found.change)

    def log_of(self, key: str) -> float:
        """Natural log of an estimate; NaN or −inf where nothing could be measured."""
        estimate = self.estimates.get(key)
        return self.unmeasured if estimate is None else math.log(estimate.value)


@dataclass(frozen=True, eq=False)
class VectorValues:
    """Log effective rank of the centred rows by single test vectors."""

    level: NDArray[np.float64]  # (vectors,) of the check whose level counts
    change: NDArray[np.float64]  # (fewer,) since that check; none when it is this one


def measure(
    rows: Rows,
    *,
    functionals: Sequence[str],
    relative_ridge: float,
    methods: Mapping[str, Method],
    previous: Measured | None = None,
    sampling: bool = True,
) -> Measured:
    """Centred and uncentred spectrum of the rows, and the uncentred one of mean-pooled rows.

    Args:
        rows: Of one layer.
        functionals: Attributes of `SpectralSummary` to keep.
        relative_ridge: Of log det.
        methods: By spectrum, `"centred"`, `"uncentred"`, `"pooled"`; `"auto"` when missing.
        previous: Of the same layer at the check before: randomised spectra of as many rows reuse
            its leading directions and test vectors.
        sampling: Whether to estimate the error of the finite number of examples.
    """
    size, limit = len(rows.embeddings), min(rows.pooled.shape)
    if not bool(rows.finite.all()):
        return Measured({}, {}, size, limit, unmeasured=math.nan)

    def spectrum(name: str, gram: Gram, groups: Tensor | None = None) -> SpectralSummary:
        method = methods.get(name, "auto")
        before = previous.spectra.get(name) if previous is not None else None
        follows = (
            before is not None
            and before.method == method == "lanczos"
            and (before.n, before.m) == (gram.n, gram.m)
        )
        return summarize(
            gram,
            center=name == CENTRED,
            relative_ridge=relative_ridge,
            method=method,
            groups=groups,
            sampling=sampling,
            previous=before if follows else None,
        )

    gram = _gram(rows.embeddings)
    try:
        spectra = {
            CENTRED: spectrum(CENTRED, gram, rows.groups),
            UNCENTRED: spectrum(UNCENTRED, gram, rows.groups),
        }
        one_each = rows.pooled is rows.embeddings  # then the same spectrum
        spectra[POOLED] = spectra[UNCENTRED] if one_each else spectrum(POOLED, _gram(rows.pooled))
    except ZeroTraceError:
        return Measured({}, {}, size, limit, unmeasured=-math.inf)
    estimates = {
        name: getattr(spectra[CENTRED], name) for name in functionals if name != "mean_cosine"
    }
    estimates |= {
        f"{UNCENTRED_PREFIX}{name}": getattr(spectra[UNCENTRED], name) for name in functionals
    }
    estimates[FLOORED] = spectra[POOLED].effective_rank
    with torch.no_grad():
        directions = leading_directions(gram, _DIRECTIONS)
    return Measured(estimates, spectra, size, limit, directions)


def _gram(embeddings: Tensor) -> Gram:
    with torch.no_grad():
        return Gram.from_embeddings(embeddings)
