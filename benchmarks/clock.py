"""A clock for simulations of the cadence, and the monitor's loop without a monitor."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sigma_monitor.monitor.cadence import Cadence

__all__ = ["checks_of", "stopped_clock"]


@contextmanager
def stopped_clock() -> Iterator[Callable[[float], None]]:
    """`time.perf_counter` stands still but for what the returned function adds."""
    now, real = [0.0], time.perf_counter
    time.perf_counter = lambda: now[0]  # type: ignore[assignment]

    def advance(seconds: float) -> None:
        now[0] += seconds

    try:
        yield advance
    finally:
        time.perf_counter = real


def checks_of(
    cadence: Cadence, steps: int, step_seconds: float, advance: Callable[[float], None]
) -> Iterator[int]:
    """Steps at which a run has checks; what each takes is for the caller to `finish`."""
    cadence.max_steps = steps
    for step in range(steps + 1):
        if step:
            advance(step_seconds)
        if cadence.due(step) and step and not cadence.planned:
            cadence.apply_budget(step)  # which may move this very check
        if cadence.due(step):
            cadence.begin(step)
            yield step
