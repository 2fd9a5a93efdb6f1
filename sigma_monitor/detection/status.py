"""What findings make of the status: patience, sides, recovery."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from statistics import median
from typing import Any

from sigma_monitor.alert import Side, Status
from sigma_monitor.detection.baseline import Baseline
from sigma_monitor.detection.finding import Finding, Point, find
from sigma_monitor.detection.onset import onset
from sigma_monitor.detection.rule import Thresholds

__all__ = ["StatusRule"]


class StatusRule:
    """HEALTHY, WARNING or COLLAPSED of a series that has a baseline, or needs none.

    A status is raised by one finding (WARNING) or by several in a row (COLLAPSED), and lowered by
    recovery alone.

    Attributes:
        status: After the latest check.
        finding: Of the latest check.
        side: To which the present excursion goes, or the last one went.
        onset_step: Training step at which it began; None when there is none.
    """

    def __init__(self) -> None:
        self.status = Status.HEALTHY
        self.finding = Finding()
        self.side: Side = "contraction"
        self.onset_step: int | None = None
        self._collapsed_in_a_row = 0
        self._floor_in_a_row = 0
        self._calm_in_a_row = 0

    def update(
        self,
        points: Sequence[Point],
        baseline: Baseline | None,
        rule: Thresholds,
        stderr: float = 0.0,
    ) -> Status:
        """Take the last of `points` into account.

        Args:
            points: The latest checks, as many as the longest window needs.
            baseline: What they are compared with; None: with the floor alone.
            rule: Ratios, windows, patience.
            stderr: Standard error of the latest value, nats.
        """
        if baseline is not None:
            self.finding = find(points, baseline, rule, stderr)
        found = self._found(points[-1][1], rule)
        self._enter(found, points, baseline)
        self._recover(found is Status.HEALTHY and self._calm(points, baseline, rule), rule)
        return self.status

    def _found(self, log_value: float, rule: Thresholds) -> Status:
        """The finding of this check, with the patience that a collapse takes."""
        low = self.finding.status is Status.COLLAPSED
        floored = rule.floor is not None and log_value <= math.log(rule.floor)
        self._collapsed_in_a_row = _streak(self._collapsed_in_a_row, low)
        self._floor_in_a_row = _streak(self._floor_in_a_row, floored)
        if (
            self._collapsed_in_a_row >= rule.collapsed_patience
            or self._floor_in_a_row >= rule.floor_patience
        ):
            return Status.COLLAPSED
        if self.status is Status.COLLAPSED and self.finding.side == "expansion":
            return Status.HEALTHY  # a collapse ends by its own recovery; a rise is looked at then
        return min(self.finding.status, Status.WARNING)

    def _enter(self, found: Status, points: Sequence[Point], baseline: Baseline | None) -> None:
        """Raise the status where something worse was found; another side is another excursion."""
        side = "contraction" if found is Status.COLLAPSED else self.finding.side
        if found > Status.HEALTHY and (self.status is Status.HEALTHY or side != self.side):
            self.side = side
            self.onset_step = self._onset(points, baseline)
        self.status = max(self.status, found)

    def _onset(self, points: Sequence[Point], baseline: Baseline | None) -> int:
        steps = [step for step, _ in points]
        if baseline is None:
            return steps[-self._floor_in_a_row]
        sign = -1 if self.side == "contraction" else 1
        moves = [sign * (value - baseline.log_value) for _, value in points]
        return onset(steps, moves, sign * self.finding.moved)

    def _recover(self, calm: bool, rule: Thresholds) -> None:
        self._calm_in_a_row = _streak(self._calm_in_a_row, calm)
        if self._calm_in_a_row >= rule.recovered_patience and self.status > Status.HEALTHY:
            self.status, self._calm_in_a_row, self.onset_step = Status.HEALTHY, 0, None

    def _calm(self, points: Sequence[Point], baseline: Baseline | None, rule: Thresholds) -> bool:
        """Whether this check counts towards recovery."""
        if rule.floor is not None and points[-1][1] < math.log(rule.floor / rule.recovered):
            return False
        if baseline is None:
            return True
        latest = [value for _, value in points[-rule.slow_window :]]
        moved = median(latest) - baseline.log_value
        return (moved if self.side == "contraction" else -moved) >= math.log(rule.recovered)

    def state_dict(self) -> dict[str, Any]:
        """JSON-serialisable builtins."""
        return {
            "status": self.status.name,
            "finding": {**asdict(self.finding), "status": self.finding.status.name},
            "side": self.side,
            "onset_step": self.onset_step,
            "collapsed_in_a_row": self._collapsed_in_a_row,
            "floor_in_a_row": self._floor_in_a_row,
            "calm_in_a_row": self._calm_in_a_row,
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> StatusRule:
        """What `state_dict()` was taken of."""
        new = cls()
        new.status, new.side = Status[state["status"]], state["side"]
        finding = dict(state["finding"])
        new.finding = Finding(**{**finding, "status": Status[finding["status"]]})
        new.onset_step = None if state["onset_step"] is None else int(state["onset_step"])
        new._collapsed_in_a_row = int(state["collapsed_in_a_row"])
        new._floor_in_a_row = int(state["floor_in_a_row"])
        new._calm_in_a_row = int(state["calm_in_a_row"])
        return new


def _streak(so_far: int, goes_on: bool) -> int:
    return so_far + 1 if goes_on else 0
