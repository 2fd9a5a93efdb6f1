"""Spectrum, held-out loss and output diversity joined: what a move means."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sigma_monitor.alert import Alert, Severity

__all__ = ["Evidence", "Judgement", "Verdict", "verdict_on"]

Judgement = Literal["better", "flat", "worse"]


@dataclass(frozen=True)
class Evidence:
    """What else is known at a check, beside the series that moved."""

    loss: Judgement | None = None  # held-out loss against its baseline; None: not measured
    diversity_lost: bool | None = None  # of the text the model writes; None: not measured


@dataclass(frozen=True)
class Verdict:
    """What a finding means, and how loudly to say it."""

    severity: Severity
    text: str


def verdict_on(alert: Alert, evidence: Evidence) -> Verdict:
    """The verdict on a WARNING or COLLAPSED.

    | move | loss better | flat | worse | not measured |
    |---|---|---|---|---|
    | contraction, expansion, less diverse output | info | alert | alert | alert |
    | the absolute floor is reached | alert | alert | alert | alert |

    An alert is `warn` for WARNING and `error` for COLLAPSED.

    Args:
        alert: As a detector describes it.
        evidence: Of the same check.
    """
    move = _move(alert)
    severity: Severity = "error" if alert.kind == "COLLAPSED" else "warn"
    if alert.floor is not None:
        return Verdict(severity, f"{move}: no loss can excuse that")
    if alert.channel == "loss":
        return Verdict(severity, f"{move} from its best")
    if alert.channel == "observed":
        return Verdict(severity, f"{move}; the spectrum alone decides")
    if evidence.loss == "better":
        return Verdict("info", f"{move} while held-out loss improves: no sign of harm")
    known = {
        "worse": f"{move} and held-out loss gets worse",
        "flat": f"{move} while held-out loss stays as it is",
        None: f"{move}; held-out loss is not measured, the spectrum alone decides",
    }[evidence.loss]
    if evidence.diversity_lost and alert.channel != "generation":
        known += ", and the text the model writes loses diversity"
    return Verdict(severity, known)


def _move(alert: Alert) -> str:
    if alert.channel == "loss":
        return "held-out loss rises"
    if alert.channel == "generation":
        return "the text the model writes " + (
            "grows more varied" if alert.side == "expansion" else "loses diversity"
        )
    if alert.floor is not None:
        rows = "rows" if alert.channel == "observed" else "texts"
        return f"all {rows} point one way"
    return "expanding" if alert.side == "expansion" else "contracting"
