"""The curves of several trainings with their bands and alerts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sigma_monitor.detection import FLOOR, Thresholds
from sigma_monitor.estimate import Estimate
from sigma_monitor.sinks import Record
from sigma_monitor.snapshot import ENTROPY, FLOORED, WATCHED, Snapshot

__all__ = ["Curves", "draw"]

_INK, _WARN, _ERROR = "#1f4e79", "#c77700", "#b3261e"
_ROWS = (
    (WATCHED, "effective rank\ncentred token rows"),
    (FLOORED, "effective rank\nuncentred, mean-pooled"),
    (ENTROPY, "output entropy, nats\nwhile it writes"),
)


@dataclass(frozen=True)
class Curves:
    """One column of the picture."""

    name: str
    record: Record
    losses: Sequence[tuple[int, float]]  # step and training loss


def draw(columns: Sequence[Curves], path: Path) -> Path:
    """Draw spectra with bands, losses and alerts, one column for each training.

    Args:
        columns: What to draw.
        path: Where to; the suffix decides the format.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(
        len(_ROWS) + 1,
        len(columns),
        figsize=(4 * len(columns), 9),
        sharex="col",
        sharey="row",
        squeeze=False,
    )
    for number, column in enumerate(columns):
        *curves, bottom = axes[:, number]
        curves[0].set_title(column.name)
        for axis, (key, label) in zip(curves, _ROWS, strict=True):
            _curve(axis, column.record, key)
            if number == 0:
                axis.set_ylabel(label)
        _losses(bottom, column)
        for axis in (*curves, bottom):
            _alerts(axis, column.record, named=axis is curves[0])
    axes[-1][0].set_ylabel("loss")
    axes[-1][0].legend(frameon=False)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    # Text stays text, which is small and can be read aloud; the same curves give the same file.
    with pyplot.rc_context({"svg.fonttype": "none", "svg.hashsalt": "sigma_monitor"}):
        figure.savefig(path, dpi=110, metadata={"Date": None} if path.suffix == ".svg" else None)
    pyplot.close(figure)
    return path


def _series(snapshots: Sequence[Snapshot], key: str) -> tuple[list[int], list[Estimate]]:
    """Steps and estimates of the first layer or of what was written, where there are any."""
    found = [
        (snapshot.step, estimates[key])
        for snapshot in snapshots
        for estimates in [{**snapshot.generation, **next(iter(snapshot.layers.values()), {})}]
        if key in estimates
    ]
    return [step for step, _ in found], [estimate for _, estimate in found]


def _curve(axis: Any, record: Record, key: str) -> None:
    steps, estimates = _series(record.snapshots, key)
    axis.fill_between(
        steps,
        [estimate.low for estimate in estimates],
        [estimate.high for estimate in estimates],
        color=_INK,
        alpha=0.25,
        linewidth=0,
    )
    axis.plot(steps, [estimate.value for estimate in estimates], color=_INK)
    _readable_log(axis)
    baselines = [a for a in record.alerts if a["kind"] == "BASELINE"]
    baseline = next((a["baseline"] for a in baselines if _watches(a, key)), None)
    rule = Thresholds()
    if baseline is not None:
        axis.axhline(baseline * rule.warning_slow, color=_WARN, linewidth=0.8, linestyle=":")
        axis.axhline(baseline * rule.collapsed, color=_ERROR, linewidth=0.8, linestyle=":")
    if key == FLOORED:
        axis.axhline(FLOOR, color=_ERROR, linewidth=0.8, linestyle=":")


def _watches(alert: dict[str, Any], key: str) -> bool:
    channel = "generation" if key == ENTROPY else "representation"
    return bool(alert["functional"] == key and alert["channel"] == channel)


def _readable_log(axis: Any) -> None:
    """A log scale labelled 1, 2, 5, 10, 20 rather than in powers."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axis.set_yscale("log")
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.yaxis.set_minor_formatter(NullFormatter())


def _losses(axis: Any, column: Curves) -> None:
    snapshots = column.record.snapshots
    held_out = [(s.step, s.loss) for s in snapshots if s.loss is not None]
    for points, style, label in (
        (held_out, "-", "held-out, nats per token"),
        (column.losses, "--", "the training's own"),
    ):
        steps, losses = [step for step, _ in points], [loss for _, loss in points]
        axis.plot(steps, losses, color=_INK, linestyle=style, label=label)
    axis.set_xlabel("step")


def _alerts(axis: Any, record: Record, *, named: bool) -> None:
    for alert in record.alerts:
        if alert["severity"] == "info":
            continue
        colour = _ERROR if alert["severity"] == "error" else _WARN
        axis.axvline(alert["step"], color=colour, linewidth=1)
        if named:
            axis.annotate(
                f" {alert['kind']}",
                (alert["step"], 0.02),
                xycoords=axis.get_xaxis_transform(),
                color=colour,
                rotation=90,
                fontsize=8,
                ha="right",
            )
