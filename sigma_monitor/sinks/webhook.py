"""Alerts as JSON to an address of your own."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

import requests

from sigma_monitor.alert import Alert
from sigma_monitor.errors import InputError, SinkError
from sigma_monitor.sinks.base import is_news

__all__ = ["WebhookSink"]


class WebhookSink:
    """Posts every alert as a JSON object: the fields of `Alert`.

    Args:
        url: Where to; often a secret, so no message of ours holds more of it than the host.
        headers: Of the request, such as an authorisation.
        timeout: Seconds to wait for an answer.

    Raises:
        InputError: On a URL that is none of http or https.
    """

    alerts_only = True

    def __init__(
        self, url: str, *, headers: Mapping[str, str] | None = None, timeout: float = 5.0
    ) -> None:
        parts = urlsplit(str(url))
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InputError(
                "the url of a WebhookSink is no address of http or https (not shown here, since it "
                'may be a secret); pass one such as "https://example.org/hook".'
            )
        self._url = url
        self._host = parts.hostname
        self._headers = dict(headers or {})
        self._timeout = timeout

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Nothing: only alerts are posted."""

    def alert(self, alert: Alert) -> None:
        """Post it; all but baselines.

        Raises:
            SinkError: When the host is not reached, or answers with an error.
        """
        if not is_news(alert):
            return
        try:
            answer = requests.post(
                self._url, json=alert.to_dict(), headers=self._headers, timeout=self._timeout
            )
        except requests.RequestException as error:
            # Without its cause, whose message holds the whole address.
            raise SinkError(f"{type(error).__name__} on the way to {self._host}") from None
        if not answer.ok:
            raise SinkError(f"{self._host} answered {answer.status_code}")

    def close(self) -> None:
        """Nothing is held."""
