"""The run on one screen of a terminal."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from sigma_monitor.alert import Status
from sigma_monitor.detection import Thresholds
from sigma_monitor.live.chart import chart
from sigma_monitor.live.lines import View, interval, number, percent
from sigma_monitor.live.seen import Seen
from sigma_monitor.sinks.console import one_line

__all__ = ["Screen", "drawn"]

_COLOURS = {
    Status.WARMUP: "cyan",
    Status.HEALTHY: "green",
    Status.WARNING: "yellow",
    Status.COLLAPSED: "red",
}
_SEVERITIES = {"info": "cyan", "warn": "yellow", "error": "red"}
_TALL = 30  # lines of a terminal that has room for
_ALERTS = 3
_MOST_CHART = 20  # lines
_RISING = 1.1  # a ratio from which the level of expansion is drawn
_IDLE = 5.0  # seconds between two screens where nothing is new
_LATE = 5  # times the usual spacing of checks, after which the record is called silent


class Screen(View):
    """Draws the run anew whenever something is known, on a screen of its own.

    Args:
        console: Of the terminal.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._drawn: tuple[object, ...] = ()  # of what
        self._at = -math.inf
        self._live = Live(console=console, screen=True, auto_refresh=False)

    def __enter__(self) -> Screen:
        """Take the terminal's other screen."""
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Give it back."""
        self._live.stop()

    def show(self, seen: Seen) -> None:
        """Draw what is new, and else now and then: how old it is."""
        what = seen, seen.lines, self._console.size
        if what == self._drawn and time.monotonic() - self._at < _IDLE:
            return  # the training may need this processor
        self._drawn, self._at = what, time.monotonic()
        self._live.update(drawn(seen, self._console, hint="q to leave"), refresh=True)


def drawn(seen: Seen, console: Console, *, hint: str = "") -> RenderableType:
    """What there is to see of the run.

    Args:
        seen: The run.
        console: Whose size it has to fit.
        hint: Said in the last line.
    """
    width, height = console.size
    head = list(_head(seen, width))
    rows = _rows(seen, max(1, height // 6))
    alerts = list(_alerts(seen, 1 if height < _TALL else _ALERTS))
    below: list[RenderableType] = [*([rows] if rows.row_count else ()), *alerts, *_hint(hint)]
    if seen.latest is None:  # nothing but observed rows, if anything
        return Group(*head, *below)
    name, points = seen.points()
    levels = _levels(max((p.value for p in points), default=1.0)) if name == "ratio" else {}
    said = f"{name} of layer {seen.layer}"
    if levels:
        said += ", and the default thresholds: " + ", ".join(f"{x:.0%}" for x in levels)
    rest = height - len(head) - 1 - rows.row_count - len(below)
    curve = chart(name, points, width=width, height=min(max(rest, 0), _MOST_CHART), levels=levels)
    return Group(*head, _row(said, style="dim"), curve, *below)


def _hint(text: str) -> list[Text]:
    return [_row(text, style="dim")] if text else []


def _levels(highest: float) -> dict[float, str]:
    """Of warning and collapse; that of expansion where the ratio is on its way there."""
    limits = Thresholds()
    levels = {limits.warning_slow: "yellow", limits.collapsed: "red"}
    return levels if highest < _RISING else {1 / limits.warning_slow: "yellow", **levels}


def _row(text: str, style: str = "") -> Text:
    """One line, cut at the edge."""
    return Text(one_line(text), style=style, no_wrap=True, overflow="ellipsis")


def _ending(path: Path, room: int) -> str:
    """As much of a path as fits: its end, which tells runs apart."""
    shown = one_line(str(path))
    if cell_len(shown) <= room:
        return shown
    while shown and cell_len(shown) >= room:
        shown = shown[1:]
    return f"\N{HORIZONTAL ELLIPSIS}{shown}"


def _head(seen: Seen, width: int) -> Iterator[Text]:
    latest = seen.latest
    if latest is None:
        begun = seen.record.events or seen.record.observations
        words = "has no check yet" if begun else "is waited for"
        yield _row(f"{_ending(seen.path, width - len(words) - 1)} {words}")
        return
    first = _row(f" {latest.status.name} ", style=f"reverse {_COLOURS[latest.status]}")
    first.append("  ")
    first.append(_ending(seen.path, width - first.cell_len), style="bold")
    yield first
    steps = f" of {number(seen.steps)}" if seen.steps else ""
    parts = [
        f"step {number(latest.step)}{steps}",
        f"check {number(latest.check)} in {number(latest.seconds)} s",
    ]
    if latest.overhead is not None:
        parts.append(f"overhead {percent(latest.overhead)}")
    if latest.loss is not None:
        parts.append(f"held-out loss {number(latest.loss)}")
    if latest.finite != 1:
        parts.append(f"finite {percent(latest.finite)}")
    yield _row("   ".join(parts))
    yield _news(seen)


def _news(seen: Seen) -> Text:
    """How fresh it is, or how it ended."""
    if seen.ended:
        closed = seen.event("closed")
        if closed.get("interrupted"):
            return _row("interrupted", style="yellow")
        reason = closed.get("stop_reason")
        return _row("ended" + (f": {reason}" if reason else ""))
    times = [snapshot.time for snapshot in seen.record.snapshots]
    age = max(0.0, time.time() - times[-1])
    said = f"last check {_duration(age)} ago"
    spacing = (times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else 0.0
    if spacing > 0 and age > _LATE * spacing:
        return _row(f"{said}; they came every {_duration(spacing)}", style="yellow")
    return _row(said)


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 60 else str(timedelta(seconds=round(seconds)))


def _rows(seen: Seen, most: int) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for title in ("what", "functional", "value", "interval", "ratio"):
        numeric = title in ("value", "ratio")
        table.add_column(title, justify="right" if numeric else "left", no_wrap=True)
    measured = list(seen.measured())
    for name, key, estimate, ratio in measured[:most]:
        shown = "" if ratio is None else number(ratio)
        table.add_row(
            _row(name), _row(key), number(estimate.value), interval(estimate), _row(shown)
        )
    if len(measured) > most:
        table.add_row(_row(f"and {len(measured) - most} more", style="dim"))
    return table


def _alerts(seen: Seen, most: int) -> Iterator[Text]:
    """The latest, each in two lines."""
    for alert in reversed(seen.record.alerts[-most:]):
        title = _row(
            f"{_said(alert, 'title')}", style=_SEVERITIES.get(_said(alert, "severity"), "")
        )
        title.append(f"  step {number(alert.get('step'))}", style="dim")
        yield title
        yield _row(f"  {_said(alert, 'text')}")


def _said(alert: Mapping[str, Any], name: str) -> str:
    return one_line(str(alert.get(name, "")))
