"""Delivery off the training's thread: to a sink that may be slow, hang, or fail for a while."""

from __future__ import annotations

import math
import threading
import time
from asyncio import CancelledError
from collections import deque
from collections.abc import Sequence
from contextlib import suppress

from tenacity import (
    Retrying,
    sleep_using_event,
    stop_after_attempt,
    stop_when_event_set,
    wait_exponential,
)

from sigma_monitor.errors import described
from sigma_monitor.sinks.base import Sink, optional
from sigma_monitor.sinks.isolated import FAILURES_ALLOWED, Call, Isolated

__all__ = ["ATTEMPTS", "Courier"]

# Calls that may wait. Of more than these the newest are lost, alerts from twice as many.
_ROOM = 1000

ATTEMPTS = 4
_SHORTEST_WAIT = 0.5  # seconds between the first two attempts, twice as many between the next


class Courier(Isolated):
    """An isolated sink that is served by a thread of its own.

    A call that raises is tried again, after 0.5, 1 and 2 seconds, before it counts as a failure;
    its successors wait in a bounded queue. Once the sink is being closed this holds for alerts
    alone, with waits of at most half the time that is left: other calls are tried once, and where
    two failed in a row not at all before an alert, which one failure more would keep from being
    tried. What is undelivered at the deadline is lost, and counted.
    """

    def __init__(self, sink: Sink, name: str | None = None) -> None:
        super().__init__(sink, name)
        self._calls: deque[Call] = deque()  # the first is that which the thread is making
        self._changed = threading.Condition(self._lock)
        self._closing = threading.Event()
        self._deadline = math.inf  # once closing
        self._given_up = threading.Event()  # and everything is counted
        self._thread = threading.Thread(
            target=self._serve, name=f"sigma_monitor-{self.name}", daemon=True
        )

    def _deliver(self, calls: Sequence[Call]) -> None:
        if calls:
            self._bind()
        for call in calls:
            self._enqueue(call)

    def _bind(self) -> None:
        bind = optional(self.sink, "bind")
        if bind is None or self.disabled:
            return
        try:
            bind()
        except (Exception, CancelledError) as error:
            self._say_once("could not be bound (%s)", described(error))

    def _enqueue(self, call: Call) -> None:
        room = _ROOM if call.alert is None else 2 * _ROOM
        with self._changed:
            if self._closing.is_set():
                self._lose(call, "closed")
                return
            if len(self._calls) <= room:
                self._start()
                self._calls.append(call)
                self._changed.notify()
                return
            reason = f"{room} calls are waiting"
            self._lose(call, reason)
        self._say_failed(reason)

    def _start(self) -> None:
        if self._thread.ident is None:
            with suppress(RuntimeError):  # the interpreter is ending and begins no thread any more
                self._thread.start()

    def _serve(self) -> None:
        while (call := self._next()) is not None:
            failure, reason = None, self._why_hopeless(call)
            if reason is None:
                try:
                    self._make_patiently(call)
                except BaseException as error:  # SystemExit would end the thread unseen
                    failure, reason = error, described(error)
                self._account(failure)
            self._settle(call, reason)
        if not self._given_up.is_set():  # by now the sink may be that of another run
            super()._release(math.inf)

    def _next(self) -> Call | None:
        """The call to be made, which stays in the queue meanwhile; None at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._calls or self._closing.is_set())
            return self._calls[0] if self._calls else None

    def _why_hopeless(self, call: Call) -> str | None:
        """Why a call is not tried, if so."""
        if self.disabled:
            return "disabled"
        if not self._closing.is_set() or self._failures_in_a_row < FAILURES_ALLOWED - 1:
            return None
        with self._lock:
            alerts_wait = any(waiting.alert for waiting in self._calls)
        return "kept for an alert" if alerts_wait and call.alert is None else None

    def _make_patiently(self, call: Call) -> None:
        is_alert = call.alert is not None
        enough = self._given_up if is_alert else self._closing
        attempts = Retrying(
            stop=stop_after_attempt(ATTEMPTS) | stop_when_event_set(enough),
            wait=wait_exponential(multiplier=_SHORTEST_WAIT),
            sleep=self._pause if is_alert else sleep_using_event(self._closing),
            reraise=True,
        )
        attempts(self._make, call)

    def _pause(self, seconds: float) -> None:
        """Wait so long, once closing for at most half of the time that is left."""
        end = time.monotonic() + seconds
        if self._closing.wait(seconds):
            now = time.monotonic()
            time.sleep(max(0.0, min(end - now, (self._deadline - now) / 2)))

    def _settle(self, call: Call, reason: str | None) -> None:
        """Take a call out of the queue, as lost where there is a reason."""
        with self._lock:
            if self._given_up.is_set():  # and it is counted
                return
            self._calls.popleft()
            if reason is not None:
                self._lose(call, reason)

    def finish(self, deadline: float = math.inf) -> None:
        """Let the thread come to its end, not later than `deadline`."""
        with self._changed:
            self._start()  # also where nothing was delivered: a sink may hang in close() too
            self._deadline = min(self._deadline, deadline)
            self._closing.set()
            self._changed.notify()

    def _release(self, deadline: float) -> None:
        self.finish(deadline)
        # The garbage collector may close a run in the midst of a call of this sink.
        if self._given_up.is_set() or self._thread is threading.current_thread():
            return
        if self._thread.ident is None:  # nor does one that had nothing to deliver fail
            if self._calls:
                self._give_up("no thread could be started")
            return
        left = min(max(0.0, deadline - time.monotonic()), threading.TIMEOUT_MAX)
        self._thread.join(left)
        if self._thread.is_alive():
            self._give_up("it did not come back before the run ended")
        elif self._calls:  # as in a process forked from that of the thread
            self._give_up("its thread is gone")

    def _give_up(self, reason: str) -> None:
        """Count what is undelivered; the thread, which hangs in a call, ends with the process."""
        with self._changed:
            self._given_up.set()
            while self._calls:
                self._lose(self._calls.popleft(), reason)
        self._say_failed(reason)
