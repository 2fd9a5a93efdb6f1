"""The protocol of a sink, and the wall between a failing sink and the training."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from sigma_monitor.alert import Alert
from sigma_monitor.snapshot import Observation, Snapshot

__all__ = ["Isolated", "Sink"]

_logger = logging.getLogger("sigma_monitor")

# In a row. A sink that fails this often is not called again, so that it cannot slow the training.
_FAILURES_ALLOWED = 3


class Sink(Protocol):
    """Receives what the monitor measured and concluded. Any method may raise.

    Two more are called where a sink has them: `observe(observation)` with the `Observation` of
    rows that the user handed over, and `note(event, details)` with an event of the run.
    """

    def log(self, snapshot: Snapshot) -> None:
        """Take the snapshot of one check."""

    def alert(self, alert: Alert) -> None:
        """Take one alert."""

    def close(self) -> None:
        """Release what is held; called once or more."""


class Isolated:
    """A sink whose failures are reported once, counted, and end in its being disabled."""

    def __init__(self, sink: Sink) -> None:
        self.sink = sink
        self.name = type(sink).__name__
        self.lost = 0  # calls that were not delivered
        self.disabled = False  # it failed too often and is no longer called
        self._failures_in_a_row = 0
        self._reported = False

    def log(self, snapshot: Snapshot) -> None:
        """Deliver a snapshot, or count it as lost."""
        self._call(self.sink.log, snapshot)

    def alert(self, alert: Alert) -> None:
        """Deliver an alert, or count it as lost."""
        self._call(self.sink.alert, alert)

    def observe(self, observation: Observation) -> None:
        """Deliver an observation to a sink that takes them."""
        observe = getattr(self.sink, "observe", None)
        if observe is not None:
            self._call(observe, observation)

    def note(self, event: str, details: Mapping[str, Any]) -> None:
        """Deliver an event of the run to a sink that keeps them (the record)."""
        note = getattr(self.sink, "note", None)
        if note is not None:
            self._call(note, event, details)

    def close(self) -> None:
        """Close the sink, disabled or not, and say how much it lost."""
        try:
            self.sink.close()
        except Exception as error:
            self._report(error)
        if self.lost:
            _logger.warning("sigma_monitor: %s lost %d calls in this run", self.name, self.lost)

    def _call(self, method: Callable[..., None], *arguments: Any) -> None:
        if self.disabled:
            self.lost += 1
            return
        try:
            method(*arguments)
            self._failures_in_a_row = 0
        except Exception as error:
            self.lost += 1
            self._failures_in_a_row += 1
            self._report(error)
            if self._failures_in_a_row >= _FAILURES_ALLOWED:
                self.disabled = True
                _logger.warning(
                    "sigma_monitor: %s is disabled after %d failures in a row; training goes on",
                    self.name,
                    _FAILURES_ALLOWED,
                )

    def _report(self, error: Exception) -> None:
        if not self._reported:
            self._reported = True
            _logger.warning(
                "sigma_monitor: %s failed (%s: %s); training goes on, further failures are "
                "counted silently",
                self.name,
                type(error).__name__,
                error,
            )
