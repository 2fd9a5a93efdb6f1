"""All sinks of a run, as one."""

from __future__ import annotations

import os
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

from sigma_monitor.alert import Alert
from sigma_monitor.ranks import is_main
from sigma_monitor.sinks import ConsoleSink, Isolated, JsonlSink, Sink, WandbAlertSink
from sigma_monitor.snapshot import NAME, Observation, Snapshot

__all__ = ["RECORD", "Outlet", "SinkSpec"]

SinkSpec: TypeAlias = Sink | Literal["default"]

_FILE = "record.jsonl"
RECORD = Path(NAME) / _FILE  # below the run's output folder


class Outlet:
    """Delivers to every sink, each behind its wall; rank 0 alone has any.

    Args:
        sinks: `"default"` stands for the record below `output_dir`, the console and W&B alerts.
        output_dir: Folder of the run; without one there is no record.
        name: Of the monitor, and of the record's folder.
        afresh: Whether a new run begins, so that the record of an older one is put aside.
    """

    def __init__(
        self,
        sinks: Sequence[SinkSpec],
        output_dir: str | os.PathLike[str] | None,
        *,
        name: str = NAME,
        afresh: bool = False,
    ) -> None:
        path = None if output_dir is None else Path(output_dir) / name / _FILE
        self._sinks: list[Isolated] = []
        for spec in sinks if is_main() else ():
            chosen = _default_sinks(path, afresh=afresh) if isinstance(spec, str) else [spec]
            self._sinks += map(Isolated, chosen)
        # Also when the interpreter ends, as on a signal whose handler raises SystemExit.
        self._end = weakref.finalize(self, _note_interruption, self._sinks, os.getpid())

    @property
    def lost(self) -> dict[str, int]:
        """Calls that were not delivered, by name of the sink, where there were some."""
        return {sink.name: sink.lost for sink in self._sinks if sink.lost}

    def deliver(self, snapshot: Snapshot, alerts: Sequence[Alert]) -> None:
        """A check: to each sink its snapshot, and then what it raised."""
        for sink in self._sinks:
            sink.log(snapshot)
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
        self.close()

    def close(self) -> None:
        """Release all sinks."""
        self._end.detach()
        for sink in self._sinks:
            sink.close()


def _note_interruption(sinks: Sequence[Isolated], process: int) -> None:
    if os.getpid() == process:  # a forked child has no record of its own
        for sink in sinks:
            sink.note("closed", {"interrupted": True})


def _default_sinks(path: Path | None, *, afresh: bool) -> list[Sink]:
    record = [] if path is None else [JsonlSink(path, afresh=afresh)]
    return [*record, ConsoleSink(), WandbAlertSink()]
