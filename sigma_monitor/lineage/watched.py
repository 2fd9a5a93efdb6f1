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

    The interval is Fieller's, with jackknife errors, example by example: it says how far the ratio
    would move with other documents of the same two generations. It has no upper end where `before`
    itself could be 0 by these errors.

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
    old, new = before.without / before.value, after.without / before.value
    return Estimate(quotient, *_fieller(quotient, old, new, confidence), "sampling")


def _fieller(
    quotient: float, old: NDArray[np.float64], new: NDArray[np.float64], confidence: float
) -> tuple[float, float]:
    """All r of which `new − r old` could be 0 (Fieller 1954): `(q − r)² ≤ t² var(new − r old)`.

    Where `old` itself could be 0 these may be two pieces: the interval is then from 0 on.

    Neither value need be nearly normal in its logarithm, as a jackknife of log q has it: where one
    example holds nearly all of a value, its logarithm without that example has no bound.

    Args:
        quotient: q.
        old: (n,) the reference without each example, in units of the reference.
        new: (n,) the generation likewise, in the same units.
        confidence: Of the interval.
    """
    n = len(old)
    errors = half_width(1.0, n, confidence) ** 2 * (n - 1) * np.cov(old, new, bias=True)  # (2, 2)
    of_old, of_both = float(errors[0, 0]), float(errors[0, 1])
    if of_old >= 1:
        return 0.0, math.inf
    # As one difference, which is exactly 0 of a generation and itself.
    of_change = half_width(paired_standard_error(quotient * old, new), n, confidence) ** 2
    root = math.sqrt(max(0.0, of_change - float(np.linalg.det(errors))))
    middle = quotient - of_both
    return max(0.0, (middle - root) / (1 - of_old)), (middle + root) / (1 - of_old)
