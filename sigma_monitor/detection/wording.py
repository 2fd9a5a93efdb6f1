"""An alert in sentences: what an engineer needs to read at night."""

from __future__ import annotations

from collections.abc import Sequence
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
    "NO_DATA": "sigma: no measurements",
    "FLAPPING": "sigma: status flaps, alerts are held back",
    "STOPPED": "sigma: a stop that was asked for is due",
}
_EXPANSION_TITLE = "sigma: representations are expanding"
_GENERATION_TITLES: dict[AlertKind, str] = {
    "WARNING": "sigma: the model writes less varied text",
    "COLLAPSED": "sigma: the model's text has collapsed",
    "RECOVERED": "sigma: the model's text has recovered",
}
_GENERATION_EXPANSION_TITLE = "sigma: the model writes more varied text"
_LOSS_TITLES: dict[AlertKind, str] = {
    "WARNING": "sigma: held-out loss is rising",
    "RECOVERED": "sigma: held-out loss has recovered",
    "NONFINITE": "sigma: held-out loss is not finite",
}

_OBSERVED_TITLES: dict[AlertKind, str] = {
    "WARNING": "sigma: observed rows are contracting",
    "COLLAPSED": "sigma: observed rows have collapsed",
    "RECOVERED": "sigma: observed rows have recovered",
    "NONFINITE": "sigma: observed rows are not finite",
    "VANISHED": "sigma: observed rows have vanished",
}
_OBSERVED_EXPANSION_TITLE = "sigma: observed rows are expanding"

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
    "NO_DATA": (
        "Checks fail or do not happen, so a collapse would go unseen: look for the first failure "
        "in console and record."
    ),
    "FLAPPING": (
        "The series crosses a threshold again and again: look at it, and pass a detector preset "
        'such as "quiet", or more probe examples, if it is only noise.'
    ),
}
_EXPANSION_ADVICE = (
    "Memorising and training on model-made text expand the representations of real text; so does "
    "healthy training from scratch. Look at held-out loss and at what the data loader gives."
)
_GENERATION_ADVICE = (
    "Look at some of the text the model writes, and at the share of model-made text in the data. "
    "A narrow-domain fine-tune is meant to narrow it; then held-out loss improves."
)
_LOSS_ADVICE = (
    "Go back to the best checkpoint; look at learning rate, data and memorisation since the onset. "
    "A new data mixture or a learning-rate warm-up can raise it for a while."
)
_OBSERVED_ADVICE = (
    "Look at the objective that these rows serve: one that nothing holds apart (no negatives, dead "
    "codes, a strong pull to the mean) can be perfect while they collapse. Then at the learning "
    "rate around the onset."
)
_OBSERVED_EXPANSION_ADVICE = (
    "Rows that spread over more directions are seldom a harm by themselves: look at what changed "
    "in data, objective or schedule around the onset."
)


def worded(
    alert: Alert,
    *,
    loss: float | None = None,
    start_loss: float | None = None,
    quotes: Sequence[str] = (),
) -> Alert:
    """The alert with title, text and advice filled in.

    Args:
        alert: As the detector raised it, with layer, convention and interval added.
        loss: Held-out loss at this check, nats per token.
        start_loss: Held-out loss at baseline.
        quotes: Texts to show at the end.
    """
    unit = "observation" if alert.channel == "observed" else "check"
    parts = [f"{alert.kind} at step {alert.step} ({unit} {alert.check})."]
    if alert.reminder:
        parts.append("It goes on.")
    parts.append(_finding(alert))
    if alert.kind in ("WARNING", "COLLAPSED"):
        parts += _circumstances(alert)
    if loss is not None and start_loss is not None and alert.kind != "BASELINE":
        parts.append(f"Held-out loss {loss:.3g} nats per token, {start_loss:.3g} at its baseline.")
    parts += [f"\u201c{quote.strip()}\u201d" for quote in quotes]
    return replace(
        alert,
        title=_title(alert),
        text=" ".join(part for part in parts if part),
        advice=_advice(alert),
    )


def _title(alert: Alert) -> str:
    expands = alert.side == "expansion" and alert.kind == "WARNING"
    if alert.channel == "loss":
        return _LOSS_TITLES.get(alert.kind, _TITLES[alert.kind])
    if alert.channel == "observed":
        found = _OBSERVED_TITLES.get(alert.kind, _TITLES[alert.kind])
        return _OBSERVED_EXPANSION_TITLE if expands else found
    if alert.channel == "generation":
        found = _GENERATION_TITLES.get(alert.kind, _TITLES[alert.kind])
        return _GENERATION_EXPANSION_TITLE if expands else found
    return _EXPANSION_TITLE if expands else _TITLES[alert.kind]


def _advice(alert: Alert) -> str:
    if alert.kind in ("WARNING", "COLLAPSED"):
        if alert.channel == "loss":
            return _LOSS_ADVICE
        if alert.channel == "generation":
            return _GENERATION_ADVICE
        if alert.channel == "observed":
            expands = alert.side == "expansion" and alert.kind == "WARNING"
            return _OBSERVED_EXPANSION_ADVICE if expands else _OBSERVED_ADVICE
        if alert.side == "expansion" and alert.kind == "WARNING":
            return _EXPANSION_ADVICE
    if alert.channel == "observed" and alert.kind == "VANISHED":
        return _OBSERVED_ADVICE
    return _ADVICE.get(alert.kind, "")


def _finding(alert: Alert) -> str:
    if alert.channel == "observed":
        found = {
            "NONFINITE": f"The rows observed as {alert.layer} hold NaN or infinity.",
            "VANISHED": f"The rows observed as {alert.layer} are all equal: no spectrum is left.",
        }.get(alert.kind)
        if found is not None:
            return found
    where = "the model" if alert.layer is None else _place(alert)
    if alert.kind == "NONFINITE" and alert.channel == "loss":
        return "Held-out loss is NaN or infinite, though probe embeddings are finite."
    if alert.kind == "NONFINITE" and alert.layer is None and alert.functional is not None:
        return f"{alert.functional} is NaN or infinite."
    if alert.kind == "VANISHED" and alert.layer is None and alert.functional is not None:
        return f"{alert.functional} is zero."
    if alert.kind == "NONFINITE":
        return f"Probe embeddings of {where} hold NaN or infinity."
    if alert.kind == "VANISHED":
        return f"Probe embeddings of {where} are all equal: no spectrum is left."
    if alert.kind == "NO_DATA":
        return "Several checks in a row gave nothing; the status is that of the last one."
    if alert.value is None:
        return alert.text
    what = (alert.functional or "value").rpartition("/")[2].replace("_", " ")
    of = f" of {alert.convention}" if alert.convention is not None else ""
    place = "" if alert.layer is None else f", {where}"
    finding = f"{what.capitalize()}{of}{place}: {alert.value:.3g}"
    if alert.low is not None and alert.high is not None:
        finding += f" [{alert.low:.3g}, {alert.high:.3g}]"
    if alert.ratio is not None and alert.baseline is not None:
        name = "best" if alert.channel == "loss" else "baseline"
        finding += f", median {alert.ratio:.0%} of its {name} {alert.baseline:.3g}"
    if alert.floor is not None and alert.value <= alert.floor:
        rows = "rows" if alert.channel == "observed" else "texts"
        finding += f", at or below the floor of {alert.floor:g}: all {rows} point one way"
    if alert.onset_step is not None:
        finding += f", {_OFF[alert.side]} since step {alert.onset_step}"
    return finding + "."


def _place(alert: Alert) -> str:
    return f"observed {alert.layer}" if alert.channel == "observed" else f"layer {alert.layer}"


_OFF = {"contraction": "low", "expansion": "high", None: "low"}


def _circumstances(alert: Alert) -> list[str]:
    """Which layers, where it goes, what it means, which examples."""
    found = []
    if len(alert.affected) > 1:
        first, *others = alert.affected
        known = first == alert.layer and alert.onset_step is not None
        about = f", about step {alert.onset_step}" if known else ""
        found.append(f"First at {first}{about}; then at {', '.join(others)}.")
    if alert.forecast is not None:
        found.append(f"Forecast: {alert.forecast}.")
    if alert.verdict is not None:
        found.append(f"Verdict: {alert.verdict}.")
    if alert.moved_examples:
        named = ", ".join(str(example) for example in alert.moved_examples)
        found.append(f"Probe examples whose influence changed most: {named}.")
    return found
