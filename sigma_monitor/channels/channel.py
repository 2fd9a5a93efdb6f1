"""Several series, one status and one episode."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Protocol

from sigma_monitor.alert import Alert, AlertKind, Channel, Status
from sigma_monitor.detection import Episode, Evidence, Thresholds, verdict_on

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
    """Says what is news in one channel, and attributes it to the member that moved first.

    Args:
        channel: Its name.
        rule: Of reminders and flapping.
        deciding: The member whose collapse alone is that of the channel.
    """

    def __init__(self, channel: Channel, rule: Thresholds, *, deciding: str | None = None) -> None:
        self.channel: Channel = channel
        self._deciding = deciding
        self.rule = rule
        self.reset()

    def reset(self) -> None:
        """No episode, and nothing told."""
        self.status = Status.WARMUP
        self.excused = False  # the verdict on the present status is information
        self._named: str | None = None  # the member that the last alarm was about
        self._told_of_loss = False  # the present episode was told with a loss that gets worse
        self._episode = Episode(self.rule)

    @property
    def tells_of_loss(self) -> bool:
        """Whether an alarm that was raised and goes on says that held-out loss gets worse."""
        return self.status > Status.HEALTHY and self._told_of_loss

    def conclude(
        self, step: int, members: Mapping[str, Member], evidence: Callable[[Alert], Evidence]
    ) -> list[Alert]:
        """The news after a check that every member has taken into account.

        Args:
            step: Training step.
            members: By name.
            evidence: What else is known, for an alarm about one of them.
        """
        self.status = combined({n: m.status for n, m in members.items()}, self._deciding)
        alarm, verdict, worse = None, None, False
        if self.status > Status.HEALTHY:
            kind: AlertKind = "COLLAPSED" if self.status is Status.COLLAPSED else "WARNING"
            alarm = self._alarm(kind, step, members)
            known = evidence(alarm)
            verdict, worse = verdict_on(alarm, known), known.loss == "worse"
            alarm = replace(alarm, verdict=verdict.text)
        else:
            self._told_of_loss = False
        severity = verdict.severity if verdict is not None else "info"
        self.excused = verdict is not None and severity == "info"
        side = (alarm.side if alarm is not None else None) or "contraction"
        alerts = []
        for news in self._episode.update(max(self.status, Status.HEALTHY), severity, side):
            if alarm is None or news.kind != alarm.kind:
                about = members.get(self._named or "") or next(iter(members.values()))
                alert = replace(about.describe(news.kind, step), channel=self.channel)
            else:
                alert = alarm
                self._told_of_loss |= worse
            alerts.append(replace(alert, severity=news.severity, reminder=news.reminder))
        return alerts

    def _alarm(self, kind: AlertKind, step: int, members: Mapping[str, Member]) -> Alert:
        """By the member whose excursion began first; by one at the floor, which nothing excuses."""
        moved = [name for name, member in members.items() if member.status >= Status[kind]]
        moved.sort(key=lambda name: _or_last(members[name].onset_step))
        alarms = {name: members[name].describe(kind, step) for name in moved}
        self._named = next((name for name in moved if alarms[name].floor is not None), moved[0])
        affected = tuple(moved) if len(members) > 1 else ()
        return replace(alarms[self._named], channel=self.channel, affected=affected)

    def state_dict(self) -> dict[str, Any]:
        """JSON-serialisable builtins."""
        return {
            "status": self.status.name,
            "excused": self.excused,
            "named": self._named,
            "told_of_loss": self._told_of_loss,
            "episode": self._episode.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict()`."""
        self.status = Status[state["status"]]
        self.excused = bool(state["excused"])
        self._named = state["named"]
        self._told_of_loss = bool(state["told_of_loss"])
        self._episode = Episode.from_state(self.rule, state["episode"])


def _or_last(step: int | None) -> float:
    return math.inf if step is None else step
