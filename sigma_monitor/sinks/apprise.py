"""Alerts to Slack, Discord, mail and whatever else apprise reaches."""

from __future__ import annotations

import email.utils
import socket
import sys
import threading
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from sigma_monitor.alert import Alert
from sigma_monitor.errors import InputError, SinkError
from sigma_monitor.sinks.private_random import private_random
from sigma_monitor.sinks.secret import unlogged

__all__ = ["AppriseSink"]

_TYPES = {"info": "info", "warn": "warning", "error": "failure"}
_RECOVERED = "success"
# Which draw what stands between the parts of a mail, and a nickname.
_DRAWING = ("email.generator", "apprise.plugins.irc.client")
_MAIL = "apprise.plugins.email.base"


class _Latest(threading.local):
    """The alert that a thread is delivering: a sink may be that of several monitors."""

    alert: Alert | None = None
    left: Sequence[Any] = ()  # services that have not taken it


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
        self._latest = _Latest()

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Nothing: only alerts are sent."""

    def alert(self, alert: Alert) -> None:
        """Send it. A second attempt goes to those that did not take the first.

        Raises:
            SinkError: When a service did not take it.
        """
        latest = self._latest
        if alert is not latest.alert:
            latest.alert, latest.left = alert, self._services
        kind = _RECOVERED if alert.kind == "RECOVERED" else _TYPES[alert.severity]
        message = {"body": alert.message, "title": alert.title, "notify_type": kind}
        _keep_message_ids_from_drawing()
        with unlogged(*self._urls), private_random(*_DRAWING):
            latest.left = [service for service in latest.left if not _takes(service, message)]
        if latest.left:
            names = ", ".join(str(service.service_name) for service in latest.left)
            raise SinkError(f"not taken by {names}")

    def close(self) -> None:
        """Nothing is held."""


def _keep_message_ids_from_drawing() -> None:
    """Let apprise's mail make its Message-ID here: `email.utils` draws from the global generator.

    From Python 3.13 on it imports `random` where `private_random` cannot reach it.
    """
    mail: Any = sys.modules.get(_MAIL)
    if getattr(mail, "make_msgid", None) is email.utils.make_msgid:
        mail.make_msgid = _message_id


def _message_id(idstring: str | None = None, domain: str | None = None) -> str:
    return f"<{uuid.uuid4().hex}@{domain or socket.getfqdn()}>"


def _takes(service: Any, message: Mapping[str, str]) -> bool:
    try:
        return bool(service.notify(**message))
    except Exception:  # whose message may hold the URL
        return False
