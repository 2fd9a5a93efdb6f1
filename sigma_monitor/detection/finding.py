"""What the latest checks say of a series, without memory of what was said before."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from sigma_monitor.alert import Side, Status
from sigma_monitor.detection.baseline import Baseline
from sigma_monitor.detection.rule import Thresholds

__all__ = ["Finding", "Point", "find"]

Point = tuple[int, float]  # training step, natural log of the functional

# Below this many checks no median is taken: one odd check must not decide.
_LEAST_FOR_MEDIAN = 3


@dataclass(frozen=True)
class Finding:
    """The most serious thing the latest checks say.

    COLLAPSED is a level reached now; how many checks in a row it takes is decided elsewhere.
    """

    status: Status = Status.HEALTHY
    side: Side = "contraction"
    moved: float = 0.0  # nats from the baseline, of the median that decided
    steps_left: float | None = None  # a trend: steps until it reaches its target


def find(
    points: Sequence[Point], baseline: Baseline, rule: Thresholds, stderr: float = 0.0
) -> Finding:
    """Apply the rule to the latest checks.

    Args:
        points: The series so far, or as much of it as the longest window needs.
        baseline: What it is compared with.
        rule: Ratios and windows.
        stderr: Standard error of the latest value, nats; it can only raise the noise gate.
    """
    # A start is watched from its third check on; the slow median waits until it is whole.
    least = min(rule.fast_window, _LEAST_FOR_MEDIAN)
    fast = _level(points, rule.fast_window, least, baseline, rule, stderr)
    slow = _level(points, rule.slow_window, rule.slow_window, baseline, rule, stderr)
    if fast is not None and fast <= math.log(rule.collapsed):
        return Finding(Status.COLLAPSED, "contraction", fast)
    sides: list[tuple[Side, int]] = [("contraction", 1)]
    if rule.expansion:
        sides.append(("expansion", -1))
    for side, sign in sides:
        if fast is not None and sign * fast <= math.log(rule.warning_fast):
            return Finding(Status.WARNING, side, fast)
        if slow is not None and sign * slow <= math.log(rule.warning_slow):
            return Finding(Status.WARNING, side, slow)
    if rule.trend and fast is not None:
        for side, sign in sides:
            if sign * fast <= math.log(rule.warning_trend):
                left = _steps_to_target(points, sign, baseline, rule)
                if left is not None:
                    return Finding(Status.WARNING, side, fast, left)
    return Finding(moved=fast or 0.0)


def _level(
    points: Sequence[Point],
    window: int,
    least: int,
    baseline: Baseline,
    rule: Thresholds,
    stderr: float,
) -> float | None:
    """Median of the latest `window` checks minus the baseline, nats.

    None with fewer than `least` checks; 0.0 when the move is within the noise gate.
    """
    if len(points) < least:
        return None
    moved = median(value for _, value in points[-window:]) - baseline.log_value
    sigma = max(baseline.sigma, stderr)
    gate = rule.noise_gate(sigma, baseline.phi, window, baseline.checks)
    return moved if abs(moved) >= gate else 0.0


def _steps_to_target(
    points: Sequence[Point], sign: int, baseline: Baseline, rule: Thresholds
) -> float | None:
    """Steps until the Theil-Sen line of the latest checks reaches the target; None: not in time.

    Args:
        points: The series.
        sign: 1 for a fall, −1 for a rise to the inverse ratio.
        baseline: What the target is relative to.
        rule: Window, spacing of the pairs, horizon in checks.
    """
    latest = points[-rule.trend_window :]
    if len(latest) < rule.trend_window:
        return None
    slopes = [
        sign * (late[1] - early[1]) / (late[0] - early[0])
        for at, early in enumerate(latest)
        for late in latest[at + rule.trend_spacing :]
        if late[0] > early[0]
    ]
    slope = median(slopes) if slopes else 0.0
    if slope >= 0:
        return None
    last = latest[-1][0]
    now = median(sign * (value - baseline.log_value) + slope * (last - s) for s, value in latest)
    left = max(0.0, (math.log(rule.trend_target) - now) / slope)
    step = (last - latest[0][0]) / (len(latest) - 1)
    return left if left <= rule.trend_horizon * step else None
