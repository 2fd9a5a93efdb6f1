"""What of a series of statuses is news: one alert per episode and severity."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sigma_monitor.alert import AlertKind, Severity, Side, Status
from sigma_monitor.detection.rule import Thresholds

__all__ = ["Episode", "Flapping", "News"]

_RANK: dict[Severity, int] = {"info": 0, "warn": 1, "error": 2}


@dataclass(frozen=True)
class News:
    """Something to be told."""

    kind: AlertKind
    severity: Severity
    reminder: bool = False


class Flapping:
    """Counts changes, and says when they are too many to be told one by one.

    More than `flapping_transitions` of them in `flapping_checks` checks are.
    """

    def __init__(self, rule: Thresholds) -> None:
        self._rule = rule
        self._changes: list[int] = []  # checks
        self.muted = False

    def update(self, check: int, *, changed: bool) -> bool:
        """Take one check; whether it is the one from which news are held back."""
        if changed:
            self._changes.append(check)
        oldest = check - self._rule.flapping_checks
        self._changes = [change for change in self._changes if change > oldest]
        was_muted, self.muted = self.muted, len(self._changes) > self._rule.flapping_transitions
        return self.muted and not was_muted

    def state_dict(self) -> dict[str, Any]:
        """JSON-serialisable builtins."""
        return {"changes": list(self._changes), "muted": self.muted}

    @classmethod
    def from_state(cls, rule: Thresholds, state: Mapping[str, Any]) -> Flapping:
        """What `state_dict()` was taken of."""
        flapping = cls(rule)
        flapping._changes = [int(check) for check in state["changes"]]
        flapping.muted = bool(state["muted"])
        return flapping


class Episode:
    """Remembers what was told.

    An episode begins with WARNING or COLLAPSED and ends with RECOVERED. Within it only a higher
    status, a higher severity or a change of side is told again, and a reminder after
    `reminder_checks`. More than `flapping_transitions` such changes in `flapping_checks` checks are
    told once as FLAPPING. After that only COLLAPSED, and a severity above that of what was told, is
    told until changes are rare again; then the present state is told if it differs from what was
    told last. An episode that follows on a
    recovery that was held back is told no sooner than a reminder.
    """

    def __init__(self, rule: Thresholds) -> None:
        self._rule = rule
        self._check = 0
        self._status = Status.HEALTHY  # of the latest check
        self._side: Side = "contraction"
        self._told = Status.HEALTHY  # the worst of this episode
        self._told_severity: Severity = "info"
        self._told_side: Side = "contraction"
        self._told_at = 0
        self._ended_untold = False
        self._flapping = Flapping(rule)

    @property
    def muted(self) -> bool:
        """Whether all but COLLAPSED is held back."""
        return self._flapping.muted

    def update(
        self, status: Status, severity: Severity = "warn", side: Side = "contraction"
    ) -> list[News]:
        """Take the status after one check.

        Args:
            status: HEALTHY or worse.
            severity: Of the alert that this status would raise.
            side: Likewise.
        """
        self._check += 1
        changed = status != self._status or (status > Status.HEALTHY and side != self._side)
        self._status, self._side = status, side
        news = []
        if self._flapping.update(self._check, changed=changed):
            loud = self._told_severity != "info" or (status > Status.HEALTHY and severity != "info")
            flapping = News("FLAPPING", "warn" if loud else "info")
            self._told_severity = _louder(flapping.severity, self._told_severity)
            news.append(flapping)
        another = self._ended_untold and self._check - self._told_at >= self._rule.reminder_checks
        if another and status > Status.HEALTHY:
            self._told = Status.HEALTHY
            self._told_severity = "warn" if self.muted else "info"  # FLAPPING stands for the rest
        louder = _RANK[severity] > _RANK[self._told_severity]
        worse = status > self._told or louder
        if status is Status.COLLAPSED and worse:
            news.append(self._tell(status, severity, side))
        elif self.muted and not (louder and status > Status.HEALTHY):
            self._ended_untold |= status is Status.HEALTHY
        elif status > Status.HEALTHY:
            if worse or side != self._told_side:
                news.append(self._tell(status, severity, side))
            elif self._reminder_due():
                self._told_at = self._check
                news.append(News(_kind(status), severity, reminder=True))
        else:
            if self._told > Status.HEALTHY:
                news.append(News("RECOVERED", "info"))
            self._told, self._told_severity, self._ended_untold = Status.HEALTHY, "info", False
        return news

    def _tell(self, status: Status, severity: Severity, side: Side) -> News:
        self._told = max(status, self._told)
        self._told_severity = _louder(severity, self._told_severity)
        self._told_side = side
        self._told_at = self._check
        self._ended_untold = False
        return News(_kind(status), severity)

    def _reminder_due(self) -> bool:
        return (
            self._told_severity != "info"
            and self._check - self._told_at >= self._rule.reminder_checks
        )

    def state_dict(self) -> dict[str, Any]:
        """JSON-serialisable builtins."""
        return {
            "check": self._check,
            "status": self._status.name,
            "side": self._side,
            "told": self._told.name,
            "told_severity": self._told_severity,
            "told_side": self._told_side,
            "ended_untold": self._ended_untold,
            "told_at": self._told_at,
            "flapping": self._flapping.state_dict(),
        }

    @classmethod
    def from_state(cls, rule: Thresholds, state: Mapping[str, Any]) -> Episode:
        """The episode that `state_dict()` was taken of."""
        episode = cls(rule)
        episode._check, episode._told_at = int(state["check"]), int(state["told_at"])
        episode._status, episode._told = Status[state["status"]], Status[state["told"]]
        episode._side, episode._told_side = state["side"], state["told_side"]
        episode._ended_untold = bool(state["ended_untold"])
        if state["told_severity"] not in _RANK:
            raise ValueError(f"told_severity: {state['told_severity']!r}")
        episode._told_severity = state["told_severity"]
        episode._flapping = Flapping.from_state(rule, state["flapping"])
        return episode


def _louder(one: Severity, other: Severity) -> Severity:
    return max(one, other, key=_RANK.__getitem__)


def _kind(status: Status) -> AlertKind:
    return "COLLAPSED" if status is Status.COLLAPSED else "WARNING"
