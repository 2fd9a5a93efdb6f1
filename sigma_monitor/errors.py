"""The error tree: every exception raised on purpose by sigma_monitor."""

from __future__ import annotations

__all__ = [
    "InputError",
    "MissingExtraError",
    "ProbeError",
    "RecordError",
    "SigmaError",
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


class RecordError(SigmaError, ValueError):
    """A record or a saved state cannot be read."""


class MissingExtraError(SigmaError, ImportError):
    """An optional dependency is needed and not installed."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        """Name the missing `package`, what it is needed for, and the extra that installs it."""
        super().__init__(
            f"{purpose} needs {package}, which is not installed: "
            f'pip install "sigma-monitor[{extra}]"'
        )
