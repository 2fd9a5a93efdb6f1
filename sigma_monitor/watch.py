"""The detectors of one layer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sigma_monitor.alert import Alert, Status
from sigma_monitor.detection import Detector
from sigma_monitor.measure import FLOORED, WATCHED, Measured, VectorValues
from sigma_monitor.spectrum.uncertainty import (
    half_width,
    mean_standard_error,
    paired_difference,
    paired_standard_error,
)

__all__ = ["FLOOR", "LayerWatch"]

Array: TypeAlias = NDArray[np.float64]

FLOOR = 2.0  # effective rank at which the texts of the probe set all point one way
_LEAST_POOLED = 4 * FLOOR  # a rank that can hardly exceed the floor says nothing by being low
_CONFIDENCE = 0.95


class LayerWatch:
    """The relative rule on centred rows, and the absolute floor on uncentred mean-pooled rows.

    The floor is judged once the relative rule has a baseline: a model drawn at random, or one that
    has only learnt unigrams, also points one way and is not harmed.
    """

    def __init__(
        self,
        layer: str,
        rows: str,
        *,
        baseline: Literal["start", "plateau"],
        expected_checks: int | None,
        options: Mapping[str, Any],
    ) -> None:
        self.layer = layer
        self.rows = rows  # "token", "mean-pooled", "last-token": for the wording
        self.options = dict(options)
        self.level = Detector(baseline=baseline, expected_checks=expected_checks, **options)
        self.floor = Detector(baseline="none", expected_checks=expected_checks, floor=FLOOR)
        self._told = Status.HEALTHY  # the worst status of this episode that an alert was raised for
        self._reference: Array | None = None  # (examples,) log ranks without each example
        self._reference_vectors = np.empty(0)  # (vectors,) log ranks by test vector
        self._reference_change = np.empty(0)  # (few,) since those, where a check was followed

    @property
    def status(self) -> Status:
        """The worse of both."""
        if self.level.status is Status.WARMUP:
            return Status.WARMUP
        return max(self.level.status, self.floor.status)

    @property
    def unmeasured_in_a_row(self) -> int:
        """Checks in a row that had nothing to measure (non-finite, vanished)."""
        return self.level.unmeasured_in_a_row

    def update(self, step: int, measured: Measured) -> list[Alert]:
        """Take one check into account; the alerts it raised, without their words."""
        warming_up = self.level.baseline is None
        stderr = self._paired(measured)
        self.level.update(step, measured.log_of(WATCHED), stderr)
        alerts = [self._placed(a, WATCHED, f"centred {self.rows} rows") for a in self.level.alerts]
        if stderr is not None and measured.log_rank_without is not None:
            half = half_width(stderr, len(measured.log_rank_without), _CONFIDENCE)
            alerts = [_with_interval(alert, half) for alert in alerts]
        if warming_up and measured.log_rank_without is not None:
            self._reference = measured.log_rank_without
            values = measured.vector_values
            self._reference_vectors = np.empty(0) if values is None else values.level
            self._reference_change = np.empty(0) if values is None else values.change
        if not warming_up and measured.estimates and measured.pooled_limit >= _LEAST_POOLED:
            self.floor.update(step, measured.log_of(FLOORED))
            alerts += [
                self._placed(_bounded(alert, measured), FLOORED, "uncentred mean-pooled rows")
                for alert in self.floor.alerts
            ]
        return [alert for alert in alerts if self._is_news(alert)]

    def _is_news(self, alert: Alert) -> bool:
        """Two rules, one episode: each severity is told once, recovery when both are over."""
        if alert.kind in ("WARNING", "COLLAPSED"):
            worse = Status[alert.kind] > self._told
            self._told = max(self._told, Status[alert.kind])
            return worse
        if alert.kind == "RECOVERED":
            over = self.status <= Status.HEALTHY < self._told
            self._told = Status.HEALTHY if over else self._told
            return over
        return True

    def _paired(self, measured: Measured) -> float | None:
        """Standard error of the change against the reference on the same examples, nats.

        Of the finite probe set, and of the test vectors where the spectra are randomised.
        """
        without = measured.log_rank_without
        if without is None or self._reference is None or len(without) != len(self._reference):
            return None
        sampling = paired_standard_error(self._reference, without)
        return math.hypot(sampling, self._vector_error(measured.vector_values))

    def _vector_error(self, values: VectorValues | None) -> float:
        if values is None:
            return 0.0
        level, reference = values.level, self._reference_vectors
        if len(reference) == len(level):
            level = level - reference
        change = paired_difference(values.change, self._reference_change)
        # They share vectors and need not be independent.
        return mean_standard_error(level) + mean_standard_error(change)

    def _placed(self, alert: Alert, functional: str, convention: str) -> Alert:
        return replace(alert, layer=self.layer, functional=functional, convention=convention)

    def state_dict(self) -> dict[str, Any]:
        """JSON-serialisable builtins."""
        return {
            "level": self.level.state_dict(),
            "floor": self.floor.state_dict(),
            "told": self._told.name,
            "reference": _listed(self._reference),
            "reference_vectors": self._reference_vectors.tolist(),
            "reference_change": self._reference_change.tolist(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict()`."""
        # What the user asks for now wins over the saved rule; its windows are those of the run.
        level = state["level"]
        self.level.load_state_dict({**level, "thresholds": {**level["thresholds"], **self.options}})
        self.floor.load_state_dict(state["floor"])
        self._told = Status[state["told"]]
        self._reference = _array(state["reference"])
        self._reference_vectors = np.asarray(state["reference_vectors"], dtype=np.float64)
        self._reference_change = np.asarray(state["reference_change"], dtype=np.float64)


def _listed(values: Array | None) -> list[float] | None:
    return None if values is None else values.tolist()


def _array(values: Sequence[float] | None) -> Array | None:
    return None if values is None else np.asarray(values, dtype=np.float64)


def _bounded(alert: Alert, measured: Measured) -> Alert:
    """The sampling interval of the value; there is no baseline to pair it with."""
    estimate = measured.estimates[FLOORED]
    return replace(alert, low=estimate.low, high=estimate.high, floor=FLOOR)


def _with_interval(alert: Alert, half: float) -> Alert:
    """The paired interval of the value: how sure its change from the baseline is."""
    if alert.value is None:
        return alert
    factor = float(np.exp(half))
    return replace(alert, low=alert.value / factor, high=alert.value * factor)
