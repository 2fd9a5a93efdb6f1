"""Status and alerts: what the detector concludes and what a person is told."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any, Literal

from sigma_monitor.estimate import jsonable

__all__ = ["Alert", "AlertKind", "Channel", "Severity", "Side", "Status"]

Severity = Literal["info", "warn", "error"]
Side = Literal["contraction", "expansion"]
Channel = Literal["representation", "generation", "loss", "observed"]
AlertKind = Literal[
    "BASELINE",
    "WARNING",
    "COLLAPSED",
    "RECOVERED",
    "NONFINITE",
    "VANISHED",
    "NO_DATA",
    "FLAPPING",
    "STOPPED",
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
    measure), NO_DATA (checks were missed), FLAPPING (alerts are held back), STOPPED. `value` and
    `baseline` are in units of `functional`.
    """

    kind: AlertKind
    severity: Severity
    step: int  # training step of the check
    check: int  # number of the check, or of the observation of these rows, from 1
    channel: Channel = "representation"
    layer: str | None = None  # where it began; of observed rows their name
    affected: tuple[str, ...] = ()  # of several layers or series: those that moved, earliest first
    functional: str | None = None  # key in the snapshot, such as "effective_rank"
    convention: str | None = None  # "centred token rows", "uncentred mean-pooled rows", ...
    value: float | None = None
    low: float | None = None  # interval of `value`
    high: float | None = None
    baseline: float | None = None
    floor: float | None = None  # of a rule that is not relative
    ratio: float | None = None  # median of the deciding window over the baseline
    side: Side | None = None
    onset_step: int | None = None  # first check of the excursion
    forecast: str | None = None  # of a fall that has not come to its end
    verdict: str | None = None  # what spectrum, held-out loss and output say together
    moved_examples: tuple[int, ...] = ()  # probe examples whose influence changed most
    reminder: bool = False  # the episode was told before and goes on
    title: str = ""  # constant for each kind, at most 64 characters
    text: str = ""
    advice: str = ""
    fingerprint: str | None = None  # of the probe set and the conventions

    @property
    def message(self) -> str:
        """Text and advice, where a title stands above."""
        return f"{self.text}\n{self.advice}".strip()

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready builtins; infinities and NaN become strings."""
        return {name: _plain(value) for name, value in self.__dict__.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return jsonable(value)
    return list(value) if isinstance(value, tuple) else value
