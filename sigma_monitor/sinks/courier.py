"""Delivery off the training's thread: to a sink that may be slow, hang, or fail for a while."""

from __future__ import annotations

import math
import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeAlias

from tenacity import (
    Retrying,
    sleep_using_event,
    stop_after_attempt,
    stop_when_event_set,
    wait_exponential,
)

from sigma_monitor.alert import Alert
from sigma_monitor.sinks.base import Sink
from sigma_monitor.sinks.isolated import Isolated

__all__ = ["Courier"]

# Calls that may wait. Of more than these the newest are lost, alerts from twice as many.
_ROOM = 1000

_ATTEMPTS = 4
_SHORTEST_WAIT = 0.5  # seconds between the first two attempts, twice as many between the next

Call: TypeAlias = tuple[Callable[..., None], tuple[Any, ...]]


class Courier(Isolated):
    """An isolated sink that is served by a thread of its own.

    A call that raises is tried again, after 0.5, 1 and 2 seconds, before it counts as a failure;
    its successors wait in a bounded queue. Once the sink is being closed there are no waits between
    attempts, and what is undelivered at the deadline is lost, and counted.
    """

    def __init__(self, sink: Sink) -> None:
        super().__init__(sink)
        self._calls: queue.SimpleQueue[Call | None] = queue.SimpleQueue()  # None is the last
        self._current: Call | None = None  # that the thread is making
        self._closing = threading.Event()
        self._given_up = False  # and everything counted
        self._thread = threading.Thread(
            target=self._serve, name=f"sigma_monitor-{self.name}", daemon=True
        )

    def _deliver(self, method: Callable[..., None], *arguments: Any) -> None:
        room = _ROOM * (2 if any(isinstance(argument, Alert) for argument in arguments) else 1)
        if self._calls.qsize() >= room:
            reason = f"{room} calls are waiting"
            self._lose(arguments, reason)
            self._report(TimeoutError(reason))
            return
        bind = getattr(self.sink, "bind", None)
        if bind is not None:
            try:
                bind()
            except Exception as error:
                self._report(error)
        self._start()
        self._calls.put((method, arguments))

    def _start(self) -> None:
        if self._thread.ident is None:
            with suppress(RuntimeError):  # the interpreter is ending and begins no thread any more
                self._thread.start()

    def _serve(self) -> None:
        while (call := self._calls.get()) is not None:
            self._current = call
            method, arguments = call
            super()._deliver(method, *arguments)
            self._current = None
        super()._release(math.inf)

    def _attempt(self, method: Callable[..., None], *arguments: Any) -> None:
        attempts = Retrying(
            stop=stop_after_attempt(_ATTEMPTS) | stop_when_event_set(self._closing),
            wait=wait_exponential(multiplier=_SHORTEST_WAIT),
            sleep=sleep_using_event(self._closing),
            reraise=True,
        )
        attempts(method, *arguments)

    def finish(self) -> None:
        """Let the thread come to its end, without waits from now on."""
        self._start()  # also where nothing was delivered: a sink may hang in close() too
        if not self._closing.is_set():
            self._closing.set()
            self._calls.put(None)

    def _release(self, deadline: float) -> None:
        self.finish()
        if self._given_up:
            return
        if self._thread.ident is None:
            self._give_up("no thread could be started")
            return
        left = min(max(0.0, deadline - time.monotonic()), threading.TIMEOUT_MAX)
        self._thread.join(left)
        if self._thread.is_alive():
            self._give_up("it did not come back before the run ended")

    def _lose(self, arguments: tuple[Any, ...], reason: str) -> None:
        if not self._given_up:
            super()._lose(arguments, reason)

    def _give_up(self, reason: str) -> None:
        """Count what is undelivered; the thread, which hangs in a call, ends with the process."""
        undelivered = [] if self._current is None else [self._current]
        with suppress(queue.Empty):
            while (call := self._calls.get_nowait()) is not None:
                undelivered.append(call)
        self._calls.put(None)  # for the thread, should it come back
        for _, arguments in undelivered:
            self._lose(arguments, reason)
        self._given_up = True
        self._report(TimeoutError(reason))
