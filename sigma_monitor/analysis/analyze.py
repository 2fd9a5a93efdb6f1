"""Files in; the spectra of all their arrays, and the drift from the first file, out."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from sigma_monitor.analysis.files import StoredArray, open_arrays
from sigma_monitor.errors import InputError, ZeroTraceError
from sigma_monitor.estimate import Estimate
from sigma_monitor.spectrum import (
    Gram,
    Method,
    SpectralDrift,
    SpectralSummary,
    spectral_drift,
    summarize,
)
from sigma_monitor.spectrum.conventions import Conventions
from sigma_monitor.spectrum.cost import Choice, choose
from sigma_monitor.spectrum.result import FUNCTIONALS

__all__ = [
    "CONVENTIONS",
    "Analysis",
    "Drift",
    "Report",
    "Settings",
    "analyze_files",
    "excludes_zero",
    "functionals",
]

CONVENTIONS = ("centred", "uncentred")
_TEST_VECTORS = 32


@dataclass(frozen=True)
class Settings:
    """What the spectra are computed under, beside centring: both are."""

    normalize: bool = False
    ridge: float | None = None
    relative_ridge: float | None = None
    method: Method = "auto"
    confidence: float = 0.95


@dataclass(frozen=True, eq=False)
class Analysis:
    """The spectra of one array."""

    array: StoredArray
    choice: Choice
    summaries: Mapping[str, SpectralSummary]  # by convention
    seconds: float  # wall time, with the reading

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready builtins."""
        summary = self.summaries["centred"]
        return {
            "file": str(self.array.file),
            "array": self.array.name,
            "shape": list(self.array.shape),
            "dtype": self.array.dtype,
            "rows": summary.n,
            "features": summary.m,
            "examples": summary.examples,
            "method": self.choice.method,
            "reason": self.choice.reason,
            "relative_ridge": summary.relative_ridge,
            "ridge": {name: summary.ridge for name, summary in self.summaries.items()},
            "seconds": self.seconds,
            **{name: _packed(summary, name) for name, summary in self.summaries.items()},
        }


@dataclass(frozen=True, eq=False)
class Drift:
    """The change from an array of the first file to that of a later one."""

    before: StoredArray
    after: StoredArray
    changes: Mapping[str, SpectralDrift]  # by convention

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready builtins."""
        return {
            "before": self.before.label,
            "after": self.after.label,
            **{name: _packed(change, name, test=True) for name, change in self.changes.items()},
        }


@dataclass(frozen=True, eq=False)
class Report:
    """Everything that was found in the files."""

    settings: Settings
    analyses: tuple[Analysis, ...]  # in the order of the files
    drifts: tuple[Drift, ...]
    skipped: tuple[StoredArray, ...]  # arrays of the files that are no embeddings

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready builtins; infinities and NaN become strings."""
        return {
            "confidence": self.settings.confidence,
            "normalize": self.settings.normalize,
            "arrays": [analysis.to_dict() for analysis in self.analyses],
            "drift": [drift.to_dict() for drift in self.drifts],
            "skipped": {array.label: array.complaint for array in self.skipped},
        }


def functionals(convention: str) -> tuple[str, ...]:
    """The functionals of a convention: the mean cosine is always of the uncentred rows."""
    return tuple(name for name in FUNCTIONALS if convention == "uncentred" or name != "mean_cosine")


def excludes_zero(change: Estimate) -> bool:
    """Whether a change is beyond its interval; an exact one has no interval to be beyond."""
    return change.kind != "exact" and (change.low > 0 or change.high < 0)


def analyze_files(arguments: Sequence[str], settings: Settings | None = None) -> Report:
    """Centred and uncentred spectra of all arrays, and their drift from those of the first file.

    The rows stay in the files and are widened a chunk at a time (see `open_arrays` for `.npz`).

    Args:
        arguments: `FILE` for all arrays of a file, `FILE:name` for one.
        settings: Conventions and method. `"auto"` is decided on each array of the first file, and
            holds for those compared with it.

    Raises:
        InputError: On bad settings, a file that cannot be used, rows without a spectrum, or files
            that do not compare. Headers are looked at before anything is computed.
    """
    settings = settings or Settings()
    Conventions(True, settings.ridge, settings.relative_ridge, settings.confidence)  # raises early
    opened = [open_arrays(argument) for argument in arguments]
    first, *others = [arrays for arrays, _ in opened]
    others = [_matched(first, arrays) for arrays in others]
    before = [_analysis(array, settings) for array in first]
    after = [
        [_analysis(array, settings, old.choice) for old, array in zip(before, arrays, strict=True)]
        for arrays in others
    ]
    drifts = [_drift(*pair) for later in after for pair in zip(before, later, strict=True)]
    analyses = [*before, *(analysis for later in after for analysis in later)]
    skipped = [array for _, unfit in opened for array in unfit]
    return Report(settings, tuple(analyses), tuple(drifts), tuple(skipped))


def _matched(first: list[StoredArray], other: list[StoredArray]) -> list[StoredArray]:
    """The arrays of another file in the order of the first, by name where there are several."""
    if len(first) == len(other) == 1:
        matched = other
    else:
        by_name = {array.name: array for array in other}
        unpaired = by_name.keys() ^ {array.name for array in first}
        if unpaired:
            raise InputError(
                f"{first[0].file} and {other[0].file} do not compare: only one of them has "
                f"{', '.join(sorted(map(str, unpaired)))}. Choose one array of each with FILE:name."
            )
        matched = [by_name[array.name] for array in first]
    for before, after in zip(first, matched, strict=True):
        if before.shape != after.shape:
            raise InputError(
                f"{before.label} and {after.label} do not compare: shape {before.shape} in the "
                f"one and {after.shape} in the other. A drift needs the same examples and "
                "features; analyze files of different shape one at a time."
            )
    return matched


def _analysis(array: StoredArray, settings: Settings, choice: Choice | None = None) -> Analysis:
    started = time.perf_counter()
    rows, groups = array.rows()
    try:
        gram = Gram.from_embeddings(rows, normalize=settings.normalize)
        choice = choice or _choice(gram, settings)
        summaries = {
            name: _summary(gram, groups, settings, choice, center=name == "centred")
            for name in CONVENTIONS
        }
    except ZeroTraceError as error:
        raise InputError(
            f"{array.label}: all of its {len(rows)} rows are equal, so that nothing is left after "
            "centring: there is no spectrum. Pass rows that differ."
        ) from error
    except InputError as error:
        raise InputError(f"{array.label}: {error}") from error
    return Analysis(array, choice, summaries, time.perf_counter() - started)


def _choice(gram: Gram, settings: Settings) -> Choice:
    if settings.method != "auto":
        return Choice(settings.method, "asked for")
    return choose(gram, sampling=True, test_vectors=_TEST_VECTORS, steps=None)


def _summary(
    gram: Gram, groups: Tensor | None, settings: Settings, choice: Choice, *, center: bool
) -> SpectralSummary:
    return summarize(
        gram,
        center=center,
        ridge=settings.ridge,
        relative_ridge=settings.relative_ridge,
        method=choice.method,
        confidence=settings.confidence,
        test_vectors=_TEST_VECTORS,
        groups=groups,
        # The randomised way's values without each example are in none of its intervals, and take a
        # kilobyte a row.
        sampling=choice.method == "exact",
    )


def _drift(before: Analysis, after: Analysis) -> Drift:
    changes = {
        name: spectral_drift(before.summaries[name], after.summaries[name]) for name in CONVENTIONS
    }
    return Drift(before.array, after.array, changes)


def _packed(
    estimates: SpectralSummary | SpectralDrift, convention: str, *, test: bool = False
) -> dict[str, Any]:
    packed = {}
    for name in functionals(convention):
        estimate: Estimate = getattr(estimates, name)
        packed[name] = estimate.to_dict()
        if test:
            packed[name]["excludes_zero"] = excludes_zero(estimate)
    return packed
