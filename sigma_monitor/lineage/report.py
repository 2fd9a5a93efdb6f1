"""Everything that is known of a lineage, frozen and serialisable."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sigma_monitor.alert import Status
from sigma_monitor.lineage.measure import Measurement
from sigma_monitor.lineage.verdict import Limits, ReferenceKind, Verdict
from sigma_monitor.snapshot import LINEAGE, LINEAGE_SCHEMA
from sigma_monitor.spectrum.tracks import TrackDrift

__all__ = ["Generation", "LineageReport"]


@dataclass(frozen=True, eq=False)
class Generation:
    """One generation of the chain or of the control."""

    number: int
    source: str | None  # where it was read; None: handed over
    found: Measurement
    track_drift: TrackDrift | None  # since the first of its own lineage, under the paper's settings

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready builtins; infinities and NaN become strings."""
        drift = self.track_drift
        return {
            "generation": self.number,
            "source": self.source,
            **self.found.to_dict(),
            "track_drift": None if drift is None else dict(drift._asdict()),
        }


@dataclass(frozen=True, eq=False)
class LineageReport:
    """What `Lineage.report` gives, and `sigma-monitor chain` prints."""

    encoder: str
    features: int  # m
    documents: int  # of every generation
    sampled: int | str  # documents of the index set, or "all"
    seed: int  # of the index set
    preset: str | None
    confidence: float  # of the intervals
    limits: Limits
    reference: ReferenceKind
    generations: tuple[Generation, ...]
    controls: tuple[Generation, ...]
    verdicts: tuple[Verdict, ...]  # one a generation
    notes: tuple[str, ...]  # what to know before any of it is believed
    schema: int = LINEAGE_SCHEMA

    @property
    def status(self) -> Status:
        """The worst of the verdicts."""
        return max(verdict.status for verdict in self.verdicts)

    def table(self) -> str:
        """As text."""
        from sigma_monitor.lineage.table import table

        return table(self)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready builtins; infinities and NaN become strings."""
        limits: Mapping[str, float] = vars(self.limits)
        return {
            "schema": self.schema,
            "kind": LINEAGE,
            "encoder": self.encoder,
            "features": self.features,
            "documents": self.documents,
            "sampled": self.sampled,
            "seed": self.seed,
            "preset": self.preset,
            "confidence": self.confidence,
            "limits": dict(limits),
            "reference": self.reference,
            "status": self.status.name,
            "notes": list(self.notes),
            "generations": [generation.to_dict() for generation in self.generations],
            "controls": [control.to_dict() for control in self.controls],
            "verdicts": [verdict.to_dict() for verdict in self.verdicts],
        }
