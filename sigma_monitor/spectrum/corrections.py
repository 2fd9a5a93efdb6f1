"""What a finite number of independent rows does to a functional, and how to take it off again.

Every correction here assumes independent, identically distributed rows; tokens of one text are not.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.special import digamma

from sigma_monitor.errors import InputError
from sigma_monitor.spectrum import functionals

__all__ = [
    "KappaCorrected",
    "gaussian_bias",
    "kappa_corrected_log_det",
    "ridge_for_kappa",
    "unbiased_participation_ratio",
]

Values = NDArray[np.float64]


class KappaCorrected(NamedTuple):
    """A corrected log det and the ridge at which it holds."""

    log_det: float  # estimate of log det(Σ + κI), nats
    kappa: float  # κ, the ridge on Σ that the ridge ε on S amounts to


def kappa_corrected_log_det(eigenvalues: ArrayLike, m: int, n: int, ridge: float) -> KappaCorrected:
    """`log det(Σ + κI)` of the population, from the spectrum of n i.i.d. rows.

    With `S = XᵀX/n` and `df = tr S(S + εI)⁻¹`: `κ = ε/(1 − df/n)` and
    `log det(Σ + κI) ≈ log det(S + εI) + m log(κ/ε) − n (log(κ/ε) + ε/κ − 1)`, the deterministic
    equivalent for large n and m. Valid for n < m as for n > m. What remains is of the order of one
    nat in all, not a dimension: `½ log(1 − df₂/n)`, `df₂ = tr Σ²(Σ + κI)⁻²`, for Gaussian rows,
    −0.7 nats for 60 rows of 48 features at ε = 1e-3 tr(S)/m. It depends on the fourth moments
    of the rows and is not taken off.

    κ is not a setting: it depends on the data and moves with the collapse it should measure.
    Values at different κ are not comparable: for a drift, take ε from `ridge_for_kappa` at one
    common κ on both sides.

    Args:
        eigenvalues: Eigenvalues of S, at least the non-zero ones, at most m, in any order.
        m: Number of features.
        n: Number of independent rows. For centred rows: n − 1, and the eigenvalues of
            `XᵀX/(n − 1)`.
        ridge: ε > 0 on S.

    Raises:
        InputError: Eigenvalues negative, non-finite, more than m, or more non-zero ones than n; a
            ridge that is not positive and finite.
    """
    values = _checked(eigenvalues, m, n)
    _check_positive("ridge", ridge)
    unused = _unused_share(values, n, ridge)  # 1 − df/n = ε/κ
    log_ratio = -math.log(unused)  # log κ/ε
    log_det = functionals.log_det(values, m, ridge)
    return KappaCorrected(
        log_det + m * log_ratio - n * (log_ratio + unused - 1), kappa=ridge / unused
    )


def ridge_for_kappa(eigenvalues: ArrayLike, m: int, n: int, kappa: float) -> float:
    """The ridge ε on S at which `kappa_corrected_log_det` holds at this κ.

    Solves `ε = κ (1 − df(ε)/n)`. κ rises with ε, from 0 when S has fewer than n non-zero
    eigenvalues, and from their harmonic mean otherwise (n ≤ m): below that there is no solution,
    because n rows cannot resolve a smaller ridge.

    Args:
        eigenvalues: Eigenvalues of S, as in `kappa_corrected_log_det`.
        m: Number of features.
        n: Number of independent rows.
        kappa: κ > 0 on Σ.

    Raises:
        InputError: As `kappa_corrected_log_det`; a κ that no ridge reaches.
    """
    values = _checked(eigenvalues, m, n)
    _check_positive("kappa", kappa)
    smallest = n / float((1 / values).sum()) if len(values) == n else 0.0
    if kappa <= smallest * (1 + 1e-9):
        raise InputError(
            f"kappa={kappa!r} with {n} rows of {m} features: a ridge on their spectrum amounts to "
            f"more than {smallest:.6g}, however small it is. Pass a larger kappa, or more rows."
        )

    def excess(log_ridge: float) -> float:
        ridge = math.exp(log_ridge)
        return log_ridge - math.log(_unused_share(values, n, ridge)) - math.log(kappa)

    high = math.log(kappa)  # ε ≤ κ
    low = high - 1
    while excess(low) > 0:
        low -= 2 * (high - low)
    return math.exp(float(brentq(excess, low, high, xtol=1e-15, rtol=8.9e-16)))


def gaussian_bias(n: int, m: int, *, center: bool = False) -> float:
    """`E log det(Ĉ) − log det C` of n Gaussian rows, exactly, in nats.

    `Ĉ = XᵀX/n`, rows N(0, C): `Σ_{i=0}^{m−1} [ψ((n − i)/2) + log 2 − log n]`. Centred rows are a
    Wishart matrix of n − 1 degrees of freedom, still divided by n:
    `Σ_{i=1}^{m} [ψ((n − i)/2) + log 2 − log n]`, which is also what one generation of Gaussian
    self-consumption costs. Rows that are not Gaussian differ by about `−½(σ² − 2m)/n`,
    `σ² = Var(vᵀC⁻¹v)`.

    Args:
        n: Number of rows.
        m: Number of features.
        center: Whether the mean row is subtracted.

    Raises:
        InputError: When n (or n − 1 when centred) is below m: the determinant is zero.
    """
    freedom = n - int(center)
    if m < 1 or freedom < m:
        raise InputError(
            f"n={n} rows, m={m} features, center={center}: the second-moment matrix is singular "
            f"and its log det −∞. Pass n >= {max(m, 1) + int(center)} and m >= 1, or correct a "
            "regularised log det with kappa_corrected_log_det."
        )
    degrees = freedom - np.arange(m)
    return float((digamma(degrees / 2) + math.log(2 / n)).sum())


def unbiased_participation_ratio(eigenvalues: ArrayLike, n: int, squared_norms: ArrayLike) -> float:
    """`(tr Σ)²/tr Σ²`, each part estimated without bias from n i.i.d. rows.

    With x_i the rows and C = XᵀX/n: `tr Σ² ← (‖XXᵀ‖_F² − Σ‖x_i‖⁴)/(n(n − 1))`, the mean of
    `(x_iᵀx_j)²` over pairs, where `‖XXᵀ‖_F² = n² Σ λ_i(C)²`; `(tr Σ)² ←` the mean of
    `‖x_i‖²‖x_j‖²` over pairs. The plug-in counts every row against itself and so stays below n;
    this ratio does not, and is infinite when all rows are orthogonal. A ratio of unbiased
    estimates is not itself unbiased: what remains is of second order in its standard error.

    Args:
        eigenvalues: Eigenvalues of C of the raw, uncentred rows, at least the non-zero ones.
            (Σ is then the second moment. Centred rows are not independent.)
        n: Number of rows, at least 2.
        squared_norms: (n,) squared norm of every row.

    Raises:
        InputError: Values negative or non-finite; n below 2 or other than the number of norms;
            eigenvalues and norms of unequal energy; fewer than two rows that are not zero.
    """
    values, squared = _finite("eigenvalues", eigenvalues), _finite("squared_norms", squared_norms)
    if n < 2 or len(squared) != n:
        raise InputError(
            f"n={n} with {len(squared)} squared norms: pass one norm for each of two or more rows."
        )
    energy = float(squared.sum())
    if not math.isclose(n * float(values.sum()), energy, rel_tol=1e-6):
        raise InputError(
            f"n times the sum of the eigenvalues is {n * float(values.sum()):.6g} and the squared "
            f"norms sum to {energy:.6g}: they must agree. Pass eigenvalues of C = XᵀX/n and the "
            "norms of the same uncentred rows."
        )
    own = float((squared**2).sum())
    pairs = energy**2 - own
    rounding = 4 * n * np.finfo(float).eps * energy**2
    if pairs <= rounding:
        raise InputError(
            f"of {n} rows at most one is not zero: a participation ratio needs two. Pass rows "
            "with energy."
        )
    overlap = n**2 * float((values**2).sum()) - own
    return pairs / overlap if overlap > rounding else math.inf


def _unused_share(values: Values, n: int, ridge: float) -> float:
    """`1 − df/n`, as a sum of positive terms: the difference would cancel when n ≤ m."""
    return (n - len(values) + float((ridge / (values + ridge)).sum())) / n


def _checked(eigenvalues: ArrayLike, m: int, n: int) -> Values:
    """The non-zero eigenvalues."""
    values = _finite("eigenvalues", eigenvalues)
    positive = values[values > 0]
    if n < 1 or m < 1 or len(values) > m or len(positive) > n:
        raise InputError(
            f"{len(values)} eigenvalues, {len(positive)} of them not zero, of n={n} rows and "
            f"m={m} features: at most min(n, m) can be non-zero. Pass the eigenvalues of "
            "S = XᵀX/n, those that are rounding set to zero."
        )
    return positive


def _finite(name: str, given: ArrayLike) -> Values:
    values = np.asarray(given, dtype=np.float64)
    if values.ndim != 1 or values.size == 0 or not np.isfinite(values).all() or values.min() < 0:
        raise InputError(
            f"{name} of shape {values.shape} must be one-dimensional, finite, non-negative and "
            "not empty. Rounding below zero: np.clip(values, 0, None)."
        )
    return values


def _check_positive(name: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise InputError(f"{name}={value!r}: it must be positive and finite, such as 1e-3.")
