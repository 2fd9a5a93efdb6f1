"""An alert in sentences: what an engineer needs to read at night."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from sigma_monitor.alert import Alert, Channel
from sigma_monitor.snapshot import NAME

__all__ = ["worded"]

# In the tables below: a WARNING of the side of expansion, where that has words of its own.
_EXPANSION = "WARNING of expansion"
_Words = dict[Channel, dict[str, str]]  # by channel and kind

# Behind the monitor's name. Constant for each kind, since trackers merge or drop by title; what is
# missing for a channel is worded as for representations.
_TITLES: _Words = {
    "representation": {
        "BASELINE": "baseline frozen",
        "WARNING": "representations are contracting",
        _EXPANSION: "representations are expanding",
        "COLLAPSED": "representations have collapsed",
        "RECOVERED": "representations have recovered",
        "NONFINITE": "non-finite embeddings",
        "VANISHED": "representations have vanished",
        "NO_DATA": "no measurements",
        "FLAPPING": "status flaps, alerts are held back",
        "STOPPED": "a stop that was asked for is due",
    },
    "generation": {
        "WARNING": "the model writes less varied text",
        _EXPANSION: "the model writes more varied text",
        "COLLAPSED": "the model's text has collapsed",
        "RECOVERED": "the model's text has recovered",
    },
    "loss": {
        "WARNING": "held-out loss is rising",
        "RECOVERED": "held-out loss has recovered",
        "NONFINITE": "held-out loss is not finite",
    },
    "observed": {
        "BASELINE": "baseline of {rows} frozen",
        "WARNING": "rows of {rows} are contracting",
        _EXPANSION: "rows of {rows} are expanding",
        "COLLAPSED": "rows of {rows} have collapsed",
        "RECOVERED": "rows of {rows} have recovered",
        "NONFINITE": "rows of {rows} are not finite",
        "VANISHED": "rows of {rows} have vanished",
        "NO_DATA": "no measurements of {rows}",
        "FLAPPING": "{rows} flaps, alerts are held back",
        "STOPPED": "a stop for {rows} is due",
    },
}
_LONGEST_TITLE = 64  # characters, which W&B asks for

_LOOK_AT_TEXT = (
    "Look at some of the text the model writes, and at the share of model-made text in the data. "
    "A narrow-domain fine-tune is meant to narrow it; then held-out loss improves."
)
_BACK_TO_BEST = (
    "Go back to the best checkpoint; look at learning rate, data and memorisation since the onset. "
    "A new data mixture or a learning-rate warm-up can raise it for a while."
)
_LOOK_AT_OBJECTIVE = (
    "Look at the objective that these rows serve: one that nothing holds apart (no negatives, dead "
    "codes, a strong pull to the mean) can be perfect while they collapse. Then at the learning "
    "rate around the onset."
)
# Likewise. News that asks for nothing has none.
_ADVICE: _Words = {
    "representation": {
        "WARNING": (
            "Look at held-out loss and learning rate around the onset. A narrow-domain fine-tune "
            "can contract while held-out loss improves; then it is no harm."
        ),
        _EXPANSION: (
            "Memorising and training on model-made text expand the representations of real text; "
            "so does healthy training from scratch. Look at held-out loss and at what the data "
            "loader gives."
        ),
        "COLLAPSED": (
            "Stop, go back to a checkpoint before the onset, and lower the learning rate or look "
            "at what changed in data, loss or schedule there."
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
            "Checks fail or do not happen, so a collapse would go unseen: look for the first "
            "failure in console and record."
        ),
        "FLAPPING": (
            "The series crosses a threshold again and again: look at it, and pass a detector "
            'preset such as "quiet", or more probe examples, if it is only noise.'
        ),
    },
    "generation": {"WARNING": _LOOK_AT_TEXT, "COLLAPSED": _LOOK_AT_TEXT},
    "loss": {"WARNING": _BACK_TO_BEST, "COLLAPSED": _BACK_TO_BEST},
    "observed": {
        "WARNING": _LOOK_AT_OBJECTIVE,
        _EXPANSION: (
            "Rows that spread over more directions are seldom a harm by themselves: look at what "
            "changed in data, objective or schedule around the onset."
        ),
        "COLLAPSED": _LOOK_AT_OBJECTIVE,
        "VANISHED": _LOOK_AT_OBJECTIVE,
    },
}


def worded(
    alert: Alert,
    *,
    monitor: str = NAME,
    loss: float | None = None,
    start_loss: float | None = None,
    quotes: Sequence[str] = (),
) -> Alert:
    """The alert with title, text and advice filled in.

    Args:
        alert: As the detector raised it, with layer, convention and interval added.
        monitor: Its name, so that W&B does not take another's alert for the same and drop it.
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
        title=_title(alert, monitor),
        text=" ".join(part for part in parts if part),
        advice=_words(_ADVICE, alert),
    )


def _title(alert: Alert, monitor: str) -> str:
    """At most `_LONGEST_TITLE` characters, if need be by a shortened name of the rows."""
    title = f"{monitor}: {_words(_TITLES, alert)}"
    rows = alert.layer or ""
    room = _LONGEST_TITLE - len(title.replace("{rows}", ""))
    if len(rows) > room:
        rows = f"{rows[: max(0, room - 1)]}…"
    return title.replace("{rows}", rows)[:_LONGEST_TITLE]


def _words(table: _Words, alert: Alert) -> str:
    expands = alert.kind == "WARNING" and alert.side == "expansion"
    kinds = (_EXPANSION, alert.kind) if expands else (alert.kind,)
    words = (table[channel].get(k) for channel in (alert.channel, "representation") for k in kinds)
    return next((found for found in words if found is not None), "")


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
