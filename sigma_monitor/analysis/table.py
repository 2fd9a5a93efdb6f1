"""A report as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sigma_monitor.analysis.analyze import (
    CONVENTIONS,
    Analysis,
    Drift,
    Report,
    excludes_zero,
    functionals,
)
from sigma_monitor.estimate import Estimate
from sigma_monitor.spectrum import SpectralDrift, SpectralSummary
from sigma_monitor.spectrum.result import FUNCTIONALS

__all__ = ["aligned", "table"]

_CELLS = 3  # of one estimate: value, interval, kind
_MEANINGS = {
    "sampling": "over the examples, had others been chosen",
    "test_vectors": "over the test vectors, for the given rows",
    "quadrature": "certified, for the given rows",
}


def table(report: Report) -> str:
    """One block of aligned lines for each array and each drift, and what the intervals mean."""
    blocks = [_analysis_block(analysis) for analysis in report.analyses]
    blocks += [_drift_block(drift) for drift in report.drifts]
    blocks.append(_notes(report))
    return "\n\n".join(blocks)


def _analysis_block(analysis: Analysis) -> str:
    array, summaries = analysis.array, analysis.summaries
    shape = " x ".join(map(str, array.shape))
    relative = summaries["centred"].relative_ridge
    ridge = f"{summaries['centred'].ridge:g}" if relative is None else f"{relative:g} tr(C)/m"
    head = (
        f"{array.label}: {shape} {array.dtype}, ridge {ridge}, {analysis.seconds:.2g} s, "
        f"{analysis.choice.method} ({analysis.choice.reason})"
    )
    return "\n".join([head, *_estimates(summaries, marked=False)])


def _drift_block(drift: Drift) -> str:
    head = f"drift from {drift.before.label} to {drift.after.label}"
    return "\n".join([head, *_estimates(drift.changes, marked=True)])


def _estimates(
    estimates: Mapping[str, SpectralSummary] | Mapping[str, SpectralDrift], *, marked: bool
) -> list[str]:
    head = [""]
    for convention in CONVENTIONS:
        head += [convention, "", ""]
    rows = [head]
    for name in FUNCTIONALS:
        row = [name]
        for convention in CONVENTIONS:
            shown = name in functionals(convention)
            estimate = getattr(estimates[convention], name)
            row += _cells(estimate, marked=marked) if shown else [""] * _CELLS
        rows.append(row)
    return aligned(rows)


def _cells(estimate: Estimate, *, marked: bool) -> list[str]:
    mark = "*" if marked and excludes_zero(estimate) else ""
    exact = estimate.kind == "exact"
    interval = "" if exact else f"[{_number(estimate.low)}, {_number(estimate.high)}]"
    return [_number(estimate.value) + mark, interval, estimate.kind]


def _number(value: float) -> str:
    return f"{value:.5g}"


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of cells, each column as wide as its widest."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _notes(report: Report) -> str:
    shown = [analysis.summaries for analysis in report.analyses]
    kinds = {
        getattr(summary[c], name).kind
        for summary in shown
        for c in CONVENTIONS
        for name in FUNCTIONALS
    }
    notes = [f"Intervals at {report.settings.confidence:.4g}:"]
    notes += [f"  {kind}: {meaning}" for kind, meaning in _MEANINGS.items() if kind in kinds]
    if report.drifts:
        notes.append(
            "* the interval of the change excludes 0, given the same examples in one order"
        )
    notes += [f"skipped {array.label}: {array.complaint}" for array in report.skipped]
    return "\n".join(notes)
