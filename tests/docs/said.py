"""The alerts that pages show, as the package words them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sigma_monitor import Alert
from sigma_monitor.alert import AlertKind
from sigma_monitor.detection import Evidence, Judgement, verdict_on, worded

__all__ = ["on_its_way", "runaway", "sent_to_wandb"]


def contraction(kind: AlertKind, loss: Judgement | None, **fields: Any) -> Alert:
    """An alert about the token rows of the last layer, judged beside held-out loss."""
    placed = {"layer": "last", "functional": "effective_rank", "convention": "centred token rows"}
    alert = Alert(kind, "warn", side="contraction", **placed, **fields)
    return replace(alert, verdict=verdict_on(alert, Evidence(loss)).text)


def on_console(alert: Alert) -> str:
    return f"[{alert.title}] {alert.text}\n    {alert.advice}"


def runaway() -> str:
    """Of the demo's learning rate that ran away."""
    alert = contraction(
        "WARNING",
        "worse",
        step=68,
        check=18,
        value=20.0,
        low=19.8,
        high=20.2,
        baseline=52.8,
        ratio=0.66,
        onset_step=64,
        moved_examples=(108, 54, 74),
    )
    return on_console(worded(alert, loss=7.3, start_loss=3.15))


def on_its_way() -> str:
    """Of a fall that has not come to its end."""
    alert = contraction(
        "WARNING",
        None,
        step=200,
        check=21,
        value=49.2,
        low=49.2,
        high=49.3,
        baseline=59.9,
        ratio=0.85,
        onset_step=170,
        forecast="at its present pace 65% of its baseline about step 276",
        moved_examples=(54, 81, 26),
    )
    return on_console(worded(alert))


def sent_to_wandb() -> str:
    """Of a fine-tune that collapsed."""
    alert = contraction(
        "COLLAPSED",
        "worse",
        step=32,
        check=17,
        value=13.9,
        low=13.4,
        high=14.4,
        baseline=52.5,
        ratio=0.30,
        onset_step=22,
        moved_examples=(12, 45, 25),
    )
    alert = worded(alert, loss=5.41, start_loss=4.34)
    return f"title {alert.title} severity ERROR text {alert.message}"
