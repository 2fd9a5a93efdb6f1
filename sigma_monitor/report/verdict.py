"""The run in a sentence: who, which status, since when, and what to do."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from sigma_monitor.alert import Status
from sigma_monitor.report.news import AlertRow
from sigma_monitor.report.plain import clean, figures, percent, step_label
from sigma_monitor.report.run import LOSS, Run
from sigma_monitor.report.track import Key, Track

__all__ = ["Verdict", "alarm_of", "verdict_of", "who"]

_SEVERE = ("WARNING", "COLLAPSED")
_NOTHING = "Nothing needs to be done."
_MOVES = {
    ("representation", "expansion"): "is expanding",
    ("representation", ""): "is contracting",
    ("observed", "expansion"): "are expanding",
    ("observed", ""): "are contracting",
    ("generation", "expansion"): "grows more varied",
    ("generation", ""): "loses its variety",
    ("loss", ""): "is rising",
}


@dataclass(frozen=True)
class Verdict:
    """What stands at the top of the page."""

    status: Status
    excused: bool  # held-out loss improves: information, no alarm
    headline: str
    advice: str
    footing: tuple[str, ...]  # how the record ends, and what came before

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready builtins."""
        return {
            "status": self.status.name,
            "excused": self.excused,
            "headline": self.headline,
            "advice": self.advice,
            "footing": list(self.footing),
        }


def verdict_of(run: Run) -> Verdict:
    """The verdict on a record as it stands.

    Args:
        run: What was read of it.
    """
    status = run.status
    alarm = alarm_of(run)
    excused = alarm is not None and not alarm.loud
    if status > Status.HEALTHY:
        headline, advice = _bad_news(run, status, alarm)
    elif status is Status.HEALTHY:
        headline, advice = _good_news(run)
    else:
        headline, advice = _no_news(run)
    return Verdict(status, excused, headline, advice, tuple(_footing(run, status)))


def who(alert: AlertRow) -> str:
    """What an alert is about, in words."""
    return {
        "generation": "the text that the model writes",
        "loss": "held-out loss",
        "observed": f"observed rows {alert.layer}".rstrip(),
    }.get(alert.channel, f"layer {alert.layer}" if alert.layer else "the model")


def alarm_of(run: Run) -> AlertRow | None:
    """The alert that the present status is about: the worst of the episodes that are open.

    Args:
        run: What was read of a record.
    """
    opened: dict[tuple[str, str], AlertRow] = {}
    for alert in run.alerts:
        episode = (alert.channel, alert.layer if alert.channel == "observed" else "")
        if alert.kind == "RECOVERED":
            opened.pop(episode, None)
        elif alert.kind in _SEVERE:
            opened[episode] = alert
    order = ("info", "warn", "error")
    return max(
        opened.values(),
        key=lambda alert: (alert.kind == run.status.name, order.index(alert.severity)),
        default=None,
    )


def _bad_news(run: Run, status: Status, alarm: AlertRow | None) -> tuple[str, str]:
    if alarm is None:
        since = _since(run)
        return f"The run is {status.name} since step {since}.", "Look at the curves below."
    subject = who(alarm)
    plural = alarm.channel == "observed"
    if alarm.kind == "COLLAPSED" and status is Status.COLLAPSED:
        verb = "have collapsed" if plural else "has collapsed"
    elif alarm.kind == "COLLAPSED":
        verb = f"{'are' if plural else 'is'} partly back from a collapse,"
    else:
        side = "expansion" if alarm.side == "expansion" else ""
        verb = _MOVES.get((alarm.channel, side), "is off its baseline")
    onset = alarm.step if alarm.onset is None else alarm.onset
    headline = f"{subject[0].upper()}{subject[1:]} {verb} since step {step_label(onset)}"
    headline += _measure(run, alarm)
    if alarm.verdict and not alarm.loud:
        return f"{headline}: {alarm.verdict}.", f"No alarm. {alarm.advice}".strip()
    return f"{headline}.", alarm.advice or "Look at the alerts below."


def _measure(run: Run, alarm: AlertRow) -> str:
    """What is measured of it, and where that is now: the latest reading, or that of the alarm."""
    if alarm.channel == "loss":
        losses = [loss for loss in run.tracks.get(LOSS, Track()).values if math.isfinite(loss)]
        known = losses and min(losses) > 0
        ratio = losses[-1] / min(losses) if known else alarm.ratio
        return "" if ratio is None else f", now at {percent(ratio)} of its best"
    key = Key(alarm.channel, alarm.layer, alarm.functional)
    if alarm.floor is not None:
        latest = run.tracks.get(key, Track()).values
        value = latest[-1] if latest else alarm.value
        rank = "its rows" if alarm.channel == "observed" else "whole texts"
        return f": the effective rank of {rank} is {figures(value)}, floor {figures(alarm.floor)}"
    ratios = run.ratio(key).values
    ratio = ratios[-1] if ratios else alarm.ratio
    if ratio is None:
        return ""
    where = f"now at {percent(ratio)} of its baseline"
    if alarm.channel != "generation":
        return f", {where}"
    return f": {alarm.functional.replace('_', ' ')} is {where}"


def _good_news(run: Run) -> tuple[str, str]:
    ratios = {} if run.snapshot is None else run.snapshot.ratios
    if not ratios:
        return "Every series that is watched is near its baseline.", _NOTHING
    layer, ratio = min(ratios.items(), key=lambda item: item[1])
    of = f"layer {clean(layer, 60)}" if len(ratios) == 1 else f"lowest at layer {clean(layer, 60)}"
    return (
        "Every series that is watched is near its baseline: effective rank is at "
        f"{percent(ratio)} of it at step {step_label(run.steps[-1])}, {of}.",
        _NOTHING,
    )


def _no_news(run: Run) -> tuple[str, str]:
    measured = len(run.steps) + len(run.observed)
    if not measured:
        return (
            "Nothing was measured.",
            "Look at the events below for the reason, and pass probes= if there is no "
            "evaluation data.",
        )
    return (
        f"There is no baseline yet, after {len(run.steps):,} checks up to step "
        f"{step_label(run.steps[-1])}."
        if run.steps
        else "There is no baseline of the observed rows yet.",
        "A longer run, more frequent checks, or baseline= another run's record gives a verdict.",
    )


def _since(run: Run) -> str:
    """The first step of the latest stretch of checks with the present status."""
    since = None
    for step, status in zip(reversed(run.steps), reversed(run.statuses), strict=True):
        if status != run.status:
            break
        since = step
    return "–" if since is None else step_label(since)


def _footing(run: Run, status: Status) -> list[str]:
    found = []
    worst = max(run.statuses, default=0)
    if worst > status and worst > Status.HEALTHY:
        at = run.steps[run.statuses.index(worst)]
        found.append(f"It was {Status(worst).name} before, first at step {step_label(at)}.")
    stopped = [alert for alert in run.alerts if alert.kind == "STOPPED"]
    if stopped:
        found.append(f"A stop that was asked for was due at step {step_label(stopped[-1].step)}.")
    if run.closed is None:
        found.append("The record has no closing line: the run goes on, or was killed.")
    elif run.closed.get("interrupted"):
        found.append("The run was interrupted.")
    latest = run.snapshot
    if latest is not None and latest.loss is not None:
        found.append(f"Held-out loss is {figures(latest.loss)} nats per token.")
    return found
