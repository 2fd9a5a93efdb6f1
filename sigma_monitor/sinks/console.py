"""One line per change of status, beside the progress bar rather than through it."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from sigma_monitor.alert import Alert

__all__ = ["ConsoleSink"]


class ConsoleSink:
    """Writes alerts to standard error."""

    inline = True  # beside what the training prints

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Checks are not shown; loggers and the record have them."""

    def alert(self, alert: Alert) -> None:
        """One line, and one more for the advice."""
        lines = f"[{alert.title}] {alert.text}"
        if alert.advice:
            lines += f"\n    {alert.advice}"
        tqdm = sys.modules.get("tqdm")
        if tqdm is not None:
            tqdm.tqdm.write(lines, file=sys.stderr)
        else:
            print(lines, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Nothing is held."""
