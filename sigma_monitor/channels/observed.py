"""The detectors of rows that the user hands over: a codebook, a table, a projector's output."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from sigma_monitor.alert import Alert, Status
from sigma_monitor.channels.channel import ChannelWatch
from sigma_monitor.channels.layer import LayerWatch
from sigma_monitor.channels.limits import LimitWatch
from sigma_monitor.checking.measure import Measured
from sigma_monitor.detection import Evidence, Thresholds
from sigma_monitor.snapshot import FLOORED, UNCENTRED_RANK

__all__ = ["ObservedWatch"]


class ObservedWatch:
    """The rules of a layer without a loss, with an episode of its own.

    The centred and the uncentred effective rank are watched relative to their baselines, and the
    uncentred one against the floor too: rows that all come to point one way keep their centred
    spectrum, which is free of scale.

    Args:
        name: Of the rows.
        baseline: `"start"` or `"plateau"`.
        warmup_steps: Of the learning rate.
        thresholds: Of the relative rule, and of the floor.
        limits: By functional; the run stops there.
    """

    def __init__(
        self,
        name: str,
        *,
        baseline: Literal["start", "plateau"],
        warmup_steps: int = 0,
        thresholds: Mapping[str, Any],
        limits: Mapping[str, float],
    ) -> None:
        self.name = name
        self._rows = LayerWatch(
            name,
            "observed",
            baseline=baseline,
            expected_checks=None,
            warmup_steps=warmup_steps,
            thresholds=thresholds,
            has_loss=False,
        )
        self._limits = LimitWatch(
            limits,
            [name],
            deciding=name,
            baseline=baseline,
            expected_checks=None,
            warmup_steps=warmup_steps,
            thresholds=thresholds,
        )
        self._channel = ChannelWatch("observed", Thresholds.of(**thresholds))

    @property
    def status(self) -> Status:
        """What the rows say now."""
        return self._channel.status

    @property
    def low(self) -> bool:
        """Whether a stop that was asked for is due; no loss excuses a fall here."""
        return self.reached is not None

    @property
    def reached(self) -> str | None:
        """What that stop is due to, in words; limits take the place of COLLAPSED."""
        if self._limits:
            return self._limits.reached(lambda _layer: False)
        return "COLLAPSED" if self.status is Status.COLLAPSED else None

    @property
    def unmeasured_in_a_row(self) -> int:
        """Observations in a row that had nothing to measure (non-finite, vanished)."""
        return self._rows.unmeasured_in_a_row

    @property
    def ratio(self) -> float | None:
        """Effective rank over its baseline, of centred or uncentred rows: the lower of the two."""
        rules = (self._rows.level, self._rows.uncentred)
        found = [rule.ratio for rule in rules if rule is not None and rule.ratio is not None]
        return min(found, default=None)

    @property
    def expected(self) -> int | None:
        """The number of observations that the windows suit."""
        return self._rows.level.expected_checks

    def expect(self, observations: int | None) -> None:
        """Go on in windows that suit a run of so many observations."""
        self._rows.expect(observations)
        self._limits.expect(observations)

    def update(self, step: int, measured: Measured, *, one_each: bool) -> list[Alert]:
        """Take one observation into account; the alerts it raised, without their words.

        Args:
            step: Training step.
            measured: Of the rows.
            one_each: There is one row to an example.
        """
        events = self._rows.update(step, measured)
        self._limits.update(step, {self.name: measured})
        news = self._channel.conclude(step, {self.name: self._rows}, lambda _alarm: Evidence())
        return [self._placed(alert, one_each=one_each) for alert in events + news]

    def missed(self, step: int) -> list[Alert]:
        """Take into account that an observation failed."""
        return [self._placed(alert, one_each=True) for alert in self._rows.missed(step)]

    def rebaseline(self) -> None:
        """What comes next is the reference."""
        self._rows.rebaseline()
        self._limits.rebaseline()
        self._channel.reset()

    def _placed(self, alert: Alert, *, one_each: bool) -> Alert:
        """In words of rows: a mean over one row is that row, and a row is no probe example."""
        alert = replace(alert, channel="observed", moved_examples=())
        if alert.functional != FLOORED:
            return replace(alert, convention="centred rows")
        if one_each:
            return replace(alert, functional=UNCENTRED_RANK, convention="uncentred rows")
        return alert

    def state_dict(self) -> dict[str, Any]:
        """JSON-serialisable builtins."""
        return {
            "rows": self._rows.state_dict(),
            "limits": self._limits.state_dict(),
            "channel": self._channel.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict()`."""
        self._rows.load_state_dict(state["rows"])
        self._limits.load_state_dict(state["limits"])
        self._channel.load_state_dict(state["channel"])
