"""What a series is compared with: its start, or its first plateau."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean, median
from typing import Literal

from sigma_monitor.detection.rule import Thresholds

__all__ = ["Baseline", "plateau", "start"]

# A start is one exact measurement on a fixed probe set; training moves it by about this much
# from check to check without anything being wrong, in nats.
_START_SIGMA = 0.01
_LEAST_PHI = 0.8
_LARGEST_PHI = 0.98
# Scales the median absolute deviation to a standard deviation of Gaussian data.
_MAD_TO_SIGMA = 1.4826


@dataclass(frozen=True)
class Baseline:
    """The frozen reference of one series."""

    kind: Literal["start", "plateau"]
    log_value: float  # natural log of the functional
    sigma: float  # noise of one check, nats
    phi: float  # lag-1 autocorrelation
    checks: int  # checks it is the median of; 0 when it is one exact measurement
    stable: bool  # False: no plateau came, and alarms are less reliable
    step: int  # training step at which it was frozen


def start(step: int, log_value: float) -> Baseline:
    """The first measurement as its own baseline, for weights that were loaded."""
    return Baseline("start", log_value, _START_SIGMA, _LEAST_PHI, 0, True, step)


def plateau(
    steps: Sequence[int],
    log_values: Sequence[float],
    stderrs: Sequence[float],
    thresholds: Thresholds,
    warmup_steps: int = 0,
) -> Baseline | None:
    """The median of the latest `baseline_checks`, once they are level; None while they are not.

    The first `warmup_checks` are dropped, and those before step `warmup_steps`. Level means that
    the medians of the two halves differ by at most `plateau_tolerance`; after `plateau_limit` more
    checks it is frozen anyway, unstable.

    Args:
        steps: Steps of all checks so far.
        log_values: The series, natural log.
        stderrs: Paired standard error of each check against the one before, nats.
        thresholds: The rule.
        warmup_steps: Of the learning rate.
    """
    size = thresholds.baseline_checks
    dropped = max(thresholds.warmup_checks, sum(step < warmup_steps for step in steps))
    waited = len(log_values) - dropped - size
    slide = max(1, size // 4)
    if waited < 0 or waited % slide:
        return None
    window = list(log_values[-size:])
    half = size // 2
    level = abs(median(window[:half]) - median(window[half:])) <= thresholds.plateau_tolerance
    if not level and waited < thresholds.plateau_limit:
        return None
    centre = median(window)
    mad = median(abs(x - centre) for x in window)
    sigma = max(
        _MAD_TO_SIGMA * mad * (1 + 0.8 / max(1, size - 1)),
        median(stderrs[-size:]),
    )
    return Baseline("plateau", centre, sigma, _autocorrelation(window), size, level, steps[-1])


def _autocorrelation(window: Sequence[float]) -> float:
    """Lag-1 autocorrelation, corrected for its bias of −(1 + 4φ)/n, between 0.8 and 0.98."""
    mean = fmean(window)
    deviations = [x - mean for x in window]
    energy = sum(d * d for d in deviations)
    if energy == 0:
        return _LEAST_PHI
    raw = sum(a * b for a, b in pairwise(deviations)) / energy
    n = len(window)
    corrected = (n * raw + 1) / (n - 4) if n > 4 else raw
    return min(_LARGEST_PHI, max(_LEAST_PHI, corrected))
