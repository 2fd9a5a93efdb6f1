"""Several runs beside one another."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sigma_monitor.alert import Status
from sigma_monitor.estimate import jsonable
from sigma_monitor.report.figure import Figure
from sigma_monitor.report.figures import alarm_panel, ratio_panel, span
from sigma_monitor.report.run import LOSS, Run
from sigma_monitor.report.stack import Stack
from sigma_monitor.report.verdict import Verdict, alarm_of, verdict_of
from sigma_monitor.report.view import Card, alert_cards, rule_of, worst_of

__all__ = ["ComparisonView", "RunRow", "comparison_of", "row_of"]

_HEIGHT = 110  # of a picture


@dataclass(frozen=True)
class RunRow:
    """One run of several."""

    name: str
    verdict: Verdict
    worst: Status
    lowest: float | None  # ratio to the baseline, of any layer
    final: float | None
    loss: float | None  # held out, at the end
    steps: float | None  # the last one
    fingerprint: str
    first_alert: Card | None
    alerts: int  # above information
    figure: Figure | None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready builtins."""
        alert = None if self.first_alert is None else self.first_alert.alert
        return {
            "name": self.name,
            "verdict": self.verdict.to_dict(),
            "worst": self.worst.name,
            "lowest_ratio": None if self.lowest is None else jsonable(self.lowest),
            "final_ratio": None if self.final is None else jsonable(self.final),
            "loss": None if self.loss is None else jsonable(self.loss),
            "last_step": self.steps,
            "fingerprint": self.fingerprint,
            "alerts": self.alerts,
            "first_alert": None
            if alert is None
            else {"kind": alert.kind, "step": jsonable(alert.step), "text": alert.text},
        }


@dataclass(frozen=True)
class ComparisonView:
    """Everything the page of several runs says."""

    title: str
    rows: tuple[RunRow, ...]  # the worst first
    refused: Mapping[str, str]  # record -> why it could not be read
    unshown: int  # records beyond those that are listed

    @property
    def counts(self) -> dict[Status, int]:
        """How many runs have which status, the worst first."""
        found = dict.fromkeys(reversed(Status), 0)
        for row in self.rows:
            found[row.verdict.status] += 1
        return {status: count for status, count in found.items() if count}

    @property
    def headline(self) -> str:
        """The outcome in a sentence."""
        counts = ", ".join(f"{count} {status.name}" for status, count in self.counts.items())
        return f"{len(self.rows)} runs: {counts}."

    @property
    def comparable(self) -> str:
        """Whether values can be compared, not only ratios to each run's own baseline."""
        known = {row.fingerprint for row in self.rows}
        if len(known) == 1:
            return "All runs have one probe set and one set of conventions: values compare too."
        return (
            f"The runs have {len(known)} different fingerprints of probe set and conventions: only "
            "ratios to each run's own baseline compare."
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready builtins, without the drawings."""
        return {
            "title": self.title,
            "headline": self.headline,
            "comparable": self.comparable,
            "runs": [row.to_dict() for row in self.rows],
            "refused": dict(self.refused),
            "unshown": self.unshown,
        }


def comparison_of(
    rows: Sequence[RunRow], title: str, refused: Mapping[str, str], unshown: int
) -> ComparisonView:
    """The view of several runs.

    Args:
        rows: One for each.
        title: Of the page.
        refused: Records that could not be read, and why.
        unshown: Records beyond those that were read.
    """
    ordered = sorted(rows, key=lambda row: (-row.verdict.status, -row.worst, row.name))
    return ComparisonView(title, tuple(ordered), refused, unshown)


def row_of(run: Run, name: str, *, key: str | None) -> RunRow:
    """One run in a row.

    Args:
        run: What was read of its record.
        name: Of the run.
        key: Of its picture; None for none.
    """
    loud, _, unshown = alert_cards(run, 12)
    rule, _ = rule_of(run)
    panel = ratio_panel(run, rule, _HEIGHT)
    ratios = [series.track.values for series in panel.series] if panel and panel.ratio else []
    finite = [x for values in ratios for x in values if math.isfinite(x)]
    ends = [values[-1] for values in ratios if values]
    losses = run.tracks[LOSS].values if LOSS in run.tracks else []
    figure = None
    if panel is not None and key is not None:
        marks = [(card.number, card.alert) for card in loud if card.number is not None]
        alarm = alarm_of(run)
        below = None if alarm is None else alarm_panel(run, alarm, _HEIGHT)
        panels = (panel,) if below is None else (panel, below)
        figure = Stack(panels, span(run), marks).figure(key, name, "")
    return RunRow(
        name=name,
        verdict=verdict_of(run),
        worst=worst_of(run),
        lowest=min(finite, default=None),
        final=min(ends, default=None),
        loss=losses[-1] if losses else None,
        steps=run.steps[-1] if run.steps else None,
        fingerprint=run.fingerprints[-1][1] if run.fingerprints else "",
        first_alert=loud[0] if loud else None,
        alerts=len(loud) + unshown,
        figure=figure,
    )
