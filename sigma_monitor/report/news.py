"""Alerts and events of a record as rows to be shown, and no more of them than a page can hold."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from sigma_monitor.report.plain import clean, fields, finite, number

__all__ = ["AlertRow", "EventRow", "Kept"]

_BULKY = ("baselines",)  # what another run is compared with: arrays
_SEVERITIES = ("info", "warn", "error")
_SHORT = 200  # characters

Row = TypeVar("Row")


@dataclass(frozen=True)
class AlertRow:
    """One alert, every field of the kind it says."""

    kind: str
    severity: str  # info, warn or error
    step: float
    check: float
    channel: str
    layer: str  # of a layer or of observed rows; empty for the others
    functional: str
    convention: str
    value: float | None
    low: float | None
    high: float | None
    baseline: float | None
    ratio: float | None
    floor: float | None
    side: str
    onset: float | None
    affected: tuple[str, ...]
    moved_examples: tuple[str, ...]
    forecast: str
    verdict: str
    title: str
    text: str
    advice: str
    fingerprint: str
    reminder: bool

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> AlertRow:
        """A line of type `alert`, whatever it holds."""
        severity = body.get("severity")
        texts = {name: clean(body.get(name)) for name in _TEXTS}
        names = {name: clean(body.get(name), _SHORT) for name in _NAMES}
        numbers = {name: finite(body.get(name)) for name in _NUMBERS}
        found: dict[str, Any] = {**texts, **names, **numbers}
        return cls(
            severity=severity if severity in _SEVERITIES else "warn",
            step=number(body.get("step")),
            check=number(body.get("check")),
            onset=finite(body.get("onset_step")),
            affected=_texts(body.get("affected")),
            moved_examples=_texts(body.get("moved_examples")),
            reminder=body.get("reminder") is True,
            **found,
        )

    @property
    def loud(self) -> bool:
        """Whether it is more than information."""
        return self.severity != "info"


_NAMES = ("kind", "channel", "layer", "functional", "convention", "side", "fingerprint")
_NUMBERS = ("value", "low", "high", "baseline", "ratio", "floor")
_TEXTS = ("forecast", "verdict", "title", "text", "advice")


def _texts(values: Any) -> tuple[str, ...]:
    if not isinstance(values, (list, tuple)):
        return ()
    return tuple(clean(value, _SHORT) for value in values[:20])


@dataclass(frozen=True)
class EventRow:
    """One event: of the run, or of something that was lost or failed."""

    event: str
    details: Mapping[str, str]

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> EventRow:
        """A line of type `event`, without the bulk of baselines."""
        details = fields(body, without=("event", "schema", *_BULKY))
        return cls(clean(body.get("event"), _SHORT), details)


class Kept(Generic[Row]):
    """The first and the latest of many rows, and how many there were between.

    Args:
        first: How many of the first are kept.
        latest: And of the latest.
    """

    def __init__(self, first: int, latest: int) -> None:
        self._room = first
        self._first: list[Row] = []
        self._latest: deque[Row] = deque(maxlen=latest)
        self.dropped = 0

    def __iter__(self) -> Iterator[Row]:
        yield from self._first
        yield from self._latest

    def __len__(self) -> int:
        return len(self._first) + len(self._latest)

    def append(self, row: Row) -> None:
        """Take one more."""
        if len(self._first) < self._room and not self._latest:
            self._first.append(row)
            return
        self.dropped += len(self._latest) == self._latest.maxlen
        self._latest.append(row)

    def remove(self, unwanted: Callable[[Row], bool]) -> None:
        """Drop those that are superseded."""
        self._first = [row for row in self._first if not unwanted(row)]
        kept = [row for row in self._latest if not unwanted(row)]
        self._latest = deque(kept, maxlen=self._latest.maxlen)
