"""What the page of a chain of generations says, of what `sigma-monitor chain --json` printed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sigma_monitor.alert import Status
from sigma_monitor.report.chain_figures import (
    estimate_of,
    number_of,
    ratio_figure,
    ratio_tracks,
    spectrum_figure,
    value_figure,
)
from sigma_monitor.report.figure import Figure
from sigma_monitor.report.plain import (
    clean,
    fields,
    figures,
    finite,
    mapping,
    objects,
    percent,
    step_label,
)
from sigma_monitor.report.view import ends
from sigma_monitor.snapshot import GENERATION_MEASURES

__all__ = ["ChainView", "GenerationRow", "chain_view"]

_MOST_ROWS = 500
_MOST_NOTES = 20
# No settings, or told elsewhere.
_TOLD = ("schema", "kind", "status", "reference", "notes", "generations", "controls", "verdicts")


@dataclass(frozen=True)
class GenerationRow:
    """One generation in the table."""

    generation: str
    status: Status
    ratios: tuple[str, ...]  # of `ChainView.measures`
    drift: str
    text: str


@dataclass(frozen=True)
class ChainView:
    """Everything the page of a chain says."""

    title: str
    status: Status
    headline: str
    notes: tuple[str, ...]
    reference: str
    measures: tuple[str, ...]
    rows: tuple[GenerationRow, ...]
    unlisted: int  # generations between the first and the latest of `rows`
    figures: tuple[Figure, ...]
    settings: Mapping[str, str]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready builtins, without the drawings."""
        return {
            "title": self.title,
            "status": self.status.name,
            "headline": self.headline,
            "notes": list(self.notes),
            "reference": self.reference,
            "generations": [{**asdict(row), "status": row.status.name} for row in self.rows],
            "unlisted": self.unlisted,
            "settings": dict(self.settings),
        }


def chain_view(body: Mapping[str, Any], title: str) -> ChainView:
    """The view of a chain.

    Args:
        body: As `read_chain` gives it.
        title: Of the page.
    """
    verdicts = objects(body["verdicts"])
    known = ratio_tracks(verdicts)
    reference = clean(body.get("reference"), 80)
    reference = "the control" if reference == "control" else reference
    shown = ends(verdicts, _MOST_ROWS)
    drawings = (
        ratio_figure(body, known, reference),
        value_figure(body),
        spectrum_figure(body),
    )
    return ChainView(
        title=title,
        status=max(map(_status, verdicts)),
        headline=_headline(verdicts, reference),
        notes=tuple(clean(note) for note in _notes(body)),
        reference=reference,
        measures=tuple(GENERATION_MEASURES[name] for name in known),
        rows=tuple(_row(verdict, tuple(known)) for verdict in shown),
        unlisted=len(verdicts) - len(shown),
        figures=tuple(figure for figure in drawings if figure is not None),
        settings={
            name.replace("_", " "): value for name, value in fields(body, without=_TOLD).items()
        },
    )


def _headline(verdicts: Sequence[Mapping[str, Any]], reference: str) -> str:
    worst = max(map(_status, verdicts))
    if worst <= Status.HEALTHY:
        return f"All {len(verdicts):,} generations are near {reference}."
    alike = [verdict for verdict in verdicts if _status(verdict) is worst]
    first = alike[0]
    told = clean(first.get("text")) or f"Generation {_generation(first)} is {worst.name}."
    return told if len(alike) == 1 else f"{told} It is the first of {len(alike):,} that are."


def _row(verdict: Mapping[str, Any], measures: Sequence[str]) -> GenerationRow:
    ratios = mapping(verdict.get("ratios"))
    return GenerationRow(
        generation=_generation(verdict),
        status=_status(verdict),
        ratios=tuple(_with_interval(ratios.get(name)) for name in measures),
        drift=figures(finite(verdict.get("subspace_drift"))),
        text=clean(verdict.get("text")),
    )


def _status(verdict: Mapping[str, Any]) -> Status:
    return Status[verdict["status"]]


def _with_interval(body: Any) -> str:
    estimate = estimate_of(body)
    if not math.isfinite(estimate.value):
        return "–"
    if estimate.low == estimate.high:
        return percent(estimate.value)
    return f"{percent(estimate.value)} [{percent(estimate.low)}, {percent(estimate.high)}]"


def _generation(verdict: Mapping[str, Any]) -> str:
    number = number_of(verdict)
    return "–" if number is None else step_label(number)


def _notes(body: Mapping[str, Any]) -> Sequence[Any]:
    notes = body.get("notes")
    return notes[:_MOST_NOTES] if isinstance(notes, list) else ()
