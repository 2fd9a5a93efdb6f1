"""An alert in sentences: what an engineer needs to read at night."""

from __future__ import annotations

from dataclasses import replace

from sigma_monitor.alert import Alert, AlertKind

__all__ = ["worded"]

# Constant, so that trackers merge alerts of one kind; at most 64 characters.
_TITLES: dict[AlertKind, str] = {
    "BASELINE": "sigma: baseline frozen",
    "WARNING": "sigma: representations are contracting",
    "COLLAPSED": "sigma: representations have collapsed",
    "RECOVERED": "sigma: representations have recovered",
    "NONFINITE": "sigma: non-finite embeddings",
    "VANISHED": "sigma: representations have vanished",
    "STOPPED": "sigma: training stopped on collapse",
}

_ADVICE: dict[AlertKind, str] = {
    "WARNING": (
        "Look at held-out loss and learning rate around the onset. A narrow-domain fine-tune can "
        "contract while held-out loss improves; then it is no harm."
    ),
    "COLLAPSED": (
        "Stop, go back to a checkpoint before the onset, and lower the learning rate or look at "
        "what changed in data, loss or schedule there."
    ),
    "NONFINITE": (
        "Look for a diverging loss or an overflow in half precision; go back to the last "
        "checkpoint with finite embeddings."
    ),
    "VANISHED": (
        "All probe examples have one and the same embedding: look at weight decay, at the "
        "normalisation layers, and at the loss."
    ),
}


def worded(alert: Alert, *, loss: float | None = None, start_loss: float | None = None) -> Alert:
    """The alert with title, text and advice filled in.

    Args:
        alert: As the detector raised it, with layer, convention and interval added.
        loss: Held-out loss at this check, nats per token.
        start_loss: Held-out loss at the first check.
    """
    text = f"{alert.kind} at step {alert.step} (check {alert.check}). {_finding(alert)}"
    if loss is not None and start_loss is not None and alert.kind != "BASELINE":
        text += f" Held-out loss {loss:.3g} nats per token, {start_loss:.3g} at the first check."
    return replace(
        alert, title=_TITLES[alert.kind], text=text.strip(), advice=_ADVICE.get(alert.kind, "")
    )


def _finding(alert: Alert) -> str:
    where = f"layer {alert.layer}" if alert.layer is not None else "the model"
    if alert.kind == "NONFINITE":
        return f"Probe embeddings of {where} hold NaN or infinity."
    if alert.kind == "VANISHED":
        return f"Probe embeddings of {where} are all equal: no spectrum is left."
    if alert.value is None:
        return alert.text
    what = (alert.functional or "value").rpartition("/")[2].replace("_", " ")
    finding = f"{what.capitalize()} of {alert.convention}, {where}: {alert.value:.3g}"
    if alert.low is not None and alert.high is not None:
        finding += f" [{alert.low:.3g}, {alert.high:.3g}]"
    if alert.ratio is not None and alert.baseline is not None:
        finding += f", median {alert.ratio:.0%} of its baseline {alert.baseline:.3g}"
    if alert.floor is not None and alert.kind == "COLLAPSED":
        finding += f", at or below the floor of {alert.floor:g}: all texts point one way"
    if alert.onset_step is not None:
        finding += f", low since step {alert.onset_step}"
    return finding + "."
