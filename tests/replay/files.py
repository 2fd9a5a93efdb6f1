"""Series as a training would log them, the files they are in, and what a replay told."""

from __future__ import annotations

import csv
import json
from dataclasses import replace

from sigma_monitor.detection import Detector, worded

CHECKS, FALL = 120, 60  # long enough for a fast median of five checks


def series(ratio=1.0, *, checks=CHECKS, fall=FALL, back=None):
    """Values that wobble by 1 % about 40, and about `ratio` of it from `fall` until `back`."""
    low = range(fall, checks if back is None else back)
    return [40 * (1 + 0.01 * (-1) ** i) * (ratio if i in low else 1) for i in range(checks)]


def rows_of(values, *, column="rank", step="step"):
    return [{step: 10 * i, column: value} for i, value in enumerate(values)]


def write_csv(path, rows):
    columns = dict.fromkeys(name for row in rows for name in row)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


WRITERS = {"run.csv": write_csv, "run.jsonl": write_jsonl}


def by_hand(points, functional, **options):
    """The worded alerts of a detector fed with steps and log values."""
    detector = Detector(**{"baseline": "start", "expected_checks": len(points), **options})
    alerts = []
    for step, log_value in points:
        detector.update(step, log_value)
        alerts += [worded(replace(a, functional=functional)) for a in detector.alerts]
    return tuple(alerts)


def told(replay, *, loud=True):
    return [(a.kind, a.step) for a in replay.alerts if not loud or a.severity != "info"]
