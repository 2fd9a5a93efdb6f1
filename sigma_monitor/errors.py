"""The error tree: what sigma_monitor raises on purpose, and what it says of other errors."""

from __future__ import annotations

import re
import traceback

__all__ = [
    "InputError",
    "ProbeError",
    "RecordError",
    "SigmaError",
    "SinkError",
    "ZeroTraceError",
    "described",
    "traced",
]

# What follows on a scheme, or on urllib3's "with url: ".
_ADDRESS = re.compile(r"(?<=://)[^\s'\"<>]+|(?<=url: )[^\s'\"<>]+")


class SigmaError(Exception):
    """Base class of every error raised on purpose by sigma_monitor."""


class InputError(SigmaError, ValueError):
    """An argument cannot be used; the message names the value, the cause and the remedy."""


class ZeroTraceError(InputError):
    """All rows are zero, or equal while centring: there is no spectrum."""


class ProbeError(SigmaError, RuntimeError):
    """The probe set could not be turned into embeddings with this model."""


class SinkError(SigmaError, RuntimeError):
    """What was to be delivered was not taken, or its receiver was not reached."""


class RecordError(SigmaError, ValueError):
    """A record or a saved state cannot be read."""


def described(error: BaseException) -> str:
    """Its type and message, without the addresses in it, which may hold tokens and passwords."""
    try:
        message = str(error)
    except Exception:
        message = "its message cannot be read"
    return f"{type(error).__name__}: {_without_addresses(message)}"


def traced(error: BaseException) -> str:
    """Its traceback, likewise, with those of its causes."""
    return _without_addresses("".join(traceback.format_exception(error)).rstrip())


def _without_addresses(text: str) -> str:
    return _ADDRESS.sub("…", text)
