"""Bands, spectra and alerts, and where wanted metrics, in TensorBoard."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from sigma_monitor.alert import Alert
from sigma_monitor.snapshot import NAME, SHARES, Snapshot, metric_name

__all__ = ["TensorBoardSink"]

_LOG_SHARES = np.log10(SHARES)
_MIDDLES = (_LOG_SHARES[1:] + _LOG_SHARES[:-1]) / 2


class TensorBoardSink:
    """Writes with a `SummaryWriter`.

    Every functional with an interval gets a chart with its band, under "custom scalars"; their
    layout lies below the writer's folder, in one of the monitor's name. The spectrum of each layer
    is a histogram of log10 of the share of the trace; alerts are texts.

    Args:
        writer: A `SummaryWriter`, or a function that gives the one that is open, or None.
        metrics: Whether to write the metrics too: not where a host's logger does.
        prefix: Which that logger puts in front of the names of metrics, such as `train/`.
        name: Of the monitor.
    """

    def __init__(
        self,
        writer: Any | Callable[[], Any],
        *,
        metrics: bool = True,
        prefix: str = "",
        name: str = NAME,
    ) -> None:
        self._writer = writer if callable(writer) else lambda: writer
        self._with_metrics = metrics
        self._prefix = prefix
        self._name = name
        self._bands: set[str] = set()

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """A point of every metric, where they were asked for, and the layout of their bands."""
        writer = self._writer()
        if writer is None:
            return
        self._lay_out(writer, metrics)  # first: another attempt would write the points twice
        if self._with_metrics:
            for name, value in metrics.items():
                writer.add_scalar(self._prefix + name, value, step)

    def check(self, snapshot: Snapshot) -> None:
        """As `log`, and a histogram of every layer's spectrum."""
        self.log(snapshot.metrics(), snapshot.step)
        writer = self._writer()
        if writer is None:
            return
        for layer, counts in snapshot.spectra.items():
            tag = f"{self._prefix}{self._name}/{metric_name(layer)}/spectrum"
            _add_histogram(writer, tag, np.asarray(counts), snapshot.step)

    def alert(self, alert: Alert) -> None:
        """A text."""
        writer = self._writer()
        if writer is not None:
            text = f"**{alert.title}**\n\n{alert.message}"
            writer.add_text(f"{self._name}/alerts", text, alert.step)
            writer.flush()

    def close(self) -> None:
        """Write what waits; the writer belongs to the user, and the next training has another."""
        self._bands = set()
        writer = self._writer()
        if writer is not None:
            writer.flush()

    def _lay_out(self, writer: Any, metrics: Mapping[str, float]) -> None:
        bands = {name for name in metrics if f"{name}_low" in metrics} | self._bands
        if bands != self._bands:
            charts = {}
            for name in sorted(bands):
                tag = self._prefix + name
                charts[name] = ["Margin", [tag, f"{tag}_low", f"{tag}_high"]]
            own = _beside(writer, self._name)
            if own is not None:
                with own:
                    own.add_custom_scalars({self._name: charts})
            self._bands = bands


def _beside(writer: Any, name: str) -> Any:
    """Another writer, of the folder `name` below; None of a kind that is opened in another way.

    Of the layouts in one folder TensorBoard shows the last, and those of several folders together:
    in the writer's own a layout would replace the user's, or another monitor's.
    """
    folder: Any = getattr(writer, "log_dir", None) or getattr(writer, "logdir", None)
    try:  # tensorboardX names it logdir
        return type(writer)(os.path.join(folder, name))
    except TypeError:
        return None


def _add_histogram(writer: Any, tag: str, counts: np.ndarray[Any, Any], step: int) -> None:
    if not counts.any():
        return
    inside = np.flatnonzero(counts)
    writer.add_histogram_raw(
        tag,
        min=_LOG_SHARES[inside[0]],
        max=_LOG_SHARES[inside[-1] + 1],
        num=counts.sum(),
        sum=counts @ _MIDDLES,
        sum_squares=counts @ _MIDDLES**2,
        bucket_limits=_LOG_SHARES.tolist(),
        bucket_counts=[0, *counts.tolist()],  # the first holds what lies below its limit
        global_step=step,
    )
