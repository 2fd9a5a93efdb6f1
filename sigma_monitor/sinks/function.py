"""Alerts to a function of your own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from sigma_monitor.alert import Alert

__all__ = ["FunctionSink"]


class FunctionSink:
    """Calls a function with every alert; a function among `sinks` becomes one.

    Args:
        function: Called as `function(alert)`, from a thread of its own.
    """

    alerts_only = True

    def __init__(self, function: Callable[[Alert], Any]) -> None:
        self._function = function

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Nothing: only alerts are handed on."""

    def alert(self, alert: Alert) -> None:
        """One call."""
        self._function(alert)

    def close(self) -> None:
        """Nothing is held."""
