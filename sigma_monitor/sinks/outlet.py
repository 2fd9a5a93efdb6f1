"""All sinks of a run, as one."""

from __future__ import annotations

import os
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

from sigma_monitor.alert import Alert
from sigma_monitor.ranks import is_main
from sigma_monitor.sinks import ConsoleSink, JsonlSink, Sink, WandbSink
from sigma_monitor.sinks.base import has, parts
from sigma_monitor.sinks.courier import Courier
from sigma_monitor.sinks.isolated import Isolated
from sigma_monitor.sinks.jsonl import FILE
from sigma_monitor.snapshot import NAME, Observation, Snapshot

__all__ = ["RECORD", "Outlet", "SinkSpec"]

SinkSpec: TypeAlias = Sink | Callable[[Alert], Any] | Literal["default"]

RECORD = Path(NAME) / FILE  # below the run's output folder
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
            default.insert(0, JsonlSink(Path(output_dir) / name / FILE, afresh=afresh))
        if trackers is None:
            trackers = [WandbSink(name=name)]
        chosen: list[Sink] = []
        for spec in sinks if is_main() else ():
            chosen += default if isinstance(spec, str) else [spec]
        if is_main() and "default" in sinks:  # last: they may join rows that the others write
            chosen += [sink for sink in trackers if type(sink) not in map(type, sinks)]
        served = [part for sink in chosen for part in parts(sink)]
        self._sinks = [
            Isolated(sink, name) if has(sink, "inline") else Courier(sink, name)
            for sink, name in zip(served, _names(served), strict=True)
        ]
        # Also when the interpreter ends, as on a signal whose handler raises SystemExit.
        self._end = weakref.finalize(self, _interrupt, self._sinks, os.getpid())

    def deliver(self, snapshot: Snapshot, alerts: Sequence[Alert]) -> None:
        """A check: to each sink its snapshot, and then what it raised."""
        self._note_lost_alerts()
        for sink in self._sinks:
            sink.check(snapshot, alerts)

    def observe(self, observation: Observation, alerts: Sequence[Alert]) -> None:
        """Rows that were observed, likewise."""
        self._note_lost_alerts()
        for sink in self._sinks:
            sink.observe(observation, alerts)

    def alert(self, alert: Alert) -> None:
        """An alert that no check goes with."""
        self._note_lost_alerts()
        for sink in self._sinks:
            sink.alert(alert)

    def note(self, event: str, details: dict[str, Any]) -> None:
        """An event of the run."""
        for sink in self._sinks:
            sink.note(event, details)

    def _note_lost_alerts(self) -> None:
        if not any(sink.failing for sink in self._sinks if has(sink.sink, "vital")):
            _note_lost_alerts(self._sinks, self._sinks)

    def interrupt(self) -> None:
        """Write that the run came to no end of its own, and release all sinks."""
        self._end()

    def close(self, details: dict[str, Any]) -> None:
        """Write the closing line, with `details` and what was lost, and release all sinks.

        Takes at most `CLOSE_SECONDS`; Ctrl-C ends the waiting, and the line is written still.
        """
        try:
            _close(self._sinks, details)
        finally:
            self._end.detach()


def _names(sinks: Sequence[Any]) -> Iterator[str]:
    """Of their classes, numbered from the second of a class on."""
    seen: Counter[str] = Counter()
    for sink in sinks:
        kind = type(sink).__name__
        seen[kind] += 1
        yield kind if seen[kind] == 1 else f"{kind}_{seen[kind]}"


def _close(sinks: Sequence[Isolated], details: dict[str, Any]) -> None:
    deadline = time.monotonic() + CLOSE_SECONDS
    served = [sink for sink in sinks if isinstance(sink, Courier)]
    last = [sink for sink in sinks if not isinstance(sink, Courier)]  # the record among them
    try:
        for sink in served:
            sink.note("closed", details)
            sink.finish(deadline)
        for sink in served:
            sink.close(deadline)
    finally:  # also when Ctrl-C ends the waiting
        for sink in served:
            sink.close(time.monotonic())
        _note_lost_alerts(sinks, last)
        lost = {sink.name: sink.lost for sink in sinks if sink.lost}
        for inline in last:
            inline.note("closed", {**details, "lost": lost})
            inline.close()


def _interrupt(sinks: Sequence[Isolated], process: int) -> None:
    if os.getpid() == process:  # a forked child has no record of its own
        _close(sinks, {"interrupted": True})


def _note_lost_alerts(sinks: Sequence[Isolated], told: Sequence[Isolated]) -> None:
    """Tell the record which alerts did not arrive where."""
    for sink in sinks:
        for alert, reason in sink.take_lost_alerts():
            details = {"sink": sink.name, "alert": alert.kind, "step": alert.step, "error": reason}
            for other in told:
                other.note("undelivered", details)
