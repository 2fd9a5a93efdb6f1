"""Alerts, and where wanted metrics, of the trackio run that is active."""

from __future__ import annotations

import copy
import sys
from collections.abc import Mapping
from typing import Any

from sigma_monitor.alert import Alert
from sigma_monitor.sinks.extras import require

__all__ = ["TrackioSink"]


class TrackioSink:
    """Writes into the trackio run that is active in the training's thread, if any.

    Args:
        metrics: Whether to log the metrics too: for a loop of your own that has no other way.

    Raises:
        ImportError: Without trackio: `pip install "sigma-monitor[trackio]"`.
    """

    def __init__(self, *, metrics: bool = False) -> None:
        require("trackio", "trackio", "TrackioSink")
        self._with_metrics = metrics
        self._run: Any = None

    def bind(self) -> TrackioSink | None:
        """This sink with its run, which trackio keeps by context: another thread has none."""
        trackio = sys.modules.get("trackio")
        run = None if trackio is None else trackio.context_vars.current_run.get()
        if run is None:
            return None
        bound = copy.copy(self)
        bound._run = run
        return bound

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """One row, where metrics were asked for."""
        if self._with_metrics and self._run is not None:
            self._run.log(dict(metrics), step=step)

    def alert(self, alert: Alert) -> None:
        """One alert."""
        if self._run is not None:
            from trackio import AlertLevel

            level = AlertLevel(alert.severity)
            self._run.alert(title=alert.title, text=alert.message, level=level, step=alert.step)

    def close(self) -> None:
        """Nothing is held; the run belongs to the user."""
