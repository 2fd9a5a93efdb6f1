"""The metrics of every check and observation, to whatever function logs those of the training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from sigma_monitor.alert import Alert

__all__ = ["MetricsSink"]


class MetricsSink:
    """Sends the metrics of each check and observation to a function that logs.

    Args:
        log: Called as `log({"sigma/...": value}, step=step)`, such as `accelerator.log`. In a run
            of several processes it is called on rank 0 alone.

    Examples:
        ```python
        SigmaMonitor(probes, sinks=["default", MetricsSink(accelerator.log)])
        ```
    """

    inline = True  # trackers want the steps of one thread, in order
    metrics_only = True

    def __init__(self, log: Callable[..., Any]) -> None:
        self._log = log

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """One call, at the step of the check or observation."""
        self._log(dict(metrics), step=step)

    def alert(self, alert: Alert) -> None:
        """Nothing: `sigma/alert` and `sigma/status` are among the metrics."""

    def close(self) -> None:
        """Nothing is held; the tracker belongs to the user."""
