"""The spectrum at the baseline and now."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from sigma_monitor.report.axes import height_of, panels, power_scale, value_scale
from sigma_monitor.report.figure import Entry, Figure, Table, drawn_twice
from sigma_monitor.report.plain import clean, step_label, tail
from sigma_monitor.report.run import Run, Spectrum
from sigma_monitor.report.svg import COLOURS, Shape
from sigma_monitor.snapshot import SHARES

__all__ = ["spectrum_figure"]

_MOST_LAYERS = 4
_HEIGHT, _TOP = 120, 30
_THOUSANDTH = int(np.searchsorted(SHARES, 0.99e-3))  # the bin that begins there


def spectrum_figure(run: Run) -> Figure | None:
    """Eigenvalues by their share of the trace, at the baseline and at the latest check.

    Args:
        run: What was recorded.
    """
    ratios = {} if run.snapshot is None else {clean(k): v for k, v in run.snapshot.ratios.items()}
    spectra = {layer: pair for layer, pair in run.spectra.items() if len(pair) == 2}
    chosen = sorted(spectra, key=lambda layer: ratios.get(layer, 1.0))[:_MOST_LAYERS]
    if not chosen:
        return None
    shown = {layer: spectra[layer] for layer in chosen}
    filled = np.nonzero(np.sum([s.counts for pair in shown.values() for s in pair], axis=0))[0]
    low, high = (filled[0], filled[-1] + 1) if len(filled) else (0, len(SHARES) - 1)

    def draw(figure: Any, shape: Shape) -> None:
        axes = panels(figure, shape, [_HEIGHT] * len(shown), _TOP)
        for axis, (layer, pair) in zip(axes, shown.items(), strict=True):
            name = tail(layer, 28 if shape.narrow else 60)
            axis.set_title(f"layer {name}", fontsize="medium", y=1, pad=8)
            _stairs(axis, pair)
            axis.set_xlim(SHARES[low], SHARES[high])
            _share_axis(axis, named=axis is axes[-1])

    then, now = next(iter(shown.values()))
    caption = (
        "How many eigenvalues of the centred rows have a share of the trace between two marks, "
        "four to a factor of ten; smaller ones are in the leftmost. A collapse leaves a few on the "
        "right and moves the others to the left."
    )
    if len(shown) < len(spectra):
        caption += f" Shown are the {len(shown)} lowest of {len(spectra)} layers."
    return Figure(
        key="spectrum",
        title="The spectrum then and now",
        caption=caption,
        words=" ".join(_in_words(layer, pair) for layer, pair in shown.items()),
        svgs=drawn_twice(draw, "spectrum", height_of([_HEIGHT] * len(shown), _TOP)),
        legend=(
            Entry(f"baseline, step {step_label(then.step)}", "then"),
            Entry(f"latest, step {step_label(now.step)}", "line-0"),
        ),
        table=_table(shown),
    )


def _stairs(axis: Any, pair: Sequence[Spectrum]) -> None:
    then, now = (np.minimum(np.array(s.counts, dtype=np.float64), 1e15) for s in pair)
    axis.stairs(then, SHARES, fill=True, color=COLOURS["muted"], alpha=0.28, linewidth=0)
    axis.stairs(now, SHARES, color=COLOURS["series-1"], linewidth=2, baseline=None)
    axis.set_ylim(0, max(1.0, then.max(), now.max()) * 1.1)
    value_scale(axis)


def _share_axis(axis: Any, *, named: bool) -> None:
    power_scale(axis.xaxis)
    axis.tick_params(axis="x", labelbottom=named)
    if named:
        axis.set_xlabel("share of the trace")


def _in_words(layer: str, pair: Sequence[Spectrum]) -> str:
    then, now = (_above(spectrum) for spectrum in pair)
    return (
        f"Layer {clean(layer, 40)}: eigenvalues with more than a thousandth of the trace: {then:,} "
        f"at step {step_label(pair[0].step)}, {now:,} at step {step_label(pair[1].step)}."
    )


def _above(spectrum: Spectrum) -> int:
    return sum(
        count for share, count in zip(SHARES, spectrum.counts, strict=False) if share >= 9.9e-4
    )


def _table(shown: dict[str, list[Spectrum]]) -> Table:
    rows = []
    for layer, (then, now) in shown.items():
        for bin_, (before, after) in enumerate(zip(then.counts, now.counts, strict=True)):
            if before or after:
                between = f"{SHARES[bin_]:.1e} to {SHARES[bin_ + 1]:.1e}"
                rows.append((clean(layer, 40), between, f"{before:,}", f"{after:,}"))
    return Table(("layer", "share of the trace", "at baseline", "latest"), tuple(rows))
