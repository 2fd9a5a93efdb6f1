"""What the rivals see: the same snapshots, measured their way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.spatial.distance import cdist

from sigma_monitor import SigmaMonitor, sigma_tracks, spectral_summary
from sigma_monitor.sinks import read_record
from sigma_monitor.spectrum import PAPER_SETTINGS

__all__ = ["Measures"]

Row = dict[str, float]

_PERMUTATIONS = 200
_PAPER_TOTAL = 2  # the paper's 500 observed of 1000


class Measures:
    """One row of numbers for each check of a run, and the alerts that were raised."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.alerts: list[dict[str, Any]] = []
        self._start: np.ndarray | None = None  # pooled rows at the first check

    def follow(self, monitor: SigmaMonitor, offset: int) -> None:
        """Keep what the monitor reads at each check, and measure it once more."""
        read, check = monitor.instrument.probe.read, monitor.step

        def kept(*arguments: Any) -> Any:
            reading = read(*arguments)
            self._pooled = next(iter(reading.layers.values())).pooled.double()
            return reading

        def step(model: Any, at: int) -> Any:
            snapshot = check(model, at)
            if snapshot is not None:
                self.rows.append(self._row(snapshot, offset))
            return snapshot

        monitor.instrument.probe.read = kept  # type: ignore[method-assign]
        monitor.step = step  # type: ignore[method-assign]

    def close(self, path: Path, offset: int) -> None:
        """Take the alerts out of the record."""
        self.alerts += [
            {
                "kind": alert["kind"],
                "severity": alert["severity"],
                "channel": alert["channel"],
                "step": alert["step"] + offset,
                "verdict": alert["verdict"],
            }
            for alert in read_record(path).alerts
            if alert["kind"] != "BASELINE"
        ]

    def _row(self, snapshot: Any, offset: int) -> Row:
        layer = next(iter(snapshot.layers.values()))
        row: Row = {"step": snapshot.step + offset}
        if snapshot.loss is not None:
            row["loss"] = snapshot.loss
        for key in ("output_entropy", "distinct_2", "compression_ratio"):
            if key in snapshot.generation:
                row[key] = snapshot.generation[key].value
        if "effective_rank" not in layer or not bool(torch.isfinite(self._pooled).all()):
            return row
        row["effective_rank"] = layer["effective_rank"].value
        row["participation_ratio"] = layer["participation_ratio"].value
        return row | self._pooled_row(self._pooled)

    def _pooled_row(self, pooled: torch.Tensor) -> Row:
        """One mean-pooled row per example, uncentred: what RankMe, Vendi and SIGMA look at."""
        singular = torch.linalg.svdvals(pooled)
        shares = singular / singular.sum() + 1e-7
        unit = torch.nn.functional.normalize(pooled)
        vendi = spectral_summary(unit, sampling=False, method="exact")
        tracks = sigma_tracks(unit, _PAPER_TOTAL * len(unit), **PAPER_SETTINGS)
        return {
            "rankme": float(torch.exp(-(shares * shares.log()).sum())),
            "vendi_1": vendi.effective_rank.value,
            "vendi_2": vendi.participation_ratio.value,
            "spread": 1 - vendi.mean_cosine.value,
            "mmd_p": self._mmd(pooled.numpy()),
            "track_one": tracks.track_one,
            "track_two": tracks.track_two,
        }

    def _mmd(self, now: np.ndarray) -> float:
        """p-value of the permutation test of the maximum mean discrepancy from the start.

        Gaussian kernel, median heuristic; the rows are treated as unpaired, as the test has it.
        """
        if self._start is None:
            self._start = now
        both = np.concatenate([self._start, now])
        distances = cdist(both, both, "sqeuclidean")
        kernel = np.exp(-distances / np.median(distances[distances > 0]))
        n = len(now)
        rng = np.random.default_rng(0)
        signs = np.repeat([1.0, -1.0], n)
        orders = np.stack([signs, *(rng.permutation(signs) for _ in range(_PERMUTATIONS))])
        found = ((orders @ kernel) * orders).sum(1)
        return float((found >= found[0]).mean())
