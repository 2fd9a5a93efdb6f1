"""How often the default rule alarms on healthy series, and how soon on a real fall.

Healthy: AR(1) noise of 2 %, spikes, and a slow drift by 12 % up or down: to the end of the run, or
there and back; and, harder than the rule is made for, a whole swing from 12 % above to 12 % below.
Falls: noise without drift, and a sudden fall of the level or one that is linear in nats. The
cadence: steps until a sudden collapse is told under a budget of 1 %, with and without early
confirmation. Pure simulation of detector and cadence, no model.

Run: python benchmarks/false_alarms.py [--quick] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
import math
import random
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from clock import checks_of, stopped_clock
from environment import environment

from sigma_monitor.alert import Status
from sigma_monitor.detection import Detector
from sigma_monitor.monitor.cadence import Cadence

NOISE = 0.02
DRIFT = 0.12
SPIKE = 0.3  # standard deviation of a spike, nats ...
SPIKES = 0.01  # ... that this share of checks has
SETTINGS = [(500, "plateau"), *((checks, "start") for checks in (500, 100, 50, 20))]
PHIS = (0.0, 0.5, 0.9)
RESULT = Path(__file__).parent / "results" / "false_alarms.json"

# Share of the run -> share of the drift.
DRIFTS: dict[str, Callable[[float], float]] = {
    "to the end": lambda t: t,
    "there and back": lambda t: math.sin(math.pi * t),
    "whole swing": lambda t: math.sin(2 * math.pi * t),
}


def noise(rng: random.Random, checks: int, phi: float) -> list[float]:
    """A stationary AR(1) series."""
    fresh = NOISE * math.sqrt(1 - phi**2)
    values = [rng.gauss(0, NOISE)]
    for _ in range(checks - 1):
        values.append(phi * values[-1] + rng.gauss(0, fresh))
    return values


def healthy(rng: random.Random, checks: int, phi: float, drift: str) -> list[float]:
    """Log values of one healthy run."""
    side, shape = rng.choice((-DRIFT, DRIFT)), DRIFTS[drift]
    return [
        x
        + math.log1p(side * shape(check / checks))
        # The first check is made before any training, which is what makes a spike.
        + (rng.gauss(0, SPIKE) if check and rng.random() < SPIKES else 0.0)
        for check, x in enumerate(noise(rng, checks, phi))
    ]


def false_alarms(
    runs: int, checks: int, baseline: str, phi: float, drift: str, preset: str = "default"
) -> dict[str, Any]:
    """Healthy runs in which something was told."""
    rng = random.Random(0)
    found = {"contraction": 0, "expansion": 0, "collapsed": 0}
    for _ in range(runs):
        detector = Detector(baseline=baseline, expected_checks=checks, preset=preset)
        sides = set()
        for check, value in enumerate(healthy(rng, checks, phi, drift)):
            detector.update(check, value)
            sides |= {alert.side for alert in detector.news if alert.kind == "WARNING"}
            found["collapsed"] += any(alert.kind == "COLLAPSED" for alert in detector.news)
        for side in sides:
            found[side] += 1
        found["warning"] = found.get("warning", 0) + bool(sides)
    return {
        "checks": checks,
        "baseline": baseline,
        "phi": phi,
        "drift": drift,
        "preset": preset,
        "runs": runs,
        **found,
    }


def delays(
    runs: int, checks: int, baseline: str, phi: float, level: float, lasts: int
) -> dict[str, Any]:
    """Checks from the beginning of a fall to `level` within `lasts` checks until it is told."""
    rng = random.Random(1)
    begin = checks // 2 if lasts < checks // 2 else checks // 4
    waited: dict[Status, list[float]] = {Status.WARNING: [], Status.COLLAPSED: []}
    for _ in range(runs):
        detector = Detector(baseline=baseline, expected_checks=checks)
        statuses = []
        for check, x in enumerate(noise(rng, checks, phi)):
            share = min(1.0, max(0.0, (check - begin + 1) / max(1, lasts)))
            statuses.append(detector.update(check, x + math.log(level) * share))
        for status, found in waited.items():
            at = next((i for i, s in enumerate(statuses) if s >= status and i >= begin), math.inf)
            found.append(at - begin + 1)
    return {
        "checks": checks,
        "baseline": baseline,
        "phi": phi,
        "level": level,
        "fall_lasts": lasts,
        "runs": runs,
        **_spread("warning", waited[Status.WARNING]),
        **_spread("collapsed", waited[Status.COLLAPSED]),
    }


def _spread(name: str, waited: list[float]) -> dict[str, Any]:
    return {
        f"median_{name}": _finite(median(waited)),
        f"p90_{name}": _finite(quantiles(waited, n=10, method="inclusive")[-1]),
        f"missed_{name}": sum(map(math.isinf, waited)),
    }


def _finite(value: float) -> float | None:
    return round(value, 2) if math.isfinite(value) else None


def confirmation(runs: int, level: float, *, early: bool) -> dict[str, Any]:
    """Steps until a sudden fall is told, at a budget of 1 % that pays for some forty checks.

    A step takes 0.1 s and a check 0.5 s; the run has 20,000 steps, the fall comes anywhere between
    a quarter and three quarters of it. Noise of one check at φ = 0.5.
    """
    steps, step_seconds, check_seconds = 20_000, 0.1, 0.5
    rng = random.Random(2)
    warned, collapsed, shares = [], [], []
    for _ in range(runs):
        begin = rng.randrange(steps // 4, 3 * steps // 4)
        with stopped_clock() as advance:
            cadence = Cadence(every="auto", max_overhead=0.01)
            detector = Detector(baseline="start", expected_checks=40)
            found: dict[Status, int] = {}
            x = rng.gauss(0, NOISE)
            for step in checks_of(cadence, steps, step_seconds, advance):
                x = 0.5 * x + rng.gauss(0, NOISE * math.sqrt(0.75))
                status = detector.update(step, x + (math.log(level) if step >= begin else 0.0))
                found.setdefault(status, step)
                advance(check_seconds)
                cadence.finish(step, check_seconds)
                off = status < Status.COLLAPSED and detector.off_baseline
                cadence.confirm_early(wanted=early and off)
        warned.append(found.get(Status.WARNING, math.inf) - begin)
        collapsed.append(found.get(Status.COLLAPSED, math.inf) - begin)
        shares.append(cadence.overhead_with() or 0.0)
    return {
        "level": level,
        "confirmation": early,
        "runs": runs,
        **_spread("warning", warned),
        **_spread("collapsed", collapsed),
        "largest_share_of_time": round(max(shares), 5),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a self-check of a few seconds")
    parser.add_argument("--runs", type=int, default=3000, help="healthy series of one setting")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    runs = 20 if options.quick else options.runs
    many, some = max(10, runs // 3), max(10, runs // 10)
    with ProcessPoolExecutor(2) as pool:
        healthy_runs = [
            pool.submit(
                false_alarms,
                runs if baseline == "plateau" and drift != "whole swing" else many,
                checks,
                baseline,
                phi,
                drift,
            )
            for checks, baseline in SETTINGS
            for phi in PHIS
            for drift in DRIFTS
        ] + [
            pool.submit(false_alarms, some, 500, "plateau", phi, "there and back", preset)
            for preset in ("sensitive", "quiet")
            for phi in PHIS
        ]
        falls = [
            pool.submit(delays, some, checks, baseline, phi, level, 0)
            for checks, baseline in SETTINGS
            for phi in PHIS
            for level in (0.85, 0.8, 0.6, 0.3)
        ] + [
            pool.submit(delays, some, 500, "plateau", phi, 0.6, lasts)
            for phi in PHIS
            for lasts in (25, 50, 100, 200)
        ]
        confirmations = [
            pool.submit(confirmation, some // 2, level, early=early)
            for level in (0.6, 0.3)
            for early in (False, True)
        ]
        result = {
            "environment": environment(),
            "noise": NOISE,
            "drift": DRIFT,
            "spikes": SPIKES,
            "spike": SPIKE,
            "false_alarms": [row.result() for row in healthy_runs],
            "delays": [row.result() for row in falls],
            "confirmation": [row.result() for row in confirmations],
        }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    for part in ("false_alarms", "delays", "confirmation"):
        for row in result[part]:
            print(row)


if __name__ == "__main__":
    main()
