"""The eigenvalues of several arrays over their index, on logarithmic axes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sigma_monitor.analysis.analyze import CONVENTIONS, Analysis, Report
from sigma_monitor.errors import InputError
from sigma_monitor.spectrum import SpectralSummary

__all__ = ["check_picture", "draw", "eigenvalues"]

_SUFFIXES = (".svg", ".png")
_FEW = 30  # eigenvalues that are drawn as points, too: a line needs two


def check_picture(path: Path) -> None:
    """Raise an InputError unless the suffix of `path` is that of a picture."""
    if path.suffix.lower() not in _SUFFIXES:
        raise InputError(
            f"--picture {path}: suffix {path.suffix!r} names no picture. Pass a path ending in "
            f"{' or '.join(_SUFFIXES)}."
        )


def eigenvalues(summary: SpectralSummary) -> NDArray[np.float64]:
    """(r,) positive eigenvalues of C, descending.

    Of a randomised summary: those that its spectral density implies, as far down as rounding lets
    them be told from zero.
    """
    if summary.eigenvalues is not None:
        return summary.eigenvalues
    assert summary.randomized is not None  # one of both is always there
    sounding = summary.randomized.sounding
    values = sounding.measure.eigenvalues()
    kept: NDArray[np.float64] = values[values > sounding.rounding] * summary.trace.value
    return kept


def draw(report: Report, path: Path) -> Path:
    """Draw the spectra of all arrays, centred and uncentred side by side.

    Args:
        report: What to draw.
        path: Where to; the suffix decides the format.

    Raises:
        InputError: When no picture can be written there.
    """
    check_picture(path)
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(CONVENTIONS), figsize=(11, 5), sharey=True)
    for axis, convention in zip(axes, CONVENTIONS, strict=True):
        _panel(axis, report.analyses, convention)
    axes[0].set_ylabel("eigenvalue of C = G/n")
    figure.tight_layout()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Text stays text, which can be read aloud; the same spectra give the same file.
        with pyplot.rc_context({"svg.fonttype": "none", "svg.hashsalt": "sigma_monitor"}):
            svg = path.suffix.lower() == ".svg"
            figure.savefig(path, dpi=110, metadata={"Date": None} if svg else None)
    except OSError as error:
        raise InputError(f"--picture {path}: {error}. Pass a path that can be written.") from error
    finally:
        pyplot.close(figure)
    return path


def _panel(axis: Any, analyses: Sequence[Analysis], convention: str) -> None:
    from matplotlib import colormaps

    colours = colormaps["viridis"](np.linspace(0, 0.85, len(analyses)))
    names = _names(analyses)
    for analysis, name, colour in zip(analyses, names, colours, strict=True):
        summary = analysis.summaries[convention]
        values, rank = eigenvalues(summary), summary.effective_rank.value
        axis.plot(
            np.arange(1, len(values) + 1),
            values,
            color=colour,
            marker="." if len(values) <= _FEW else None,
            label=f"{rank:.4g}  {name}",
        )
        axis.axvline(rank, color=colour, linewidth=0.8, linestyle=":")
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_title(convention)
    axis.set_xlabel("index; dotted: effective rank")
    legend = axis.legend(frameon=False, title="effective rank", fontsize=8, loc="lower left")
    for text in legend.get_texts():
        text.set_parse_math(False)  # a file's name may have dollars


def _names(analyses: Sequence[Analysis]) -> list[str]:
    """Labels without their folders, where that still tells them apart."""
    arrays = [analysis.array for analysis in analyses]
    labels = [array.label for array in arrays]
    short = [replace(array, file=Path(array.file.name)).label for array in arrays]
    return short if len(set(short)) == len(set(labels)) else labels
