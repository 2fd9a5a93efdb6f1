"""A curve with its band, in the characters of a terminal."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.text import Text

__all__ = ["Point", "chart"]

_FRAME = 23, 4  # columns and lines that axes and labels take
_LARGEST = 1e300  # so that their differences are numbers too
_MARGIN = 0.05  # of the range, above and below


@dataclass(frozen=True)
class Point:
    """One value and its interval."""

    x: float
    value: float
    low: float
    high: float

    @property
    def finite(self) -> bool:
        """Whether all of it can be drawn."""
        return all(abs(of) < _LARGEST for of in (self.x, self.value, self.low, self.high))


def chart(
    name: str,
    points: Sequence[Point],
    *,
    width: int,
    height: int,
    levels: Mapping[float, str],
) -> Text:
    """Draw the values as a curve, their intervals as two dim ones, and levels as straight lines.

    Args:
        name: Of the values, above their axis.
        points: By rising x; those that are not finite are left out.
        width: Columns, labels included.
        height: Lines, likewise.
        levels: Value to colour; the axis reaches to all of them.
    """
    from plotille import Figure

    figure = Figure()
    figure.width, figure.height = max(8, width - _FRAME[0]), max(2, height - _FRAME[1])
    figure.color_mode, figure.origin = "names", False
    figure.x_label, figure.y_label = "step", name
    for kind in (int, float):
        figure.register_label_formatter(kind, _label)
    drawn = _thinned([point for point in points if point.finite], 2 * figure.width)
    if drawn:
        bottom, top = _range(drawn, levels)
        figure.set_y_limits(bottom, top)
        if drawn[0].x < drawn[-1].x:
            figure.set_x_limits(drawn[0].x, drawn[-1].x)
        for level, of in levels.items():
            figure.axhline((level - bottom) / (top - bottom), lc=of)
        steps = [point.x for point in drawn]
        for end in ("low", "high"):
            figure.plot(steps, [getattr(point, end) for point in drawn], lc="bright_black")
        figure.plot(steps, [point.value for point in drawn], lc="cyan")
    return Text.from_ansi(figure.show())


def _label(value: Any, chars: int, delta: float, left: bool = False) -> str:
    """A number on an axis in at most `chars` characters."""
    text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return text.ljust(chars) if left else text.rjust(chars)


def _range(points: Iterable[Point], levels: Iterable[float]) -> tuple[float, float]:
    """Bottom and top of an axis that has room for all of it."""
    ends = [end for point in points for end in (point.low, point.value, point.high)]
    bottom, top = min(*ends, *levels), max(*ends, *levels)
    margin = _MARGIN * (top - bottom) or 0.5 * abs(top) or 1.0
    return bottom - margin, top + margin


def _thinned(points: Sequence[Point], most: int) -> list[Point]:
    """At most about so many, each with the ends of those that it stands for."""
    stride = max(1, math.ceil(len(points) / most))
    groups = (points[i : i + stride] for i in range(0, len(points), stride))
    return [
        Point(
            group[-1].x,
            group[-1].value,
            min(point.low for point in group),
            max(point.high for point in group),
        )
        for group in groups
    ]
