"""Alerts of a live W&B run. Metrics reach W&B through the host's own logger."""

from __future__ import annotations

import logging
import os
import sys
from typing import Any

from sigma_monitor.alert import Alert
from sigma_monitor.snapshot import Snapshot

__all__ = ["RETRY_VARIABLE", "WandbAlertSink", "bound_alert_retries"]

_logger = logging.getLogger("sigma_monitor")

# wandb sends alerts in line with everything else. While their endpoint answers 500, rows logged
# later are held back and finish() waits for 15 minutes, unless the retries are bounded.
RETRY_VARIABLE = "WANDB_X_GRAPHQL_RETRY_MAX"
_MOST_RETRIES = 5

_LEVELS = {"info": "INFO", "warn": "WARN", "error": "ERROR"}
_NOT_SENT = ("BASELINE",)


def bound_alert_retries() -> None:
    """Bound wandb's retries before a run begins, and say so; nothing when the user has set them."""
    if RETRY_VARIABLE not in os.environ and _live_run() is None and _bound_settings():
        os.environ[RETRY_VARIABLE] = "1"
        _logger.warning(
            "sigma_monitor: %s=1 was set, so that an alert that W&B cannot take delays the end of "
            "the run by seconds instead of 15 minutes. Set it yourself to choose another bound.",
            RETRY_VARIABLE,
        )


def _bound_settings() -> bool:
    """Bound the settings wandb has read already; False when the user has set them."""
    setup = getattr(sys.modules.get("wandb"), "setup", None)
    if setup is None:
        return True
    settings = setup().settings
    if getattr(settings, "x_graphql_retry_max", None) is not None:
        return False
    if hasattr(settings, "x_graphql_retry_max"):
        settings.x_graphql_retry_max = 1
    return True


class WandbAlertSink:
    """Sends alerts to the W&B run that is live in this process, if any."""

    def __init__(self) -> None:
        self._warned = False

    def log(self, snapshot: Snapshot) -> None:
        """Nothing: the host's logger has the metrics."""

    def alert(self, alert: Alert) -> None:
        """`run.alert` with a constant title; the text carries the step, for late offline sync."""
        run = _live_run()
        if run is None or alert.kind in _NOT_SENT:
            return
        self._warn_unbounded(run)
        # wait_duration merges alerts of one title on the server; ours are already one per episode.
        run.alert(
            title=alert.title,
            text=f"{alert.text}\n{alert.advice}".strip(),
            level=_LEVELS[alert.severity],
            wait_duration=60,
        )

    def close(self) -> None:
        """Nothing is held; the run belongs to the user."""

    def _warn_unbounded(self, run: Any) -> None:
        if self._warned or getattr(run, "offline", False):
            return
        self._warned = True
        retries = getattr(run.settings, "x_graphql_retry_max", None)
        if retries is None or retries > _MOST_RETRIES:
            _logger.warning(
                "sigma_monitor: an alert is sent to W&B with unbounded retries: if its endpoint "
                "fails, wandb.finish() can wait for 15 minutes. Set %s=1 before wandb.init.",
                RETRY_VARIABLE,
            )


def _live_run() -> Any:
    wandb = sys.modules.get("wandb")
    return getattr(wandb, "run", None)
