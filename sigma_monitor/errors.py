"""The error tree: every exception raised on purpose by sigma_monitor."""

from __future__ import annotations

__all__ = [
    "InputError",
    "ProbeError",
    "RecordError",
    "SigmaError",
    "SinkError",
    "ZeroTraceError",
]


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
