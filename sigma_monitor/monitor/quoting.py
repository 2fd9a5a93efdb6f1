"""Texts that an alert quotes: probe examples that moved most, or what the model writes."""

from __future__ import annotations

import logging
from collections.abc import Callable

from sigma_monitor.alert import Alert
from sigma_monitor.checking.instrument import Instrument
from sigma_monitor.errors import described
from sigma_monitor.generation.writing import Writing

__all__ = ["Quoting"]

_logger = logging.getLogger("sigma_monitor")

_QUOTES = 3  # texts of the model in an alert


class Quoting:
    """Finds them; a failure is said once, and costs the alert its quotes alone.

    Args:
        instrument: Knows the probe examples as text.
        note: Writes an event, `note(event, **details)`.
        wanted: Nothing is quoted without.
    """

    def __init__(self, instrument: Instrument, note: Callable[..., None], *, wanted: bool) -> None:
        self._instrument = instrument
        self._note = note
        self._wanted = wanted
        self._failed = False

    def of(self, alert: Alert, writing: Writing | None) -> tuple[str, ...]:
        """Quotes for `alert`.

        Args:
            alert: Its channel decides what is quoted.
            writing: Of the check that raised it, if there was any.
        """
        if not self._wanted:
            return ()
        if alert.channel == "generation":
            return () if writing is None else writing.texts[:_QUOTES]
        try:
            return self._instrument.texts_of(alert.moved_examples)
        except Exception as error:  # of a tokenizer that is not ours: the alert matters more
            self._tell(error, alert.step)
            return ()

    def _tell(self, error: Exception, step: int) -> None:
        if self._failed:
            return
        self._failed = True
        reason = described(error)
        _logger.warning("sigma_monitor: probe examples cannot be quoted in alerts (%s)", reason)
        self._note("quotes_failed", step=step, error=reason)
