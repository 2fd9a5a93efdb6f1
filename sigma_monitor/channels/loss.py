"""Held-out loss: better or worse than at baseline, and whether it rises from its best."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from statistics import median
from typing import Any

from sigma_monitor.alert import Alert, AlertKind, Status
from sigma_monitor.detection import Detector, Judgement
from sigma_monitor.detection.baseline import start
from sigma_monitor.probing import TokenLosses

__all__ = ["LOSS_RULE", "LossWatch", "judged", "paired_change"]

# Of best / now, so that a rise is a fall: a WARNING when it has risen by 5 %, never a collapse.
LOSS_RULE: Mapping[str, Any] = {
    "warning_fast": 0.952,
    "warning_slow": 0.952,
    "recovered": 0.975,
    "collapsed": 1e-6,
    "trend": False,
    "expansion": False,
}
_LEAST_CHANGE = 0.01  # of the loss at baseline; less is flat, however certain
_NORMAL_95 = 1.96
_LEAST_FOR_BEST = 3  # checks whose median can be the best
_STALE_AFTER = 3  # checks in a row without a loss, and the last one says nothing any more


class LossWatch:
    """Held-out loss of the same examples at every check.

    The judgement is against the loss when a series took its baseline, by a paired interval. The
    rise is against the best, the lowest rolling median so far: a loss that fell far and then rises
    is harm, even below where it began. Where a check has no finite loss, the last one counts for
    two checks more.

    Args:
        series: Names of those whose baselines the loss is judged against.
        expected_checks: As in `Detector`.
        thresholds: That differ from `LOSS_RULE`.
    """

    def __init__(
        self,
        series: Iterable[str],
        *,
        expected_checks: int | None,
        thresholds: Mapping[str, Any],
    ) -> None:
        self._series = tuple(series)
        self.detector = Detector(
            baseline=start(0, 0.0),  # best / now is 1 at the best
            expected_checks=expected_checks,
            **{**LOSS_RULE, **thresholds},
        )
        self._baselines: dict[str, TokenLosses] = {}  # by series
        self._latest: TokenLosses | None = None  # that was finite
        self._missing = 0  # checks in a row without one since
        self._stderr = math.inf  # of the change from the best, nats
        self._best: TokenLosses | None = None  # the check at which the best was reached
        self._best_level = math.inf  # the median that was the lowest
        self._recent: list[float] = []

    @property
    def status(self) -> Status:
        """HEALTHY or WARNING."""
        return self.detector.status

    @property
    def mean(self) -> float | None:
        """At the latest check, nats per token; None when it was not measured."""
        return None if self._latest is None or self._missing else self._latest.mean

    @property
    def onset_step(self) -> int | None:
        """Step at which the rise began."""
        return self.detector.onset_step

    def baseline(self, series: str) -> TokenLosses | None:
        """The loss when `series` took its baseline; before that, at the first check."""
        return self._baselines.get(series)

    def judgement(self, series: str) -> Judgement | None:
        """Against the baseline; a rise from the best is worse. None without a loss."""
        now, before = self._latest, self.baseline(series)
        if now is None or before is None or self._missing >= _STALE_AFTER:
            return None
        if self.status > Status.HEALTHY:
            return "worse"
        change, stderr = paired_change(now.sums, before.sums, now.tokens)
        return judged(change, stderr, before.mean)

    def freeze(self, series: str) -> None:
        """Take the latest loss as the one at the baseline of `series`."""
        if self._latest is not None and self._missing < _STALE_AFTER:
            self._baselines[series] = self._latest

    def update(self, step: int, losses: TokenLosses | None) -> list[Alert]:
        """Take one check into account; the events it raised."""
        if losses is None or not 0 < losses.mean < math.inf:
            self._missing += 1
            if losses is None or losses.mean <= 0:
                return []
            self.detector.update(step, math.nan)
            return [replace(event, channel="loss") for event in self.detector.events]
        self._latest, self._missing = losses, 0
        mean = losses.mean
        if self._best is None or self._best.tokens != losses.tokens:
            self._begin(losses)
        self._recent = [*self._recent, mean][-self.detector.thresholds.fast_window :]
        level = median(self._recent)
        if len(self._recent) >= _LEAST_FOR_BEST and level < self._best_level:
            self._best, self._best_level = losses, level
        assert self._best is not None
        _, self._stderr = paired_change(losses.sums, self._best.sums, losses.tokens)
        relative = self._stderr / mean if math.isfinite(self._stderr) else None
        self.detector.update(step, math.log(self._best_level / mean), relative)
        return []

    def _begin(self, losses: TokenLosses) -> None:
        self._best, self._best_level, self._recent = losses, losses.mean, []
        for series in self._series:
            known = self._baselines.get(series)  # of another run, on the same examples
            if known is None or known.tokens != losses.tokens:
                self._baselines[series] = losses

    def rebaseline(self) -> None:
        """What comes next is the reference."""
        self._best, self._baselines = None, {}
        self.detector.rebaseline()

    def expect(self, checks: int | None) -> None:
        """As `Detector.expect`."""
        self.detector.expect(checks)

    def describe(self, kind: AlertKind, step: int) -> Alert:
        """An alert with the loss and its best."""
        alert = self.detector.describe(kind, step)
        mean = self.mean
        if mean is None or alert.value is None:
            return replace(
                alert,
                functional="loss",
                value=None,
                baseline=None,
                ratio=None,
                side="expansion",
            )
        return replace(
            alert,
            functional="loss",
            convention="the probe set",
            value=mean,
            low=mean - _NORMAL_95 * self._stderr,
            high=mean + _NORMAL_95 * self._stderr,
            baseline=self._best_level,
            ratio=None if alert.ratio is None else 1 / alert.ratio,
            side="expansion",
        )

    def state_dict(self) -> dict[str, Any]:
        """JSON-serialisable builtins."""
        return {
            "detector": self.detector.state_dict(),
            "baselines": self._packed_baselines(),
            "latest": _packed(self._latest),
            "missing": self._missing,
            "best": _packed(self._best),
            "best_level": self._best_level if math.isfinite(self._best_level) else None,
            "recent": list(self._recent),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict()`."""
        self.detector.resume(state["detector"])
        self._load_baselines(state["baselines"])
        self._latest = _unpacked(state["latest"])
        self._missing = int(state["missing"])
        self._best = _unpacked(state["best"])
        best = state["best_level"]
        self._best_level = math.inf if best is None else float(best)
        self._recent = [float(loss) for loss in state["recent"]]

    def baselines(self) -> dict[str, Any]:
        """What another run needs to be compared with this one's baselines, by series."""
        return self._packed_baselines()

    def latest_as_baselines(self) -> dict[str, Any]:
        """The latest check as another run's baselines."""
        return {} if self.mean is None else dict.fromkeys(self._series, _packed(self._latest))

    def adopt(self, reference: Mapping[str, Any]) -> None:
        """Judge by the baselines of another run; the best is this one's own."""
        self._load_baselines(reference)

    def _packed_baselines(self) -> dict[str, Any]:
        return {name: _packed(losses) for name, losses in self._baselines.items()}

    def _load_baselines(self, packed: Mapping[str, Any]) -> None:
        unpacked = {name: _unpacked(losses) for name, losses in packed.items()}
        self._baselines = {n: losses for n, losses in unpacked.items() if losses is not None}


def paired_change(
    now: Sequence[float], reference: Sequence[float], tokens: Sequence[int]
) -> tuple[float, float]:
    """Change of a token mean on the same examples, and its standard error.

    The mean is a ratio of sums; its standard error is that of the residuals of examples, which are
    the sampling units.

    Args:
        now: (examples,) sums over tokens.
        reference: (examples,) likewise, before.
        tokens: (examples,) tokens in each sum.

    Returns:
        Both in units of the sums per token; the standard error of fewer than two examples is
        infinite.
    """
    total, n = sum(tokens), len(tokens)
    changes = [a - b for a, b in zip(now, reference, strict=True)]
    change = sum(changes) / total
    if n < 2:
        return change, math.inf
    squares = sum((d - change * t) ** 2 for d, t in zip(changes, tokens, strict=True))
    return change, math.sqrt(n / (n - 1) * squares) / total


def judged(change: float, stderr: float, before: float) -> Judgement:
    """Better or worse only when the 95 % interval excludes 0 and the change is 1 % of `before`."""
    if abs(change) <= _NORMAL_95 * stderr or abs(change) < _LEAST_CHANGE * abs(before):
        return "flat"
    return "better" if change < 0 else "worse"


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
