"""The wall between a failing callback and the training of its host."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from sigma_monitor.monitor import SigmaMonitor

__all__ = ["Watcher", "harmless"]

_logger = logging.getLogger("sigma_monitor")

Hook = TypeVar("Hook", bound=Callable[..., Any])


class Watcher(Protocol):
    """What a callback of any host has."""

    monitor: SigmaMonitor
    active: bool  # False once something failed for good


def harmless(hook: Hook) -> Hook:
    """A hook that can fail without ending the training: said once, then the callback is off."""

    @functools.wraps(hook)
    def guarded(self: Watcher, *args: Any, **kwargs: Any) -> Any:
        if not self.active:
            return None
        try:
            return hook(self, *args, **kwargs)
        except Exception as error:
            self.active = False
            with contextlib.suppress(Exception):
                self.monitor.note("switched_off", error=f"{type(error).__name__}: {error}")
                self.monitor.close()
            _logger.warning(
                "sigma_monitor: switched off, training goes on (%s in %s: %s)",
                type(error).__name__,
                hook.__name__,
                error,
                exc_info=error,
            )
            return None

    return guarded  # type: ignore[return-value]
