"""Series of log effective rank as a training would give them, and how a detector takes them."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable

from sigma_monitor.alert import Alert, Status
from sigma_monitor.detection import Detector

LEVEL = math.log(40.0)  # the healthy value; the rule is relative, so any other would do


def noise(checks: int, *, sigma: float, phi: float = 0.0, seed: int = 0) -> list[float]:
    """A stationary AR(1) series of standard deviation `sigma` and lag-1 autocorrelation `phi`."""
    rng = random.Random(seed)
    fresh = sigma * math.sqrt(1 - phi**2)
    series = [rng.gauss(0, sigma)]
    for _ in range(checks - 1):
        series.append(phi * series[-1] + rng.gauss(0, fresh))
    return series


def healthy(
    checks: int, *, sigma: float = 0.02, phi: float = 0.0, drift: float = 0.0, seed: int = 0
) -> list[float]:
    """Noise about a level that ends at the fraction `drift` above its start."""
    return [
        LEVEL + x + math.log1p(drift * i / max(1, checks - 1))
        for i, x in enumerate(noise(checks, sigma=sigma, phi=phi, seed=seed))
    ]


def dropping(series: Iterable[float], ratio: float, onset: int) -> list[float]:
    """The series at `ratio` of its level from check `onset` on."""
    return [x + math.log(ratio) * (i >= onset) for i, x in enumerate(series)]


def levels(*stretches: tuple[float, int]) -> list[float]:
    """Noiseless stretches of (ratio to the level, checks)."""
    return [LEVEL + math.log(ratio) for ratio, checks in stretches for _ in range(checks)]


def feed(detector: Detector, series: Iterable[float], *, first: int | None = None) -> list[Alert]:
    """All alerts of a series, its steps counted from `first`, or on from the last one."""
    alerts = []
    for step, value in enumerate(series, start=_next(detector) if first is None else first):
        detector.update(step, value)
        alerts += detector.alerts
    return alerts


def _next(detector: Detector) -> int:
    return 0 if detector.last_step is None else detector.last_step + 1


def statuses(detector: Detector, series: Iterable[float]) -> list[Status]:
    """The status after each check."""
    return [detector.update(_next(detector), value) for value in series]


def kinds(alerts: Iterable[Alert]) -> list[str]:
    """What the alerts are, reminders of a lasting episode left out."""
    return [alert.kind for alert in alerts if not alert.reminder]


def first_at(found: list[Status], status: Status, onset: int = 0) -> float:
    """Checks from `onset` until `status` or worse; infinite when it never came."""
    return next((i - onset for i, s in enumerate(found) if s >= status), math.inf)
