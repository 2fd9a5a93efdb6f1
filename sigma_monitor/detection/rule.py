"""The thresholds of the rule, in units a user understands, and the noise gate."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Any

from sigma_monitor.errors import InputError

__all__ = ["FLOOR", "PRESETS", "Thresholds", "mean_variance"]

FLOOR = 2.0  # effective rank at which the texts of the probe set all point one way

# What differs from the default.
PRESETS: Mapping[str, Mapping[str, Any]] = {
    "default": {},
    "sensitive": {
        "warning_slow": 0.88,
        "warning_fast": 0.80,
        "warning_trend": 0.93,
        "trend_target": 0.75,
        "collapsed": 0.60,
        "recovered": 0.93,
        "noise_multiple": 4.0,
    },
    "quiet": {
        "warning_slow": 0.70,
        "warning_fast": 0.60,
        "trend": False,
        "expansion": False,
        "collapsed": 0.40,
        "collapsed_patience": 8,
        "recovered": 0.80,
        "noise_multiple": 7.0,
    },
}

# The variance of a median is about π/2 times that of the mean.
_MEDIAN_FACTOR = 1.57

_MINIMA = {
    "collapsed_patience": 1,
    "recovered_patience": 1,
    "floor_patience": 1,
    "slow_window": 1,
    "fast_window": 1,
    "trend_window": 3,
    "trend_spacing": 1,
    "trend_horizon": 1,
    "warmup_checks": 0,
    "baseline_checks": 2,
    "plateau_limit": 0,
    "no_data_after": 1,
    "reminder_checks": 1,
    "flapping_transitions": 1,
    "flapping_checks": 1,
}

_NESTED = (("fast_window", "slow_window"), ("trend_spacing", "trend_window"))

_RATIOS = (
    "warning_slow",
    "warning_fast",
    "warning_trend",
    "trend_target",
    "collapsed",
    "recovered",
)


@dataclass(frozen=True)
class Thresholds:
    """Ratios to the baseline, and how many checks they are judged on.

    The defaults are those of a run of 350 checks or more; `of` scales them to shorter ones. A rise
    to the inverse of a warning ratio is a WARNING too, worded as expansion.
    """

    warning_slow: float = 0.80  # WARNING: median of `slow_window` checks at or below this ratio
    warning_fast: float = 0.70  # WARNING: median of `fast_window` checks at or below this ratio
    trend: bool = True  # WARNING too for a fall that is not there yet:
    warning_trend: float = 0.90  # the fast median is at or below this ratio ...
    trend_target: float = 0.65  # ... and the line through the latest checks reaches this one ...
    trend_horizon: int = 50  # ... within this many more
    expansion: bool = True  # WARNING at the inverse ratios too
    collapsed: float = 0.50  # COLLAPSED: the fast median at or below this ratio ...
    collapsed_patience: int = 5  # ... on this many checks in a row
    recovered: float = 0.88  # back to HEALTHY: the slow median at or above this ratio ...
    recovered_patience: int = 10  # ... on this many checks in a row
    floor: float | None = None  # COLLAPSED: the value itself at or below this, never relative ...
    floor_patience: int = 5  # ... on this many checks in a row
    slow_window: int = 9
    fast_window: int = 5
    trend_window: int = 30  # checks of the line
    trend_spacing: int = 8  # its slopes are between checks at least so far apart
    noise_multiple: float = 5.0  # a level must also be off by this many noise widths
    warmup_checks: int = 20  # "plateau": dropped before the baseline
    baseline_checks: int = 20  # "plateau": checks the baseline is taken from
    plateau_tolerance: float = 0.05  # nats between the medians of the two halves
    plateau_limit: int = 100  # checks to wait for a plateau before freezing it unstable
    no_data_after: int = 3  # missed checks in a row that are told
    reminder_checks: int = 100  # an episode that goes on is told again, at most so often
    flapping_transitions: int = 3  # more changes of status than this ...
    flapping_checks: int = 100  # ... in so many checks mute all but COLLAPSED

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name in _RATIOS:
            value = getattr(self, name)
            if not 0 < value < 1:
                raise InputError(
                    f"{name}={value!r}: a ratio to the baseline lies between 0 and 1, "
                    "such as 0.5 for half of it."
                )
        if not self.collapsed <= self.warning_fast <= self.warning_slow < self.recovered:
            raise InputError(
                f"collapsed={self.collapsed}, warning_fast={self.warning_fast}, warning_slow="
                f"{self.warning_slow}, recovered={self.recovered}: they must rise in this order, "
                "or an alert could not end."
            )
        if self.trend_target >= self.warning_trend:
            raise InputError(
                f"trend_target={self.trend_target} is not below warning_trend="
                f"{self.warning_trend}: pass a lower one, or trend=False."
            )
        for name, least in _MINIMA.items():
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise InputError(f"{name}={value!r}: pass a number of checks from {least} on.")
        for short, long in _NESTED:
            if getattr(self, short) > getattr(self, long):
                raise InputError(
                    f"{short}={getattr(self, short)} is longer than {long}={getattr(self, long)}: "
                    "pass a shorter one."
                )
        if not 0 <= self.noise_multiple < math.inf:
            raise InputError(f"noise_multiple={self.noise_multiple!r}: pass 0 or more, such as 5.")
        if not 0 <= self.plateau_tolerance < math.inf:
            raise InputError(f"plateau_tolerance={self.plateau_tolerance!r}: pass nats, from 0 on.")
        if self.floor is not None and not 0 < self.floor < math.inf:
            raise InputError(f"floor={self.floor!r}: pass a positive value, or None for no floor.")

    @classmethod
    def of(
        cls, preset: str = "default", *, expected_checks: int | None = None, **thresholds: Any
    ) -> Thresholds:
        """A preset with some thresholds of one's own, in windows that suit the run.

        Args:
            preset: `"default"`; `"sensitive"`: earlier, at more false alarms; `"quiet"`: later, for
                series that are known to wander.
            expected_checks: Length of the run in checks; below about 20 the windows stop
                shrinking. None: a long run.
            **thresholds: Fields that win over the preset and are taken as they are.

        Raises:
            InputError: On an unknown preset or field, or a value out of range.
        """
        if preset not in PRESETS:
            raise InputError(f"preset={preset!r}: pass one of {', '.join(PRESETS)}.")
        unknown = thresholds.keys() - {field.name for field in fields(cls)}
        if unknown:
            raise InputError(
                f"{', '.join(sorted(unknown))}: no threshold of this name; they are preset, "
                f"{', '.join(cls.__dataclass_fields__)}."
            )
        asked = cls(**{**PRESETS[preset], **thresholds})
        if expected_checks is None:
            return asked
        scaled = asked._windows_for(expected_checks)
        windows: dict[str, Any] = {n: x for n, x in scaled.items() if n not in thresholds}
        for short, long in _NESTED:
            if long in windows:  # a short one that was given may be longer than the scaled long one
                windows[long] = max(windows[long], windows.get(short, getattr(asked, short)))
        return replace(asked, **windows)

    def collapsing_at(self, ratio: float) -> Thresholds:
        """The same rule with COLLAPSED at `ratio`, the warning levels kept above it."""
        if not 0 < ratio < self.recovered:
            raise InputError(
                f"collapse ratio {ratio!r}: pass a ratio of effective rank to its baseline between "
                f"0 and {self.recovered}, such as 0.5."
            )
        return replace(
            self,
            collapsed=ratio,
            warning_fast=max(ratio, self.warning_fast),
            warning_slow=max(ratio, self.warning_slow),
        )

    def _windows_for(self, expected: int) -> dict[str, int]:
        """Windows and counts for a run of `expected` checks, none longer than in this rule."""

        def share(longest: int, fraction: float, least: int) -> int:
            return min(longest, max(least, round(fraction * expected)))

        return {
            "warmup_checks": share(self.warmup_checks, 0.10, 2),
            "baseline_checks": share(self.baseline_checks, 0.10, 5),
            "plateau_limit": share(self.plateau_limit, 0.30, 5),
            "slow_window": share(self.slow_window, 0.09, 3),
            "fast_window": share(self.fast_window, 0.05, 3),
            "trend_window": share(self.trend_window, 0.15, 8),
            "trend_spacing": share(self.trend_spacing, 0.04, 2),
            "trend_horizon": share(self.trend_horizon, 0.25, 4),
            "collapsed_patience": share(self.collapsed_patience, 0.05, 2),
            "floor_patience": share(self.floor_patience, 0.05, 3),
            "recovered_patience": share(self.recovered_patience, 0.10, 3),
        }

    def noise_gate(self, sigma: float, phi: float, window: int, baseline_checks: int) -> float:
        """Nats that a median of `window` checks must be off by to be more than noise.

        Args:
            sigma: Standard deviation of one check around the baseline, nats.
            phi: Lag-1 autocorrelation of the series.
            window: Checks in the median.
            baseline_checks: Checks the baseline is the median of; 0 when it is exact.
        """
        variance = mean_variance(window, phi)
        if baseline_checks:
            variance += mean_variance(baseline_checks, phi)
        return self.noise_multiple * sigma * math.sqrt(_MEDIAN_FACTOR * variance)


@cache
def mean_variance(n: int, phi: float) -> float:
    """Variance of the mean of n points of an AR(1) series of unit variance and coefficient phi."""
    return (1 + 2 * sum((1 - k / n) * phi**k for k in range(1, n))) / n
