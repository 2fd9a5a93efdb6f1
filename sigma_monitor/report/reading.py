"""A record line by line into a `Run`."""

from __future__ import annotations

import math
import os
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from typing import Any

from sigma_monitor.errors import InputError, RecordError
from sigma_monitor.estimate import Estimate
from sigma_monitor.report.news import AlertRow, EventRow
from sigma_monitor.report.plain import clean, mapping, number
from sigma_monitor.report.run import LOSS, Run, Spectrum
from sigma_monitor.report.track import Baseline, Key, Track
from sigma_monitor.sinks import Line, is_superseded, read_lines
from sigma_monitor.snapshot import (
    COMPRESSION,
    DISTINCT_2,
    ENTROPY,
    FLOORED,
    REPEATED,
    SCHEMA,
    SHARES,
    TEXT_RANK,
    UNCENTRED_RANK,
    WATCHED,
    Observation,
    Snapshot,
)

__all__ = ["WRITTEN", "read_run"]

WRITTEN = (TEXT_RANK, ENTROPY, DISTINCT_2, COMPRESSION, REPEATED)  # of the generation channel
_OF_LAYER = (WATCHED, FLOORED)
_OF_ROWS = (WATCHED, UNCENTRED_RANK)
_MOST_SERIES = 512  # names of layers may come from anywhere
_LARGEST_STEP = 2**53  # up to which whole numbers are exact
_LARGEST_LOG = 700.0  # whose exponential is a number
_NONE = Estimate(math.nan, math.nan, math.nan, "exact")


def read_run(path: str | os.PathLike[str]) -> Run:
    """Read the record at `path`.

    Raises:
        InputError: When it cannot be read, is of another schema, or is no record.
    """
    reading = _Reading(Run(clean(os.fspath(path))))
    try:
        for line in read_lines(path):
            reading.take(line)
    except RecordError as error:
        text = clean(str(error))
        raise InputError(text if text.startswith(str(path)) else f"{path}: {text}") from error
    if not reading.lines:
        raise InputError(
            f"{path}: it holds no line of a record. Pass the record.jsonl of a run, or a folder "
            "of runs."
        )
    return reading.run


class _Reading:
    """Takes the lines of a record one by one into a `Run`."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.lines = 0  # that are not torn
        self._announced: Mapping[str, Any] | None = None  # baselines of a check that is to come

    def take(self, line: Line) -> None:
        """Take the next line.

        Raises:
            RecordError: When it is of another schema or cannot be shown.
        """
        if line.kind == "torn":
            self.run.torn += 1
            return
        self.lines += 1
        if line.kind == "check":
            self._take_check(line.number, line.body)
        elif line.kind == "observation":
            self._take_observation(line.number, line.body)
        elif line.body.get("schema") != SCHEMA:
            raise RecordError(
                f"line {line.number}: schema {clean(line.body.get('schema'), 40)}: this version "
                f"reads schema {SCHEMA}. Use the version of sigma-monitor that wrote it."
            )
        elif line.kind == "alert":
            self._take_alert(line.body)
        else:
            self._take_event(line.body)

    def _take_check(self, number_: int, snapshot: Snapshot) -> None:
        run, step = self.run, _checked_step(number_, snapshot.step)
        if run.steps and step <= run.steps[-1]:
            self._forget_checks(snapshot)
        fingerprint = clean(snapshot.fingerprint)
        if not run.fingerprints or run.fingerprints[-1][1] != fingerprint:
            run.fingerprints.append((step, fingerprint))
            del run.fingerprints[:-_MOST_SERIES]
        run.steps.append(step)
        run.statuses.append(int(snapshot.status))
        run.times.append(number(snapshot.time))
        for key, estimate in _readings(snapshot):
            self._add(key, step, estimate)
        for layer, counts in snapshot.spectra.items():
            self._add_spectrum(clean(layer), Spectrum(step, counts))
        run.snapshot, run.closed = snapshot, None
        self._settle(step)

    def _take_observation(self, number_: int, new: Observation) -> None:
        run, step = self.run, _checked_step(number_, new.step)
        name = clean(new.name)
        before = run.observed.get(name)
        if before is not None and step <= before.step:
            for key, track in run.tracks.items():
                if key.channel == "observed" and key.name == name:
                    track.cut(step)
            self._forget_alerts(new)
        if before is not None or len(run.observed) < _MOST_SERIES:
            run.observed[name] = new
        for functional in _OF_ROWS:
            self._add(Key("observed", name, functional), step, new.estimates.get(functional, _NONE))
        run.closed = None

    def _take_alert(self, body: Mapping[str, Any]) -> None:
        alert = AlertRow.of(body)
        self.run.alerts.append(alert)
        if alert.kind != "BASELINE" or alert.baseline is None:
            return
        observed = alert.channel == "observed"
        now = self.run.fingerprints[-1][1] if self.run.fingerprints else ""
        fingerprint = "" if observed else alert.fingerprint or now
        key = Key(alert.channel, alert.layer, alert.functional)
        self._add_baseline(key, Baseline(alert.step, alert.baseline, fingerprint))
        latest = self.run.spectra.get(alert.layer, [])
        if key.channel == "representation" and latest and latest[-1].step == alert.step:
            latest[:] = [latest[-1], latest[-1]]

    def _take_event(self, body: Mapping[str, Any]) -> None:
        run, event = self.run, body.get("event")
        row = EventRow.of(body)
        if row.event in run.happened or len(run.happened) < _MOST_SERIES:
            run.happened[row.event] += 1
        run.events.append(row)
        run.closed = body if event == "closed" else None
        if event == "started":
            run.settings = body
        if event == "baseline":
            self._announced = body
            run.borrowed = clean(body.get("source"))

    def _settle(self, step: float) -> None:
        """The baselines that were announced hold from this check on."""
        if self._announced is None:
            return
        fingerprint = clean(self._announced.get("fingerprint"))
        for key, value in _announced(self._announced.get("baselines")):
            self._add_baseline(key, Baseline(step, value, fingerprint))
        self._announced = None

    def _add(self, key: Key, step: float, estimate: Estimate) -> None:
        tracks = self.run.tracks
        if key not in tracks and len(tracks) >= _MOST_SERIES:
            self.run.unshown += 1
            return
        if key not in tracks:
            tracks[key] = Track()
        tracks[key].add(step, estimate)

    def _add_baseline(self, key: Key, baseline: Baseline) -> None:
        if key not in self.run.tracks:
            return
        known = self.run.baselines.setdefault(key, [])
        if not known or known[-1][1:] != baseline[1:]:
            known.append(baseline)
            del known[_MOST_SERIES:]

    def _add_spectrum(self, layer: str, spectrum: Spectrum) -> None:
        spectra = self.run.spectra
        known = layer in spectra or len(spectra) < _MOST_SERIES
        if known and len(spectrum.counts) == len(SHARES) - 1:
            first = (spectra.get(layer) or [spectrum])[0]
            spectra[layer] = [first, spectrum]

    def _forget_checks(self, by: Snapshot) -> None:
        """A resumed run repeats itself from here on."""
        run, step = self.run, by.step
        kept = bisect_left(run.steps, step)
        del run.steps[kept:], run.statuses[kept:], run.times[kept:]
        for key, track in run.tracks.items():
            if key.channel != "observed":
                track.cut(step)
        for known in run.baselines.values():
            known[:] = [b for b in known if b.step < step or b.fingerprint == ""]
        run.fingerprints = [known for known in run.fingerprints if known[0] < step]
        run.spectra = {
            layer: [spectrum for spectrum in spectra if spectrum.step < step][:1] * 2
            for layer, spectra in run.spectra.items()
        }
        self._forget_alerts(by)

    def _forget_alerts(self, by: Snapshot | Observation) -> None:
        self.run.alerts.remove(
            lambda row: is_superseded(
                {"channel": row.channel, "layer": row.layer, "step": row.step}, by
            )
        )


def _readings(snapshot: Snapshot) -> Iterable[tuple[Key, Estimate]]:
    for layer, estimates in snapshot.layers.items():
        for functional in _OF_LAYER:
            # A layer without estimates had nothing to measure, which is news of its rank alone.
            if functional in estimates or functional == WATCHED:
                yield (
                    Key("representation", clean(layer), functional),
                    estimates.get(functional, _NONE),
                )
    for functional in WRITTEN:
        if functional in snapshot.generation:
            yield Key("generation", "", functional), snapshot.generation[functional]
    if snapshot.loss is not None:
        yield LOSS, Estimate.exact(snapshot.loss)


def _announced(baselines: Any) -> Iterable[tuple[Key, float]]:
    """Those of a `baseline` event: natural logs, as `RunWatch.baselines` gives them."""
    found = mapping(baselines)
    for layer, body in mapping(found.get("layers")).items():
        yield from _value(
            Key("representation", clean(layer), WATCHED), mapping(body).get("baseline")
        )
    for functional, body in mapping(mapping(found.get("generation")).get("baselines")).items():
        yield from _value(Key("generation", "", clean(functional)), body)


def _value(key: Key, baseline: Any) -> Iterable[tuple[Key, float]]:
    log_value = number(mapping(baseline).get("log_value"))
    if abs(log_value) < _LARGEST_LOG:  # NaN is not
        yield key, math.exp(log_value)


def _checked_step(line: int, step: int) -> float:
    if abs(step) > _LARGEST_STEP:
        raise RecordError(f"line {line}: step {clean(step, 40)} is larger than any training has.")
    return float(step)
