"""Alerts to Slack, Discord, mail and whatever else apprise reaches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sigma_monitor.alert import Alert
from sigma_monitor.errors import InputError, SinkError
from sigma_monitor.sinks.secret import unlogged

__all__ = ["AppriseSink"]

_TYPES = {"info": "info", "warn": "warning", "error": "failure"}
_RECOVERED = "success"


class AppriseSink:
    """Sends every alert to each of these services.

    Args:
        *urls: As apprise has them, such as `slack://…`, `discord://…` or `mailtos://…`; they hold
            secrets, so no message of ours shows them.

    Raises:
        ImportError: Without apprise: `pip install "sigma-monitor[alerts]"`.
        InputError: On a URL that apprise cannot read, or none.
    """

    alerts_only = True

    def __init__(self, *urls: str) -> None:
        try:
            import apprise
        except ImportError as error:
            raise ImportError(
                'AppriseSink needs apprise: pip install "sigma-monitor[alerts]".'
            ) from error
        self._urls = tuple(map(str, urls))
        with unlogged(*self._urls):
            self._services: list[Any] = [apprise.Apprise.instantiate(url) for url in urls]
        unread = [place for place, service in enumerate(self._services) if service is None]
        if unread or not urls:
            raise InputError(
                f"of {len(urls)} urls of an AppriseSink apprise cannot read those at {unread} (not "
                "shown here, since they may be secrets); see its list of services for their form."
            )
        self._alert: Alert | None = None  # the latest, and the services that did not take it
        self._left: list[Any] = []

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Nothing: only alerts are sent."""

    def alert(self, alert: Alert) -> None:
        """Send it. A second attempt goes to those that did not take the first.

        Raises:
            SinkError: When a service did not take it.
        """
        if alert is not self._alert:
            self._alert, self._left = alert, list(self._services)
        kind = _RECOVERED if alert.kind == "RECOVERED" else _TYPES[alert.severity]
        message = {"body": alert.message, "title": alert.title, "notify_type": kind}
        with unlogged(*self._urls):
            self._left = [service for service in self._left if not _takes(service, message)]
        if self._left:
            names = ", ".join(str(service.service_name) for service in self._left)
            raise SinkError(f"not taken by {names}")

    def close(self) -> None:
        """Nothing is held."""


def _takes(service: Any, message: Mapping[str, str]) -> bool:
    try:
        return bool(service.notify(**message))
    except Exception:  # whose message may hold the URL
        return False
