"""The map of layers over steps: where the spectrum narrows, and when it began."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sigma_monitor.report.axes import height_of, panels, step_axis
from sigma_monitor.report.figure import Entry, Figure, Table, drawn_twice
from sigma_monitor.report.figures import span
from sigma_monitor.report.plain import clean, percent, step_label, tail
from sigma_monitor.report.run import Run
from sigma_monitor.report.svg import HEAT, Shape
from sigma_monitor.report.track import Key, Track
from sigma_monitor.snapshot import ENTROPY, TEXT_RANK, WATCHED

__all__ = ["heat_figure"]

# Ratios between which a colour stands; the thresholds of the detector are among them.
_EDGES = (0.5, 0.7, 0.8, 0.9, 1.1, 1.25, 1.5, 2.0)
_WORDS = (
    "below 50%",
    "50 to 70%",
    "70 to 80%",
    "80 to 90%",
    "90 to 110%",
    "110 to 125%",
    "125 to 150%",
    "150 to 200%",
    "above 200%",
)
_MOST_ROWS = 48
_ROW, _LEAST, _TOP = 18, 30, 8  # heights
_LETTER = 7.5  # width of one in a label
_LONG = {"wide": 22, "narrow": 14}  # characters of a label
_SEEN = 12  # rows of the table, and columns


def heat_figure(run: Run) -> Figure | None:
    """Every series with a baseline as a row, its ratio as a colour.

    Args:
        run: What was recorded.
    """
    rows = _rows(run)
    if not rows:
        return None
    first, last = span(run)
    shown = rows if len(rows) <= _MOST_ROWS else _evenly(rows, _MOST_ROWS)
    height = max(_LEAST, _ROW * len(shown))

    def draw(figure: Any, shape: Shape) -> None:
        labels = [tail(name, _LONG[shape.name]) for name, _ in shown]
        left = 20 + _LETTER * max(map(len, labels))
        (axis,) = panels(figure, shape, [height], _TOP, left)
        edges = np.linspace(first, last if last > first else first + 1, shape.buckets // 2 + 1)
        cells = np.array([_lowest(track, edges) for _, track in shown])
        _paint(axis, cells, edges)
        axis.grid(visible=False)
        axis.set_ylim(len(shown), 0)
        axis.set_yticks(np.arange(len(shown)) + 0.5, labels)
        step_axis(axis, shape, first, last, name="step")

    caption = (
        "Each row is one series in % of its baseline, each cell the value farthest from it. Where "
        "there is no colour nothing was measured."
    )
    if len(shown) < len(rows):
        caption += f" Shown are {len(shown)} of {len(rows)}, evenly chosen."
    return Figure(
        key="map",
        title="Where and when",
        caption=caption,
        words=_in_words(rows),
        svgs=drawn_twice(draw, "map", height_of([height], _TOP)),
        legend=tuple(Entry(word, f"heat-{n}") for n, word in enumerate(_WORDS)),
        table=_table(shown, first, last),
    )


def _rows(run: Run) -> list[tuple[str, Track]]:
    """Layers from the first to the last, then observed rows, then the text."""
    keys = [(layer, Key("representation", layer, WATCHED)) for layer in run.layers]
    keys += [
        (key.name, key)
        for key in run.tracks
        if key.channel == "observed" and key.functional == WATCHED
    ]
    keys.append(("rank of text", Key("generation", "", TEXT_RANK)))
    keys.append(("output entropy", Key("generation", "", ENTROPY)))
    tracks = [(name, run.ratio(key)) for name, key in keys]
    return [(name, track) for name, track in tracks if track.steps]


def _evenly(rows: Sequence[tuple[str, Track]], count: int) -> list[tuple[str, Track]]:
    return [rows[int(place)] for place in np.linspace(0, len(rows) - 1, count)]


def _lowest(track: Track, edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """(cells,) the ratio farthest from 1 between two edges, NaN where nothing was measured.

    A reading stands until the next one.
    """
    steps, values = np.asarray(track.steps), np.asarray(track.values)
    cells = np.full(len(edges) - 1, np.nan)
    starts = np.searchsorted(steps, edges[:-1])
    ends = np.searchsorted(steps, edges[1:])
    ends[-1] = len(steps)
    for cell, (start, end) in enumerate(zip(starts, ends, strict=True)):
        inside = values[start:end] if end > start else values[max(0, start - 1) : start]
        inside = inside[np.isfinite(inside)]
        if len(inside):
            with np.errstate(divide="ignore"):
                cells[cell] = inside[np.abs(np.log(np.maximum(inside, 1e-300))).argmax()]
    return cells


def _paint(axis: Any, cells: NDArray[np.float64], edges: NDArray[np.float64]) -> None:
    """One path for each colour, of all its runs of cells."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    classes = np.where(np.isfinite(cells), np.digitize(cells, _EDGES), -1)
    for number, colour in enumerate(HEAT):
        boxes = [
            _box(left, right, row + 0.06, row + 0.94)
            for row in range(len(classes))
            for left, right in _runs(classes[row] == number, edges)
        ]
        if boxes:
            path = Path.make_compound_path(*boxes)
            axis.add_patch(PathPatch(path, facecolor=colour, linewidth=0))


def _box(left: float, right: float, top: float, bottom: float) -> Any:
    from matplotlib.path import Path

    corners = [(left, top), (right, top), (right, bottom), (left, bottom), (left, top)]
    return Path(corners, closed=True)


def _runs(mask: NDArray[np.bool_], edges: NDArray[np.float64]) -> list[tuple[float, float]]:
    """Ends of the stretches in which `mask` holds."""
    padded = np.concatenate([[False], mask, [False]])
    (turns,) = np.nonzero(padded[1:] != padded[:-1])
    return [
        (float(edges[a]), float(edges[b])) for a, b in zip(turns[::2], turns[1::2], strict=True)
    ]


def _in_words(rows: Sequence[tuple[str, Track]]) -> str:
    lowest = [(name, *_extreme(track)) for name, track in rows]
    told = sorted((x for x in lowest if x[1] is not None), key=lambda item: item[1] or 0)
    parts = [
        f"{clean(name, 40)}: lowest {percent(ratio)} at step {step_label(step)}"
        for name, ratio, step in told[:_SEEN]
        if ratio is not None
    ]
    return f"{len(rows)} rows. {'; '.join(parts)}."


def _extreme(track: Track) -> tuple[float | None, float]:
    values = np.asarray(track.values)
    if not np.isfinite(values).any():
        return None, 0.0
    place = int(np.nanargmin(np.where(np.isfinite(values), values, np.nan)))
    return float(values[place]), track.steps[place]


def _table(rows: Sequence[tuple[str, Track]], first: float, last: float) -> Table:
    edges = np.linspace(first, last if last > first else first + 1, _SEEN // 2 + 1)
    head = ("row", *(f"up to step {step_label(edge)}" for edge in edges[1:]))
    body = [
        (
            clean(name, 60),
            *("–" if np.isnan(x) else percent(float(x)) for x in _lowest(track, edges)),
        )
        for name, track in rows
    ]
    return Table(head, tuple(body), "Each cell is the value farthest from 100% in its stretch.")
