"""Other people's alarms, on the same rows of numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sigma_monitor.monitor.options import CHANNELS

__all__ = ["FUNCTIONALS", "LOSS_RISE", "OURS", "alarm_steps", "auroc", "calibrated", "moves"]

OURS = "sigma_monitor"
Row = dict[str, float]

# Name -> column, and the side that is bad: −1 a drop, 1 a rise, both in ratio to the start.
FUNCTIONALS: dict[str, tuple[str, int]] = {
    "held-out loss": ("loss", 1),
    "output entropy": ("output_entropy", -1),
    "RankMe": ("rankme", -1),
    "effective rank, naive": ("effective_rank", -1),
    "participation ratio": ("participation_ratio", -1),
    "Vendi, order 1": ("vendi_1", -1),
    "Vendi, order 2": ("vendi_2", -1),
    "mean cosine": ("spread", -1),
    "distinct-2": ("distinct_2", -1),
    "compression ratio": ("compression_ratio", 1),
}
_DROP = 0.20
LOSS_RISE = 0.05  # of held-out loss over its best
_MMD_LEVEL = 0.01
_CALIBRATED_RATE = 0.05
_DECIDING = ("WARNING", "COLLAPSED", "NONFINITE", "VANISHED", "NO_DATA", "FLAPPING")


@dataclass(frozen=True)
class Calibration:
    """Thresholds under which 5 % of the control runs alarm: what a rival can at best have."""

    track_one: float
    track_two: float


def alarm_steps(run: dict[str, Any], calibration: Calibration) -> dict[str, list[float]]:
    """Method -> all steps at which it alarms in a run."""
    rows: Sequence[Row] = run["rows"]
    found = {
        OURS: _alerts(run["alerts"], (*CHANNELS, "loss")),
        # What each channel contributes; held-out loss has its row among the rivals.
        **{f"{OURS}, {name} alone": _alerts(run["alerts"], (name,)) for name in CHANNELS},
        "held-out loss": _steps(rows, "loss", lambda x, past: x >= (1 + LOSS_RISE) * min(past)),
    }
    for name, (column, side) in FUNCTIONALS.items():
        if name not in found:
            found[name] = _steps(rows, column, _off(side))
    found["distinct-2 or compression"] = sorted(
        {*found.pop("distinct-2"), *found.pop("compression ratio")}
    )
    found["MMD permutation test"] = _steps(rows, "mmd_p", lambda p, past: p <= _MMD_LEVEL)
    for name, column in (("SIGMA ΔG", "track_one"), ("SIGMA ΔU", "track_two")):
        threshold = getattr(calibration, column)
        found[name] = _steps(rows, column, lambda x, past, t=threshold: x - past[0] < t)
    found["always quiet"] = []
    found["always firing"] = [row["step"] for row in rows]
    return found


def _off(side: int) -> Callable[[float, list[float]], bool]:
    if side < 0:
        return lambda x, past: x <= (1 - _DROP) * past[0]
    return lambda x, past: x >= (1 + _DROP) * past[0]


def _steps(
    rows: Iterable[Row], column: str, alarmed: Callable[[float, list[float]], bool]
) -> list[float]:
    past: list[float] = []
    found = []
    for row in rows:
        if column not in row:
            continue
        past.append(row[column])
        if alarmed(row[column], past):
            found.append(row["step"])
    return found


def _alerts(alerts: Iterable[dict[str, Any]], channels: Sequence[str]) -> list[float]:
    return [
        alert["step"]
        for alert in alerts
        if alert["severity"] != "info"
        and alert["kind"] in _DECIDING
        and alert["channel"] in channels
    ]


def calibrated(controls: Iterable[dict[str, Any]]) -> Calibration:
    """Drift thresholds of SIGMA's tracks from the controls themselves, in their favour."""
    lowest: dict[str, list[float]] = {"track_one": [], "track_two": []}
    for run in controls:
        for column, found in lowest.items():
            values = [row[column] for row in run["rows"] if column in row]
            found.append(min(values) - values[0])
    return Calibration(**{c: float(np.quantile(x, _CALIBRATED_RATE)) for c, x in lowest.items()})


def moves(run: dict[str, Any], column: str) -> tuple[float, float] | None:
    """Largest move towards the bad side, and to either side, of a functional from its start.

    In nats of its logarithm; None where the run has no such numbers.
    """
    values = [row[column] for row in run["rows"] if row.get(column, 0) > 0]
    if len(values) < 2:
        return None
    logs = np.log(values) - np.log(values[0])
    side = next(s for c, s in FUNCTIONALS.values() if c == column)
    return float((side * logs).max()), float(np.abs(logs).max())


def auroc(harmful: Sequence[float], healthy: Sequence[float]) -> float:
    """Chance that a harmful run scores above a healthy one, ties half (Mann and Whitney)."""
    above = np.subtract.outer(np.asarray(harmful), np.asarray(healthy))
    return float(((above > 0) + 0.5 * (above == 0)).mean())
