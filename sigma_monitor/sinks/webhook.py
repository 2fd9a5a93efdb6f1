"""Alerts as JSON to an address of your own."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.utils import get_auth_from_url

from sigma_monitor.alert import Alert
from sigma_monitor.errors import InputError, SinkError
from sigma_monitor.sinks.secret import unlogged

__all__ = ["WebhookSink"]


class WebhookSink:
    """Posts every alert as a JSON object: the fields of `Alert`.

    Args:
        url: Where to; often a secret, so no message of ours holds more of it than the host. An
            answer that sends elsewhere is not followed.
        headers: Of the request, such as an authorisation.
        timeout: Seconds to wait for an answer.

    Raises:
        InputError: On a URL that is none of http or https, headers that cannot be sent, or a
            timeout that is no positive number.
    """

    alerts_only = True

    def __init__(
        self, url: str, *, headers: Mapping[str, str] | None = None, timeout: float = 5.0
    ) -> None:
        self._url = str(url)
        self._headers = dict(headers or {})
        self._host = _host(self._url, self._headers)
        self._auth = _auth(self._url)
        if not _is_positive(timeout):
            raise InputError(f"timeout={timeout!r}: pass a positive number of seconds.")
        self._timeout = timeout

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Nothing: only alerts are posted."""

    def alert(self, alert: Alert) -> None:
        """Post it.

        Raises:
            SinkError: When the host is not reached, or answers with an error.
        """
        try:
            status = self._post(alert)
        except Exception as error:
            # Without its cause, whose message holds the whole address.
            raise SinkError(f"{type(error).__name__} on the way to {self._host}") from None
        if not 200 <= status < 300:
            raise SinkError(f"{self._host} answered {status}")

    def close(self) -> None:
        """Nothing is held."""

    def _post(self, alert: Alert) -> int:
        """The status of the answer, whose body is not read: it may be large, or never end."""
        with (
            unlogged(self._url),
            requests.post(
                self._url,
                json=alert.to_dict(),
                headers=self._headers,
                auth=self._auth,
                timeout=self._timeout,
                allow_redirects=False,  # most lead to a GET, and the alert would be lost unseen
                stream=True,
            ) as answer,
        ):
            return answer.status_code


def _auth(url: str) -> Any:
    """The credentials in the address; without any, requests would look for some in ~/.netrc."""
    named = get_auth_from_url(url)
    return named if any(named) else _as_it_is


def _as_it_is(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request


def _is_positive(value: object) -> bool:
    return isinstance(value, int | float) and 0 < value < math.inf


def _host(url: str, headers: Mapping[str, str]) -> str:
    try:
        prepared = requests.Request("POST", url, headers=headers).prepare()
        parts = urlsplit(prepared.url or "")
    except ValueError:  # which those of requests are; its message may hold the whole address
        parts = urlsplit("")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InputError(
            "the url of a WebhookSink is no address of http or https, or its headers cannot be "
            "sent (not shown here, since they may be secrets); pass an url such as "
            '"https://example.org/hook".'
        )
    return parts.hostname
