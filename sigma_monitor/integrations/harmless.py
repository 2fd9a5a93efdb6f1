"""The wall between a failing callback and the training of its host."""

from __future__ import annotations

import contextlib
import functools
import logging
import time
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from sigma_monitor.errors import described, traced
from sigma_monitor.monitor import SigmaMonitor
from sigma_monitor.ranks import RankError, exchanged, failed

__all__ = ["Watcher", "agreed", "end_run", "harmless"]

_logger = logging.getLogger("sigma_monitor")

Hook = TypeVar("Hook", bound=Callable[..., Any])
Once = TypeVar("Once", bound=Callable[..., None])


class Watcher(Protocol):
    """What a callback of any host has."""

    monitor: SigmaMonitor
    active: bool  # False once something failed for good


def harmless(hook: Hook) -> Hook:
    """A hook that can fail without ending the training: said once, then the callback is off.

    It is called at every step, where ranks must not wait for each other: what is to fail on one of
    them alone belongs inside `SigmaMonitor.step`, which tells the others, or under `agreed`.
    """

    @functools.wraps(hook)
    def guarded(self: Watcher, *args: Any, **kwargs: Any) -> Any:
        if not self.active:
            return None
        cadence = self.monitor.cadence
        clock, started = cadence.clock, time.perf_counter()
        try:
            result = hook(self, *args, **kwargs)
            if cadence.clock == clock:  # nothing in there has accounted for its time
                cadence.pass_by(time.perf_counter() - started)
            return result
        except Exception as error:
            _switch_off(self, hook.__name__, error)
            return None

    return guarded  # type: ignore[return-value]


def agreed(hook: Once) -> Once:
    """A hook of once a run, on all ranks: where it fails on one, or leaves it off, all are off.

    A rank that went on alone would wait for the others at its next check, and for ever.
    """

    @functools.wraps(hook)
    def guarded(self: Watcher, *args: Any, **kwargs: Any) -> None:
        if not self.monitor.enabled:
            return
        try:
            if self.active:
                hook(self, *args, **kwargs)
            on = exchanged(self.active)
        except Exception as error:
            _switch_off(self, hook.__name__, failed(error))
            return
        if self.active and not all(on):
            _switch_off(self, hook.__name__, RankError(f"it is off on rank {on.index(False)}"))

    return guarded  # type: ignore[return-value]


def end_run(watcher: Watcher) -> None:
    """Close the record, also of a callback that is off; rows observed later are of no run."""
    watcher.monitor.between_runs = True
    try:
        watcher.monitor.close()
    except Exception as error:
        if watcher.active:
            _switch_off(watcher, "close", error)


def _switch_off(watcher: Watcher, hook: str, error: Exception) -> None:
    watcher.active = False
    with contextlib.suppress(Exception):
        watcher.monitor.note("switched_off", error=described(error))
        watcher.monitor.close()
    _logger.warning(
        "sigma_monitor: switched off, training goes on (%s, in %s)\n%s",
        described(error),
        hook,
        traced(error),
    )
