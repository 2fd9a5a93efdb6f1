"""One line per change of status, beside the progress bar rather than through it."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping

from sigma_monitor.alert import Alert

__all__ = ["ConsoleSink", "one_line"]

_COLOURS = {"warn": "\x1b[33m", "error": "\x1b[31m"}  # yellow and red
_PLAIN = "\x1b[0m"
# Codes of terminals, ends of lines, marks that turn the direction of writing, halves of characters.
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]+")


class ConsoleSink:
    """Writes alerts to standard error, in colour where that is a terminal and NO_COLOR is unset."""

    alerts_only = True
    baselines = True  # that the watch has begun
    inline = True  # beside what the training prints

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Checks are not shown; loggers and the record have them."""

    def alert(self, alert: Alert) -> None:
        """One line, and one more for the advice."""
        lines = f"{_coloured(f'[{one_line(alert.title)}]', alert)} {one_line(alert.text)}"
        if alert.advice:
            lines += f"\n    {one_line(alert.advice)}"
        tqdm = sys.modules.get("tqdm")
        if tqdm is not None:
            tqdm.tqdm.write(lines, file=sys.stderr)
        else:
            print(lines, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Nothing is held."""


def one_line(text: str) -> str:
    """`text` without what could move the cursor: names and texts may be anybody's."""
    return _CONTROLS.sub(" ", text)


def _coloured(text: str, alert: Alert) -> str:
    colour = _COLOURS.get(alert.severity)
    if colour is None or os.environ.get("NO_COLOR") or not sys.stderr.isatty():
        return text
    return f"{colour}{text}{_PLAIN}"
