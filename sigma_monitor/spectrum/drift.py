"""The change of a spectrum between two summaries of the same probe set, with a paired interval."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sigma_monitor.errors import InputError
from sigma_monitor.estimate import Estimate
from sigma_monitor.spectrum.result import FUNCTIONALS, RANKS, SpectralSummary, mismatch
from sigma_monitor.spectrum.trace import TraceEstimate
from sigma_monitor.spectrum.uncertainty import LeaveOneOut, half_width, paired_standard_error

__all__ = ["SpectralDrift", "spectral_drift"]


@dataclass(frozen=True)
class SpectralDrift:
    """`after − before` of every functional, in its own unit, each with its interval.

    The kind of each `Estimate` says what the interval covers: see `spectral_drift`.
    """

    log_det: Estimate  # nats
    log_det_per_dim: Estimate  # nats
    coding_rate: Estimate  # nats
    effective_rank: Estimate
    spectral_entropy: Estimate  # nats
    participation_ratio: Estimate
    stable_rank: Estimate
    condition_number: Estimate
    lambda_max: Estimate
    lambda_min: Estimate
    trace: Estimate
    mean_cosine: Estimate
    decay_exponent: Estimate
    fingerprint: str  # of both summaries
    confidence: float


def spectral_drift(before: SpectralSummary, after: SpectralSummary) -> SpectralDrift:
    """The change from `before` to `after`, embeddings of the same probe examples in one order.

    Exact summaries: where both carry leave-one-out values, their differences example by example
    give a paired jackknife interval (kind `"sampling"`), 5 to 50 times narrower than two separate
    levels. Randomised ones: the test vectors are the same, so that their differences vector by
    vector give a paired t-interval (kind `"test_vectors"`), widened by the quadrature brackets and
    the rounding of both. The brackets do not pair: a change far smaller than they are needs more
    `lanczos_steps`. Functionals that are exact in both have an exact change.

    Args:
        before: Of the probe set at one time.
        after: Of the same at another.

    Raises:
        InputError: When the fingerprints differ: another shape, ridge, convention, method or seed.

    Cost: nothing but arithmetic on what the summaries hold.
    """
    difference = mismatch(vars(before), vars(after))
    if difference is not None:
        raise InputError(
            f"these summaries do not compare: {difference}. A drift needs the same probe examples, "
            "conventions, method and test vectors at both times."
        )
    confidence = min(before.confidence, after.confidence)
    change = _randomized_change if after.randomized is not None else _exact_change
    estimates = {name: change(name, before, after, confidence) for name in FUNCTIONALS}
    return SpectralDrift(**estimates, fingerprint=after.fingerprint, confidence=confidence)


_SAMPLED: dict[str, Callable[[LeaveOneOut, SpectralSummary], NDArray[np.float64]]] = {
    "log_det": lambda without, _: without.log_det,
    "log_det_per_dim": lambda without, summary: without.log_det / summary.m,
    "coding_rate": lambda without, summary: (without.log_det - summary.m * without.log_ridge) / 2,
    "effective_rank": lambda without, _: np.exp(without.log_effective_rank),
}


def _exact_change(
    name: str, before: SpectralSummary, after: SpectralSummary, confidence: float
) -> Estimate:
    change = _difference(before, after, name)
    without = before.leave_one_out, after.leave_one_out
    if name not in _SAMPLED or getattr(before, name).kind == getattr(after, name).kind == "exact":
        return Estimate.exact(change)
    half = math.inf
    if without[0] is not None and without[1] is not None:
        old, new = _SAMPLED[name](without[0], before), _SAMPLED[name](without[1], after)
        if np.isfinite(new - old).all():
            half = half_width(paired_standard_error(old, new), len(old), confidence)
    return Estimate(change, change - half, change + half, "sampling")


def _randomized_change(
    name: str, before: SpectralSummary, after: SpectralSummary, confidence: float
) -> Estimate:
    assert before.randomized is not None
    assert after.randomized is not None
    old, new = before.randomized.parts.get(name), after.randomized.parts.get(name)
    if old is not None and new is not None:
        if name in RANKS:
            old, new = _exponential(old), _exponential(new)
        return new.minus(old).estimate(confidence)
    first, second = getattr(before, name), getattr(after, name)
    change = _difference(before, after, name)
    if first.kind == second.kind == "exact":
        return Estimate.exact(change)
    return Estimate(change, second.low - first.high, second.high - first.low, second.kind)


def _exponential(logarithm: TraceEstimate) -> TraceEstimate:
    return logarithm.mapped(math.exp, math.exp(logarithm.value))


def _difference(before: SpectralSummary, after: SpectralSummary, name: str) -> float:
    old, new = getattr(before, name).value, getattr(after, name).value
    return 0.0 if old == new else float(new - old)  # two infinities are equal, too
