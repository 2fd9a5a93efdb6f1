"""Several series, one status and one episode."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Protocol

from sigma_monitor.alert import Alert, AlertKind, Channel, Status
from sigma_monitor.detection import Episode, Evidence, Thresholds, judged

__all__ = ["ChannelWatch", "Member", "combined"]

_SHARE = 4  # one in so many collapsed layers is a collapse of the model


class Member(Protocol):
    """One watched series or layer."""

    @property
    def status(self) -> Status:
        """What it says now."""

    @property
    def onset_step(self) -> int | None:
        """Step at which its present excursion began."""

    def describe(self, kind: AlertKind, step: int) -> Alert:
        """An alert with what it can say about itself."""


def combined(statuses: Mapping[str, Status], deciding: str | None = None) -> Status:
    """WARNING when any warns; COLLAPSED when a quarter of them or the deciding one has collapsed.

    Args:
        statuses: By name.
        deciding: The one whose collapse is enough.
    """
    collapsed = [name for name, status in statuses.items() if status is Status.COLLAPSED]
    if deciding in collapsed or len(collapsed) >= max(1, math.ceil(len(statuses) / _SHARE)):
        return Status.COLLAPSED
    return min(max(statuses.values()), Status.WARNING)


class ChannelWatch:
    """Says what is news in one channel, and attributes it to the member that moved first."""

    def __init__(self, channel: Channel, rule: Thresholds, *, deciding: str | None = None) -> None:
        self.channel: Channel = channel
        self._deciding = deciding
        self.rule = rule
        self.reset()

    def reset(self) -> None:
        """No episode, and nothing told."""
        self.status = Status.WARMUP
        self.excused = False  # the verdict on the present status is information
        self._episode = Episode(self.rule)

    def conclude(self, step: int, members: Mapping[str, Member], evidence: Evidence) -> list[Alert]:
        """The news after a check that every member has taken into account."""
        self.status = combined({n: m.status for n, m in members.items()}, self._deciding)
        alarm, verdict = None, None
        if self.status > Status.HEALTHY:
            kind: AlertKind = "COLLAPSED" if self.status is Status.COLLAPSED else "WARNING"
            alarm = self._described(kind, step, members)
            verdict = judged(alarm, evidence)
            alarm = replace(alarm, verdict=verdict.text)
        severity = verdict.severity if verdict is not None else "info"
        self.excused = verdict is not None and severity == "info"
        alerts = []
        for news in self._episode.update(max(self.status, Status.HEALTHY), severity):
            if alarm is None or news.kind != alarm.kind:
                alert = self._described(news.kind, step, members)
            else:
                alert = alarm
            alerts.append(replace(alert, severity=news.severity, reminder=news.reminder))
        return alerts

    def _described(self, kind: AlertKind, step: int, members: Mapping[str, Member]) -> Alert:
        """By the member whose excursion began first, among those that are as bad as it gets."""
        worst = Status[kind] if kind in ("WARNING", "COLLAPSED") else Status.HEALTHY
        moved = [name for name, member in members.items() if member.status >= worst]
        moved.sort(key=lambda name: _or_last(members[name].onset_step))
        alert = members[moved[0] if moved else next(iter(members))].describe(kind, step)
        affected = tuple(moved) if worst > Status.HEALTHY and len(members) > 1 else ()
        return replace(alert, channel=self.channel, affected=affected)

    def state_dict(self) -> dict[str, Any]:
        """JSON-serialisable builtins."""
        return {
            "status": self.status.name,
            "excused": self.excused,
            "episode": self._episode.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict()`."""
        self.status = Status[state["status"]]
        self.excused = bool(state["excused"])
        self._episode = Episode.from_state(self.rule, state["episode"])


def _or_last(step: int | None) -> float:
    return math.inf if step is None else step
