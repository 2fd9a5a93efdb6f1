"""A series of a file through the detector."""

from __future__ import annotations

import math
import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from sigma_monitor.alert import Alert, Status
from sigma_monitor.detection import Detector, worded
from sigma_monitor.errors import InputError
from sigma_monitor.replay.series import read_series

__all__ = ["Replay", "replay_file"]

_LARGEST_LOG = math.log(sys.float_info.max)


@dataclass(frozen=True)
class Replay:
    """What the detector said of one recorded series."""

    file: str
    column: str  # of a record: the layer and the key, such as "last/effective_rank"
    checks: int  # values that the detector got, non-finite ones among them
    skipped: int  # rows with a value but no step above the one before, and lines that were cut
    status: Status  # after the last value
    worst: Status
    alerts: tuple[Alert, ...]  # worded, in the order they came

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready builtins; infinities and NaN become strings."""
        return {
            "file": self.file,
            "column": self.column,
            "checks": self.checks,
            "skipped": self.skipped,
            "status": self.status.name,
            "worst": self.worst.name,
            "alerts": [alert.to_dict() for alert in self.alerts],
        }

    def text(self) -> str:
        """One line per alert, and a last line that sums up."""
        lines = [f"[{alert.title}] {alert.text}" for alert in self.alerts]
        loud = sum(alert.severity != "info" for alert in self.alerts)
        last = (
            f"{self.column}: {self.status.name} at the end, {self.worst.name} at worst; "
            f"checks: {self.checks}; alerts above information: {loud}"
        )
        if self.skipped:
            last += (
                f"; rows skipped: {self.skipped} (no step above the one before, or a line that "
                "was cut)"
            )
        return "\n".join([*lines, last])


def replay_file(
    path: str | os.PathLike[str],
    column: str | None = None,
    *,
    step_column: str | None = None,
    log: bool = False,
    baseline: Literal["auto", "start", "plateau"] = "start",
    long: bool = False,
    **thresholds: Any,
) -> Replay:
    """Feed a recorded series to a `Detector`.

    Rows in which the column is empty are left out: loggers write each metric in rows of its own.
    Of a record one series is taken, without its intervals, the absolute floor and held-out loss:
    the run itself may have told more or less.

    Args:
        path: A CSV with a header line; a JSONL, one object per line; or a `record.jsonl` of this
            package. UTF-8.
        column: The series. Of a record: `"last/effective_rank"`, or `"effective_rank"` for that of
            the first layer, which is also the default. Other files have no default.
        step_column: The training step, a whole number that rises. Default: the first of
            `STEP_COLUMNS` that rows with a value have, or else the number of the row, from 1.
        log: The column is a natural log already, in nats. Otherwise it is a positive functional
            such as an effective rank, and its log is taken; zero counts as vanished.
        baseline: As in `Detector`.
        long: Keep the windows of a long run; by default they suit the number of values.
        **thresholds: Fields of `Thresholds`, and `preset`.

    Raises:
        InputError: When the file cannot be read, has no such column or no value in it, a value or
            step cannot be used, or a threshold is unknown or out of range.
    """
    path = Path(path)
    series = read_series(path, column, step_column, log=log)
    expected = None if long else len(series.points)
    detector = Detector(baseline=baseline, expected_checks=expected, **thresholds)
    worst, alerts = Status.WARMUP, []
    for step, log_value in series.points:
        worst = max(worst, detector.update(step, log_value))
        if _LARGEST_LOG < log_value < math.inf or detector.ratio == math.inf:
            raise InputError(
                f"{path}: at step {step} the log of {series.column!r} is {log_value:.6g}, and its "
                "exponential, or that of its change, is too large for a number. Divide logs by "
                "the dimension."
            )
        alerts += [worded(replace(alert, functional=series.column)) for alert in detector.alerts]
    return Replay(
        file=str(path),
        column=series.column,
        checks=len(series.points),
        skipped=series.skipped,
        status=detector.status,
        worst=worst,
        alerts=tuple(alerts),
    )
