"""A lineage as text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from sigma_monitor.alert import Status
from sigma_monitor.analysis.table import aligned
from sigma_monitor.estimate import Estimate
from sigma_monitor.lineage.measure import MEAN_WORDS, UNIQUE_SHARE
from sigma_monitor.lineage.verdict import LOG_DET, Verdict
from sigma_monitor.snapshot import (
    COMPRESSION,
    DISTINCT_1,
    DISTINCT_2,
    GENERATION_MEASURES,
    REPEATED,
    WITHIN_SHARE,
)

if TYPE_CHECKING:
    from sigma_monitor.lineage.report import Generation, LineageReport

__all__ = ["table"]

_DIVERSITY = {
    DISTINCT_1: "distinct-1",
    DISTINCT_2: "distinct-2",
    COMPRESSION: "compression",
    REPEATED: "repeated 4-grams",
    UNIQUE_SHARE: "unique",
    MEAN_WORDS: "words",
}


def table(report: LineageReport) -> str:
    """Verdicts, spectra, tracks and diversity, each a block of aligned lines; then the notes."""
    blocks = [_head(report), _verdicts(report), _levels(report)]
    if report.generations[0].found.tracks is not None:
        blocks.append(_tracks(report))
    blocks += ["\n".join(_sentences(report)), "\n".join(report.notes)]
    return "\n\n".join(block for block in blocks if block)


def _head(report: LineageReport) -> str:
    measured = (
        "all of them streamed"
        if report.sampled == "all"
        else f"{report.sampled} of them measured (seed {report.seed})"
    )
    reference = "the control of the same number" if report.controls else report.reference
    return (
        f"encoder {report.encoder}, {report.features} features; {report.documents} documents a "
        f"generation, {measured}; ratios to {reference}"
    )


def _verdicts(report: LineageReport) -> str:
    names = [name for name in GENERATION_MEASURES if any(name in v.ratios for v in report.verdicts)]
    rows = [
        [
            "generation",
            "status",
            *(GENERATION_MEASURES[name] for name in names),
            "log det/dim, nats",
            "subspace drift",
        ]
    ]
    rows += [
        [
            str(verdict.generation),
            verdict.status.name,
            *(_cell(verdict.ratios.get(name)) for name in names),
            _cell(verdict.changes.get(LOG_DET), "+.3f"),
            _turned(verdict),
        ]
        for verdict in report.verdicts
    ]
    return "\n".join(aligned(rows))


def _levels(report: LineageReport) -> str:
    """What the ratios are of, for the control too."""
    columns = {"effective rank": _rank("centred"), "uncentred": _rank("uncentred")}
    if any(WITHIN_SHARE in one.found.watched for one in report.generations):
        columns |= {"within prompts": _rank("within"), "between": _rank("between")}
    if report.generations[0].found.diversity is not None:
        columns |= {shown: _diversity(key) for key, shown in _DIVERSITY.items()}
    rows = [["", *columns]]
    for label, lineage in (("generation", report.generations), ("control", report.controls)):
        rows += [
            [f"{label} {one.number}", *(column(one) for column in columns.values())]
            for one in lineage
        ]
    return "\n".join(aligned(rows))


def _rank(spectrum: str) -> Callable[[Generation], str]:
    def cell(one: Generation) -> str:
        summary = getattr(one.found, spectrum)
        return "-" if summary is None else f"{summary.effective_rank.value:.1f}"

    return cell


def _diversity(key: str) -> Callable[[Generation], str]:
    return lambda one: "-" if one.found.diversity is None else f"{one.found.diversity[key]:.3g}"


def _tracks(report: LineageReport) -> str:
    tracks = report.generations[0].found.tracks
    assert tracks is not None
    rows = [["", "Track I", "Track II", "drift I", "drift II"]]
    for label, lineage in (("generation", report.generations), ("control", report.controls)):
        for one in lineage:
            found, drift = one.found.tracks, one.track_drift
            if found is not None and drift is not None:
                numbers = (found.track_one, found.track_two, drift.track_one, drift.track_two)
                rows.append([f"{label} {one.number}", *(f"{number:.5g}" for number in numbers)])
    head = (
        f"SIGMA's tracks, nats: delta {tracks.delta:g}, rho {tracks.rho:g}, unit rows, "
        f"{tracks.n_observed} of {tracks.n_total} observed; drift since the lineage's first"
    )
    return "\n".join([head, *aligned(rows)])


def _sentences(report: LineageReport) -> Sequence[str]:
    return [v.text for v in report.verdicts if v.status is not Status.HEALTHY] or [
        f"{report.status.name}: nothing watched is far from the reference in any generation."
    ]


def _turned(verdict: Verdict) -> str:
    return "-" if verdict.subspace_drift is None else f"{verdict.subspace_drift:.2f}"


def _cell(estimate: Estimate | None, form: str = ".2f") -> str:
    if estimate is None:
        return "-"
    if estimate.kind == "exact":
        return f"{estimate.value:{form}}"
    return f"{estimate.value:{form}} [{estimate.low:{form}}, {estimate.high:{form}}]"
