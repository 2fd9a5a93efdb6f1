"""What is known of a run that is being watched."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sigma_monitor.estimate import Estimate
from sigma_monitor.live.chart import Point
from sigma_monitor.sinks import RecordReader, parse_line
from sigma_monitor.snapshot import TEXT_RANK, UNCENTRED_RANK, WATCHED, Observation, Snapshot

__all__ = ["Measured", "Seen"]

_SHOWN = (WATCHED, UNCENTRED_RANK, "participation_ratio", "log_det", "output_entropy")

# Layer, channel or observed rows; key; estimate; ratio to the baseline of the first key.
Measured = tuple[str, str, Estimate, float | None]


class Seen:
    """The run so far.

    Args:
        path: Of its record.

    Attributes:
        record: All of it.
        lines: How many were taken.
        ended: The last of them is the closing one.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._reader = RecordReader()
        self.record = self._reader.record
        self.lines = 0
        self.ended = False

    def take(self, raw: bytes) -> tuple[str, Any] | None:
        """Take the next line, without its newline.

        Returns:
            Its type and what it holds: `check` a `Snapshot`, `observation` an `Observation`,
            `alert` and `event` a dictionary. None for a line that is blank or torn.

        Raises:
            RecordError: When a line that is not torn does not make sense.
        """
        self.lines += 1
        line = parse_line(self.path, self.lines, raw)
        if line is None:
            return None
        self._reader.take(line)
        if line.kind == "torn":
            return None
        self.ended = line.kind == "event" and line.body.get("event") == "closed"
        return line.kind, line.body

    @property
    def latest(self) -> Snapshot | None:
        """The last check."""
        return self.record.snapshots[-1] if self.record.snapshots else None

    def event(self, name: str) -> dict[str, Any]:
        """The last event of this name; empty where there was none."""
        found = (event for event in reversed(self.record.events) if event.get("event") == name)
        return next(found, {})

    @property
    def steps(self) -> Any:
        """How many the training is to have; None where the record does not say."""
        return self.event("started").get("max_steps")

    @property
    def layer(self) -> str | None:
        """The layer that is worst off now, or the first."""
        if self.latest is None:
            return None
        ratios = self.latest.ratios
        return (
            min(ratios, key=ratios.__getitem__) if ratios else next(iter(self.latest.layers), None)
        )

    def points(self) -> tuple[str, list[Point]]:
        """Name and values of the series to draw: the ratio, or the rank before there is one."""
        layer = self.layer
        relative = self.latest is not None and layer in self.latest.ratios
        found = []
        for snapshot in self.record.snapshots:
            estimate = snapshot.layers.get(layer or "", {}).get(WATCHED)
            scale = snapshot.ratios.get(layer or "") if relative else None
            if estimate is None or not estimate.value or (relative and scale is None):
                continue
            unit = 1.0 if scale is None else scale / estimate.value
            ends = (estimate.value, estimate.low, estimate.high)
            found.append(Point(snapshot.step, *(end * unit for end in ends)))
        return "ratio" if relative else "rank", found

    def measured(self) -> Iterator[Measured]:
        """What the last check measured, and the last of each observed rows."""
        if self.latest is not None:
            for layer, estimates in self.latest.layers.items():
                yield from _shown(layer, estimates, self.latest.ratios.get(layer))
        writing = next((s.generation for s in reversed(self.record.snapshots) if s.generation), {})
        yield from _shown("generation", writing, None)
        last: dict[str, Observation] = {o.name: o for o in self.record.observations}
        for name, observation in last.items():
            yield from _shown(name, observation.estimates, observation.ratio)


def _shown(name: str, estimates: Any, ratio: float | None) -> Iterator[Measured]:
    for key in _SHOWN:
        if key in estimates:
            yield name, key, estimates[key], ratio if key == TEXT_RANK else None
