"""The protocol of a sink."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from sigma_monitor.alert import Alert

__all__ = ["Sink", "is_inline", "is_news", "parts"]


class Sink(Protocol):
    """Receives metrics and alerts. Any method may raise, hang or be slow.

    The methods are called from one thread that serves this sink alone, so that none of this
    reaches the training. A sink that has `inline = True` is called from the training's own thread
    instead: for what is quick and must come in order with what the training does there.

    One with `alerts_only = True` gets no metrics: none wait for it, or are counted as lost, and
    none that it takes without doing anything hide that its alerts fail.

    Three more are called where a sink has them: `check(snapshot)` with the `Snapshot` of a check
    and `observe(observation)` with the `Observation` of rows that the user handed over, each in
    the place of `log`; and `note(event, details)` with an event of the run. Where there is a
    `bind()` it is called before each of them, in the training's own thread: for what is known there
    alone, as which run of a tracker is active.
    """

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Take the metrics of one check, or of observed rows: finite floats by name."""

    def alert(self, alert: Alert) -> None:
        """Take one alert."""

    def close(self) -> None:
        """Release what is held; called once or more, and nothing after it but the same."""


def is_news(alert: Alert) -> bool:
    """Whether to tell people: a baseline is no more than a step of the run."""
    return alert.kind != "BASELINE"


def is_inline(sink: Any) -> bool:
    """Whether a sink asks to be called from the training's own thread."""
    return bool(getattr(sink, "inline", False))


def parts(sink: Any) -> Sequence[Any]:
    """The sinks that a sink consists of: itself, as a rule."""
    of = getattr(sink, "parts", None)
    return (sink,) if of is None else of()
