"""How far single functionals may fall from their baselines before a run is to stop."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, Literal

from sigma_monitor.alert import Status
from sigma_monitor.channels.channel import combined
from sigma_monitor.checking.measure import Measured
from sigma_monitor.detection import Baseline, Detector
from sigma_monitor.detection import baseline as baselines
from sigma_monitor.errors import InputError
from sigma_monitor.snapshot import UNCENTRED_PREFIX
from sigma_monitor.spectrum.result import RANKS

__all__ = ["LimitWatch", "checked_limits"]

_logger = logging.getLogger("sigma_monitor")

_RATIOS = (*RANKS, "trace")  # positive: the limit is a ratio to the baseline
_LOGARITHMS = ("log_det", "log_det_per_dim", "coding_rate", "spectral_entropy")  # a difference
_COLLAPSED = 0.5
# The detector's other levels say nothing here, and its floor is that of a rank.
_LEFT_OUT = (
    "warning_slow",
    "warning_fast",
    "warning_trend",
    "trend_target",
    "collapsed",
    "recovered",
    "floor",
    "floor_patience",
)


def checked_limits(asked: Mapping[Any, Any]) -> dict[str, float]:
    """Limits by functional, as floats.

    Args:
        asked: Functional, of centred rows or with `uncentred/` in front, to a ratio between 0 and 1
            (ranks, trace) or a difference in nats below 0 (logarithms).

    Raises:
        InputError: On a functional that has no such limit, a limit out of range, or none at all.
    """
    if not asked:
        raise InputError(
            "stop_on_collapse={}: name a functional, as in "
            '{"participation_ratio": 0.3}, or pass True or False.'
        )
    for key, limit in asked.items():
        name = key.removeprefix(UNCENTRED_PREFIX) if isinstance(key, str) else key
        if name not in (*_RATIOS, *_LOGARITHMS):
            raise InputError(
                f"stop_on_collapse={dict(asked)!r}: no limit can be put on {key!r}. Pass a ratio "
                f"to the baseline for {', '.join(_RATIOS)}, or a difference in nats for "
                f"{', '.join(_LOGARITHMS)}; {UNCENTRED_PREFIX} in front is of uncentred rows."
            )
        number = isinstance(limit, (int, float)) and not isinstance(limit, bool)
        if name in _RATIOS and not (number and 0 < limit < 1):
            raise InputError(
                f"stop_on_collapse={dict(asked)!r}: {key} takes a ratio to its baseline between 0 "
                "and 1, such as 0.3."
            )
        if name in _LOGARITHMS and not (number and -math.inf < limit < 0):
            raise InputError(
                f"stop_on_collapse={dict(asked)!r}: {key} takes a difference from its baseline in "
                "nats below 0, such as -1.0."
            )
    return {key: float(limit) for key, limit in asked.items()}


class _Limit:
    """One functional and how far it may fall."""

    def __init__(self, key: str, limit: float) -> None:
        self.key = key
        self.limit = limit
        self.relative = key.removeprefix(UNCENTRED_PREFIX) in _RATIOS  # or a difference in nats
        # The detector is given the series in units of the limit. A log det is a sum over all
        # features: to a few hundredths of a nat it is never level, and the exponential of its limit
        # can be zero.
        fall = math.log(limit) if self.relative else limit
        self.scale = math.log(_COLLAPSED) / fall

    def log_value(self, measured: Measured) -> float:
        """What the detector takes; NaN or −inf where nothing could be measured."""
        if self.key not in measured.estimates:
            return measured.unmeasured
        value = measured.estimates[self.key].value
        return self.scale * (math.log(value) if self.relative else value)

    def describe(self, layer: str, moved: float) -> str:
        """How far it is from its baseline at `layer`, by scaled nats."""
        fall = moved / self.scale
        if self.relative:
            return (
                f"{self.key} at layer {layer} {math.exp(fall):.3g} of its baseline (stops at "
                f"{self.limit:g})"
            )
        return (
            f"{self.key} at layer {layer} {fall:+.3g} nats from its baseline (stops at "
            f"{self.limit:g})"
        )


class LimitWatch:
    """One detector for each functional that has a limit, at each layer.

    Each takes its own baseline, start or plateau, and has the noise gate and the patience of the
    rule that says COLLAPSED.

    Args:
        limits: As `checked_limits` gives them; may be none.
        layers: Names of the layers that are read.
        deciding: The layer whose fall alone is enough; otherwise a quarter of them is.
        baseline: Kind of the baseline.
        expected_checks: Length of the run in checks.
        warmup_steps: Of the learning rate.
        thresholds: Of the representation; its levels are left out.
    """

    def __init__(
        self,
        limits: Mapping[str, float],
        layers: Sequence[str],
        *,
        deciding: str,
        baseline: Literal["start", "plateau"],
        expected_checks: int | None,
        warmup_steps: int,
        thresholds: Mapping[str, Any],
    ) -> None:
        self._limits = {key: _Limit(key, limit) for key, limit in limits.items()}
        self._deciding = deciding
        kept = {name: value for name, value in thresholds.items() if name not in _LEFT_OUT}
        self._detectors = {
            key: {
                layer: Detector(
                    baseline=baseline,
                    expected_checks=expected_checks,
                    warmup_steps=warmup_steps,
                    **{**kept, "collapsed": _COLLAPSED, "trend": False},
                )
                for layer in layers
            }
            for key in limits
        }

    def __len__(self) -> int:
        """Number of functionals that have a limit."""
        return len(self._limits)

    def update(self, step: int, measured: Mapping[str, Measured]) -> None:
        """Take one check into account."""
        for limit, layer, detector in self._series():
            detector.update(step, limit.log_value(measured[layer]))

    @property
    def fallen(self) -> list[str]:
        """Functionals that are at their limit."""
        return [
            key
            for key, detectors in self._detectors.items()
            if combined({n: d.status for n, d in detectors.items()}, self._deciding)
            is Status.COLLAPSED
        ]

    def reached(self, excused: Callable[[str], bool]) -> str | None:
        """What is at its limit, in words; None where nothing is that no loss excuses.

        Args:
            excused: Whether held-out loss excuses a fall at this layer.
        """
        for key in self.fallen:
            layer = self._where(self._detectors[key])
            if not excused(layer):
                return self._limits[key].describe(layer, self._detectors[key][layer].moved)
        return None

    @property
    def falling(self) -> bool:
        """Whether the latest check of some series is below its baseline, and none fallen yet."""
        return not self.fallen and any(
            detector.off_baseline and (detector.ratio or 1.0) < 1
            for _, _, detector in self._series()
        )

    def _where(self, detectors: Mapping[str, Detector]) -> str:
        """The layer that decides, or the one that fell first."""
        fallen = [name for name, d in detectors.items() if d.status is Status.COLLAPSED]
        if self._deciding in fallen:
            return self._deciding
        return min(fallen, key=lambda name: detectors[name].onset_step or 0)

    def _series(self) -> list[tuple[_Limit, str, Detector]]:
        return [
            (self._limits[key], layer, detector)
            for key, detectors in self._detectors.items()
            for layer, detector in detectors.items()
        ]

    def rebaseline(self) -> None:
        """What comes next is the reference."""
        for _, _, detector in self._series():
            detector.rebaseline()

    def expect(self, checks: int | None) -> None:
        """As `Detector.expect`."""
        for _, _, detector in self._series():
            detector.expect(checks)

    def baselines(self) -> dict[str, dict[str, Any]]:
        """Baselines by functional and layer, in nats, as far as there are any."""
        found: dict[str, dict[str, Any]] = {key: {} for key in self._limits}
        for limit, layer, detector in self._series():
            if detector.baseline is not None:
                found[limit.key][layer] = asdict(_scaled(detector.baseline, 1 / limit.scale))
        return found

    def latest_as_baselines(self) -> dict[str, dict[str, Any]]:
        """The latest values as baselines of another run, likewise."""
        found: dict[str, dict[str, Any]] = {key: {} for key in self._limits}
        for limit, layer, detector in self._series():
            if detector.log_value is not None and detector.step is not None:
                latest = baselines.start(detector.step, detector.log_value / limit.scale)
                found[limit.key][layer] = asdict(latest)
        return found

    def adopt(self, reference: Mapping[str, Any]) -> None:
        """Take the baselines of another run, where it had any of these functionals."""
        missing = [key for key in self._limits if not reference.get(key)]
        for limit, layer, detector in self._series():
            if layer in reference.get(limit.key, {}):
                found = Baseline(**reference[limit.key][layer])
                detector.adopt(_scaled(found, limit.scale))
        if missing:
            _logger.warning(
                "sigma_monitor: the run to compare with has no baseline of %s, so that "
                "stop_on_collapse takes this run's own; give that run the same stop_on_collapse",
                ", ".join(missing),
            )

    def state_dict(self) -> dict[str, Any]:
        """JSON-serialisable builtins."""
        return {
            key: {
                "limit": self._limits[key].limit,
                "layers": {layer: d.state_dict() for layer, d in detectors.items()},
            }
            for key, detectors in self._detectors.items()
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict()`.

        A limit that is another now keeps the baseline, and one that is new begins here.
        """
        for limit, layer, detector in self._series():
            if limit.key not in state:
                continue
            before = _Limit(limit.key, float(state[limit.key]["limit"]))
            saved = state[limit.key]["layers"][layer]
            if before.limit == limit.limit:
                detector.resume(saved)
            elif saved["baseline"] is not None:
                detector.adopt(_scaled(Baseline(**saved["baseline"]), limit.scale / before.scale))


def _scaled(baseline: Baseline, factor: float) -> Baseline:
    return replace(baseline, log_value=baseline.log_value * factor, sigma=baseline.sigma * factor)
