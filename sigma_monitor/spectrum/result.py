"""`SpectralSummary`: what is known of one spectrum, whichever way it was found."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sigma_monitor.errors import InputError
from sigma_monitor.estimate import Estimate
from sigma_monitor.spectrum import functionals
from sigma_monitor.spectrum.conventions import Conventions
from sigma_monitor.spectrum.gram import RowFacts
from sigma_monitor.spectrum.randomized import Sounding
from sigma_monitor.spectrum.trace import TraceEstimate
from sigma_monitor.spectrum.uncertainty import LeaveOneOut

__all__ = [
    "FUNCTIONALS",
    "RANKS",
    "Randomized",
    "SpectralSummary",
    "described",
    "exponential",
    "mismatch",
]

FUNCTIONALS = (
    "log_det",
    "log_det_per_dim",
    "coding_rate",
    "effective_rank",
    "spectral_entropy",
    "participation_ratio",
    "stable_rank",
    "condition_number",
    "lambda_max",
    "lambda_min",
    "trace",
    "mean_cosine",
    "decay_exponent",
)
# Functionals whose intervals are made on the log scale: positive, and products rather than sums.
RANKS = ("effective_rank", "participation_ratio", "stable_rank")

_LARGEST_LOGARITHM = 700.0  # the exponential of more overflows


@dataclass(frozen=True, eq=False)
class Randomized:
    """What a randomised summary keeps beside its estimates."""

    sounding: Sounding
    parts: Mapping[str, TraceEstimate]  # kinds of error apart, by functional; `RANKS` as logarithms
    log_rank_without: NDArray[np.float64] | None  # (examples,) to first order
    anchor: SpectralSummary | None = None  # the summary whose level this one follows


@dataclass(frozen=True, eq=False)
class SpectralSummary:
    """Every functional of one spectrum, each an `Estimate`, with the conventions that made it.

    Eigenvalues and trace are those of `C = G/n`; logarithms are natural (nats).

    By the exact way, `log_det`, `log_det_per_dim`, `coding_rate` and `effective_rank` carry the
    jackknife interval over the probe examples (kind `"sampling"`): it covers the spread of the
    plug-in value between probe sets of the same size, not the bias of the plug-in, which depends on
    n. It is unbounded with fewer than three examples. The other functionals are exact for the given
    rows, as all are with `sampling=False`.

    By the randomised way, every interval is about the value *for the given rows*: the t-interval
    over the test vectors, widened by the certified quadrature bracket and the rounding of the
    products (kind `"test_vectors"`), or only these two when no vector was random (`"quadrature"`).
    `lambda_max` and `stable_rank` have a certified and a probabilistic end; `lambda_min` is known
    from above, and `condition_number` from below as `λ₁` over the smallest of all d eigenvalues;
    for `decay_exponent` there is no bound at all.
    """

    log_det: Estimate  # Σ log(λ_i + ε) over m eigenvalues, nats
    log_det_per_dim: Estimate  # log_det / m, nats
    coding_rate: Estimate  # ½ Σ log(1 + λ_i/ε), nats
    effective_rank: Estimate  # exp H(singular values), 1 … d
    spectral_entropy: Estimate  # H(eigenvalues), nats
    participation_ratio: Estimate  # (Σλ)² / Σλ², 1 … d
    stable_rank: Estimate  # Σλ / λ₁, 1 … d
    condition_number: Estimate  # λ₁ / smallest eigenvalue above the numerical floor
    lambda_max: Estimate  # largest eigenvalue of C
    lambda_min: Estimate  # smallest of the m eigenvalues of C
    trace: Estimate  # Σ λ_i of C
    mean_cosine: Estimate  # mean cosine of two raw rows, −1 … 1
    decay_exponent: Estimate  # α of λ_i ∝ i^(−α)
    method: Literal["exact", "lanczos"]
    reason: str  # why this method
    n: int  # rows
    m: int  # features
    examples: int  # units of the jackknife
    ridge: float  # ε on C
    relative_ridge: float | None  # ε · m / tr(C) that was asked for; None for an absolute ridge
    center: bool
    normalize: bool
    confidence: float  # of the intervals
    matvecs: int  # products of C with a vector, 0 for the exact way
    seconds: float  # wall time
    device: str
    bytes_communicated: int = 0  # that this rank gave to collectives
    seed: int | None = None  # of the test vectors; None for the exact way
    eigenvalues: NDArray[np.float64] | None = field(default=None, repr=False)  # (r,) exact way
    leave_one_out: LeaveOneOut | None = field(default=None, repr=False)  # exact way
    randomized: Randomized | None = field(default=None, repr=False)  # randomised way

    @property
    def shares(self) -> NDArray[np.float64]:
        """(r,) eigenvalues as shares of the trace, descending.

        By the randomised way there are d of them, those that its quadrature implies.
        """
        if self.eigenvalues is not None:
            shares: NDArray[np.float64] = self.eigenvalues / self.eigenvalues.sum()
            return shares
        assert self.randomized is not None
        return self.randomized.sounding.measure.eigenvalues()

    @property
    def fingerprint(self) -> str:
        """Of shape, conventions, method and test vectors; others do not compare.

        It cannot tell whether the rows are embeddings of the same probe set.
        """
        return hashlib.sha256(repr(_identity(vars(self))).encode()).hexdigest()[:16]

    @property
    def log_rank_without(self) -> NDArray[np.float64] | None:
        """(examples,) log effective rank without each example, nats; None when not asked for."""
        if self.randomized is not None:
            return self.randomized.log_rank_without
        return None if self.leave_one_out is None else self.leave_one_out.log_effective_rank

    def renyi_rank(self, q: float) -> Estimate:
        """`(Σ p^q)^(1/(1−q))` of the eigenvalue shares p, from 1 to d (Vendi order q).

        Raises:
            InputError: When q is negative or NaN.
        """
        if not q >= 0:
            raise InputError(f"q={q!r}: the Renyi rank needs an order q >= 0, such as q=2.")
        if self.eigenvalues is not None:
            return Estimate.exact(functionals.renyi_rank(self.eigenvalues, q))
        assert self.randomized is not None  # one of both is always there
        logarithm = self.randomized.sounding.log_renyi_rank(q).estimate(self.confidence)
        return exponential(logarithm, 1.0, min(self.n, self.m))


def exponential(logarithm: Estimate, least: float = 0.0, most: float = math.inf) -> Estimate:
    """A positive functional from its logarithm, its interval carried over and kept in range."""
    value, low, high = (
        min(max(least, math.inf if x > _LARGEST_LOGARITHM else math.exp(x)), most)
        for x in (logarithm.value, logarithm.low, logarithm.high)
    )
    return Estimate(value, low, high, logarithm.kind)


def described(
    rows: RowFacts, conventions: Conventions, ridge: float, reason: str
) -> dict[str, Any]:
    """The fields of a summary that say what it is of."""
    return {
        "reason": reason,
        "n": rows.n,
        "m": rows.m,
        "examples": conventions.examples(rows.n),
        "ridge": ridge,
        "relative_ridge": conventions.relative_ridge,
        "center": conventions.center,
        "normalize": rows.normalize,
        "confidence": conventions.confidence,
        "device": str(rows.device),
    }


def mismatch(before: Mapping[str, Any], after: Mapping[str, Any]) -> str | None:
    """The first field in which two summaries do not compare, in words."""
    old, new = _identity(before), _identity(after)
    for name, value in old.items():
        if new[name] != value:
            return f"{name} is {value!r} in the one and {new[name]!r} in the other"
    return None


def _identity(fields: Mapping[str, Any]) -> dict[str, Any]:
    names = ("method", "n", "m", "examples", "center", "normalize", "relative_ridge", "seed")
    identity = {name: fields[name] for name in names}
    # A relative ridge follows the trace, which is what may drift.
    return identity | {"ridge": fields["ridge"] if fields["relative_ridge"] is None else None}
