"""One generation against its reference: ratios with intervals, what fired, and a status."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from sigma_monitor.alert import Side, Status
from sigma_monitor.errors import InputError
from sigma_monitor.estimate import Estimate
from sigma_monitor.lineage.measure import Measurement, turned
from sigma_monitor.lineage.watched import ratio
from sigma_monitor.snapshot import GENERATION_MEASURES, PARTICIPATION_RATIO
from sigma_monitor.spectrum import spectral_drift

__all__ = ["LOG_DET", "Finding", "Limits", "ReferenceKind", "Verdict", "judge"]

ReferenceKind = Literal["control", "generation 0"]

LOG_DET = "log_det_per_dim"

# Healthy changes of domain take the participation ratio to a third of what it was: it warns and no
# more.
_WARNS_ONLY = (PARTICIPATION_RATIO,)


@dataclass(frozen=True)
class Limits:
    """Ratios to the reference at which a generation is not healthy any more."""

    warning: float = 0.80  # at most this, or at least its inverse
    collapsed: float = 0.50  # at most this

    def __post_init__(self) -> None:
        if not 0 < self.collapsed < self.warning < 1:
            raise InputError(
                f"warning={self.warning!r} and collapsed={self.collapsed!r}: ratios to the "
                "reference, 0 < collapsed < warning < 1, such as 0.8 and 0.5."
            )


@dataclass(frozen=True)
class Finding:
    """A ratio beyond a limit."""

    measure: str  # a key of `GENERATION_MEASURES`
    side: Side
    status: Status  # WARNING or COLLAPSED

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready builtins."""
        return {"measure": self.measure, "side": self.side, "status": self.status.name}


@dataclass(frozen=True)
class Verdict:
    """What is concluded of one generation."""

    generation: int
    status: Status
    reference: ReferenceKind
    ratios: Mapping[str, Estimate]  # of what is watched, to the reference
    changes: Mapping[str, Estimate]  # since the reference, in nats
    subspace_drift: float | None  # of the leading directions, 0 to 1, or None; raises nothing
    findings: tuple[Finding, ...]
    text: str  # all of it in a sentence

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready builtins; infinities and NaN become strings."""
        return {
            "generation": self.generation,
            "status": self.status.name,
            "reference": self.reference,
            "ratios": {name: estimate.to_dict() for name, estimate in self.ratios.items()},
            "changes": {name: estimate.to_dict() for name, estimate in self.changes.items()},
            "subspace_drift": self.subspace_drift,
            "findings": [finding.to_dict() for finding in self.findings],
            "text": self.text,
        }


def judge(
    generation: int,
    found: Measurement,
    before: Measurement,
    reference: ReferenceKind,
    *,
    limits: Limits,
    confidence: float,
) -> Verdict:
    """The verdict on a generation.

    A ratio is a finding when it is beyond a limit and its interval excludes 1. The worst finding is
    the status.

    Args:
        generation: Its number.
        found: What was measured of it.
        before: The same of the reference.
        reference: What that is.
        limits: For every measure alike.
        confidence: Of the intervals.
    """
    ratios = {}
    for name in GENERATION_MEASURES:
        if name in found.watched and name in before.watched:
            estimate = ratio(before.watched[name], found.watched[name], confidence)
            if estimate is not None:
                ratios[name] = estimate
    findings = tuple(
        finding
        for name, estimate in ratios.items()
        if (finding := _finding(name, estimate, limits)) is not None
    )
    status = max((finding.status for finding in findings), default=Status.HEALTHY)
    drift = turned(before.directions, found.directions)
    changes = {}
    if found.centred is not None and before.centred is not None:
        changes[LOG_DET] = spectral_drift(before.centred, found.centred).log_det_per_dim
    text = _sentence(generation, status, findings, ratios, reference)
    return Verdict(generation, status, reference, ratios, changes, drift, findings, text)


def _finding(name: str, estimate: Estimate, limits: Limits) -> Finding | None:
    low, high = estimate.low, estimate.high
    if estimate.value <= limits.warning and high < 1:
        collapsed = estimate.value <= limits.collapsed and name not in _WARNS_ONLY
        return Finding(name, "contraction", Status.COLLAPSED if collapsed else Status.WARNING)
    if estimate.value >= 1 / limits.warning and low > 1:
        return Finding(name, "expansion", Status.WARNING)
    return None


def _sentence(
    generation: int,
    status: Status,
    findings: tuple[Finding, ...],
    ratios: Mapping[str, Estimate],
    reference: ReferenceKind,
) -> str:
    whose = "the control's" if reference == "control" else "that of generation 0"
    if not findings:
        return f"Generation {generation} is {status.name}: nothing watched is far from {whose}."
    said = [
        f"{GENERATION_MEASURES[finding.measure]} {_shown(ratios[finding.measure])}"
        for finding in findings
    ]
    return f"Generation {generation} is {status.name}: {', '.join(said)} times {whose}."


def _shown(estimate: Estimate) -> str:
    if estimate.kind == "exact":
        return f"{estimate.value:.2f}"
    return f"{estimate.value:.2f} [{estimate.low:.2f}, {estimate.high:.2f}]"
