"""Spectrum, held-out loss and output diversity joined: what a move means."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from sigma_monitor.alert import Alert, Severity

__all__ = ["Evidence", "Judgement", "Verdict", "judgement", "paired_change", "verdict_on"]

Judgement = Literal["better", "flat", "worse"]

_LEAST_CHANGE = 0.01  # of the loss at baseline; less is flat, however certain
_NORMAL_95 = 1.96


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
        return "all texts point one way"
    return "expanding" if alert.side == "expansion" else "contracting"


def paired_change(
    now: Sequence[float], reference: Sequence[float], tokens: Sequence[int]
) -> tuple[float, float]:
    """Change of a token mean on the same examples, and the half-width of its 95 % interval.

    The mean is a ratio of sums; its standard error is that of the residuals of examples, which are
    the sampling units.

    Args:
        now: (examples,) sums over tokens.
        reference: (examples,) likewise, before.
        tokens: (examples,) tokens in each sum.

    Returns:
        Change and half-width, in units of the sums per token; the half-width of fewer than two
        examples is infinite.
    """
    total, n = sum(tokens), len(tokens)
    changes = [a - b for a, b in zip(now, reference, strict=True)]
    change = sum(changes) / total
    if n < 2:
        return change, math.inf
    squares = sum((d - change * t) ** 2 for d, t in zip(changes, tokens, strict=True))
    return change, _NORMAL_95 * math.sqrt(n / (n - 1) * squares) / total


def judgement(change: float, half_width: float, before: float) -> Judgement:
    """Better or worse only when the interval excludes 0 and the change is 1 % of `before`."""
    if abs(change) <= half_width or abs(change) < _LEAST_CHANGE * abs(before):
        return "flat"
    return "better" if change < 0 else "worse"
