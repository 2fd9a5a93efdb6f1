"""The page of a chain of generations, of what `sigma-monitor chain --json` printed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sigma_monitor.alert import Status
from sigma_monitor.errors import InputError
from sigma_monitor.estimate import Estimate
from sigma_monitor.report.axes import DASHES, height_of, panels
from sigma_monitor.report.figure import Entry, Figure, drawn_twice
from sigma_monitor.report.plain import (
    clean,
    fields,
    figures,
    finite,
    mapping,
    number,
    percent,
    power_of_ten,
    step_label,
)
from sigma_monitor.report.stack import Level, Panel, Series, Stack
from sigma_monitor.report.svg import COLOURS, Shape
from sigma_monitor.report.track import Track

__all__ = ["ChainView", "GenerationRow", "chain_view", "read_chain"]

_KIND = "lineage"
_SCHEMA = 1
_LARGEST = 1 << 28  # bytes
_MOST = 500  # generations
_TALL, _LOW = 230, 110  # of panels
_MEASURES = ("effective_rank", "distinct_2", "participation_ratio", "within_share")
_DRAWN = 512  # eigenvalues of a spectrum


@dataclass(frozen=True)
class GenerationRow:
    """One generation in the table."""

    generation: str
    status: Status
    ratios: tuple[str, ...]  # of `ChainView.measures`
    drift: str
    text: str


@dataclass(frozen=True)
class ChainView:
    """Everything the page of a chain says."""

    title: str
    status: Status
    headline: str
    notes: tuple[str, ...]
    reference: str
    measures: tuple[str, ...]
    rows: tuple[GenerationRow, ...]
    figures: tuple[Figure, ...]
    settings: Mapping[str, str]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready builtins, without the drawings."""
        return {
            "title": self.title,
            "status": self.status.name,
            "headline": self.headline,
            "notes": list(self.notes),
            "reference": self.reference,
            "generations": [{**asdict(row), "status": row.status.name} for row in self.rows],
            "settings": dict(self.settings),
        }


def read_chain(path: Path) -> dict[str, Any] | None:
    """What `chain` printed; None when the file is something else, such as a record.

    Args:
        path: Of a file.

    Raises:
        InputError: When it is of another schema, or holds no generation.
    """
    try:
        if path.stat().st_size > _LARGEST:
            return None
        body = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(body, dict) or body.get("kind") != _KIND:
        return None
    if body.get("schema") != _SCHEMA:
        raise InputError(
            f"{path}: schema {clean(body.get('schema'), 40)} of a chain: this version reads schema "
            f"{_SCHEMA}. Use the version of sigma-monitor that wrote it."
        )
    if not _bodies(body.get("generations")) or not _bodies(body.get("verdicts")):
        raise InputError(f"{path}: it holds no generation. Pass the output of chain --json.")
    return body


def chain_view(body: Mapping[str, Any], title: str) -> ChainView:
    """The view of a chain.

    Args:
        body: As `read_chain` gives it.
        title: Of the page.
    """
    verdicts = _bodies(body.get("verdicts"))
    known = {name: track for name in _MEASURES if (track := _ratios(verdicts, name)).steps}
    rows = tuple(_row(verdict, tuple(known)) for verdict in verdicts)
    reference = clean(body.get("reference"), 80)
    drawings = (
        _ratio_figure(body, known, reference),
        _value_figure(body),
        _spectrum_figure(body),
    )
    return ChainView(
        title=title,
        status=max(row.status for row in rows),
        headline=_headline(rows, reference),
        notes=tuple(clean(note) for note in _list(body.get("notes"))[:20]),
        reference=reference,
        measures=tuple(name.replace("_", " ") for name in known),
        rows=rows,
        figures=tuple(figure for figure in drawings if figure is not None),
        settings={
            name.replace("_", " "): value
            for name, value in fields(
                body,
                without=("generations", "controls", "verdicts", "notes", "schema", "kind"),
            ).items()
        },
    )


def _headline(rows: Sequence[GenerationRow], reference: str) -> str:
    worst = max(row.status for row in rows)
    if worst <= Status.HEALTHY:
        return f"All {len(rows)} generations are near {reference}."
    alike = [row for row in rows if row.status is worst]
    first = alike[0]
    told = first.text or f"Generation {first.generation} is {worst.name}."
    return told if len(alike) == 1 else f"{told} It is the first of {len(alike)} that are."


def _row(verdict: Mapping[str, Any], measures: Sequence[str]) -> GenerationRow:
    ratios = mapping(verdict.get("ratios"))
    status = verdict.get("status")
    return GenerationRow(
        generation=_generation(verdict),
        status=Status[status]
        if isinstance(status, str) and status in Status.__members__
        else Status.WARMUP,
        ratios=tuple(_with_interval(ratios.get(name)) for name in measures),
        drift=figures(finite(verdict.get("subspace_drift"))),
        text=clean(verdict.get("text")),
    )


def _with_interval(body: Any) -> str:
    estimate = _estimate(body)
    if not np.isfinite(estimate.value):
        return "–"
    if estimate.low == estimate.high:
        return percent(estimate.value)
    return f"{percent(estimate.value)} [{percent(estimate.low)}, {percent(estimate.high)}]"


def _generation(body: Mapping[str, Any]) -> str:
    at = number(body.get("generation"))
    return step_label(at) if np.isfinite(at) else "–"


def _ratio_figure(
    body: Mapping[str, Any], known: Mapping[str, Track], reference: str
) -> Figure | None:
    series = tuple(Series(name.replace("_", " "), track) for name, track in known.items())
    if not series:
        return None
    limits = mapping(body.get("limits"))
    levels = [
        Level(limit, role, f"{name} {percent(limit)}")
        for name, role in (("warning", "warn"), ("collapsed", "error"))
        if (limit := finite(limits.get(name))) is not None and 0 < limit < 1
    ]
    panel = Panel(f"% of {reference}", series, _TALL, tuple(levels), ratio=True)
    return Stack((panel,), _span(known.values()), unit="generation").figure(
        "ratio",
        f"Each generation against {reference}",
        "Bands are paired intervals over the documents of the fixed index set.",
    )


def _value_figure(body: Mapping[str, Any]) -> Figure | None:
    places = {
        "Effective rank": ("centred", "effective_rank"),
        "Distinct pairs of words, share": ("diversity", "distinct_2"),
        "Repeated runs of four words, share": ("diversity", "repeated_4gram_share"),
    }
    arms = {"generations": "generations", "controls": "controls, real data"}
    found = []
    for name, (part, measure) in places.items():
        tracks = {
            label: _track(
                (row, mapping(row.get(part)).get(measure)) for row in _bodies(body.get(arm))
            )
            for arm, label in arms.items()
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


def _spectrum_figure(body: Mapping[str, Any]) -> Figure | None:
    generations, controls = _bodies(body.get("generations")), _bodies(body.get("controls"))
    chosen = [("generation", generations[0]), ("generation", generations[-1])]
    chosen += [("control", controls[-1])] if controls else []
    spectra = {f"{arm} {_generation(row)}": _shares(row) for arm, row in chosen}
    spectra = {name: shares for name, shares in spectra.items() if len(shares)}
    if not spectra:
        return None

    def draw(figure: Any, shape: Shape) -> None:
        (axis,) = panels(figure, shape, [_TALL], 16)
        for place, shares in enumerate(spectra.values()):
            axis.plot(
                np.arange(1, len(shares) + 1),
                shares,
                color=COLOURS[f"series-{place % 4 + 1}"],
                linestyle=DASHES[place % 4],
            )
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.set_xlabel("eigenvalue, the largest first")
        for side in (axis.xaxis, axis.yaxis):
            _plain_log(side)

    return Figure(
        key="spectrum",
        title="The spectrum of the first and the latest generation",
        caption="Shares of the trace of the centred embeddings, the largest first.",
        words=" ".join(
            f"{name}: the largest eigenvalue has {percent(float(shares[0]))} of the trace, "
            f"{int((shares > 1e-3).sum())} have more than a thousandth."
            for name, shares in spectra.items()
        ),
        svgs=drawn_twice(draw, "spectrum", height_of([_TALL], 16)),
        legend=tuple(Entry(name, f"line-{n % 4}") for n, name in enumerate(spectra)),
    )


def _plain_log(side: Any) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    side.set_major_locator(LogLocator(numticks=6))
    side.set_minor_locator(NullLocator())
    side.set_major_formatter(FuncFormatter(lambda value, _: power_of_ten(value)))


def _shares(row: Mapping[str, Any]) -> Any:
    values = np.array([number(x) for x in _list(row.get("spectrum"))[:_DRAWN]])
    return np.clip(values[np.isfinite(values) & (values > 0)], 1e-12, 1.0)


def _ratios(verdicts: Sequence[Mapping[str, Any]], name: str) -> Track:
    return _track((verdict, mapping(verdict.get("ratios")).get(name)) for verdict in verdicts)


def _track(rows: Iterable[tuple[Mapping[str, Any], Any]]) -> Track:
    track = Track()
    for row, body in rows:
        at, estimate = number(row.get("generation")), _estimate(body)
        rises = not track.steps or at > track.steps[-1]
        if np.isfinite(at) and rises and np.isfinite(estimate.value):
            track.add(at, estimate)
    return track


def _estimate(body: Any) -> Estimate:
    if not isinstance(body, Mapping):
        return Estimate.exact(number(body))
    value = number(body.get("value"))
    low, high = finite(body.get("low")), finite(body.get("high"))
    return Estimate(value, value if low is None else low, value if high is None else high, "exact")


def _span(tracks: Iterable[Track]) -> tuple[float, float]:
    steps = [step for track in tracks for step in track.steps]
    return min(steps), max(steps)


def _list(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else []


def _bodies(value: Any) -> list[Mapping[str, Any]]:
    return [body for body in _list(value)[:_MOST] if isinstance(body, Mapping)]
