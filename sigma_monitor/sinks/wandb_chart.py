"""The picture of a spectrum that goes with an alarm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sigma_monitor.snapshot import SHARES

__all__ = ["spectrum_chart"]


def spectrum_chart(title: str, curves: Mapping[str, Sequence[int]]) -> Any:
    """Draw how many eigenvalues have a larger share of the trace than each; (h, w, 4) pixels.

    A chart of W&B's own would be a table, and so an artifact, for which wandb asks its server in
    the caller's thread.

    Args:
        title: Above it.
        curves: By name, counts between two of `SHARES`.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.5), dpi=100, layout="constrained")
    canvas: Any = FigureCanvasAgg(figure)
    axis = figure.add_subplot()
    for name, counts in curves.items():
        above = np.cumsum(counts[::-1])[::-1]
        axis.step(SHARES[:-1], above, where="post", label=name)
    axis.set_xscale("log")
    axis.set_xlabel("share of the trace")
    axis.set_ylabel("eigenvalues above it")
    axis.set_title(title, parse_math=False)
    axis.legend(frameon=False)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())
