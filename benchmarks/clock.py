"""A clock for simulations of the cadence."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["stopped_clock"]


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
