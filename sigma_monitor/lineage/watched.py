"""A positive number of one generation, and its ratio to that of another with a paired interval."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sigma_monitor.estimate import Estimate
from sigma_monitor.spectrum.uncertainty import half_width, paired_standard_error

__all__ = ["Watched", "ratio"]


@dataclass(frozen=True, eq=False)
class Watched:
    """What a verdict looks at."""

    value: float
    without: NDArray[np.float64] | None = None  # (examples,) without each; None: rows not kept


def ratio(before: Watched, after: Watched, confidence: float) -> Estimate | None:
    """`after` over `before`.

    The interval is a jackknife of the logarithm, example by example: it says how far the ratio
    would move with other documents of the same two generations. It is unbounded where a value
    without some example is not positive.

    Args:
        before: Of the reference.
        after: Of the generation.
        confidence: Of the interval.

    Returns:
        None where the reference is zero; kind `"exact"`, without an interval, where the rows of
        one were not kept, or where it is zero.
    """
    if before.value <= 0:
        return None
    quotient = after.value / before.value
    if before.without is None or after.without is None or quotient == 0:
        return Estimate.exact(quotient)
    with np.errstate(divide="ignore", invalid="ignore"):
        old, new = np.log(before.without), np.log(after.without)
        changes = new - old
    if not np.isfinite(changes).all():
        return Estimate(quotient, 0.0, math.inf, "sampling")
    half = half_width(paired_standard_error(old, new), len(old), confidence)
    factor = math.exp(min(half, 700.0))
    return Estimate(quotient, quotient / factor, quotient * factor, "sampling")
