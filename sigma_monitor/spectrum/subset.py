"""Certified bounds on the spectrum of all rows, from a subset of them: spike and fill.

`G = G_A + G_B`, with the eigenvalues `a₁ ≥ … ≥ a_m` of the observed `G_A`, and a `G_B ⪰ 0` of rank
at most `r = min(m, n_B)` and trace τ that nobody has seen. Then

    a_i ≤ λ_i(G) ≤ a_{i−r}  (Weyl; no upper limit for i ≤ r)   and   λ(G) ≺ a + (τ, 0, …, 0),

the second by Ky Fan. Among all spectra of trace `Σa + τ` within those limits one is the most even,

    fill_i = clip(μ, a_i, a_{i−r})      (the r smallest a_i raised to a common level μ),

and `fill ≺ λ(G) ≺ spike = (a₁ + τ, a₂, …, a_m)`: every Schur-concave functional lies between its
values there. Rows of equal norm reach both ends: all unobserved rows along the top eigenvector
give the spike, and by Schur-Horn rows with the increments of the fill as their spectrum exist.

The eigenvalues `a_i` are known up to rounding only. The limits are taken apart by that much before
spike and fill are formed, so that both stay extreme for every spectrum within rounding of `a`.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sigma_monitor.errors import InputError
from sigma_monitor.spectrum import functionals
from sigma_monitor.spectrum.tracks import NORM_TOLERANCE, observed_gram

__all__ = [
    "Bound",
    "SubsetBounds",
    "am_gm_log_det",
    "subset_bounds",
    "track_one_log_det",
    "weyl_eigenvalues",
]

Values = NDArray[np.float64]

_EPS = float(np.finfo(np.float64).eps)


class Bound(NamedTuple):
    """A certified interval: the value of all rows lies in it, whatever the unobserved ones are."""

    low: float
    high: float


@dataclass(frozen=True, eq=False)
class SubsetBounds:
    """Bounds on functionals of the m eigenvalues of `G = EᵀE`, all n rows, uncentred.

    Rows that are only bounded (`unit_norm=False`) leave the trace unknown. Then the functionals
    that rise with every eigenvalue are bounded, and the others raise `InputError`. `effective_rank`
    always does: it is not Schur-concave.
    """

    observed: Values  # (m,) eigenvalues of G_A, descending, zeros included
    unobserved_trace: Bound  # τ = tr G_B
    n_observed: int  # n_A
    n_total: int  # n
    m: int  # features
    delta: float  # δ, the ridge on G
    rho: float  # ρ, squared norm of a row, or the bound on it
    unit_norm: bool  # whether every row has squared norm ρ

    @property
    def trace(self) -> Bound:
        """`Σ λ_i`; known up to rounding when every row has the same norm."""
        energy, error = float(self.observed.sum()), self._error
        return Bound(
            max(energy + self.unobserved_trace.low - error, 0.0),
            energy + self.unobserved_trace.high + error,
        )

    @property
    def log_det(self) -> Bound:
        """`log det(G + δI)`, in nats, unnormalised as in SIGMA."""
        low, high = self._spike(self.trace.low), self._fill(self.trace.high)
        return Bound(
            functionals.log_det(low, self.m, self.delta) - _log_rounding(low, self.delta),
            functionals.log_det(high, self.m, self.delta) + _log_rounding(high, self.delta),
        )

    @property
    def log_det_per_dim(self) -> Bound:
        """`log det(G + δI)/m`, in nats."""
        return Bound(self.log_det.low / self.m, self.log_det.high / self.m)

    @property
    def coding_rate(self) -> Bound:
        """`½ Σ log(1 + λ_i/δ)`, in nats."""
        return _outward(
            functionals.coding_rate(self._spike(self.trace.low), self.delta),
            functionals.coding_rate(self._fill(self.trace.high), self.delta),
            64 * _EPS,  # positive terms, so their sum is good to a few eps
        )

    @property
    def lambda_max(self) -> Bound:
        """Largest eigenvalue of G."""
        low = float(self._fill(self.trace.low).max())
        high = float(self.observed[0]) + self.unobserved_trace.high + self._error
        return Bound(low, high)

    @property
    def lambda_min(self) -> Bound:
        """Smallest of the m eigenvalues of G; zero when n < m."""
        return Bound(
            float(self._spike(self.trace.low).min()), float(self._fill(self.trace.high).min())
        )

    @property
    def spectral_entropy(self) -> Bound:
        """`H(p)`, `p = λ/Σλ`, in nats. Needs `unit_norm=True`."""
        spike, fill = self._shares("spectral_entropy")
        return _outward(
            functionals.spectral_entropy(spike),
            functionals.spectral_entropy(fill),
            64 * _EPS * (1 + math.log(self.m)),
        )

    @property
    def participation_ratio(self) -> Bound:
        """`(Σλ)²/Σλ²`, from 1 to m. Needs `unit_norm=True`."""
        return self._renyi("participation_ratio", 2)

    @property
    def stable_rank(self) -> Bound:
        """`Σλ/λ₁`, from 1 to m. Needs `unit_norm=True`."""
        return self._renyi("stable_rank", math.inf)

    @property
    def condition_number(self) -> Bound:
        """`λ₁/λ_m` of G, infinite where G may be singular. Needs `unit_norm=True`."""
        spike, fill = self._shares("condition_number")
        low, high = (
            float(shares.max() / shares.min()) if shares.min() > 0 else math.inf
            for shares in (fill, spike)
        )
        return _outward(low, high, 8 * _EPS)

    def renyi_rank(self, q: float) -> Bound:
        """`(Σ p^q)^(1/(1−q))`, from 1 to m, Schur-concave for every q ≥ 0. Needs `unit_norm=True`.

        Below q = 1 an eigenvalue of G_A within rounding of zero counts as such for the lower end
        and as rounding's largest for the upper one. At q = 0, the number of non-zero eigenvalues,
        the upper end is therefore `min(n, m)`: that some rows repeat others to the last digit
        cannot be certified in floating point.

        Raises:
            InputError: When q is negative or NaN, or `unit_norm=False`.
        """
        if not q >= 0:
            raise InputError(f"q={q!r}: the Renyi rank needs an order q >= 0, such as q=2.")
        return self._renyi(f"renyi_rank({q})", q)

    @property
    def effective_rank(self) -> NoReturn:
        """Not offered.

        Raises:
            InputError: Always.
        """
        raise InputError(
            "effective_rank has no bound by spike and fill: it is not Schur-concave. Eigenvalues "
            "(100, 50, 1 x 198) have 181.20, the more even (90, 60, 1 x 198) only 181.07. Take "
            "spectral_entropy or participation_ratio; of the effective rank itself it is certain "
            "that it lies between renyi_rank(0.5).low and renyi_rank(0).high."
        )

    @property
    def _error(self) -> float:
        """Largest rounding of an eigenvalue or of the trace, of G_A here or of G computed in fp64.

        `‖fl(EᵀE) − EᵀE‖₂ ≤ max(n, m)·eps·‖E‖_F²`, and eigvalsh is backward stable.
        """
        energy = float(self.observed.sum()) + self.unobserved_trace.high
        return 4 * (self.n_total + self.m) * _EPS * energy

    @cached_property
    def _limits(self) -> tuple[Values, Values]:
        """(m,) lower and upper limits of λ(G), in descending order."""
        # Beyond the number of rows eigenvalues are zero without any rounding.
        error = np.where(np.arange(self.m) < self.n_observed, self._error, 0.0)
        low = np.maximum(self.observed - error, 0.0)
        high = np.full(self.m, math.inf)
        rank = min(self.m, self.n_total - self.n_observed)
        high[rank:] = (self.observed + error)[: self.m - rank]
        return low, high

    def _spike(self, trace: float) -> Values:
        """(m,) the least even spectrum of this trace within the limits."""
        return _spike(self._limits[0], trace)

    def _fill(self, trace: float) -> Values:
        """(m,) the most even spectrum of this trace within the limits."""
        return _fill(*self._limits, trace)

    def _shares(self, name: str) -> tuple[Values, Values]:
        """Spike and fill of the shares `λ/Σλ`, where the trace is known."""
        if not self.unit_norm:
            raise InputError(
                f"{name} with unit_norm=False: rows that are only bounded by rho leave the trace "
                "unknown, and spike and fill bound only what rises with every eigenvalue: log_det, "
                "log_det_per_dim, coding_rate, lambda_max, lambda_min and trace. Scale all rows to "
                "one length and pass unit_norm=True."
            )
        return self._share_vectors

    @cached_property
    def _share_vectors(self) -> tuple[Values, Values]:
        # The trace is known up to rounding: by that much, too, the limits are taken apart.
        low, high = self._limits[0] / self.trace.high, self._limits[1] / self.trace.low
        return _spike(low, 1.0), _fill(low, high, 1.0)

    def _renyi(self, name: str, q: float) -> Bound:
        spike, fill = self._shares(name)
        # The logarithm of the sum, of m terms to the power q, is divided by 1 − q.
        power = 1.0 if q == 1 or math.isinf(q) else (1 + q) / abs(1 - q)
        allowance = 64 * _EPS * (1 + math.log(self.m)) * power
        return _outward(
            functionals.renyi_rank(spike, q), functionals.renyi_rank(fill, q), allowance
        )


@torch.no_grad()
def subset_bounds(
    observed: Tensor,
    n_total: int,
    *,
    delta: float = 1e-3,
    rho: float = 1.0,
    unit_norm: bool = True,
) -> SubsetBounds:
    """Bounds on the spectrum of all n rows that hold whatever the unobserved rows are.

    Both ends are attained by some unobserved rows, so nothing sharper follows from `λ(G_A)` and the
    norms alone. They are wide unless most rows are observed: n_B rows can lie anywhere.

    Args:
        observed: (n_A, m) tensor of fp16, bf16, fp32 or fp64, uncentred.
        n_total: n, number of all rows, observed and not; at least n_A.
        delta: δ > 0, added to every eigenvalue in `log_det` and its kin.
        rho: ρ > 0, squared norm of every row, or the bound on it.
        unit_norm: Whether every row has squared norm ρ exactly, up to rounding to its dtype: rows
            of unit length with ρ = 1. Then `τ = n_B ρ`. When False, rows have squared norm at most
            ρ, `0 ≤ τ ≤ n_B ρ`, and only functionals that rise with every eigenvalue are bounded.

    Returns:
        A `SubsetBounds`.

    Raises:
        InputError: As `sigma_tracks`; with `unit_norm=True` also when an observed row has another
            squared norm than ρ, by more than rounding to its dtype explains.

    Cost: that of `Gram` and the `4/3 d³` flops of eigenvalues without vectors in fp64,
    d = min(n_A, m).

    Examples:
        >>> import torch
        >>> from sigma_monitor.spectrum.subset import subset_bounds
        >>> bound = subset_bounds(torch.eye(4), 6).participation_ratio
        >>> f"{bound.low:.4f} {bound.high:.4f}"  # (3, 1, 1, 1) and (2, 2, 1, 1)
        '3.0000 3.6000'
    """
    gram = observed_gram(observed, n_total, delta=delta, rho=rho, equal=unit_norm)
    with torch.autocast(gram.device.type, enabled=False):
        computed = torch.linalg.eigvalsh(gram.product(center=False)).clamp(min=0).flip(0)
    values = np.zeros(gram.m)
    values[: len(computed)] = computed.cpu().numpy()
    tolerance = NORM_TOLERANCE[gram.dtype]
    energy = (n_total - gram.n) * rho
    return SubsetBounds(
        observed=values,
        unobserved_trace=Bound(
            energy * (1 - tolerance) if unit_norm else 0.0, energy * (1 + tolerance)
        ),
        n_observed=gram.n,
        n_total=int(n_total),
        m=gram.m,
        delta=delta,
        rho=rho,
        unit_norm=unit_norm,
    )


def am_gm_log_det(n_total: int, m: int, *, delta: float, rho: float) -> float:
    """Upper bound of `log det(G + δI)` for any n rows of squared norm at most ρ; looks at no data.

    By the inequality of the means over the `d = min(n, m)` directions that rows can have:
    `d log(nρ/d + δ) + (m − d) log δ`. What a bound from data has to beat.
    """
    d = min(n_total, m)
    return d * math.log(n_total * rho / d + delta) + (m - d) * math.log(delta)


def weyl_eigenvalues(eigenvalues: Values, n_unobserved: int, *, rho: float) -> Values:
    """(m, 2) intervals `λ_i(G_A) ≤ λ_i(G) ≤ λ_i(G_A) + β`, `β = n_B ρ` (Weyl 1912).

    Every one can be attained, but not all at once: `tr G_B ≤ β` in all.

    Args:
        eigenvalues: (m,) eigenvalues of G_A, zeros included, in any order.
        n_unobserved: n_B.
        rho: ρ.
    """
    return np.stack([eigenvalues, eigenvalues + n_unobserved * rho], axis=1)


def track_one_log_det(eigenvalues: Values, n_unobserved: int, *, delta: float, rho: float) -> float:
    """Upper bound `log det(G_A + (β + δ)I)` of `log det(G + δI)`, `β = n_B ρ`.

    What Track I of SIGMA rests on (arXiv 2601.03385, eqs 3.16-3.18): all of Weyl's upper ends at
    once, and so never below the fill, which spends τ ≤ β only once.

    Args:
        eigenvalues: (m,) eigenvalues of G_A, zeros included.
        n_unobserved: n_B.
        delta: δ.
        rho: ρ.
    """
    return float(np.log(eigenvalues + (n_unobserved * rho + delta)).sum())


def _spike(low: Values, trace: float) -> Values:
    """(m,) every value at its lower limit but the first, which takes the rest of the trace."""
    spike = low.copy()
    spike[0] = max(trace - float(low[1:].sum()), 0.0)
    return spike


def _fill(low: Values, high: Values, trace: float) -> Values:
    """(m,) `clip(μ, low, high)`, with the level μ at which it sums to the trace.

    The least element, in the order of majorisation, of all vectors within the limits that have
    this sum.
    """
    corners = np.unique(np.concatenate([low, high[np.isfinite(high)]]))

    def filled(level: float) -> Values:
        clipped: Values = np.clip(level, low, high)
        return clipped

    below = bisect_right(corners, trace, key=lambda corner: float(filled(corner).sum()))
    corner = float(corners[max(below - 1, 0)])
    rising = int(((low <= corner) & (corner < high)).sum())
    missing = trace - float(filled(corner).sum())
    level = corner + missing / rising if rising and missing > 0 else corner
    return filled(level)


def _log_rounding(values: Values, ridge: float) -> float:
    """Error of a sum of logarithms, whose terms may cancel."""
    return 32 * _EPS * float((1 + np.abs(np.log(values + ridge))).sum())


def _outward(low: float, high: float, relative: float) -> Bound:
    """Two ends that are not negative, further apart by the rounding of their evaluation."""
    return Bound(low * (1 - relative), high * (1 + relative))
