"""A clock that stands still unless it is told otherwise."""

from __future__ import annotations

import time

import pytest


class Clock:
    """Stands in for `time.perf_counter`."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass."""
        self.now += seconds


def stop_the_clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Replace the process's `time.perf_counter` for one test."""
    clock = Clock()
    monkeypatch.setattr(time, "perf_counter", clock)
    return clock
