"""The detectors of the generation channel: spectrum of the text, and output entropy."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sigma_monitor.alert import Alert, AlertKind, Status
from sigma_monitor.detection import Baseline, Detector
from sigma_monitor.detection import baseline as baselines
from sigma_monitor.estimate import Estimate
from sigma_monitor.generation.writing import Writing
from sigma_monitor.snapshot import ENTROPY, TEXT_RANK
from sigma_monitor.spectrum.uncertainty import jackknife_standard_error, paired_standard_error

__all__ = ["GenerationWatch", "SeriesWatch"]

_logger = logging.getLogger("sigma_monitor")

_CONVENTION = {
    TEXT_RANK: "centred embeddings of the text the model writes",
    ENTROPY: "next-token distribution while the model writes",
}


_SAME_ENCODER = 0.01  # of the largest inner product


class SeriesWatch:
    """One series of the generation channel."""

    def __init__(
        self,
        key: str,
        *,
        baseline: Literal["start", "plateau"] | Baseline,
        expected_checks: int | None,
        warmup_steps: int,
        thresholds: Mapping[str, Any],
    ) -> None:
        self.key = key
        self.detector = Detector(
            baseline=baseline,
            expected_checks=expected_checks,
            warmup_steps=warmup_steps,
            **thresholds,
        )
        self._estimate: Estimate | None = None

    @property
    def status(self) -> Status:
        """What it says now."""
        return self.detector.status

    @property
    def onset_step(self) -> int | None:
        """Step at which its excursion began."""
        return self.detector.onset_step

    def update(self, step: int, log_value: float, stderr: float, estimate: Estimate) -> list[Alert]:
        """Take one check into account; the events it raised."""
        self._estimate = estimate
        self.detector.update(step, log_value, stderr)
        return [self._placed(event) for event in self.detector.events]

    def describe(self, kind: AlertKind, step: int) -> Alert:
        """An alert of this series, with the interval of its value."""
        alert = self._placed(self.detector.describe(kind, step))
        if alert.value is None or self._estimate is None:
            return alert
        return replace(alert, low=self._estimate.low, high=self._estimate.high)

    def _placed(self, alert: Alert) -> Alert:
        return replace(
            alert, channel="generation", functional=self.key, convention=_CONVENTION[self.key]
        )


class GenerationWatch:
    """The series of the generation channel, and their standard errors.

    Args:
        series: Keys of the estimates: without the likelihoods there is no output entropy.
        **options: Of `SeriesWatch`.
    """

    def __init__(self, series: Sequence[str], **options: Any) -> None:
        self.series = {key: SeriesWatch(key, **options) for key in series}
        self._paired_with: dict[str, Any] | None = None  # encoder; values by text, at the baseline
        self._latest_as_baselines: dict[str, Any] | None = None  # the latest writing as a baseline

    @property
    def diversity_lost(self) -> bool | None:
        """Whether either series contracts; None in warm-up."""
        statuses = [series.status for series in self.series.values()]
        if Status.WARMUP in statuses:
            return None
        return any(
            series.status > Status.HEALTHY and series.detector.side == "contraction"
            for series in self.series.values()
        )

    def update(self, step: int, writing: Writing) -> list[Alert]:
        """Take what was written at one check into account; the events it raised."""
        waiting = any(series.status is Status.WARMUP for series in self.series.values())
        values = {key: self._value(key, writing) for key in self.series}
        events = []
        for key, (log_value, stderr) in values.items():
            events += self.series[key].update(step, log_value, stderr, writing.estimates[key])
        referred = _pairing(writing)
        if waiting:
            self._paired_with = referred
        self._latest_as_baselines = {
            "baselines": {key: asdict(baselines.start(step, x)) for key, (x, _) in values.items()},
            "reference": referred,
        }
        return events

    def _value(self, key: str, writing: Writing) -> tuple[float, float]:
        """Natural log, and the standard error of its change since the baseline."""
        if key == ENTROPY:
            return writing.log_entropy, self._entropy_error(writing)
        return writing.log_rank, self._rank_error(writing)

    def of_another_encoder(self, writing: Writing) -> bool:
        """Whether its embeddings cannot be compared with those at the baseline."""
        if self._paired_with is None:
            return False
        before, now = np.asarray(self._paired_with["signature"]), np.asarray(writing.signature)
        if self._paired_with["encoder"] != writing.encoder or before.shape != now.shape:
            return True
        # Another device rounds otherwise, and is the same encoder.
        off = np.abs(now - before).max(initial=0.0)
        return bool(off > _SAME_ENCODER * np.abs(before).max(initial=0.0))

    def begin_anew(self, step: int, writing: Writing) -> None:
        """Drop the baseline because of another encoder, and say so."""
        before = None if self._paired_with is None else self._paired_with["encoder"]
        _logger.warning(
            "sigma_monitor: the text was embedded by another encoder before (%s, now %s), so the "
            "baseline of the generation channel begins anew at step %d, and an episode that was "
            "open there ends without a recovery",
            before,
            writing.encoder,
            step,
        )
        self.rebaseline()

    def rebaseline(self) -> None:
        """What comes next is the reference."""
        for series in self.series.values():
            series.detector.rebaseline()

    def expect(self, writings: int | None) -> None:
        """As `Detector.expect`."""
        for series in self.series.values():
            series.detector.expect(writings)

    def _rank_error(self, writing: Writing) -> float:
        """Standard error of the change of the log rank."""
        now, before = writing.log_rank_without, self._before(TEXT_RANK)
        if now is None or before is None or (writing.paired and len(now) != len(before)):
            return 0.0
        if writing.paired:
            error = paired_standard_error(before, now)
        else:  # each check has prompts of its own, and nothing cancels
            error = math.hypot(*(jackknife_standard_error(x) for x in (before, now) if len(x)))
        return error if math.isfinite(error) else 0.0

    def _entropy_error(self, writing: Writing) -> float:
        """Likewise of the log of the mean entropy, on the same prompts."""
        now, before = writing.entropies, self._before(ENTROPY)
        if now is None or before is None or len(now) != len(before) or len(now) < 2:
            return 0.0
        spread = float(np.std(now - before, ddof=1)) / math.sqrt(len(now))
        return spread / max(float(before.mean()), 1e-12)

    def _before(self, key: str) -> NDArray[np.float64] | None:
        return None if self._paired_with is None else np.asarray(self._paired_with[key])

    def baselines(self) -> dict[str, Any] | None:
        """What another run needs to be compared with this one's baseline; None in warm-up."""
        found = {key: series.detector.baseline for key, series in self.series.items()}
        if None in found.values():
            return None
        return {
            "baselines": {key: asdict(b) for key, b in found.items() if b is not None},
            "reference": self._paired_with,
        }

    def latest_as_baselines(self) -> dict[str, Any] | None:
        """The latest writing as another run's baseline; None when there was none."""
        return self._latest_as_baselines

    def adopt(self, reference: Mapping[str, Any]) -> None:
        """Take the baselines of another run."""
        for key, series in self.series.items():
            series.detector.adopt(Baseline(**reference["baselines"][key]))
        self._paired_with = reference["reference"]

    def state_dict(self) -> dict[str, Any]:
        """JSON-serialisable builtins."""
        return {
            "series": {key: series.detector.state_dict() for key, series in self.series.items()},
            "reference": self._paired_with,
            "present": self._latest_as_baselines,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict()`."""
        for key, series in self.series.items():
            series.detector.resume(state["series"][key])
        self._paired_with, self._latest_as_baselines = state["reference"], state["present"]


def _pairing(writing: Writing) -> dict[str, Any]:
    without = writing.log_rank_without
    return {
        "encoder": writing.encoder,
        "signature": list(writing.signature),
        TEXT_RANK: [] if without is None else without.tolist(),
        ENTROPY: [] if writing.entropies is None else writing.entropies.tolist(),
    }
