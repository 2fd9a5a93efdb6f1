"""How often the default rule alarms on healthy series, and how soon on a real drop.

Healthy: AR(1) noise of 2 % around one slow swing of 12 % up or down from where the run began, and
back past it. Drop: noise without swing, and a sudden fall of the level. Pure simulation of the
detector, no model.

Run: python benchmarks/false_alarms.py [--quick] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
import math
import random
from pathlib import Path
from statistics import median
from typing import Any

from environment import environment

from sigma_monitor.alert import Status
from sigma_monitor.detection import Detector

NOISE = 0.02
DRIFT = 0.12
RESULT = Path(__file__).parent / "results" / "false_alarms.json"


def healthy(rng: random.Random, checks: int, phi: float) -> list[float]:
    """Log values of one healthy run."""
    swing, noise = rng.choice((-DRIFT, DRIFT)), rng.gauss(0, NOISE)
    scale = NOISE * math.sqrt(1 - phi**2)
    values = []
    for check in range(checks):
        drift = math.log(1 + swing * math.sin(2 * math.pi * check / checks))
        values.append(drift + noise)
        noise = phi * noise + rng.gauss(0, scale)
    return values


def first_alarm(detector: Detector, values: list[float], status: Status) -> int | None:
    """Index of the first check at or above `status`."""
    for check, value in enumerate(values):
        if detector.update(check, value) >= status:
            return check
    return None


def false_alarms(runs: int, checks: int, phi: float, baseline: str, seed: int) -> dict[str, Any]:
    """Healthy runs that reached each status."""
    rng = random.Random(seed)
    worst = []
    for _ in range(runs):
        detector = Detector(baseline=baseline, expected_checks=checks)
        worst.append(max(detector.update(i, x) for i, x in enumerate(healthy(rng, checks, phi))))
    return {
        "checks": checks,
        "baseline": baseline,
        "phi": phi,
        "runs": runs,
        "warning": sum(status >= Status.WARNING for status in worst),
        "collapsed": sum(status >= Status.COLLAPSED for status in worst),
    }


def delays(runs: int, checks: int, baseline: str, level: float, seed: int) -> dict[str, Any]:
    """Checks from a sudden drop to `level` until WARNING and COLLAPSED, at φ = 0.5, no drift."""
    rng = random.Random(seed)
    drop_at = checks // 2
    waited: dict[Status, list[float]] = {Status.WARNING: [], Status.COLLAPSED: []}
    for _ in range(runs):
        noise = [rng.gauss(0, NOISE) for _ in range(checks)]
        values = [x + (math.log(level) if i >= drop_at else 0.0) for i, x in enumerate(noise)]
        for status, found in waited.items():
            detector = Detector(baseline=baseline, expected_checks=checks)
            at = first_alarm(detector, values, status)
            found.append(math.inf if at is None else at - drop_at + 1)
    return {
        "checks": checks,
        "baseline": baseline,
        "level": level,
        "runs": runs,
        **{f"median_{status.name.lower()}": _finite(median(w)) for status, w in waited.items()},
        **{
            f"missed_{status.name.lower()}": sum(math.isinf(x) for x in w)
            for status, w in waited.items()
        },
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a self-check of a few seconds")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    runs = 20 if options.quick else 1000
    settings = [(500, "plateau")] + [(checks, "start") for checks in (500, 100, 50, 20)]
    result = {
        "environment": environment(),
        "noise": NOISE,
        "drift": DRIFT,
        "false_alarms": [
            false_alarms(runs, checks, phi, baseline, seed=0)
            for checks, baseline in settings
            for phi in (0.0, 0.5, 0.9)
        ],
        "delays": [
            delays(runs // 5, checks, baseline, level, seed=1)
            for checks, baseline in settings
            for level in (0.8, 0.6, 0.3)
        ],
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    for row in result["false_alarms"] + result["delays"]:
        print(row)


if __name__ == "__main__":
    main()
