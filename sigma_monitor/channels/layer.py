"""The detectors of one layer."""

from __future__ import annotations

import functools
import logging
import math
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, replace
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sigma_monitor.alert import Alert, AlertKind, Status
from sigma_monitor.checking.measure import Measured, VectorValues
from sigma_monitor.detection import FLOOR, Baseline, Detector
from sigma_monitor.detection import baseline as baselines
from sigma_monitor.estimate import Estimate
from sigma_monitor.snapshot import FLOORED, WATCHED
from sigma_monitor.spectrum.subspace import subspace_drift
from sigma_monitor.spectrum.uncertainty import (
    half_width,
    mean_standard_error,
    paired_difference,
    paired_standard_error,
)

__all__ = ["LayerWatch"]

_logger = logging.getLogger("sigma_monitor")

Array: TypeAlias = NDArray[np.float64]

_LEAST_POOLED = 4  # times the floor, that the rank must be able to have
_OF_FLOOR = ("floor", "floor_patience")  # thresholds
_CONFIDENCE = 0.95
_NAMED_EXAMPLES = 3


class LayerWatch:
    """The relative rule on centred rows, and the absolute floor on uncentred mean-pooled rows.

    The floor is judged once the relative rule has a baseline, and the rank has been above: a model
    drawn at random, or one that has only learnt unigrams, also points one way and is not harmed.
    A model without a token loss,
    such as one of embeddings, is watched relative to its baseline on the uncentred rows too.
    """

    def __init__(
        self,
        layer: str,
        rows: str,
        *,
        baseline: Literal["start", "plateau"] | Baseline,
        expected_checks: int | None,
        warmup_steps: int = 0,
        thresholds: Mapping[str, Any],
        has_loss: bool = True,
    ) -> None:
        self.layer = layer
        self.rows = rows  # "token", "mean-pooled", "last-token": for the wording
        of_floor = {name: thresholds[name] for name in _OF_FLOOR if name in thresholds}
        self._new_relative = functools.partial(
            Detector,
            baseline=baseline,
            expected_checks=expected_checks,
            warmup_steps=warmup_steps,
            **{name: value for name, value in thresholds.items() if name not in _OF_FLOOR},
        )
        self.level = self._new_relative()
        self.uncentred = None if has_loss else self._new_relative()
        self.floor = Detector(
            baseline="none", expected_checks=expected_checks, **{"floor": FLOOR, **of_floor}
        )
        self._floor_open = False  # it has been above the floor, so that it can fall below
        self._named = "level"  # the rule that the last alarm was about
        self.drift: float | None = None  # of the leading eigenspace since the baseline
        self.stderr: float | None = None  # of the change that the level is told of, nats
        self._half_width: float | None = None  # of log effective rank, paired
        self._pooled: Estimate | None = None  # of the latest check, floored
        self._latest: Measured | None = None
        self._paired_with: Array | None = None  # (examples,) log ranks without each example
        self._paired_vectors = np.empty(0)  # (vectors,) log ranks by test vector
        self._paired_change = np.empty(0)  # (few,) since those, where a check was followed
        self._paired_directions: Tensor | None = None  # (k, m)

    @property
    def status(self) -> Status:
        """The worst of all rules."""
        if self.level.status is Status.WARMUP:
            return Status.WARMUP
        return max(detector.status for detector in self._detectors)

    @property
    def onset_step(self) -> int | None:
        """Step at which the first excursion began."""
        onsets = [detector.onset_step for detector in self._detectors]
        return min((step for step in onsets if step is not None), default=None)

    @property
    def _detectors(self) -> list[Detector]:
        return [d for d in (self.level, self.uncentred, self.floor) if d is not None]

    @property
    def unmeasured_in_a_row(self) -> int:
        """Checks in a row that had nothing to measure (non-finite, vanished)."""
        return self.level.unmeasured_in_a_row

    def update(self, step: int, measured: Measured) -> list[Alert]:
        """Take one check into account; the events it raised, without their words."""
        warming_up = self.level.baseline is None
        self.stderr = self._paired_stderr(measured)
        self.level.update(step, measured.log_of(WATCHED), self.stderr)
        self._latest = measured if measured.estimates else None
        without = measured.log_rank_without
        self._half_width = None
        if self.stderr is not None and without is not None:
            self._half_width = half_width(self.stderr, len(without), _CONFIDENCE)
        if warming_up and without is not None and bool(np.isfinite(without).all()):
            self._load_pairing(_pairing(measured))
        self.drift = None
        if measured.directions is not None and self._paired_directions is not None:
            self.drift = subspace_drift(measured.directions, self._paired_directions)
        if self.uncentred is not None:
            self.uncentred.update(step, measured.log_of(FLOORED))
        if measured.estimates:
            self._pooled = measured.estimates.get(FLOORED)
            if self.level.baseline is not None:
                self._watch_floor(step, measured, begins=warming_up)
        return [self._placed(event) for event in self.level.events]

    def _watch_floor(self, step: int, measured: Measured, *, begins: bool) -> None:
        """Once the rank has been above it: one that is low from the start has not collapsed."""
        rule, log_rank = self.floor.thresholds, measured.log_of(FLOORED)
        if rule.floor is None or measured.pooled_limit < _LEAST_POOLED * rule.floor:
            return
        self._floor_open |= log_rank >= math.log(rule.floor / rule.recovered)
        if begins and not self._floor_open:
            _logger.warning(
                "sigma_monitor: all rows point one way from the start (layer %s, effective "
                "rank %.3g of uncentred mean-pooled rows); the floor of %g is watched once it has "
                "been above",
                self.layer,
                math.exp(log_rank),
                rule.floor,
            )
        if self._floor_open and not begins:
            self.floor.update(step, log_rank)

    def missed(self, step: int) -> list[Alert]:
        """Take into account that a check did not happen."""
        self.level.missed(step)
        return [self._placed(event) for event in self.level.events]

    def rebaseline(self) -> None:
        """What comes next is the reference."""
        for detector in self._detectors:
            detector.rebaseline()
        self._floor_open = False

    def expect(self, checks: int | None) -> None:
        """As `Detector.expect`."""
        for detector in self._detectors:
            detector.expect(checks)

    def describe(self, kind: AlertKind, step: int) -> Alert:
        """An alert of the rule that says the worse thing, with its interval."""
        if kind in ("WARNING", "COLLAPSED"):
            self._named = self._worst_rule
        if self._named == "floor":
            alert = self._placed_pooled(self.floor.describe(kind, step))
            alert = replace(alert, floor=self.floor.thresholds.floor)
        elif self._named == "uncentred" and self.uncentred is not None:
            alert = self._placed_pooled(self.uncentred.describe(kind, step))
        else:
            alert = self._placed(self.level.describe(kind, step))
        if kind in ("WARNING", "COLLAPSED"):
            alert = replace(alert, moved_examples=self._moved_examples())
        return alert

    @property
    def _worst_rule(self) -> str:
        # On a tie too: no loss excuses the floor.
        if self.floor.status is Status.COLLAPSED:
            return "floor"
        if self.uncentred is not None and self.uncentred.status > self.level.status:
            return "uncentred"
        return "level"

    def _placed(self, alert: Alert) -> Alert:
        alert = replace(
            alert,
            layer=self.layer,
            functional=WATCHED,
            convention=f"centred {self.rows} rows",
        )
        if alert.value is None or self._half_width is None:
            return alert
        # How sure its change from the baseline is.
        factor = math.exp(self._half_width)
        return replace(alert, low=alert.value / factor, high=alert.value * factor)

    def _placed_pooled(self, alert: Alert) -> Alert:
        alert = replace(
            alert,
            layer=self.layer,
            functional=FLOORED,
            convention="uncentred mean-pooled rows",
        )
        if alert.value is None or self._pooled is None:
            return alert
        # Of sampling: there is no baseline to pair it with.
        return replace(alert, low=self._pooled.low, high=self._pooled.high)

    def _moved_examples(self) -> tuple[int, ...]:
        """Examples whose influence on the log rank changed most since the baseline.

        The influence of an example is what the log rank loses without it.
        """
        now = None if self._latest is None else self._latest.log_rank_without
        before = self._paired_with
        if now is None or before is None or len(now) != len(before):
            return ()
        change = np.abs((now - now.mean()) - (before - before.mean()))
        if not np.isfinite(change).all() or not change.any():
            return ()
        return tuple(int(i) for i in np.argsort(-change, kind="stable")[:_NAMED_EXAMPLES])

    def _paired_stderr(self, measured: Measured) -> float | None:
        """Standard error of the change against the reference on the same examples, nats.

        Of the finite probe set, and of the test vectors where the spectra are randomised.
        """
        without = measured.log_rank_without
        if without is None or self._paired_with is None or len(without) != len(self._paired_with):
            return None
        sampling = paired_standard_error(self._paired_with, without)
        return math.hypot(sampling, self._vector_error(measured.vector_values))

    def _vector_error(self, values: VectorValues | None) -> float:
        if values is None:
            return 0.0
        level, reference = values.level, self._paired_vectors
        if len(reference) == len(level):
            level = level - reference
        change = paired_difference(values.change, self._paired_change)
        # They share vectors and need not be independent.
        return mean_standard_error(level) + mean_standard_error(change)

    def baselines(self) -> dict[str, Any] | None:
        """What another run needs to be compared with this one's baseline; None in warm-up."""
        if self.level.baseline is None:
            return None
        uncentred = None if self.uncentred is None else self.uncentred.baseline
        return {
            "baseline": asdict(self.level.baseline),
            "uncentred": None if uncentred is None else asdict(uncentred),
            **self._pairing_state(),
        }

    def latest_as_baselines(self) -> dict[str, Any] | None:
        """The latest check as another run's baseline; None when nothing was measured."""
        if self._latest is None or self.level.step is None:
            return None
        step, log_of = self.level.step, self._latest.log_of
        return {
            "baseline": asdict(baselines.start(step, log_of(WATCHED))),
            "uncentred": asdict(baselines.start(step, log_of(FLOORED))),
            **_pairing(self._latest),
        }

    def adopt(self, reference: Mapping[str, Any]) -> None:
        """Take the baseline of another run."""
        self.level.adopt(Baseline(**reference["baseline"]))
        if self.uncentred is not None and reference["uncentred"] is not None:
            self.uncentred.adopt(Baseline(**reference["uncentred"]))
        self._load_pairing(reference)

    def _pairing_state(self) -> dict[str, Any]:
        return {
            "reference": None if self._paired_with is None else self._paired_with.tolist(),
            "reference_vectors": self._paired_vectors.tolist(),
            "reference_change": self._paired_change.tolist(),
            "reference_directions": _packed(self._paired_directions),
        }

    def _load_pairing(self, state: Mapping[str, Any]) -> None:
        self._paired_with = _array(state["reference"])
        self._paired_vectors = np.asarray(state["reference_vectors"], dtype=np.float64)
        self._paired_change = np.asarray(state["reference_change"], dtype=np.float64)
        self._paired_directions = _unpacked(state["reference_directions"])

    def state_dict(self) -> dict[str, Any]:
        """JSON-serialisable builtins."""
        return {
            "level": self.level.state_dict(),
            "uncentred": None if self.uncentred is None else self.uncentred.state_dict(),
            "floor": self.floor.state_dict(),
            "floor_open": self._floor_open,
            "named": self._named,
            "pooled": None if self._pooled is None else [*astuple(self._pooled)],
            **self._pairing_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict()`."""
        self.level.resume(state["level"])
        saved = state["uncentred"]
        self.uncentred = None if saved is None else self._new_relative()
        if self.uncentred is not None:
            self.uncentred.resume(saved)
        self.floor.resume(state["floor"])
        self._floor_open, self._named = bool(state["floor_open"]), str(state["named"])
        self._pooled = None if state["pooled"] is None else Estimate(*state["pooled"])
        self._load_pairing(state)


def _pairing(measured: Measured) -> dict[str, Any]:
    """What the next checks are paired with, JSON-ready."""
    without, values = measured.log_rank_without, measured.vector_values
    return {
        "reference": None if without is None else without.tolist(),
        "reference_vectors": [] if values is None else values.level.tolist(),
        "reference_change": [] if values is None else values.change.tolist(),
        "reference_directions": _packed(measured.directions),
    }


def _array(values: Sequence[float] | None) -> Array | None:
    return None if values is None else np.asarray(values, dtype=np.float64)


def _packed(directions: Tensor | None) -> dict[str, Any] | None:
    """Half precision as text: 22 kB for 8 directions of 1024 features."""
    if directions is None:
        return None
    values = directions.float().cpu().numpy().astype("<f2")
    return {"shape": list(values.shape), "base64": b64encode(values.tobytes()).decode()}


def _unpacked(packed: Mapping[str, Any] | None) -> Tensor | None:
    if packed is None:
        return None
    values = np.frombuffer(b64decode(packed["base64"]), dtype="<f2").reshape(packed["shape"])
    return torch.from_numpy(values.astype(np.float16))
