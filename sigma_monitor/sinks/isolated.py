"""The wall between a failing sink and the training."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Mapping
from typing import Any

from sigma_monitor.alert import Alert
from sigma_monitor.errors import described
from sigma_monitor.sinks.base import Sink, has, is_news, optional
from sigma_monitor.snapshot import Observation, Snapshot

__all__ = ["Isolated"]

_logger = logging.getLogger("sigma_monitor")

# In a row. A sink that fails this often is not called again, so that it cannot slow the training.
_FAILURES_ALLOWED = 3


class Isolated:
    """A sink whose failures are reported once, counted, and end in its being disabled.

    Attributes:
        lost: Calls that were not delivered.
        disabled: It failed too often and is no longer called.
    """

    def __init__(self, sink: Sink) -> None:
        self.sink = sink
        self.name = type(sink).__name__
        self.lost = 0
        self._lost_alerts: list[tuple[Alert, str]] = []
        self.disabled = False
        self._lock = threading.Lock()
        self._failures_in_a_row = 0
        self._reported = False

    def check(self, snapshot: Snapshot) -> None:
        """Deliver what a check measured, or count it as lost."""
        if has(self.sink, "alerts_only"):
            return
        takes = optional(self.sink, "check")
        if takes is None:
            self._deliver(self.sink.log, snapshot.metrics(), snapshot.step)
        else:
            self._deliver(takes, snapshot)

    def observe(self, observation: Observation) -> None:
        """Deliver what was measured of observed rows, or count it as lost."""
        if has(self.sink, "alerts_only"):
            return
        takes = optional(self.sink, "observe")
        if takes is None:
            self._deliver(self.sink.log, observation.metrics(), observation.step)
        else:
            self._deliver(takes, observation)

    def alert(self, alert: Alert) -> None:
        """Deliver an alert to a sink that sends such, or count it as lost."""
        mark = optional(self.sink, "mark")
        if mark is not None:
            self._deliver(mark, alert)
        if has(self.sink, "metrics_only"):
            return
        if is_news(alert) or has(self.sink, "baselines"):
            self._deliver(self.sink.alert, alert)

    def note(self, event: str, details: Mapping[str, Any]) -> None:
        """Deliver an event of the run to a sink that keeps them (the record)."""
        takes = optional(self.sink, "note")
        if takes is not None:
            self._deliver(takes, event, details)

    def take_lost_alerts(self) -> list[tuple[Alert, str]]:
        """Alerts that were not delivered since the last call, and why."""
        with self._lock:
            taken, self._lost_alerts = self._lost_alerts, []
        return taken

    def finish(self) -> None:
        """Prepare to be closed: nothing more is coming."""

    def close(self, deadline: float = math.inf) -> None:
        """Close the sink, disabled or not, and say how much it lost.

        Args:
            deadline: Of `time.monotonic()`, after which it is not waited for.
        """
        self._release(deadline)
        if self.lost:
            _logger.warning("sigma_monitor: %s lost %d calls in this run", self.name, self.lost)

    def _deliver(self, method: Callable[..., None], *arguments: Any) -> None:
        if self.disabled:
            self._lose(arguments, "disabled")
            return
        try:
            self._attempt(method, *arguments)
            self._failures_in_a_row = 0
        except Exception as error:
            self._lose(arguments, described(error))
            self._count_failure(error)

    def _attempt(self, method: Callable[..., None], *arguments: Any) -> None:
        method(*arguments)

    def _release(self, deadline: float) -> None:
        try:
            self.sink.close()
        except Exception as error:
            self._report(error)

    def _lose(self, arguments: tuple[Any, ...], reason: str) -> None:
        with self._lock:
            self.lost += 1
            self._lost_alerts += [(lost, reason) for lost in arguments if isinstance(lost, Alert)]

    def _count_failure(self, error: Exception) -> None:
        self._failures_in_a_row += 1
        self._report(error)
        if self._failures_in_a_row == _FAILURES_ALLOWED:
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
                "sigma_monitor: %s failed (%s); training goes on, further failures are "
                "counted silently",
                self.name,
                described(error),
            )
