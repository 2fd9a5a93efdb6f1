"""Held-out loss: better or worse than at baseline, and whether it rises from its best."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from statistics import median
from typing import Any, get_args

from sigma_monitor.alert import Alert, AlertKind, Channel, Status
from sigma_monitor.detection import Detector, Judgement, judgement, paired_change
from sigma_monitor.detection.baseline import start
from sigma_monitor.probing import TokenLosses

__all__ = ["LOSS_RULE", "LossWatch"]

# Of best / now, so that a rise is a fall: a WARNING when it has risen by 5 %, never a collapse.
LOSS_RULE: Mapping[str, Any] = {
    "warning_fast": 0.952,
    "warning_slow": 0.952,
    "recovered": 0.975,
    "collapsed": 1e-6,
    "trend": False,
    "expansion": False,
}
_LEAST_CHECKS = 3  # whose median can be the best


class LossWatch:
    """Held-out loss of the same examples at every check.

    The judgement is against the loss when a channel took its baseline, by a paired interval. The
    rise is against the best, the lowest rolling median so far: a loss that fell far and then rises
    is harm, even below where it began. A check with a non-finite loss is passed over.
    """

    def __init__(self, *, expected_checks: int | None, thresholds: Mapping[str, Any]) -> None:
        self.detector = Detector(
            baseline=start(0, 0.0),  # best / now is 1 at the best
            expected_checks=expected_checks,
            **{**LOSS_RULE, **thresholds},
        )
        self._baselines: dict[str, TokenLosses] = {}  # by channel
        self._now: TokenLosses | None = None  # None: not measured at the latest check
        self._half_width = math.inf  # of the change from the best, nats
        self._best: TokenLosses | None = None  # the check at which the best was reached
        self._best_mean = math.inf
        self._recent: list[float] = []

    @property
    def status(self) -> Status:
        """HEALTHY or WARNING."""
        return self.detector.status

    @property
    def mean(self) -> float | None:
        """At the latest check, nats per token; None when it was not measured."""
        return None if self._now is None else self._now.mean

    @property
    def onset_step(self) -> int | None:
        """Step at which the rise began."""
        return self.detector.onset_step

    def baseline(self, channel: Channel) -> TokenLosses | None:
        """The loss when `channel` took its baseline; before that, at the first check."""
        return self._baselines.get(channel)

    def judgement(self, channel: Channel) -> Judgement | None:
        """Against the baseline; a rise from the best is worse. None without a loss."""
        now, before = self._now, self.baseline(channel)
        if now is None or before is None:
            return None
        if self.status > Status.HEALTHY:
            return "worse"
        change, half_width = paired_change(now.sums, before.sums, now.tokens)
        return judgement(change, half_width, before.mean)

    def freeze(self, channel: Channel) -> None:
        """Take the latest check, where it was measured, as the baseline of `channel`."""
        if self._now is not None:
            self._baselines[channel] = self._now

    def update(self, step: int, losses: TokenLosses | None) -> None:
        """Take one check into account."""
        self._now = None
        if losses is None or not math.isfinite(losses.mean) or losses.mean <= 0:
            return
        self._now = losses
        mean = losses.mean
        if self._best is None or self._best.tokens != losses.tokens:
            self._begin(losses)
        self._recent = [*self._recent, mean][-self.detector.thresholds.fast_window :]
        level = median(self._recent)
        if len(self._recent) >= _LEAST_CHECKS and level < self._best_mean:
            self._best, self._best_mean = losses, level
        assert self._best is not None
        _, self._half_width = paired_change(losses.sums, self._best.sums, losses.tokens)
        stderr = self._half_width / 2 / mean
        self.detector.update(
            step, math.log(self._best_mean / mean), stderr if math.isfinite(stderr) else None
        )

    def _begin(self, losses: TokenLosses) -> None:
        self._baselines = dict.fromkeys(get_args(Channel), losses)
        self._best, self._best_mean, self._recent = losses, losses.mean, []

    def rebaseline(self) -> None:
        """What comes next is the reference."""
        self._best = None
        self.detector.rebaseline()

    def describe(self, kind: AlertKind, step: int) -> Alert:
        """An alert with the loss and its best."""
        alert = self.detector.describe(kind, step)
        if self._now is None or alert.value is None:
            return replace(alert, functional="loss", value=None, baseline=None, ratio=None)
        return replace(
            alert,
            functional="loss",
            convention="the probe set",
            value=self._now.mean,
            low=self._now.mean - self._half_width,
            high=self._now.mean + self._half_width,
            baseline=self._best_mean,
            ratio=None if alert.ratio is None else 1 / alert.ratio,
            side="expansion",
        )

    def state_dict(self) -> dict[str, Any]:
        """JSON-serialisable builtins."""
        return {
            "detector": self.detector.state_dict(),
            "baselines": {name: _packed(losses) for name, losses in self._baselines.items()},
            "best": _packed(self._best),
            "best_mean": self._best_mean if math.isfinite(self._best_mean) else None,
            "recent": list(self._recent),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict()`."""
        self.detector.load_state_dict(state["detector"])
        self._baselines = {
            name: losses
            for name, packed in state["baselines"].items()
            if (losses := _unpacked(packed)) is not None
        }
        self._best = _unpacked(state["best"])
        best = state["best_mean"]
        self._best_mean = math.inf if best is None else float(best)
        self._recent = [float(loss) for loss in state["recent"]]

    def reference(self) -> Mapping[str, Any] | None:
        """What another run needs to be compared with this one's baseline."""
        return _packed(self.baseline("representation"))

    def present(self) -> Mapping[str, Any] | None:
        """The latest check as another run's baseline."""
        return _packed(self._now)

    def refer(self, reference: Mapping[str, Any] | None) -> None:
        """Take the baseline of another run."""
        losses = _unpacked(reference)
        if losses is not None:
            self._begin(losses)


def _packed(losses: TokenLosses | None) -> dict[str, Any] | None:
    if losses is None:
        return None
    return {"sums": list(losses.sums), "tokens": list(losses.tokens)}


def _unpacked(packed: Mapping[str, Any] | None) -> TokenLosses | None:
    if packed is None:
        return None
    return TokenLosses(
        tuple(float(x) for x in packed["sums"]), tuple(int(n) for n in packed["tokens"])
    )
