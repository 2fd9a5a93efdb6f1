"""Status and alerts: what the detector concludes and what a person is told."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any, Literal

from sigma_monitor.estimate import jsonable

__all__ = ["Alert", "AlertKind", "Severity", "Status"]

Severity = Literal["info", "warn", "error"]
AlertKind = Literal[
    "BASELINE", "WARNING", "COLLAPSED", "RECOVERED", "NONFINITE", "VANISHED", "STOPPED"
]


class Status(enum.IntEnum):
    """What the series says now; ordered by severity."""

    WARMUP = 0
    HEALTHY = 1
    WARNING = 2
    COLLAPSED = 3


@dataclass(frozen=True)
class Alert:
    """One message of one episode.

    `kind` is a status that was entered (WARNING, COLLAPSED) or an event that has no status of its
    own: BASELINE (the reference is frozen), RECOVERED, NONFINITE, VANISHED (nothing left to
    measure), STOPPED. `value` and `baseline` are in units of `functional`.
    """

    kind: AlertKind
    severity: Severity
    step: int  # training step of the check
    check: int  # number of the check, from 1
    channel: Literal["representation", "generation"] = "representation"
    layer: str | None = None
    functional: str | None = None  # key in the snapshot, such as "effective_rank"
    convention: str | None = None  # "centred token rows", "uncentred mean-pooled rows", ...
    value: float | None = None
    low: float | None = None  # interval of `value`
    high: float | None = None
    baseline: float | None = None
    floor: float | None = None  # of a rule that is not relative
    ratio: float | None = None  # median of the deciding window over the baseline
    onset_step: int | None = None  # first check of the excursion
    forecast: str | None = None
    verdict: str | None = None
    title: str = ""  # constant for each kind, at most 64 characters
    text: str = ""
    advice: str = ""
    fingerprint: str | None = None  # of the probe set and the conventions

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready builtins; infinities and NaN become strings."""
        return {
            name: jsonable(value) if isinstance(value, float) else value
            for name, value in self.__dict__.items()
        }
