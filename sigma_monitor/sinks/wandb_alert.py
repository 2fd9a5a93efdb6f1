"""Alerts to W&B that cannot hold up anything else.

`run.alert` stands in line with everything that wandb sends: while the endpoint of alerts answers
500, rows logged later are held back and `finish()` waits for 15 minutes. So an online run's alerts
go by a request of their own.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import requests

from sigma_monitor.alert import Alert
from sigma_monitor.errors import SinkError

__all__ = ["MERGED_SECONDS", "TIMEOUTS", "WandbAlerts", "WandbFirstAlert"]

_LEVELS = {"info": "INFO", "warn": "WARN", "error": "ERROR"}
MERGED_SECONDS = 60  # seconds within which alerts of one title are one; the server allows no less
TIMEOUTS = (3.0, 4.0)  # seconds to connect, and to answer
_MUTATION = """
mutation NotifyScriptableRunAlert(
  $entityName: String!, $projectName: String!, $runName: String!,
  $title: String!, $text: String!, $severity: AlertSeverity = INFO, $waitDuration: Duration
) {
  notifyScriptableRunAlert(input: {
    entityName: $entityName, projectName: $projectName, runName: $runName,
    title: $title, text: $text, severity: $severity, waitDuration: $waitDuration
  }) { success }
}
"""


class WandbAlerts:
    """Sends alerts of a W&B run, also of one that has ended: the part of `WandbSink` that may wait.

    Args:
        find: Finds the run; None where there is none.
    """

    alerts_only = True

    def __init__(self, find: Callable[[], Any]) -> None:
        self._find = find
        self._run: Any = None

    def bind(self) -> WandbAlerts:
        """This with the run that is found."""
        bound = copy.copy(self)
        bound._run = self._find()
        return bound

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Nothing: only alerts are sent."""

    def alert(self, alert: Alert) -> None:
        """Send it. An offline run keeps it until that is synchronised.

        Raises:
            SinkError: When W&B is not reached, or does not take it.
        """
        run = self._run
        if run is None:
            return
        level = _LEVELS[alert.severity]
        if run.offline or not run.settings.api_key:  # only wandb itself uses an identity token
            run.alert(alert.title, alert.message, level=level, wait_duration=MERGED_SECONDS)
            return
        _post(
            run.settings,
            entityName=run.entity,
            projectName=run.project,
            runName=run.id,
            title=alert.title,
            text=alert.message,
            severity=level,
            waitDuration=MERGED_SECONDS * 1000,
        )

    def close(self) -> None:
        """Nothing is held; the run belongs to the user."""


class WandbFirstAlert:
    """Writes the step of a run's first alarm into its summary, where there is none.

    Only wandb's process knows whether there is, where the run was resumed or another training was
    in it before; and it may let who asks wait for a minute.

    Args:
        find: Finds the run; None where there is none that takes anything.
        key: In the summary.
    """

    alerts_only = True
    metrics_only = True  # and alerts are sent by `WandbAlerts`

    def __init__(self, find: Callable[[], Any], key: str) -> None:
        self._find = find
        self._key = key
        self._run: Any = None
        self._known: set[str] = set()  # runs that have one

    def bind(self) -> WandbFirstAlert:
        """This with the run that is found."""
        bound = copy.copy(self)
        bound._run = self._find()
        return bound

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Nothing: only alerts are looked at."""

    def alert(self, alert: Alert) -> None:
        """Nothing, likewise: see `mark`."""

    def mark(self, alert: Alert) -> None:
        """Write its step, where it is an alarm and the first."""
        run = self._run
        if run is None or alert.severity == "info" or run.id in self._known:
            return
        if run.summary.get(self._key) is None:
            run.summary[self._key] = alert.step
        self._known.add(run.id)

    def close(self) -> None:
        """Nothing is held; the run belongs to the user."""


def _post(settings: Any, **variables: Any) -> None:
    """Send the mutation; messages of what went wrong hold neither address nor key."""
    try:
        answer = requests.post(
            f"{settings.base_url.rstrip('/')}/graphql",
            json={"query": _MUTATION, "variables": variables},
            auth=("api", settings.api_key),
            timeout=TIMEOUTS,
            allow_redirects=False,  # to where the headers were not meant for
            **_way(settings),
        )
    except Exception as error:  # of urllib3 too, whose message may hold a proxy's password
        raise SinkError(f"{type(error).__name__} on the way to W&B") from None
    if not answer.ok:
        raise SinkError(f"W&B answered {answer.status_code}")
    if not _taken(answer):
        raise SinkError("W&B did not take the alert")


def _way(settings: Any) -> dict[str, Any]:
    """Headers, proxies and trust, as wandb itself is told to reach its server."""
    proxies = dict(settings.x_proxies or {})
    named = {"http": settings.http_proxy, "https": settings.https_proxy}
    return {
        "headers": settings.x_extra_http_headers,
        "proxies": proxies | {scheme: proxy for scheme, proxy in named.items() if proxy},
        "verify": not getattr(settings, "insecure_disable_ssl", False),  # 0.19.0 has none
    }


def _taken(answer: requests.Response) -> bool:
    try:
        return bool(answer.json()["data"]["notifyScriptableRunAlert"]["success"])
    except (ValueError, KeyError, TypeError):  # no JSON, or errors in the place of data
        return False
