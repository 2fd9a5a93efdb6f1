"""The metrics of every check and observation, to whatever function logs those of the training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sigma_monitor.alert import Alert
from sigma_monitor.snapshot import Observation, Snapshot

__all__ = ["MetricsSink"]


class MetricsSink:
    """Sends the metrics of each check and observation to a function that logs.

    Args:
        log: Called as `log({"sigma/...": value}, step=step)`, such as `accelerator.log`. In a run
            of several processes it is called on rank 0 alone.

    Example::

        SigmaMonitor(probes, sinks=["default", MetricsSink(accelerator.log)])
    """

    def __init__(self, log: Callable[..., Any]) -> None:
        self._log = log

    def log(self, snapshot: Snapshot) -> None:
        """One call, at the step of the check."""
        self._log(snapshot.metrics(), step=snapshot.step)

    def observe(self, observation: Observation) -> None:
        """One call, at the step of the observation."""
        self._log(observation.metrics(), step=observation.step)

    def alert(self, alert: Alert) -> None:
        """Nothing: `sigma/alert` and `sigma/status` are among the metrics."""

    def close(self) -> None:
        """Nothing is held; the tracker belongs to the user."""
