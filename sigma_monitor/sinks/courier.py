"""Delivery off the training's thread: to a sink that may be slow, hang, or fail for a while."""

from __future__ import annotations

import math
import threading
import time
from asyncio import CancelledError
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any

from tenacity import RetryCallState, Retrying, wait_exponential

from sigma_monitor.errors import described
from sigma_monitor.sinks.base import Sink, optional
from sigma_monitor.sinks.isolated import Call, Isolated

__all__ = ["ATTEMPTS", "Courier"]

# Calls that may wait. Of more than these the newest are lost, alerts from twice as many.
_ROOM = 1000

ATTEMPTS = 4
_SHORTEST_WAIT = 0.5  # seconds between the first two attempts, twice as many between the next


class Courier(Isolated):
    """An isolated sink that is served by a thread of its own.

    A call that raises is tried again, after 0.5, 1 and 2 seconds, before it counts as a failure;
    its successors wait in a bounded queue. Once the sink is being closed, alerts go before other
    calls, and they alone are tried again, with waits of at most half the time that is left. What is
    undelivered at the deadline is lost, counted, and not tried any more.
    """

    def __init__(self, sink: Sink, name: str | None = None) -> None:
        super().__init__(sink, name)
        self._bound: Any = sink  # takes what comes now
        self._calls: deque[Call] = deque()  # the first is that which the thread is making
        # Something has changed. The garbage collector may close a run in any line of this thread,
        # which then must not wait for itself: unlike Event and Condition, this may be told of it
        # while it is waited for, and keeps it.
        self._news: SimpleQueue[None] = SimpleQueue()
        self._closing = False
        self._deadline = math.inf  # once closing
        self._given_up = False  # and everything is counted
        self._thread = threading.Thread(
            target=self._serve, name=f"sigma_monitor-{self.name}", daemon=True
        )

    def _deliver(self, calls: Sequence[Call]) -> None:
        if calls:
            self._bind()
        for call in calls:
            self._enqueue(call._replace(sink=self._bound))

    def _bind(self) -> None:
        bind = optional(self.sink, "bind")
        if bind is None or self.disabled:
            return
        try:
            bound = bind()
            self._bound = self._bound if bound is None else bound
        except (Exception, CancelledError) as error:
            self._say_once("could not be bound (%s)", described(error))

    def _enqueue(self, call: Call) -> None:
        room = _ROOM if call.alert is None else 2 * _ROOM
        with self._lock:
            if self._closing:
                self._lose(call, "closed")
                return
            if len(self._calls) <= room:
                self._start()
                self._calls.append(call)
                self._news.put(None)
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
            failure, reason = None, "disabled" if self.disabled else None
            if reason is None:
                try:
                    self._make_patiently(call)
                except BaseException as error:  # SystemExit would end the thread unseen
                    failure, reason = error, described(error)
                if not self._given_up:
                    self._account(failure)
            self._settle(call, reason)
        if not self._given_up:  # by now the sink may be that of another run
            super()._release(math.inf)

    def _next(self) -> Call | None:
        """The call to be made, which stays in the queue meanwhile; None at the end."""
        self._wait_for(lambda: bool(self._calls) or self._closing)
        with self._lock:
            return self._calls[0] if self._calls else None

    def _wait_for(self, is_so: Callable[[], bool], end: float = math.inf) -> bool:
        """Wait until something is so, but not longer than to `end`."""
        while not is_so() and (left := end - time.monotonic()) > 0:
            with suppress(Empty):
                self._news.get(timeout=min(left, threading.TIMEOUT_MAX))
        return is_so()

    def _make_patiently(self, call: Call) -> None:
        is_alert = call.alert is not None

        def is_enough(state: RetryCallState) -> bool:
            ended = self._given_up if is_alert else self._closing
            return ended or state.attempt_number >= ATTEMPTS

        attempts = Retrying(
            stop=is_enough,
            wait=wait_exponential(multiplier=_SHORTEST_WAIT),
            sleep=lambda seconds: self._pause(seconds, is_alert=is_alert),
            reraise=True,
        )
        attempts(self._make, call)

    def _make(self, call: Call) -> None:
        if not self._given_up:  # before this attempt
            super()._make(call)

    def _pause(self, seconds: float, *, is_alert: bool) -> None:
        """Wait so long; once closing only before an alert, for at most half the time left."""
        end = time.monotonic() + seconds
        if self._wait_for(lambda: self._closing, end) and is_alert:
            now = time.monotonic()
            self._wait_for(lambda: self._given_up, min(end, now + (self._deadline - now) / 2))

    def _settle(self, call: Call, reason: str | None) -> None:
        """Take a call out of the queue, as lost where there is a reason."""
        with self._lock:
            if self._given_up:  # and it is counted
                return
            self._calls.popleft()
            if reason is not None:
                self._lose(call, reason)

    def finish(self, deadline: float = math.inf) -> None:
        """Let the thread come to its end, not later than `deadline`, with alerts first."""
        with self._lock:
            self._start()  # also where nothing was delivered: a sink may hang in close() too
            self._deadline = min(self._deadline, deadline)
            self._closing = True
            present = self._calls[0] if self._calls else None
            alerts_first = sorted(
                self._calls, key=lambda call: call is not present and call.alert is None
            )
            self._calls.clear()
            self._calls.extend(alerts_first)
            self._news.put(None)

    def _release(self, deadline: float) -> None:
        self.finish(deadline)
        # The garbage collector may close a run in the midst of a call of this sink.
        if self._given_up or self._thread is threading.current_thread():
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
        with self._lock:
            self._given_up = True
            while self._calls:
                self._lose(self._calls.popleft(), reason)
            self._news.put(None)
        self._say_failed(reason)
