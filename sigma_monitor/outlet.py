"""All sinks of a run, as one."""

from __future__ import annotations

import os
import time
import weakref
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

from sigma_monitor.alert import Alert
from sigma_monitor.ranks import is_main
from sigma_monitor.sinks import ConsoleSink, JsonlSink, Sink, WandbSink
from sigma_monitor.sinks.base import has, parts
from sigma_monitor.sinks.courier import Courier
from sigma_monitor.sinks.isolated import Isolated
from sigma_monitor.snapshot import NAME, Observation, Snapshot

__all__ = ["RECORD", "Outlet", "SinkSpec"]

SinkSpec: TypeAlias = Sink | Callable[[Alert], Any] | Literal["default"]

_FILE = "record.jsonl"
RECORD = Path(NAME) / _FILE  # below the run's output folder
CLOSE_SECONDS = 10.0  # which closing takes at most, whatever the sinks do


class Outlet:
    """Delivers to every sink, each behind its wall; rank 0 alone has any.

    Args:
        sinks: `"default"` stands for the record below `output_dir`, the console and `trackers`.
        output_dir: Folder of the run; without one there is no record.
        name: Of the monitor, and of the record's folder.
        trackers: Of the host, in the place of W&B; those of a kind that `sinks` has are left out.
        afresh: Whether a new run begins, so that the record of an older one is put aside.
    """

    def __init__(
        self,
        sinks: Sequence[Sink | Literal["default"]],
        output_dir: str | os.PathLike[str] | None,
        *,
        name: str = NAME,
        afresh: bool = False,
        trackers: Sequence[Sink] | None = None,
    ) -> None:
        default: list[Sink] = [ConsoleSink()]
        if output_dir is not None:
            default.insert(0, JsonlSink(Path(output_dir) / name / _FILE, afresh=afresh))
        if trackers is None:
            trackers = [WandbSink(name=name)]
        chosen: list[Sink] = []
        for spec in sinks if is_main() else ():
            chosen += default if isinstance(spec, str) else [spec]
        if is_main() and "default" in sinks:  # last: they may join rows that the others write
            chosen += [sink for sink in trackers if type(sink) not in map(type, sinks)]
        served = [part for sink in chosen for part in parts(sink)]
        self._sinks = [Isolated(sink) if has(sink, "inline") else Courier(sink) for sink in served]
        # Also when the interpreter ends, as on a signal whose handler raises SystemExit.
        self._end = weakref.finalize(self, _interrupt, self._sinks, os.getpid())

    def deliver(self, snapshot: Snapshot, alerts: Sequence[Alert]) -> None:
        """A check: to each sink its snapshot, and then what it raised."""
        _note_lost_alerts(self._sinks)
        for sink in self._sinks:
            sink.check(snapshot)
            for alert in alerts:
                sink.alert(alert)

    def observe(self, observation: Observation, alerts: Sequence[Alert]) -> None:
        """Rows that were observed, likewise."""
        for sink in self._sinks:
            sink.observe(observation)
            for alert in alerts:
                sink.alert(alert)

    def alert(self, alert: Alert) -> None:
        """An alert that no check goes with."""
        for sink in self._sinks:
            sink.alert(alert)

    def note(self, event: str, details: dict[str, Any]) -> None:
        """An event of the run."""
        for sink in self._sinks:
            sink.note(event, details)

    def interrupt(self) -> None:
        """Write that the run came to no end of its own, and release all sinks."""
        self._end()

    def close(self, details: dict[str, Any]) -> None:
        """Write the closing line, with `details` and what was lost, and release all sinks.

        Takes at most `CLOSE_SECONDS`.
        """
        self._end.detach()
        _close(self._sinks, details)


def _close(sinks: Sequence[Isolated], details: dict[str, Any]) -> None:
    deadline = time.monotonic() + CLOSE_SECONDS
    last = [sink for sink in sinks if has(sink.sink, "inline")]  # among them the record
    first = [sink for sink in sinks if sink not in last]
    for sink in first:
        sink.note("closed", details)
        sink.finish()
    for sink in first:
        sink.close(deadline)
    _note_lost_alerts(sinks)
    lost: Counter[str] = Counter()
    for sink in sinks:
        lost[sink.name] += sink.lost
    for sink in last:
        sink.note("closed", {**details, "lost": dict(+lost)})
        sink.close()


def _interrupt(sinks: Sequence[Isolated], process: int) -> None:
    if os.getpid() == process:  # a forked child has no record of its own
        _close(sinks, {"interrupted": True})


def _note_lost_alerts(sinks: Sequence[Isolated]) -> None:
    """Tell the record which alerts did not arrive where."""
    for sink in sinks:
        for alert, reason in sink.take_lost_alerts():
            details = {"sink": sink.name, "alert": alert.kind, "step": alert.step, "error": reason}
            for other in sinks:
                other.note("undelivered", details)
