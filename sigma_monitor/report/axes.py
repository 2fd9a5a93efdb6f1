"""Axes that all pictures of the page have in common: panels over one another, steps below."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from sigma_monitor.report.news import AlertRow
from sigma_monitor.report.plain import compact, figures, power_of_ten
from sigma_monitor.report.svg import COLOURS, Shape
from sigma_monitor.report.track import Curve

__all__ = [
    "DASHES",
    "NARROW",
    "WIDE",
    "alert_marks",
    "band",
    "height_of",
    "level",
    "line",
    "panels",
    "power_scale",
    "ratio_scale",
    "step_axis",
    "value_scale",
]

WIDE = Shape("wide", 800, 13, 240)
NARROW = Shape("narrow", 330, 12, 80)
DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)))  # by series

_BOTTOM, _GAP, _LEFT, _RIGHT = 42, 40, 58, 14
_LOG_ABOVE = 3.0  # ratio from which on a linear scale hides what is below 1
_ROOM = 2.0  # times the highest ratio, for the upper ends of intervals
_NEAREST_MARKS = 16  # units between the numbers of two alerts


def height_of(heights: Sequence[float], top: float) -> float:
    """Of a figure whose panels have these heights, and so much room above."""
    return sum(heights) + _GAP * (len(heights) - 1) + top + _BOTTOM


def panels(
    figure: Any, shape: Shape, heights: Sequence[float], top: float, left: float = _LEFT
) -> list[Any]:
    """Axes over one another, the first on top.

    Args:
        figure: Empty.
        shape: Of the drawing.
        heights: Of each.
        top: Room above them.
        left: Room for labels.
    """
    total, width = height_of(heights, top), shape.width - left - _RIGHT
    found, edge = [], total - top
    for height in heights:
        box = (left / shape.width, (edge - height) / total, width / shape.width, height / total)
        found.append(figure.add_axes(box))
        edge -= height + _GAP
    return found


def step_axis(axis: Any, shape: Shape, low: float, high: float, *, name: str) -> None:
    """Training steps, or other whole numbers, from left to right.

    Args:
        axis: To be set up.
        shape: Of the drawing.
        low: First step.
        high: Last step.
        name: Of the unit; empty where another axis below has the numbers.
    """
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    margin = (high - low) * 0.01 or 0.5
    axis.set_xlim(low - margin, high + margin)
    axis.xaxis.set_major_locator(MaxNLocator(4 if shape.narrow else 8, integer=True))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda step, _: compact(step)))
    axis.tick_params(axis="x", labelbottom=bool(name))
    if name:
        axis.set_xlabel(name)


def line(axis: Any, curve: Curve, number: int) -> None:
    """A series, with crosses where a reading was not finite, on axes with room for its intervals.

    Args:
        axis: To draw on.
        curve: What to draw.
        number: Of the series among those of the panel, from 0; decides colour and dashes.
    """
    alone = len(curve.shown) < 2
    marker = "o" if alone else None
    colour = _colour(number)
    axis.plot(curve.steps, curve.values, color=colour, linestyle=DASHES[number % 4], marker=marker)
    for ends in (curve.lows, curve.highs):
        bounded = np.isfinite(ends)
        axis.update_datalim(np.column_stack([curve.steps[bounded], ends[bounded]]))
    if len(curve.lost):
        axis.plot(
            curve.lost,
            np.full(len(curve.lost), 0.04),
            transform=axis.get_xaxis_transform(),
            color=COLOURS["error"],
            linestyle="none",
            marker="x",
        )


def band(axis: Any, curve: Curve, number: int) -> None:
    """The intervals of a series; what has no bound goes to the edge.

    Args:
        axis: Whose scale is set; it stays as it is.
        curve: As of `line`.
        number: Likewise.
    """
    bottom, top = axis.get_ylim()
    axis.fill_between(
        curve.steps,
        np.where(np.isinf(curve.lows), bottom, curve.lows),
        np.where(np.isinf(curve.highs), top, curve.highs),
        color=_colour(number),
        alpha=0.16,
        linewidth=0,
    )
    axis.set_ylim(bottom, top)


def level(axis: Any, value: float, role: str, name: str) -> None:
    """A threshold, named at its left end, where most runs are far from it.

    Args:
        axis: To draw on.
        value: Where.
        role: Of its colour.
        name: In a word or two.
    """
    axis.axhline(value, color=COLOURS[role], linewidth=1.2, linestyle=(0, (2, 3)))
    axis.annotate(
        name,
        (0, value),
        xycoords=axis.get_yaxis_transform(),
        xytext=(4, 3),
        textcoords="offset points",
        fontsize="small",
        color=COLOURS[role],
    )


def alert_marks(axes: Sequence[Any], shape: Shape, alerts: Sequence[tuple[int, AlertRow]]) -> None:
    """A line through all panels at each alert, with its number on top where there is room.

    Args:
        axes: Panels over one another.
        shape: Of the drawing.
        alerts: Their numbers in the page, and the alerts, by step.
    """
    low, high = axes[0].get_xlim()
    units = (shape.width - _LEFT - _RIGHT) / (high - low)
    last = -math.inf
    for number, alert in alerts:
        if not low <= alert.step <= high:
            continue
        colour = COLOURS["error" if alert.severity == "error" else "warn"]
        style = "-" if alert.severity == "error" else (0, (4, 2))
        for axis in axes:
            axis.axvline(alert.step, color=colour, linewidth=1.2, linestyle=style)
        if (alert.step - last) * units >= _NEAREST_MARKS:
            last = alert.step
            axes[0].annotate(
                str(number),
                (alert.step, 1),
                xycoords=axes[0].get_xaxis_transform(),
                xytext=(0, 4),
                textcoords="offset points",
                ha="center",
                color=colour,
                fontweight="bold",
            )


def ratio_scale(axis: Any, curves: Sequence[Curve], levels: Sequence[float]) -> None:
    """Ratios to the baseline in per cent; logarithmic where some are far above it.

    Args:
        axis: To be set up.
        curves: That are drawn.
        levels: That must be seen.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    shown = np.concatenate([np.array([1.0, *levels]), *(curve.shown for curve in curves)])
    high = float(shown.max())
    ends = [curve.highs[np.isfinite(curve.highs)].max(initial=high) for curve in curves]
    top = min(max([high, *ends]), _ROOM * high)
    axis.yaxis.set_major_formatter(FuncFormatter(lambda ratio, _: f"{100 * ratio:.4g}%"))
    if high > _LOG_ABOVE:
        positive = shown[shown > 0]
        axis.set_yscale("log")
        axis.set_ylim(max(float(positive.min()) * 0.8, 1e-4), top * 1.25)
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=7))
        axis.yaxis.set_minor_locator(NullLocator())
    else:
        axis.set_ylim(0, top * 1.12)
        axis.yaxis.set_major_locator(MaxNLocator(5))


def value_scale(axis: Any) -> None:
    """A few ticks in plain numbers; none below 0 where no value is."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    if axis.dataLim.ymin >= 0 > axis.get_ylim()[0]:
        axis.set_ylim(bottom=0)

    axis.yaxis.set_major_locator(MaxNLocator(4))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: figures(value)))


def power_scale(side: Any) -> None:
    """A logarithmic scale, marked at powers of ten.

    Args:
        side: `xaxis` or `yaxis` of axes.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    side.axes.set(**{f"{side.axis_name}scale": "log"})
    side.set_major_locator(LogLocator(numticks=8))
    side.set_minor_locator(NullLocator())
    side.set_major_formatter(FuncFormatter(lambda value, _: power_of_ten(value)))


def _colour(number: int) -> str:
    return COLOURS[f"series-{number % 4 + 1}"]
