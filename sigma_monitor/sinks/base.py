"""The protocol of a sink."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from sigma_monitor.alert import Alert

__all__ = ["Sink", "has", "is_news", "optional", "parts"]


class Sink(Protocol):
    """Receives metrics and alerts. Any method may raise, hang or be slow.

    The methods are called from one thread that serves this sink alone, so that none of this
    reaches the training. An alert may come twice, after an attempt whose answer was lost.

    A sink may have attributes that are True:

    * `inline`: it is called from the training's own thread instead: for what is quick and must come
      in order with what the training does there.
    * `alerts_only`: it gets no metrics: none wait for it, or are counted as lost, and none that it
      takes without doing anything hide that its alerts fail.
    * `metrics_only`: it gets no alerts, likewise.
    * `baselines`: it gets alerts of kind BASELINE too, which is no news but a step of the run.
    * `vital`: it is never disabled, however often it fails: what is lost now may fit in later. It
      must be quick also when it fails.

    and more methods: `check(snapshot)` with the `Snapshot` of a check and `observe(observation)`
    with the `Observation` of rows that the user handed over, each in the place of `log`;
    `mark(alert)` with every alert, for a sink of `metrics_only` that shows what these are about;
    and `note(event, details)` with an event of the run. Where there is a `bind()`, and the sink is
    not `inline`, it is called before each of them, in the training's own thread, for what is known
    there alone, as which run of a tracker is active: it returns a sink that belongs to that, such
    as a copy, which takes the call; None stands for the one before, of this monitor, and that for
    the sink itself.

    One sink may be that of several monitors, and of several threads.
    """

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Take the metrics of one check, or of observed rows: finite floats by name."""

    def alert(self, alert: Alert) -> None:
        """Take one alert."""

    def close(self) -> None:
        """Release what is held, at the end of a run; may be called again, as may the others."""


def is_news(alert: Alert) -> bool:
    """Whether to tell people: a baseline is no more than a step of the run."""
    return alert.kind != "BASELINE"


def optional(sink: Any, name: str) -> Any:
    """What a sink may have; None where it has none, or none that can be read."""
    try:
        return getattr(sink, name, None)
    except Exception:  # of a property
        return None


def has(sink: Any, attribute: str) -> bool:
    """Whether an attribute is True: of a mock every one is there, and is something else."""
    return optional(sink, attribute) is True


def parts(sink: Any) -> Sequence[Any]:
    """The sinks that a sink consists of for one monitor: itself, as a rule."""
    of = optional(type(sink), "parts")
    return of(sink) if callable(of) else (sink,)
