"""Panels of series over one another, above common training steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from sigma_monitor.report.axes import (
    WIDE,
    alert_marks,
    band,
    height_of,
    level,
    line,
    panels,
    ratio_scale,
    step_axis,
    value_scale,
)
from sigma_monitor.report.figure import Entry, Figure, drawn_twice, in_words, numbers
from sigma_monitor.report.news import AlertRow
from sigma_monitor.report.plain import figures, percent, step_label
from sigma_monitor.report.svg import Shape
from sigma_monitor.report.track import Track, thinned

__all__ = ["Level", "Panel", "Series", "Stack"]

_NAMED_ALERTS = 12  # in words


class Series(NamedTuple):
    """A line of a panel."""

    name: str
    track: Track


class Level(NamedTuple):
    """A threshold of a panel."""

    value: float
    role: str  # of its colour
    name: str


@dataclass(frozen=True)
class Panel:
    """One of the panels."""

    name: str  # above it
    series: tuple[Series, ...]
    height: float
    levels: tuple[Level, ...] = ()
    ratio: bool = False  # values are ratios to a baseline

    @property
    def said(self) -> Callable[[float], str]:
        """How a value is put in words."""
        return percent if self.ratio else figures


@dataclass(frozen=True)
class Stack:
    """What is drawn."""

    panels: tuple[Panel, ...]
    span: tuple[float, float]  # first and last step
    alerts: Sequence[tuple[int, AlertRow]] = ()  # with their numbers in the page
    unit: str = "step"  # of the axis below

    def figure(self, key: str, title: str, caption: str) -> Figure:
        """The picture with its legend, words and numbers.

        Args:
            key: Its id in the page.
            title: Of the picture.
            caption: Below it.
        """
        series = [
            (shown.name, thinned(shown.track, WIDE.buckets), panel.said)
            for panel in self.panels
            for shown in panel.series
        ]
        words = [in_words(*shown, self.unit) for shown in series]
        words += [f"{panel.name}: {named.name}." for panel in self.panels for named in panel.levels]
        words += [
            f"Alert {number}: {alert.kind} at step {step_label(alert.step)}."
            for number, alert in self.alerts[:_NAMED_ALERTS]
        ]
        if any(len(curve.lost) for _, curve, _ in series):
            caption = f"{caption} A cross is a reading that was not finite.".strip()
        first = self.panels[0].series
        legend = [Entry(shown.name, f"line-{n % 4}") for n, shown in enumerate(first)]
        height = height_of([panel.height for panel in self.panels], self._top)
        return Figure(
            key=key,
            title=title,
            caption=caption,
            words=" ".join(words),
            svgs=drawn_twice(self._draw, key, height),
            legend=tuple(legend) if len(legend) > 1 else (),
            table=numbers(series, self.unit),
        )

    @property
    def _top(self) -> float:
        return 44 if len(self.alerts) else 30

    def _draw(self, figure: Any, shape: Shape) -> None:
        axes = panels(figure, shape, [panel.height for panel in self.panels], self._top)
        for axis, panel in zip(axes, self.panels, strict=True):
            _draw_panel(axis, panel, shape)
            # The numbers of alerts stand between the first panel and its name.
            marked = axis is axes[0] and len(self.alerts) > 0
            axis.set_title(panel.name, fontsize="medium", y=1, pad=22 if marked else 8)
            step_axis(axis, shape, *self.span, name=self.unit if axis is axes[-1] else "")
        alert_marks(axes, shape, self.alerts)


def _draw_panel(axis: Any, panel: Panel, shape: Shape) -> None:
    curves = [thinned(series.track, shape.buckets) for series in panel.series]
    for number, curve in enumerate(curves):
        line(axis, curve, number)
    if panel.ratio:
        ratio_scale(axis, curves, [named.value for named in panel.levels])
    else:
        value_scale(axis)
    for named in panel.levels:
        level(axis, *named)
    for number, curve in enumerate(curves):
        band(axis, curve, number)
