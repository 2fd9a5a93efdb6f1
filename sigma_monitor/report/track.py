"""Series of a record in a few bytes per check, and thinned to what a page can show."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sigma_monitor.estimate import Estimate

__all__ = ["Baseline", "Curve", "Key", "Track", "over_baseline", "thinned"]

Floats = NDArray[np.float64]

_LARGEST = 1e60  # of what is drawn: scaling to the page must not overflow


class Key(NamedTuple):
    """Which series it is, in the words of an alert."""

    channel: str
    name: str  # of a layer or of observed rows; empty for the other channels
    functional: str


class Baseline(NamedTuple):
    """What a series is compared with from a step on."""

    step: float
    value: float
    fingerprint: str  # of what it was measured with; others are never compared


@dataclass
class Track:
    """One series as it was recorded, by rising step."""

    steps: array[float] = field(default_factory=lambda: array("d"))
    values: array[float] = field(default_factory=lambda: array("d"))
    lows: array[float] = field(default_factory=lambda: array("d"))
    highs: array[float] = field(default_factory=lambda: array("d"))

    def add(self, step: float, estimate: Estimate) -> None:
        """Append one reading."""
        self.steps.append(step)
        self.values.append(estimate.value)
        self.lows.append(estimate.low)
        self.highs.append(estimate.high)

    def cut(self, step: float) -> None:
        """Drop what a resumed run repeats from `step` on."""
        kept = bisect_left(self.steps, step)
        for column in (self.steps, self.values, self.lows, self.highs):
            del column[kept:]


@dataclass(frozen=True)
class Curve:
    """A series as it is drawn: (points,) each; where it is NaN the line is broken."""

    steps: Floats
    values: Floats
    lows: Floats  # infinite where an interval has no bound
    highs: Floats  # likewise
    recorded: int  # readings that it stands for
    lost: Floats  # (k,) steps of readings that were not finite, at most one to a bucket

    @property
    def thin(self) -> bool:
        """Whether each bucket of readings is drawn as its lowest and highest."""
        return self.recorded > len(self.steps)

    @property
    def unbounded(self) -> bool:
        """Whether an interval is infinite."""
        return bool(np.isinf(self.lows).any() or np.isinf(self.highs).any())

    @property
    def shown(self) -> Floats:
        """(k,) the values that are finite."""
        kept: Floats = self.values[np.isfinite(self.values)]
        return kept


def over_baseline(
    track: Track, baselines: Sequence[Baseline], fingerprints: Sequence[tuple[float, str]]
) -> Track:
    """The series and its interval in units of the baseline that holds at each step.

    Before the first baseline of a probe set that one holds; where a probe set has none there is
    nothing to compare with, and the series is left out.

    Args:
        track: The series.
        baselines: In the order they were recorded.
        fingerprints: From which step on the probe set and the conventions are which, rising.
    """
    if not fingerprints:
        fingerprints = [(-np.inf, "")]
    steps = np.asarray(track.steps)
    unit = np.full(len(steps), np.nan)
    ends = [*(step for step, _ in fingerprints[1:]), np.inf]
    for (start, fingerprint), end in zip(fingerprints, ends, strict=True):
        inside = (steps < end) if start == fingerprints[0][0] else (start <= steps) & (steps < end)
        same = [b for b in baselines if b.fingerprint == fingerprint]
        for number, baseline in enumerate(same):
            unit[inside & (steps >= baseline.step) if number else inside] = baseline.value
    kept = np.isfinite(unit) & (unit > 0)
    columns = (np.asarray(column)[kept] for column in (track.values, track.lows, track.highs))
    with np.errstate(over="ignore", invalid="ignore"):
        ratios = [array("d", (column / unit[kept]).tolist()) for column in columns]
    return Track(array("d", steps[kept].tolist()), *ratios)


def thinned(track: Track, buckets: int) -> Curve:
    """At most two points to each of so many equal stretches of steps: the lowest and the highest.

    So a dip of a single check stays in the picture. The band spans the lowest and highest ends.

    Args:
        track: The series.
        buckets: 1 or more.
    """
    columns = (track.steps, track.values, track.lows, track.highs)
    steps, values, lows, highs = (np.array(column, dtype=np.float64) for column in columns)
    good = np.isfinite(values)
    for column in (values, lows, highs):
        column[~good] = np.nan
        np.clip(column, -_LARGEST, _LARGEST, out=column, where=np.isfinite(column))
    lows, highs = (np.where(np.isnan(ends), values, ends) for ends in (lows, highs))
    if len(steps) <= 2 * buckets:
        return Curve(steps, values, lows, highs, len(steps), steps[~good])
    edges = np.searchsorted(steps, np.linspace(steps[0], steps[-1], buckets + 1)[1:-1])
    points: list[int] = []
    bands: list[tuple[float, float]] = []
    lost: list[float] = []
    for bucket in np.split(np.arange(len(steps)), edges):
        inside = bucket[good[bucket]]
        if len(inside) < len(bucket):
            lost.append(float(steps[bucket[~good[bucket]][0]]))
        if len(inside):
            ends = {int(inside[values[inside].argmin()]), int(inside[values[inside].argmax()])}
            points += sorted(ends)
            bands += [(lows[inside].min(), highs[inside].max())] * len(ends)
        elif len(bucket):
            points.append(int(bucket[0]))
            bands.append((np.nan, np.nan))
    band = np.array(bands)
    kept = np.array(points)
    return Curve(steps[kept], values[kept], band[:, 0], band[:, 1], len(steps), np.array(lost))
