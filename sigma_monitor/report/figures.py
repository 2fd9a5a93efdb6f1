"""The pictures of series over training steps: which of them are drawn, and what is said of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from sigma_monitor.detection import FLOOR, Thresholds
from sigma_monitor.report.figure import Figure
from sigma_monitor.report.news import AlertRow
from sigma_monitor.report.plain import clean, figures, percent
from sigma_monitor.report.reading import WRITTEN
from sigma_monitor.report.run import LOSS, Run
from sigma_monitor.report.stack import Level, Panel, Series, Stack
from sigma_monitor.report.track import Key, Track
from sigma_monitor.snapshot import (
    COMPRESSION,
    DISTINCT_2,
    ENTROPY,
    FLOORED,
    REPEATED,
    TEXT_RANK,
    UNCENTRED_RANK,
    WATCHED,
)

__all__ = [
    "alarm_panel",
    "generation_figure",
    "levels_of",
    "observed_figure",
    "ratio_figure",
    "ratio_panel",
    "span",
]

_MOST_LINES = 4
_TALL, _LOW = 230, 90  # of panels
_LONG = 80  # characters of a name in a legend, which is broken
_SHORT = 40  # likewise above a panel, which is not
_SEEN_ABOVE = 1.1  # ratio from which on the level of expansion is drawn
_NAMES = {
    TEXT_RANK: "Effective rank of the texts",
    ENTROPY: "Output entropy, nats",
    DISTINCT_2: "Distinct pairs of tokens, share",
    COMPRESSION: "Compression ratio of the texts",
    REPEATED: "Repeated runs of four tokens, share",
}
_SERIES = {
    FLOORED: "Effective rank of whole texts",
    LOSS.functional: "Held-out loss, nats per token",
    WATCHED: "Effective rank of observed rows",
    UNCENTRED_RANK: "Effective rank of observed rows, uncentred",
}
_BAND = (
    "The band is the interval of each value: how far it would move with other examples of the same "
    "source."
)


def span(run: Run) -> tuple[float, float]:
    """First and last step of everything that was recorded."""
    steps = [track.steps for track in run.tracks.values() if track.steps]
    return (min(s[0] for s in steps), max(s[-1] for s in steps)) if steps else (0.0, 0.0)


def levels_of(rule: Thresholds, tracks: Sequence[Track]) -> tuple[Level, ...]:
    """The thresholds of the relative rule; that of expansion only where something comes near it.

    Args:
        rule: Thresholds.
        tracks: Ratios that are drawn with them.
    """
    found = [
        Level(rule.warning_slow, "warn", f"warning {percent(rule.warning_slow)}"),
        Level(rule.collapsed, "error", f"collapse {percent(rule.collapsed)}"),
    ]
    near = any(ratio > _SEEN_ABOVE for track in tracks for ratio in track.values)
    if rule.expansion and near:
        above = 1 / rule.warning_slow
        found.append(Level(above, "warn", f"expansion {percent(above)}"))
    return tuple(found)


def ratio_panel(run: Run, rule: Thresholds, height: float = _TALL) -> Panel | None:
    """Effective rank of the lowest layers over its baseline, or as it is while there is none.

    Args:
        run: What was recorded.
        rule: Thresholds of the representation.
        height: Of the panel.
    """
    tracks = {layer: run.ratio(Key("representation", layer, WATCHED)) for layer in run.layers}
    relative = any(track.steps for track in tracks.values())
    if not relative:
        tracks = {layer: run.tracks[Key("representation", layer, WATCHED)] for layer in run.layers}
    series = _lowest({f"layer {layer}": track for layer, track in tracks.items()})
    if not series:
        return None
    if not relative:
        return Panel("Effective rank; no baseline yet", series, height)
    levels = levels_of(rule, [shown.track for shown in series])
    return Panel("Effective rank, % of baseline", series, height, levels, ratio=True)


def ratio_figure(
    run: Run, rule: Thresholds, alerts: Sequence[tuple[int, AlertRow]]
) -> Figure | None:
    """Effective rank over its baseline, with the absolute floor and held-out loss below it.

    Args:
        run: What was recorded.
        rule: Thresholds of the representation.
        alerts: Those that are more than information, with their numbers.
    """
    panel = ratio_panel(run, rule)
    if panel is None:
        return None
    panels = [panel]
    layer = panel.series[0].name.removeprefix("layer ")
    pooled = run.tracks.get(Key("representation", layer, FLOORED))
    if pooled is not None:
        floor = Level(FLOOR, "error", f"floor {figures(FLOOR)}")
        name = _SERIES[FLOORED]
        panels.append(Panel(name, (Series(name, pooled),), _LOW, (floor,)))
    if LOSS in run.tracks:
        name = _SERIES[LOSS.functional]
        panels.append(Panel(name, (Series(name, run.tracks[LOSS]),), _LOW))
    caption = [_BAND]
    if pooled is not None:
        caption.append(f"Whole texts are uncentred mean-pooled rows, here of layer {layer}.")
    others = len(run.layers) - len(panel.series)
    if others:
        caption.append(f"Drawn are the {len(panel.series)} lowest of {len(run.layers)} layers.")
    if run.borrowed:
        caption.append(f"The baseline is that of another run, {run.borrowed}.")
    if alerts:
        caption.append("Numbered lines are alerts.")
    return Stack(tuple(panels), span(run), alerts).figure(
        "ratio", "How much of the spectrum is in use", " ".join(caption)
    )


def alarm_panel(run: Run, alarm: AlertRow, height: float) -> Panel | None:
    """The series that an alarm is about, where that is not one of `ratio_panel`.

    Args:
        run: What was recorded.
        alarm: An alert of a series.
        height: Of the panel.
    """
    key = Key(alarm.channel, alarm.layer, alarm.functional)
    if alarm.channel == "loss":
        key = LOSS
    if key.channel == "representation" and key.functional == WATCHED:
        return None
    track = run.tracks.get(key)
    if track is None:
        return None
    names = _NAMES if key.channel == "generation" else _SERIES
    name = names.get(key.functional, key.functional.replace("_", " "))
    levels = [Level(b.value, "muted", "baseline") for b in run.baselines.get(key, [])[-1:]]
    if alarm.floor is not None:
        levels.append(Level(alarm.floor, "error", f"floor {figures(alarm.floor)}"))
    return Panel(clean(name, _SHORT), (Series(name, track),), height, tuple(levels))


def generation_figure(run: Run, alerts: Sequence[tuple[int, AlertRow]]) -> Figure | None:
    """What the model writes, in its own units.

    Args:
        run: What was recorded.
        alerts: As of `ratio_figure`; those of the generation channel are drawn.
    """
    panels = []
    for functional in WRITTEN:
        key = Key("generation", "", functional)
        if key in run.tracks:
            known = run.baselines.get(key, [])
            levels = tuple(Level(b.value, "muted", "baseline") for b in known[-1:])
            series = (Series(_NAMES[functional], run.tracks[key]),)
            panels.append(Panel(_NAMES[functional], series, _LOW, levels))
    if not panels:
        return None
    own = [(number, alert) for number, alert in alerts if alert.channel == "generation"]
    return Stack(tuple(panels), span(run), own).figure(
        "generation",
        "What the model writes",
        "Effective rank and entropy are watched, with intervals over prompts; the others are "
        "shown for comparison. A higher compression ratio is text that repeats itself.",
    )


def observed_figure(run: Run, rule: Thresholds) -> Figure | None:
    """Rows that were observed, over their baselines.

    Args:
        run: What was recorded.
        rule: Thresholds of the representation, which they share.
    """
    kinds = {WATCHED: "centred", UNCENTRED_RANK: "uncentred"}
    tracks = {
        f"{key.name}, {kinds[key.functional]}": run.ratio(key)
        for key in run.tracks
        if key.channel == "observed"
    }
    series = _lowest(tracks)
    if not any(shown.track.steps for shown in series):
        return None
    levels = levels_of(rule, [shown.track for shown in series])
    panel = Panel("Effective rank, % of baseline", series, _TALL, levels, ratio=True)
    others = len(tracks) - len(series)
    caption = f"{_BAND} Not drawn are {others} more series." if others else _BAND
    return Stack((panel,), span(run)).figure("observed", "Rows you observe", caption)


def _lowest(tracks: Mapping[str, Track]) -> tuple[Series, ...]:
    """Those that end lowest, the lowest first."""

    def end(track: Track) -> float:
        return next((x for x in reversed(track.values) if math.isfinite(x)), math.inf)

    filled = [(name, track) for name, track in tracks.items() if track.steps]
    chosen = sorted(filled, key=lambda item: end(item[1]))[:_MOST_LINES]
    return tuple(Series(clean(name, _LONG), track) for name, track in chosen)
