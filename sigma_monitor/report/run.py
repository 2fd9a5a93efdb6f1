"""What a page shows of one record, in memory of a few columns."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sigma_monitor.alert import Status
from sigma_monitor.report.news import AlertRow, EventRow, Kept
from sigma_monitor.report.track import Baseline, Key, Track, over_baseline
from sigma_monitor.snapshot import WATCHED, Observation, Snapshot

__all__ = ["LOSS", "Run", "Spectrum"]

LOSS = Key("loss", "", "loss")
_FIRST, _LATEST = 200, 600  # rows that are kept of alerts, and of events


@dataclass(frozen=True)
class Spectrum:
    """Eigenvalues of the centred rows of one layer, counted between two of `SHARES`."""

    step: float
    counts: tuple[int, ...]


@dataclass
class Run:
    """Everything a page tells of one record."""

    path: str
    steps: array[float] = field(default_factory=lambda: array("d"))  # of the checks
    statuses: array[int] = field(default_factory=lambda: array("b"))  # likewise
    times: array[float] = field(default_factory=lambda: array("d"))  # likewise, seconds
    tracks: dict[Key, Track] = field(default_factory=dict)
    baselines: dict[Key, list[Baseline]] = field(default_factory=dict)
    fingerprints: list[tuple[float, str]] = field(default_factory=list)  # from which step on
    spectra: dict[str, list[Spectrum]] = field(default_factory=dict)  # baselines; the latest
    alerts: Kept[AlertRow] = field(default_factory=lambda: Kept(_FIRST, _LATEST))
    events: Kept[EventRow] = field(default_factory=lambda: Kept(_FIRST, _LATEST))
    happened: Counter[str] = field(default_factory=Counter)  # events by name
    torn: int = 0  # lines cut by a kill
    snapshot: Snapshot | None = None  # the latest check
    observed: dict[str, Observation] = field(default_factory=dict)  # the latest of each name
    settings: Mapping[str, Any] = field(default_factory=dict)  # of the latest `started`
    closed: Mapping[str, Any] | None = None  # None: no closing line is the last word
    borrowed: str = ""  # record that the baselines are from; empty: they are the run's own
    unshown: int = 0  # series beyond those that are kept

    @property
    def status(self) -> Status:
        """Of the latest check, or the worst of rows that are observed without one."""
        if self.snapshot is not None:
            return self.snapshot.status
        return max((seen.status for seen in self.observed.values()), default=Status.WARMUP)

    @property
    def layers(self) -> list[str]:
        """Names in the order they came."""
        return [k.name for k in self.tracks if k[::2] == ("representation", WATCHED)]

    def ratio(self, key: Key) -> Track:
        """A series in units of its baseline; empty where it has none."""
        fingerprints = [] if key.channel == "observed" else self.fingerprints
        baselines = self.baselines.get(key, [])
        return over_baseline(self.tracks.get(key, Track()), baselines, fingerprints)
