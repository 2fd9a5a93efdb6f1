"""Spectrum in, number out: every functional of the eigenvalues, each by its published definition.

Throughout, `values` are the d = min(n, m) eigenvalues of `C = G/n`, descending and non-negative, as
a NumPy array in fp64; the remaining m − d eigenvalues are zero. `p = values / Σ values` and
`s = sqrt(values) / Σ sqrt(values)`, with 0 log 0 = 0.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.special import xlogy

__all__ = [
    "coding_rate",
    "condition_number",
    "decay_exponent",
    "effective_rank",
    "log_det",
    "renyi_rank",
    "spectral_entropy",
    "stable_rank",
]

Values = NDArray[np.float64]

_NEAR_ONE = 1e-5  # orders where the second term in q − 1 is as small as the rounding of the sum


def log_det(values: Values, m: int, ridge: float) -> float:
    """`Σ log(λ_i + ε)` over all m eigenvalues, in nats (SIGMA, arXiv 2601.03385)."""
    return float(np.log(values + ridge).sum() + (m - len(values)) * math.log(ridge))


def coding_rate(values: Values, ridge: float) -> float:
    """`½ Σ log(1 + λ_i/ε)`, in nats (rate distortion; Yu et al. 2020; SIGMA's Track I form)."""
    return float(0.5 * np.log1p(values / ridge).sum())


def effective_rank(values: Values) -> float:
    """`exp H(s)`, from 1 to d (Roy and Vetterli 2007; RankMe when uncentred, Garrido et al. 2023).

    Not Schur-concave in the eigenvalues: a more even spectrum can have a slightly smaller one.
    """
    return math.exp(_entropy(np.sqrt(values)))


def spectral_entropy(values: Values) -> float:
    """`H(p)`, in nats (von Neumann; its exponential is the Vendi score of unit rows)."""
    return _entropy(values)


def renyi_rank(values: Values, q: float) -> float:
    """`(Σ p^q)^(1/(1−q))`, from 1 to d; q = 2 is the participation ratio (Vendi score of order q).

    q = 0 counts the non-zero eigenvalues, q = 1 is `exp H(p)`, q = ∞ is `1 / max p`. Close to 1 the
    first two terms in q − 1 are taken, since `Σ p^q` has lost its digits there.
    """
    p = values[values > 0] / values.sum()
    if abs(q - 1) < _NEAR_ONE:
        logs = np.log(p)
        return math.exp(_entropy(p) - (q - 1) / 2 * float(p @ (logs - p @ logs) ** 2))
    if math.isinf(q):
        return float(1 / p.max())
    # Relative to the largest share, so that a large q does not underflow every term.
    log_power_sum = q * math.log(p.max()) + math.log(((p / p.max()) ** q).sum())
    return math.exp(log_power_sum / (1 - q))


def stable_rank(values: Values) -> float:
    """`Σ λ / λ₁`, from 1 to d (NESum when centred)."""
    return float(values.sum() / values[0])


def condition_number(values: Values, floor: float) -> float:
    """`λ₁ / λ_min`, λ_min the smallest eigenvalue above `floor`."""
    return float(values[0] / values[values > floor][-1])


def decay_exponent(values: Values, floor: float) -> float:
    """The α of `λ_i ∝ i^(−α)`: minus the least-squares slope of log λ_i on log i (alpha-ReQ).

    Fitted over i = ⌈r/10⌉ … ⌈r/2⌉ (1 … r when r < 10), r the number of eigenvalues above `floor`:
    the head of few directions and the tail that a finite sample bends down are left out. Infinite
    for a single direction.
    """
    r = int((values > floor).sum())
    if r < 2:
        return math.inf
    first, last = (math.ceil(r / 10), math.ceil(r / 2)) if r >= 10 else (1, r)
    index = np.arange(first, last + 1)
    slope = np.polyfit(np.log(index), np.log(values[first - 1 : last]), 1)[0]
    return float(-slope)


def _entropy(weights: Values) -> float:
    p = weights / weights.sum()
    return float(-xlogy(p, p).sum())
