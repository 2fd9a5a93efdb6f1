"""What the page of one run says, as data: the template lays it out, and `--json` prints it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from typing import Any, TypeVar

from sigma_monitor.alert import Status
from sigma_monitor.detection import Thresholds
from sigma_monitor.errors import InputError
from sigma_monitor.estimate import jsonable
from sigma_monitor.report.figure import Figure
from sigma_monitor.report.figures import generation_figure, observed_figure, ratio_figure
from sigma_monitor.report.heatmap import heat_figure
from sigma_monitor.report.news import AlertRow, EventRow
from sigma_monitor.report.plain import clean, fields, figures, finite, percent, step_label
from sigma_monitor.report.run import Run
from sigma_monitor.report.spectrum import spectrum_figure
from sigma_monitor.report.verdict import Verdict, verdict_of, who

__all__ = ["Card", "RunView", "alert_cards", "ends", "rule_of", "view_of", "worst_of"]

_BULKY_EVENTS = ("baseline", "end")  # what other runs are compared with
_FAILURES = {
    "failed": "Checks that failed",
    "observing_failed": "Observations that failed",
    "writing_failed": "Checks at which the model's writing could not be measured",
    "quotes_failed": "Failures to quote examples",
    "undelivered": "Deliveries that a logger or sink refused",
    "switched_off": "Times the monitor switched itself off",
}
_SETTINGS = ("event", "schema", "step", "fingerprint")  # of a `started` event, told elsewhere
_MOST_LAYERS = 12  # of the table of readings

Row = TypeVar("Row")


@dataclass(frozen=True)
class Card:
    """One alert as it is shown."""

    number: int | None  # in the pictures; None: it is not drawn there
    alert: AlertRow
    subject: str
    evidence: Mapping[str, str]


@dataclass(frozen=True)
class RunView:
    """Everything the page of one run says."""

    title: str
    verdict: Verdict
    facts: Mapping[str, str]  # in a line below the verdict
    figures: tuple[Figure, ...]
    loud: tuple[Card, ...]
    quiet: tuple[Card, ...]
    unshown_alerts: int
    readings: tuple[tuple[str, ...], ...]  # layer, functional, value, interval, kind of error
    settings: Mapping[str, str]
    fingerprints: tuple[tuple[str, str], ...]  # from which step on, and which
    losses: tuple[str, ...]  # sentences
    events: tuple[EventRow, ...]
    unshown_events: int

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready builtins, without the drawings."""
        return {
            "title": self.title,
            "verdict": self.verdict.to_dict(),
            "facts": dict(self.facts),
            "figures": [
                {
                    "key": figure.key,
                    "title": figure.title,
                    "caption": figure.caption,
                    "words": figure.words,
                    "table": None if figure.table is None else asdict(figure.table),
                }
                for figure in self.figures
            ],
            "alerts": [_plain(asdict(card.alert)) for card in (*self.loud, *self.quiet)],
            "unshown_alerts": self.unshown_alerts,
            "readings": [list(row) for row in self.readings],
            "settings": dict(self.settings),
            "fingerprints": [list(known) for known in self.fingerprints],
            "losses": list(self.losses),
            "events": [{"event": row.event, **row.details} for row in self.events],
            "unshown_events": self.unshown_events,
        }


def view_of(run: Run, title: str, *, most_rows: int) -> RunView:
    """Put together what the page says.

    Args:
        run: What was read of the record.
        title: Of the page.
        most_rows: Alerts and events that are listed, of each kind.
    """
    loud, quiet, unshown = alert_cards(run, most_rows)
    marks = [(card.number, card.alert) for card in loud if card.number is not None]
    rule, known = rule_of(run)
    drawings = (
        ratio_figure(run, rule, marks),
        heat_figure(run),
        spectrum_figure(run),
        generation_figure(run, marks),
        observed_figure(run, rule),
    )
    events = [row for row in run.events if row.event not in _BULKY_EVENTS]
    return RunView(
        title=title,
        verdict=verdict_of(run),
        facts=_facts(run),
        figures=tuple(figure for figure in drawings if figure is not None),
        loud=loud,
        quiet=quiet,
        unshown_alerts=unshown,
        readings=tuple(_readings(run)),
        settings=_settings(run, rule, known=known),
        fingerprints=tuple((step_label(s), print_) for s, print_ in run.fingerprints[-10:]),
        losses=tuple(_losses(run)),
        events=tuple(events[-most_rows:]),
        unshown_events=max(0, len(events) - most_rows) + run.events.dropped,
    )


def rule_of(run: Run) -> tuple[Thresholds, bool]:
    """Thresholds of the representation, and whether the record says them."""
    asked = run.settings.get("thresholds")
    asked = asked.get("representation") if isinstance(asked, Mapping) else None
    if not isinstance(asked, Mapping):
        return Thresholds(), False
    try:
        return Thresholds.of(**asked), True
    except (InputError, TypeError):  # of another version, or by another hand
        return Thresholds(), False


def alert_cards(run: Run, most: int) -> tuple[tuple[Card, ...], tuple[Card, ...], int]:
    """Alerts that are more than information, those that are not, and how many are left out.

    Args:
        run: What was read of the record.
        most: That are listed, of each.
    """
    loud = [alert for alert in run.alerts if alert.loud]
    quiet = [alert for alert in run.alerts if not alert.loud]
    numbered = [
        Card(number, alert, who(alert), _evidence(alert))
        for number, alert in enumerate(loud, start=1)
    ]
    others = [Card(None, alert, who(alert), _evidence(alert)) for alert in quiet]
    unshown = sum(max(0, len(cards) - most) for cards in (loud, quiet)) + run.alerts.dropped
    return ends(numbered, most), ends(others, most), unshown


def ends(rows: Sequence[Row], most: int) -> tuple[Row, ...]:
    """The first half and the latest half, where there are too many.

    Args:
        rows: In their order.
        most: That are kept.
    """
    if len(rows) <= most:
        return tuple(rows)
    half = max(1, most // 2)
    return (*rows[:half], *rows[-half:])


def _evidence(alert: AlertRow) -> dict[str, str]:
    found = {}
    if alert.value is not None:
        what = alert.functional.rpartition("/")[2].replace("_", " ") or "value"
        of = f" of {alert.convention}" if alert.convention else ""
        found[f"{what}{of}"] = figures(alert.value) + _interval(alert.low, alert.high)
    if alert.baseline is not None:
        found["best" if alert.channel == "loss" else "baseline"] = figures(alert.baseline)
    if alert.ratio is not None:
        found["median ratio"] = percent(alert.ratio)
    if alert.floor is not None:
        found["floor"] = figures(alert.floor)
    if alert.onset is not None:
        found["since step"] = step_label(alert.onset)
    if len(alert.affected) > 1:
        found["moved, earliest first"] = ", ".join(alert.affected)
    if alert.forecast:
        found["forecast"] = alert.forecast
    if alert.verdict:
        found["verdict"] = alert.verdict
    if alert.moved_examples:
        found["probe examples that moved most"] = ", ".join(alert.moved_examples)
    if alert.fingerprint:
        found["fingerprint"] = alert.fingerprint
    return found


def _interval(low: float | None, high: float | None) -> str:
    if low is None or high is None or low == high:
        return ""
    return f" [{figures(low)}, {figures(high)}]"


def _facts(run: Run) -> dict[str, str]:
    found = {}
    if run.steps:
        found["steps"] = f"{step_label(run.steps[0])} to {step_label(run.steps[-1])}"
        found["checks"] = f"{len(run.steps):,}"
    if run.observed:
        found["observed rows"] = f"{len(run.observed):,}"
    latest = run.snapshot
    if latest is not None:
        overhead = finite(latest.overhead)
        if overhead is not None:
            found["overhead"] = f"{percent(overhead)} of the time"
        found["last check"] = _moment(run.times[-1])
    return found


def _moment(seconds: float) -> str:
    try:
        return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    except (ValueError, OverflowError, OSError):
        return "at no known time"


def _readings(run: Run) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    latest = run.snapshot
    sources: list[tuple[str, Mapping[str, Any]]] = []
    if latest is not None:
        layers = list(latest.layers.items())
        sources += [(f"layer {clean(name, 60)}", found) for name, found in layers[-_MOST_LAYERS:]]
        sources.append(("its text", latest.generation))
    named = list(run.observed.items())[-_MOST_LAYERS:]
    sources += [(f"observed {clean(name, 60)}", seen.estimates) for name, seen in named]
    for place, estimates in sources:
        for functional, estimate in list(estimates.items())[:30]:
            said = clean(functional, 60).replace("_", " ")
            interval = _interval(finite(estimate.low), finite(estimate.high)).strip()
            kind = clean(estimate.kind, 20).replace("_", " ")
            rows.append((place, said, figures(estimate.value), interval, kind))
    return rows


def _settings(run: Run, rule: Thresholds, *, known: bool) -> dict[str, str]:
    found = fields(run.settings, without=(*_SETTINGS, "thresholds"))
    if run.snapshot is not None:
        found |= fields(run.snapshot.conventions)
        found["probe examples"] = clean(run.snapshot.examples, 40)
        found["rows of the spectrum"] = clean(run.snapshot.rows, 40)
    if run.borrowed:
        found["baseline of another run"] = run.borrowed
    of = "as configured" if known else "the defaults; the record does not say which were used"
    found["thresholds drawn"] = (
        f"warning {percent(rule.warning_slow)}, collapse {percent(rule.collapsed)} ({of})"
    )
    return {name.replace("_", " "): value for name, value in found.items()}


def _losses(run: Run) -> list[str]:
    found = []
    if run.torn:
        found.append(f"Lines cut, as by a kill, whose content is lost: {run.torn:,}.")
    for event, words in _FAILURES.items():
        if run.happened[event]:
            found.append(f"{words}: {run.happened[event]:,}.")
    lost = {} if run.closed is None else run.closed.get("lost")
    for sink, count in fields(lost).items():
        found.append(f"Deliveries that {sink} lost: {count}.")
    gaps = sum(
        not math.isfinite(value)
        for key, track in run.tracks.items()
        if key.channel != "generation"
        for value in track.values
    )
    if gaps:
        found.append(f"Readings that were not finite, or could not be made: {gaps:,}.")
    if run.unshown:
        found.append(f"Readings of further series, which are not shown: {run.unshown:,}.")
    return found


def _plain(body: Mapping[str, Any]) -> dict[str, Any]:
    def plain(value: Any) -> Any:
        if isinstance(value, float):
            return jsonable(value)
        return list(value) if isinstance(value, tuple) else value

    return {name: plain(value) for name, value in body.items()}


def worst_of(run: Run) -> Status:
    """The worst status at any check."""
    return Status(max(run.statuses, default=int(run.status)))
