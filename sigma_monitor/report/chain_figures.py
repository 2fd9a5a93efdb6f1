"""The pictures of a chain: series over its generations, and the first and the latest spectrum."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sigma_monitor.estimate import Estimate
from sigma_monitor.report.axes import DASHES, height_of, panels, power_scale
from sigma_monitor.report.figure import Entry, Figure, Table, drawn_twice
from sigma_monitor.report.plain import (
    figures,
    finite,
    mapping,
    number,
    objects,
    percent,
    step_label,
)
from sigma_monitor.report.stack import Level, Panel, Series, Stack
from sigma_monitor.report.svg import COLOURS, Shape
from sigma_monitor.report.track import Track
from sigma_monitor.snapshot import DISTINCT_2, EFFECTIVE_RANK, GENERATION_MEASURES, REPEATED

__all__ = [
    "estimate_of",
    "number_of",
    "ratio_figure",
    "ratio_tracks",
    "spectrum_figure",
    "value_figure",
]

_VALUES = {
    "Effective rank": ("centred", EFFECTIVE_RANK),
    "Distinct pairs of words, share": ("diversity", DISTINCT_2),
    "Repeated runs of four words, share": ("diversity", REPEATED),
}
_ARMS = {"generations": "generations", "controls": "controls, real data"}
_TALL, _LOW = 230, 110  # of panels
_TOP = 16
_LARGEST_NUMBER = 2**53  # of a generation, up to which whole numbers are exact
_MOST_VALUES = 512  # eigenvalues of a spectrum
_LISTED = (1, 2, 3, 5, 10, 20, 50, 100, 200, 500)  # of them in the table, from the largest


def number_of(body: Mapping[str, Any]) -> float | None:
    """Of a generation; None where it has none."""
    found = finite(body.get("generation"))
    return None if found is None or abs(found) > _LARGEST_NUMBER else found


def estimate_of(body: Any) -> Estimate:
    """A value with its interval; an end that is missing is the value.

    Args:
        body: As of `Estimate.to_dict`, or a number.
    """
    if not isinstance(body, Mapping):
        return Estimate.exact(number(body))
    value, low, high = (number(body.get(name)) for name in ("value", "low", "high"))
    return Estimate(
        value, value if math.isnan(low) else low, value if math.isnan(high) else high, "exact"
    )


def ratio_tracks(verdicts: Sequence[Mapping[str, Any]]) -> dict[str, Track]:
    """Ratios over the generations, of each of `GENERATION_MEASURES` that has any."""
    tracks = {
        name: _track((verdict, mapping(verdict.get("ratios")).get(name)) for verdict in verdicts)
        for name in GENERATION_MEASURES
    }
    return {name: track for name, track in tracks.items() if track.steps}


def ratio_figure(
    body: Mapping[str, Any], known: Mapping[str, Track], reference: str
) -> Figure | None:
    """Ratios to the reference, with their limits.

    Args:
        body: As `read_chain` gives it.
        known: As `ratio_tracks` gives it.
        reference: In words.
    """
    if not known:
        return None
    limits = mapping(body.get("limits"))
    levels = [
        Level(limit, role, f"{name} {percent(limit)}")
        for key, role, name in (("warning", "warn", "warning"), ("collapsed", "error", "collapse"))
        if (limit := finite(limits.get(key))) is not None and 0 < limit < 1
    ]
    series = tuple(Series(GENERATION_MEASURES[name], track) for name, track in known.items())
    panel = Panel(f"% of {reference}", series, _TALL, tuple(levels), ratio=True)
    return Stack((panel,), _span(known.values()), unit="generation").figure(
        "ratio",
        f"Each generation against {reference}",
        "Bands are paired intervals over the documents of the fixed index set.",
    )


def value_figure(body: Mapping[str, Any]) -> Figure | None:
    """What was measured of generations and controls, in its own units.

    Args:
        body: As `read_chain` gives it.
    """
    found = []
    for name, (part, measure) in _VALUES.items():
        tracks = {
            label: _track(
                (row, mapping(row.get(part)).get(measure)) for row in objects(body.get(arm))
            )
            for arm, label in _ARMS.items()
        }
        series = tuple(Series(label, track) for label, track in tracks.items() if track.steps)
        if series:
            found.append(Panel(name, series, _LOW))
    if not found:
        return None
    drawn = [series.track for panel in found for series in panel.series]
    return Stack(tuple(found), _span(drawn), unit="generation").figure(
        "values",
        "What was measured",
        "In their own units, beside those of real data where there is a control.",
    )


def spectrum_figure(body: Mapping[str, Any]) -> Figure | None:
    """Eigenvalues by their rank, of the first and the latest generation and the latest control.

    Args:
        body: As `read_chain` gives it.
    """
    spectra = _spectra(body)
    if not spectra:
        return None

    def draw(figure: Any, shape: Shape) -> None:
        (axis,) = panels(figure, shape, [_TALL], _TOP)
        for place, shares in enumerate(spectra.values()):
            axis.plot(
                np.arange(1, len(shares) + 1),
                shares,
                color=COLOURS[f"series-{place + 1}"],
                linestyle=DASHES[place],
            )
        axis.set_xlabel("number of the eigenvalue")
        for side in (axis.xaxis, axis.yaxis):
            power_scale(side)

    return Figure(
        key="spectrum",
        title="The spectrum of the first and the latest generation",
        caption="Shares of the trace of the centred embeddings, the largest first.",
        words=" ".join(
            f"{name}: the largest eigenvalue has {percent(float(shares[0]))} of the trace, "
            f"{int((shares > 1e-3).sum())} have more than a thousandth."
            for name, shares in spectra.items()
        ),
        svgs=drawn_twice(draw, "spectrum", height_of([_TALL], _TOP)),
        legend=tuple(Entry(name, f"line-{n}") for n, name in enumerate(spectra)),
        table=_spectrum_table(spectra),
    )


def _spectra(body: Mapping[str, Any]) -> dict[str, NDArray[np.float64]]:
    """(values,) shares of the trace by whose they are, without those that have none."""
    generations, controls = objects(body.get("generations")), objects(body.get("controls"))
    chosen = [("generation", row) for row in (generations[0], generations[-1])]
    chosen += [("control", row) for row in controls[-1:]]
    found = {}
    for arm, row in chosen:
        at, shares = number_of(row), _shares(row.get("spectrum"))
        if len(shares):
            found[arm if at is None else f"{arm} {step_label(at)}"] = shares
    return found


def _shares(spectrum: Any) -> NDArray[np.float64]:
    listed = spectrum[:_MOST_VALUES] if isinstance(spectrum, list) else []
    values = np.array([number(value) for value in listed], dtype=np.float64)
    return np.clip(values[np.isfinite(values) & (values > 0)], 1e-12, 1.0)


def _spectrum_table(spectra: Mapping[str, NDArray[np.float64]]) -> Table:
    longest = max(map(len, spectra.values()))
    rows = [
        (
            str(place),
            *(figures(x[place - 1]) if place <= len(x) else "–" for x in spectra.values()),
        )
        for place in _LISTED
        if place <= longest
    ]
    return Table(("eigenvalue", *spectra), tuple(rows), "Shares of the trace.")


def _track(rows: Iterable[tuple[Mapping[str, Any], Any]]) -> Track:
    """Readings by rising generation; empty where none of them is finite."""
    track = Track()
    for row, body in rows:
        at = number_of(row)
        if at is not None and (not track.steps or at > track.steps[-1]):
            track.add(at, estimate_of(body))
    return track if any(map(math.isfinite, track.values)) else Track()


def _span(tracks: Iterable[Track]) -> tuple[float, float]:
    steps = [step for track in tracks for step in track.steps]
    return min(steps), max(steps)
