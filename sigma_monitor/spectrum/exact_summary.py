"""A summary by the exact way: all eigenvalues, and the jackknife over the examples."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from sigma_monitor.estimate import Estimate
from sigma_monitor.spectrum import functionals
from sigma_monitor.spectrum.conventions import Conventions, largest_storage_eigenvalue
from sigma_monitor.spectrum.exact import decompose, spectrum
from sigma_monitor.spectrum.gram import Gram, Product
from sigma_monitor.spectrum.result import SpectralSummary, described, exponential
from sigma_monitor.spectrum.uncertainty import (
    LeaveOneOut,
    half_width,
    jackknife_standard_error,
    leave_one_out,
)

__all__ = ["exact_summary"]


def exact_summary(rows: Product, conventions: Conventions, reason: str) -> SpectralSummary:
    """The summary of a product; the jackknife needs a `Gram`, whose rows are at hand."""
    started = time.perf_counter()
    sampling = conventions.sampling and isinstance(rows, Gram)
    values, trace, epsilon, without = _spectrum(rows, conventions, sampling=sampling)
    m = rows.m
    noise = largest_storage_eigenvalue(rows, trace)

    def sampled(value: float, select: Callable[[LeaveOneOut], NDArray[np.float64]]) -> Estimate:
        if not sampling:
            return Estimate.exact(value)
        return _sampled(value, without, select, conventions.confidence)

    log_det = functionals.log_det(values, m, epsilon)
    rate = functionals.coding_rate(values, epsilon)
    log_rank = math.log(functionals.effective_rank(values))
    exact = Estimate.exact
    return SpectralSummary(
        log_det=sampled(log_det, lambda loo: loo.log_det),
        log_det_per_dim=sampled(log_det / m, lambda loo: loo.log_det / m),
        coding_rate=sampled(rate, lambda loo: (loo.log_det - m * loo.log_ridge) / 2),
        effective_rank=exponential(sampled(log_rank, lambda loo: loo.log_effective_rank)),
        spectral_entropy=exact(functionals.spectral_entropy(values)),
        participation_ratio=exact(functionals.renyi_rank(values, 2)),
        stable_rank=exact(functionals.stable_rank(values)),
        condition_number=exact(functionals.condition_number(values, noise)),
        lambda_max=exact(float(values[0])),
        lambda_min=exact(float(values[-1]) if len(values) == m else 0.0),
        trace=exact(trace),
        mean_cosine=exact(rows.mean_cosine()),
        decay_exponent=exact(functionals.decay_exponent(values, noise)),
        eigenvalues=values,
        leave_one_out=without,
        method="exact",
        matvecs=0,
        seconds=time.perf_counter() - started,
        **described(rows, conventions, epsilon, reason),
    )


def _spectrum(
    rows: Product, conventions: Conventions, *, sampling: bool
) -> tuple[NDArray[np.float64], float, float, LeaveOneOut | None]:
    """Eigenvalues and trace of C, ε, and the values without each example."""
    center = conventions.center
    if not (sampling and isinstance(rows, Gram)):
        values = (spectrum(rows, center=center) / rows.n).cpu().numpy()
        trace = float(values.sum())
        return values, trace, conventions.epsilon(rows, trace), None
    decomposition = decompose(rows, center=center)
    values = (decomposition.values / rows.n).cpu().numpy()
    trace = float(values.sum())
    epsilon = conventions.epsilon(rows, trace)
    without = leave_one_out(
        rows,
        decomposition,
        center=center,
        groups=conventions.groups,
        ridge=epsilon,
        relative_ridge=conventions.relative_ridge,
    )
    return values, trace, epsilon, without


def _sampled(
    value: float,
    without: LeaveOneOut | None,
    select: Callable[[LeaveOneOut], NDArray[np.float64]],
    confidence: float,
) -> Estimate:
    deleted = None if without is None else select(without)
    # Unbounded, too, when what is left without some example has no spectrum.
    if deleted is None or not np.isfinite(deleted).all():
        return Estimate(value, -math.inf, math.inf, "sampling")
    half = half_width(jackknife_standard_error(deleted), len(deleted), confidence)
    return Estimate(value, value - half, value + half, "sampling")
