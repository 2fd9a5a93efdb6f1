"""The thresholds of the rule, in units a user understands, and the noise gate."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from sigma_monitor.errors import InputError

__all__ = ["Thresholds", "mean_variance"]

# The variance of a median is about π/2 times that of the mean.
_MEDIAN_FACTOR = 1.57

_LEAST_CHECKS = {
    "collapsed_patience": 1,
    "recovered_patience": 1,
    "floor_patience": 1,
    "slow_window": 1,
    "fast_window": 1,
    "warmup_checks": 0,
    "baseline_checks": 2,
    "plateau_limit": 0,
}


@dataclass(frozen=True)
class Thresholds:
    """Ratios to the baseline, and how many checks they are judged on.

    Scaled to the length of the run by `for_checks`; the defaults are those of a run of 350 checks
    or more.
    """

    warning_slow: float = 0.80  # WARNING: median of `slow_window` checks at or below this ratio
    warning_fast: float = 0.70  # WARNING: median of `fast_window` checks at or below this ratio
    collapsed: float = 0.50  # COLLAPSED: the fast median at or below this ratio ...
    collapsed_patience: int = 5  # ... on this many checks in a row
    recovered: float = 0.88  # back to HEALTHY: the slow median at or above this ratio ...
    recovered_patience: int = 10  # ... on this many checks in a row
    floor: float | None = None  # COLLAPSED: the value itself at or below this, never relative ...
    floor_patience: int = 5  # ... on this many checks in a row
    slow_window: int = 9
    fast_window: int = 5
    noise_multiple: float = 5.0  # a drop must also exceed this many noise widths
    warmup_checks: int = 20  # "plateau": dropped before the baseline
    baseline_checks: int = 20  # "plateau": checks the baseline is taken from
    plateau_tolerance: float = 0.05  # nats between the medians of the two halves
    plateau_limit: int = 100  # checks to wait for a plateau before freezing it unstable

    def __post_init__(self) -> None:
        """Check the ranges."""
        ratios = ("warning_slow", "warning_fast", "collapsed", "recovered")
        for name in ratios:
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
        for name, least in _LEAST_CHECKS.items():
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise InputError(f"{name}={value!r}: pass a number of checks from {least} on.")
        if self.fast_window > self.slow_window:
            raise InputError(
                f"fast_window={self.fast_window} is longer than slow_window={self.slow_window}: "
                "pass a shorter one."
            )
        if not 0 <= self.noise_multiple < math.inf:
            raise InputError(f"noise_multiple={self.noise_multiple!r}: pass 0 or more, such as 5.")
        if not 0 <= self.plateau_tolerance < math.inf:
            raise InputError(f"plateau_tolerance={self.plateau_tolerance!r}: pass nats, from 0 on.")
        if self.floor is not None and not 0 < self.floor < math.inf:
            raise InputError(f"floor={self.floor!r}: pass a positive value, or None for no floor.")

    @classmethod
    def collapsing_at(cls, ratio: float, **thresholds: float) -> Thresholds:
        """The default rule with COLLAPSED at `ratio`, the warning levels kept above it."""
        default = cls()
        if not 0 < ratio < default.recovered:
            raise InputError(
                f"collapse ratio {ratio!r}: pass a ratio of effective rank to its baseline between "
                f"0 and {default.recovered}, such as 0.5."
            )
        return replace(
            default,
            collapsed=ratio,
            warning_fast=max(ratio, default.warning_fast),
            warning_slow=max(ratio, default.warning_slow),
            **thresholds,  # type: ignore[arg-type]
        )

    def for_checks(self, expected: int | None) -> Thresholds:
        """The same ratios with windows that suit a run of `expected` checks, down to 20."""
        if expected is None:
            return self

        def share(default: int, fraction: float, least: int) -> int:
            return min(default, max(least, round(fraction * expected)))

        return replace(
            self,
            warmup_checks=share(self.warmup_checks, 0.10, 2),
            baseline_checks=share(self.baseline_checks, 0.10, 5),
            plateau_limit=share(self.plateau_limit, 0.30, 5),
            slow_window=share(self.slow_window, 0.09, 3),
            fast_window=share(self.fast_window, 0.05, 3),
            collapsed_patience=share(self.collapsed_patience, 0.05, 2),
            floor_patience=share(self.floor_patience, 0.05, 3),
            recovered_patience=share(self.recovered_patience, 0.10, 3),
        )

    def noise_gate(self, sigma: float, phi: float, window: int, baseline_checks: int) -> float:
        """Nats that a median of `window` checks must have fallen to be more than noise.

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


def mean_variance(n: int, phi: float) -> float:
    """Variance of the mean of n points of an AR(1) series of unit variance and coefficient phi."""
    return (1 + 2 * sum((1 - k / n) * phi**k for k in range(1, n))) / n
