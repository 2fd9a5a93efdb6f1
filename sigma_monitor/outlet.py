"""All sinks of a run, as one."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

from sigma_monitor.alert import Alert
from sigma_monitor.ranks import is_main
from sigma_monitor.sinks import ConsoleSink, Isolated, JsonlSink, Sink, WandbAlertSink
from sigma_monitor.snapshot import Observation, Snapshot

__all__ = ["RECORD", "Outlet", "SinkSpec"]

SinkSpec: TypeAlias = Sink | Literal["default"]

RECORD = Path("sigma") / "record.jsonl"  # below the run's output folder


class Outlet:
    """Delivers to every sink, each behind its wall; rank 0 alone has any.

    Args:
        sinks: `"default"` stands for the record below `output_dir`, the console and W&B alerts.
        output_dir: Folder of the run; without one there is no record.
    """

    def __init__(
        self, sinks: Sequence[SinkSpec], output_dir: str | os.PathLike[str] | None
    ) -> None:
        self._sinks: list[Isolated] = []
        for spec in sinks if is_main() else ():
            chosen = _default_sinks(output_dir) if isinstance(spec, str) else [spec]
            self._sinks += map(Isolated, chosen)

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

    def close(self) -> None:
        """Release all sinks."""
        for sink in self._sinks:
            sink.close()


def _default_sinks(output_dir: str | os.PathLike[str] | None) -> list[Sink]:
    record = [] if output_dir is None else [JsonlSink(Path(output_dir) / RECORD)]
    return [*record, ConsoleSink(), WandbAlertSink()]
