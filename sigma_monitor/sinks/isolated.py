"""The wall between a failing sink and the training."""

from __future__ import annotations

import logging
import math
import threading
from asyncio import CancelledError
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from sigma_monitor.alert import Alert
from sigma_monitor.errors import described
from sigma_monitor.sinks.base import Sink, has, is_news, optional
from sigma_monitor.snapshot import Observation, Snapshot

__all__ = ["FAILURES_ALLOWED", "Call", "Isolated"]

_logger = logging.getLogger("sigma_monitor")

# In a row. A sink that fails this often is not called again, so that it cannot slow the training.
FAILURES_ALLOWED = 3


class Call(NamedTuple):
    """One of a method of a sink."""

    sink: Any
    method: str
    arguments: tuple[Any, ...]

    @property
    def alert(self) -> Alert | None:
        """That is lost with the call."""
        return self.arguments[0] if self.method == "alert" else None


class Isolated:
    """A sink whose failures are reported once, counted, and end in its being disabled.

    What one check brings to a sink is one failure at most. A `vital` sink is never disabled.
    Ctrl-C and SystemExit pass, since a handler of signals may raise them anywhere.

    Args:
        sink: The sink.
        name: In messages and the record; the name of its class without one.

    Attributes:
        lost: Calls that were not delivered.
        disabled: It failed too often and is no longer called.
    """

    def __init__(self, sink: Sink, name: str | None = None) -> None:
        self.sink = sink
        self.name = type(sink).__name__ if name is None else name
        self.lost = 0
        self.disabled = False
        self._lost_alerts: list[tuple[Alert, str]] = []
        self._failures_in_a_row = 0
        self._said: set[str] = set()
        # The garbage collector may close a run in the middle of anything, by the same thread.
        self._lock = threading.RLock()

    def check(self, snapshot: Snapshot, alerts: Sequence[Alert] = ()) -> None:
        """Deliver what a check measured and what it raised, or count it as lost."""
        self._deliver([*self._of_measured("check", snapshot), *self._of_alerts(alerts)])

    def observe(self, observation: Observation, alerts: Sequence[Alert] = ()) -> None:
        """Deliver what was measured of observed rows, likewise."""
        self._deliver([*self._of_measured("observe", observation), *self._of_alerts(alerts)])

    def alert(self, alert: Alert) -> None:
        """Deliver an alert that no check goes with, likewise."""
        self._deliver([*self._of_alerts([alert])])

    def note(self, event: str, details: Mapping[str, Any]) -> None:
        """Deliver an event of the run to a sink that keeps them (the record)."""
        if optional(self.sink, "note") is not None:
            self._deliver([Call(self.sink, "note", (event, details))])

    @property
    def failing(self) -> bool:
        """Whether the latest that it was given was lost."""
        return self._failures_in_a_row > 0

    def take_lost_alerts(self) -> list[tuple[Alert, str]]:
        """Alerts that were not delivered since the last call, and why."""
        with self._lock:
            taken, self._lost_alerts = self._lost_alerts, []
        return taken

    def close(self, deadline: float = math.inf) -> None:
        """Close the sink, disabled or not, and say how much it lost.

        Args:
            deadline: Of `time.monotonic()`, after which it is not waited for.
        """
        self._release(deadline)
        if self.lost:
            self._say_once("lost %d calls in this run", self.lost)

    def _of_measured(self, method: str, measured: Snapshot | Observation) -> Iterator[Call]:
        if has(self.sink, "alerts_only"):
            return
        if optional(self.sink, method) is not None:
            yield Call(self.sink, method, (measured,))
        else:
            yield Call(self.sink, "log", (measured.metrics(), measured.step))

    def _of_alerts(self, alerts: Sequence[Alert]) -> Iterator[Call]:
        for alert in alerts:
            if optional(self.sink, "mark") is not None:
                yield Call(self.sink, "mark", (alert,))
            wanted = is_news(alert) or has(self.sink, "baselines")
            if wanted and not has(self.sink, "metrics_only"):
                yield Call(self.sink, "alert", (alert,))

    def _deliver(self, calls: Sequence[Call]) -> None:
        """Make the calls that one check, or one event, brings."""
        if not calls:
            return
        if self.disabled:
            for call in calls:
                self._lose(call, "disabled")
            return
        failure = None
        for call in calls:
            try:
                self._make(call)
            except (Exception, CancelledError) as error:
                failure = error
                self._lose(call, described(error))
        self._account(failure)

    def _make(self, call: Call) -> None:
        getattr(call.sink, call.method)(*call.arguments)

    def _release(self, deadline: float) -> None:
        try:
            self.sink.close()
        except (Exception, CancelledError) as error:
            self._say_once("could not be closed (%s)", described(error))

    def _lose(self, call: Call, reason: str) -> None:
        with self._lock:
            self.lost += 1
            if call.alert is not None:
                self._lost_alerts.append((call.alert, reason))

    def _account(self, failure: BaseException | None) -> None:
        """Draw the consequence of what was tried."""
        is_vital = has(self.sink, "vital")
        if failure is None:
            if self._failures_in_a_row and is_vital:
                self._say_once("works again; it has lost %d calls", self.lost)
            self._failures_in_a_row = 0
            return
        self._failures_in_a_row += 1
        self._say_failed(described(failure))
        if self._failures_in_a_row >= FAILURES_ALLOWED and not is_vital:
            self.disabled = True
            self._say_once(
                "is disabled after %d failures in a row; training goes on", FAILURES_ALLOWED
            )

    def _say_failed(self, reason: str) -> None:
        self._say_once(
            "failed (%s); training goes on, further failures are counted silently", reason
        )

    def _say_once(self, message: str, *values: object) -> None:
        if message not in self._said:
            self._said.add(message)
            _logger.warning("sigma_monitor: %s " + message, self.name, *values)
