"""A picture with what belongs to it: title, caption, legend, the same in words and in numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from sigma_monitor.report.axes import NARROW, WIDE
from sigma_monitor.report.plain import step_label
from sigma_monitor.report.svg import Shape, drawn
from sigma_monitor.report.track import Curve

__all__ = ["Entry", "Figure", "Table", "drawn_twice", "in_words", "numbers"]

_MOST_ROWS = 60  # of a table


@dataclass(frozen=True)
class Entry:
    """A line of a legend."""

    name: str
    swatch: str  # line-0, line-1, ... as drawn by `axes.line`, or heat-0, ...


@dataclass(frozen=True)
class Table:
    """The numbers behind a picture."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


@dataclass(frozen=True)
class Figure:
    """One picture of the page."""

    key: str  # id in the page
    title: str
    caption: str
    words: str  # what is seen, for those who do not see it
    svgs: tuple[Markup, ...]
    legend: tuple[Entry, ...] = ()
    table: Table | None = None


def drawn_twice(draw: Callable[[Any, Shape], None], key: str, height: float) -> tuple[Markup, ...]:
    """A drawing for wide pages and one for narrow ones; the style sheet shows one of them.

    Args:
        draw: Draws on a figure.
        key: Of the picture.
        height: Of either drawing.
    """
    return tuple(drawn(draw, shape, height, key) for shape in (WIDE, NARROW))


def in_words(name: str, curve: Curve, said: Callable[[float], str], unit: str = "step") -> str:
    """Where a series begins, its extremes, and where it ends.

    Args:
        name: Of the series.
        curve: As it is drawn.
        said: A value in words.
        unit: Of what is counted along it.
    """
    good = np.isfinite(curve.values)
    lost = f" Readings that were not finite: {len(curve.lost)} or more." if len(curve.lost) else ""
    if not good.any():
        return f"{name}: no finite reading.{lost}"
    steps, values = curve.steps[good], curve.values[good]

    def at(index: int) -> str:
        return f"{said(float(values[index]))} at {unit} {step_label(steps[index])}"

    low, high = int(values.argmin()), int(values.argmax())
    if curve.unbounded:
        lost += " Some of its intervals have no bound."
    parts = [f"begins at {at(0)}", f"lowest {at(low)}", f"highest {at(high)}", f"ends at {at(-1)}"]
    return f"{name}: {', '.join(parts if len(values) > 1 else parts[:1])}.{lost}"


def numbers(
    series: Sequence[tuple[str, Curve, Callable[[float], str]]], unit: str = "step"
) -> Table:
    """A table of several series, thinned so that each has its share of the rows.

    Args:
        series: Name, curve, and a value in words.
        unit: Of what is counted along it.
    """
    share = max(4, _MOST_ROWS // max(1, len(series)))
    rows: list[tuple[str, ...]] = []
    for name, curve, said in series:
        every = max(1, -(-len(curve.steps) // share))
        places = [*range(0, len(curve.steps) - 1, every), len(curve.steps) - 1]
        for place in places if len(curve.steps) else ():
            low, high = float(curve.lows[place]), float(curve.highs[place])
            interval = f"{said(low)} to {said(high)}" if low < high else ""
            step, value = step_label(curve.steps[place]), said(float(curve.values[place]))
            rows.append((name, step, value, interval))
    recorded = sum(curve.recorded for _, curve, _ in series)
    note = f"{len(rows)} of {recorded:,} readings." if recorded > len(rows) else ""
    return Table(("series", unit, "value", "interval"), tuple(rows), note)
