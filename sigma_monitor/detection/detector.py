"""`Detector`: one series of log values in, status and alerts out."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, replace
from statistics import median
from typing import Any, Literal

from sigma_monitor.alert import Alert, AlertKind, Severity, Side, Status
from sigma_monitor.detection import baseline as baselines
from sigma_monitor.detection.attribution import onset
from sigma_monitor.detection.baseline import Baseline
from sigma_monitor.detection.episode import Episode, Flapping
from sigma_monitor.detection.finding import Finding, Point, find
from sigma_monitor.detection.rule import Thresholds
from sigma_monitor.errors import InputError, RecordError

__all__ = ["Detector"]

# Of an alert that nothing else is known about.
_SEVERITY: dict[AlertKind, Severity] = {
    "BASELINE": "info",
    "WARNING": "warn",
    "COLLAPSED": "error",
    "RECOVERED": "info",
    "NONFINITE": "error",
    "VANISHED": "error",
    "NO_DATA": "warn",
    "FLAPPING": "warn",
    "STOPPED": "info",
}


_ONSET_WINDOW = 30  # checks in which the beginning of an excursion is looked for


class Detector:
    """Watches the natural log of one functional.

    WARNING and COLLAPSED are levels of rolling medians relative to a baseline, in ratio units, with
    a noise gate that can only raise them; a WARNING may also come from a trend that would end in a
    collapse, or from a rise by the inverse ratios, and COLLAPSED from an absolute floor. A status
    is left only by recovery, and each episode raises one alert per severity (see `Episode`).

    A value that is NaN or +∞ raises NONFINITE and one that is −∞ (the functional is zero) VANISHED,
    at once; checks that did not happen raise NO_DATA. None of these enters the series, changes the
    status, or counts towards recovery.

    How often it alarms on healthy series, and how soon on real drops: `benchmarks/false_alarms.py`.

    Args:
        baseline: `"start"`: the first value is the reference (weights that were loaded).
            `"plateau"` or `"auto"`: the median of the first level stretch after a warm-up (weights
            that were drawn). `"none"`: only the floor is watched. A `Baseline`: of another run.
        expected_checks: Length of the run in checks; short runs get shorter windows. None keeps
            the windows of a long run.
        warmup_steps: Steps of the learning rate's warm-up, in which no plateau is looked for.
        **thresholds: Fields of `Thresholds`, and `preset`.

    Raises:
        InputError: On an unknown baseline or a threshold out of range.
    """

    def __init__(
        self,
        *,
        baseline: Literal["auto", "start", "plateau", "none"] | Baseline = "auto",
        expected_checks: int | None = None,
        warmup_steps: int = 0,
        **thresholds: Any,
    ) -> None:
        given = baseline if isinstance(baseline, Baseline) else None
        if given is None and baseline not in ("auto", "start", "plateau", "none"):
            raise InputError(
                f'baseline={baseline!r}: pass "auto", "start", "plateau", "none" or a Baseline.'
            )
        self.asked = thresholds
        self.expected_checks = expected_checks
        self.thresholds = Thresholds.of(expected_checks=expected_checks, **thresholds)
        kind = given.kind if given is not None else baseline
        self.kind = "plateau" if kind == "auto" else kind
        self.warmup_steps = warmup_steps
        self.events: list[Alert] = []  # of the last update, those that no status goes with
        self.news: list[Alert] = []  # of the last update, those of the episode
        self._checks = 0
        self.last_step: int | None = None  # of any check, measured or not
        self._points: deque[Point] = deque(maxlen=self._longest_window)
        self._begin(given)

    def _begin(self, baseline: Baseline | None) -> None:
        """No episode, no warm-up behind it."""
        self.baseline = baseline
        self.finding = Finding()  # of the latest check
        self.unmeasured_in_a_row = 0
        self._unmeasured: float | None = None  # NaN or −∞, of the latest of these
        self.missed_in_a_row = 0
        self.side: Side = "contraction"  # of the present episode
        self.onset_step: int | None = None  # at which it began; None when there is none
        self._level = Status.HEALTHY
        self._warmup: list[tuple[int, float, float]] = []  # step, value, stderr; empty once frozen
        self._collapsed_in_a_row = 0
        self._floor_in_a_row = 0
        self._calm_in_a_row = 0
        self._episode = Episode(self.thresholds)
        self._gaps = Flapping(self.thresholds)

    @property
    def status(self) -> Status:
        """What the series says now."""
        waiting = self.kind != "none" and self.baseline is None
        return Status.WARMUP if waiting else self._level

    @property
    def alerts(self) -> list[Alert]:
        """What the last update raised."""
        return self.events + self.news

    @property
    def value(self) -> float | None:
        """Natural log of the latest value that was measured."""
        return self._points[-1][1] if self._points else None

    @property
    def step(self) -> int | None:
        """Step of that value."""
        return self._points[-1][0] if self._points else None

    @property
    def ratio(self) -> float | None:
        """The latest value over the baseline; None before there is one."""
        if self.baseline is None or self.value is None:
            return None
        return _exp(self.value - self.baseline.log_value)

    def update(self, step: int, log_value: float, stderr: float | None = None) -> Status:
        """Take one check into account; one at a step that was seen changes nothing.

        Args:
            step: Training step.
            log_value: Natural log of the watched functional.
            stderr: Paired standard error of `log_value`, nats: against the first value for a
                `"start"` baseline, against the check before otherwise. None when unknown.

        Returns:
            The status; `alerts` holds what this update raised.
        """
        self.events, self.news = [], []
        if self.last_step is not None and step <= self.last_step:
            return self.status
        self.last_step = step
        self._checks += 1
        self.missed_in_a_row = 0
        if not math.isfinite(log_value):
            self._note_unmeasured(step, log_value)
            return self.status
        self.unmeasured_in_a_row, self._unmeasured = 0, None
        self._points.append((step, log_value))
        if self.status is Status.WARMUP:
            self._extend_warmup(step, log_value, stderr or 0.0)
        else:
            self._look(step, log_value, stderr or 0.0)
        return self.status

    def missed(self, step: int) -> Status:
        """Take into account that the check at `step` did not happen."""
        self.events, self.news = [], []
        self.missed_in_a_row += 1
        if self.missed_in_a_row == self.thresholds.no_data_after:
            self._tell("NO_DATA", step)
        return self.status

    def rebaseline(self) -> None:
        """Forget the baseline and any episode: what comes next is the reference.

        For a change that is meant, such as another data mixture; it is never done by itself.
        """
        self._points.clear()
        self._begin(None)

    def adopt(self, baseline: Baseline) -> None:
        """Take the baseline of another run, and judge by it from the next check on."""
        self.kind = baseline.kind
        self._points.clear()
        self._begin(baseline)

    def expect(self, checks: int | None) -> None:
        """Go on in windows that suit a run of so many checks; what was seen and found stays."""
        self.expected_checks = checks
        self.thresholds = Thresholds.of(expected_checks=checks, **self.asked)
        self._points = deque(self._points, self._longest_window)
        # The episode counts by thresholds that no length of a run changes.

    def bridge(self, offset: float) -> None:
        """Move the baseline by `offset` nats, and with it every check so far.

        For a change of scale that is known and means nothing, such as another probe precision.

        Raises:
            InputError: When the offset is not finite.
        """
        if not math.isfinite(offset):
            raise InputError(f"offset={offset!r}: pass finite nats, such as math.log(new / old).")
        self._points = deque(((s, x + offset) for s, x in self._points), self._points.maxlen)
        self._warmup = [(s, x + offset, e) for s, x, e in self._warmup]
        if self.baseline is not None:
            self.baseline = replace(self.baseline, log_value=self.baseline.log_value + offset)

    @property
    def _longest_window(self) -> int:
        rule = self.thresholds
        return max(rule.slow_window, rule.trend_window, rule.floor_patience, _ONSET_WINDOW)

    def _note_unmeasured(self, step: int, log_value: float) -> None:
        self.unmeasured_in_a_row += 1
        vanished = log_value == -math.inf
        begins = self._unmeasured is None or (self._unmeasured == -math.inf) != vanished
        self._unmeasured = -math.inf if vanished else math.nan
        if self._gaps.update(self._checks, changed=begins):
            self._tell("FLAPPING", step)
        elif begins and not self._gaps.muted:
            self._tell("VANISHED" if vanished else "NONFINITE", step)

    def _extend_warmup(self, step: int, log_value: float, stderr: float) -> None:
        if self.kind == "start":
            self.baseline = baselines.start(step, log_value)
        else:
            self._warmup.append((step, log_value, stderr))
            steps, values, stderrs = zip(*self._warmup, strict=True)
            self.baseline = baselines.plateau(
                steps, values, stderrs, self.thresholds, self.warmup_steps
            )
        if self.baseline is not None:
            self._warmup = []
            self._tell("BASELINE", step)

    def _look(self, step: int, log_value: float, stderr: float) -> None:
        """What this check finds, which status that makes, and what of it is news."""
        if self.baseline is not None:
            points = list(self._points)
            self.finding = find(points, self.baseline, self.thresholds, stderr)
        found = self._found(log_value)
        self._enter(found)
        self._recover(calm=found is Status.HEALTHY and self._calm(log_value))
        severity: Severity = "error" if self._level is Status.COLLAPSED else "warn"
        for news in self._episode.update(self._level, severity, self.side):
            alert = self.describe(news.kind, step)
            self.news.append(replace(alert, severity=news.severity, reminder=news.reminder))

    def _found(self, log_value: float) -> Status:
        """The finding of this check, with the patience that a collapse takes."""
        rule = self.thresholds
        low = self.finding.status is Status.COLLAPSED
        floored = rule.floor is not None and log_value <= math.log(rule.floor)
        self._collapsed_in_a_row = self._run(self._collapsed_in_a_row, low)
        self._floor_in_a_row = self._run(self._floor_in_a_row, floored)
        if (
            self._collapsed_in_a_row >= rule.collapsed_patience
            or self._floor_in_a_row >= rule.floor_patience
        ):
            return Status.COLLAPSED
        if self._level is Status.COLLAPSED and self.finding.side == "expansion":
            return Status.HEALTHY  # a collapse ends by its own recovery; a rise is looked at then
        return min(self.finding.status, Status.WARNING)

    def _enter(self, found: Status) -> None:
        """A status is only ever raised here; another side is another excursion."""
        side = "contraction" if found is Status.COLLAPSED else self.finding.side
        if found > Status.HEALTHY and (self._level is Status.HEALTHY or side != self.side):
            self.side = side
            self.onset_step = self._onset()
        self._level = max(self._level, found)

    def _recover(self, *, calm: bool) -> None:
        self._calm_in_a_row = self._run(self._calm_in_a_row, calm)
        recovered = self._calm_in_a_row >= self.thresholds.recovered_patience
        if recovered and self._level > Status.HEALTHY:
            self._level, self._calm_in_a_row, self.onset_step = Status.HEALTHY, 0, None

    @staticmethod
    def _run(so_far: int, goes_on: bool) -> int:
        return so_far + 1 if goes_on else 0

    def _onset(self) -> int | None:
        """Step at which what is found now began."""
        steps = [step for step, _ in self._points]
        if self.baseline is None:  # the floor, which needs none
            return steps[-self._floor_in_a_row]
        sign = -1 if self.side == "contraction" else 1
        moves = [sign * (value - self.baseline.log_value) for _, value in self._points]
        return onset(steps, moves, sign * self.finding.moved)

    def _calm(self, log_value: float) -> bool:
        """Whether this check counts towards recovery."""
        rule = self.thresholds
        if rule.floor is not None and log_value < math.log(rule.floor / rule.recovered):
            return False
        if self.baseline is None:
            return True
        latest = [value for _, value in self._points][-rule.slow_window :]
        moved = median(latest) - self.baseline.log_value
        return (moved if self.side == "contraction" else -moved) >= math.log(rule.recovered)

    def _tell(self, kind: AlertKind, step: int) -> None:
        self.events.append(self.describe(kind, step))

    def describe(self, kind: AlertKind, step: int) -> Alert:
        """An alert with what this series can say about itself now."""
        alert = Alert(kind, _SEVERITY[kind], step, self._checks)
        if kind not in ("BASELINE", "WARNING", "COLLAPSED", "RECOVERED"):
            return alert
        baseline = None if self.baseline is None else _exp(self.baseline.log_value)
        if kind == "BASELINE":
            return replace(alert, baseline=baseline, value=baseline)
        value = None if self.value is None else _exp(self.value)
        alert = replace(alert, baseline=baseline, value=value)
        if kind == "RECOVERED":
            return alert
        return replace(
            alert,
            side=self.side,
            ratio=None if self.baseline is None else _exp(self.finding.moved),
            onset_step=self.onset_step,
            forecast=self._forecast(step),
        )

    def _forecast(self, step: int) -> str | None:
        left = self.finding.steps_left
        if left is None:
            return None
        target = self.thresholds.trend_target
        ratio = target if self.side == "contraction" else 1 / target
        return f"at its present pace {ratio:.0%} of its baseline about step {step + round(left)}"

    def state_dict(self) -> dict[str, Any]:
        """JSON-serialisable builtins: everything `update` depends on."""
        return {
            "kind": self.kind,
            "asked": dict(self.asked),
            "expected_checks": self.expected_checks,
            "last_step": self.last_step,
            "vanished": None if self._unmeasured is None else self._unmeasured == -math.inf,
            "baseline": None if self.baseline is None else asdict(self.baseline),
            "finding": {**asdict(self.finding), "status": self.finding.status.name},
            "points": [list(point) for point in self._points],
            "warmup": [list(check) for check in self._warmup],
            "level": self._level.name,
            "side": self.side,
            "onset_step": self.onset_step,
            "episode": self._episode.state_dict(),
            "gaps": self._gaps.state_dict(),
            **{name: getattr(self, attribute) for name, attribute in _COUNTS.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict()`, by its thresholds.

        Raises:
            RecordError: When a field is missing or malformed; nothing is changed then.
        """
        try:
            loaded = self._loaded(state)
        except (InputError, KeyError, OverflowError, TypeError, ValueError) as error:
            raise RecordError(
                f"not a state of Detector: {type(error).__name__}: {error}"
            ) from error
        vars(self).update(loaded)

    def resume(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict()`, by the thresholds of this detector.

        Its windows are those that suit the length of the run in `state`.

        Raises:
            RecordError: As `load_state_dict`.
        """
        self.load_state_dict({**state, "asked": self.asked})

    @staticmethod
    def _loaded(state: Mapping[str, Any]) -> dict[str, Any]:
        """The attributes of the detector that `state` was taken of."""
        expected = state["expected_checks"]
        new = Detector(
            baseline="none",
            expected_checks=None if expected is None else int(expected),
            **state["asked"],
        )
        if state["kind"] not in ("start", "plateau", "none"):
            raise ValueError(f"kind: {state['kind']!r}")
        new.kind = state["kind"]
        new.baseline = None if state["baseline"] is None else Baseline(**state["baseline"])
        finding = dict(state["finding"])
        new.finding = Finding(**{**finding, "status": Status[finding["status"]]})
        new._points.extend((int(step), float(value)) for step, value in state["points"])
        new._warmup = [(int(step), float(x), float(e)) for step, x, e in state["warmup"]]
        new._level, new.side = Status[state["level"]], state["side"]
        new.onset_step, new.last_step = (
            None if state[name] is None else int(state[name])
            for name in ("onset_step", "last_step")
        )
        if state["vanished"] is not None:
            new._unmeasured = -math.inf if state["vanished"] else math.nan
        new._episode = Episode.from_state(new.thresholds, state["episode"])
        new._gaps = Flapping.from_state(new.thresholds, state["gaps"])
        for name, attribute in _COUNTS.items():
            setattr(new, attribute, int(state[name]))
        return vars(new)


def _exp(log_value: float) -> float:
    """Infinite where the number is too large for a float: a log det as log value, say."""
    try:
        return math.exp(log_value)
    except OverflowError:
        return math.inf


# In the state -> attribute.
_COUNTS = {
    "checks": "_checks",
    "warmup_steps": "warmup_steps",
    "unmeasured_in_a_row": "unmeasured_in_a_row",
    "missed_in_a_row": "missed_in_a_row",
    "collapsed_in_a_row": "_collapsed_in_a_row",
    "floor_in_a_row": "_floor_in_a_row",
    "calm_in_a_row": "_calm_in_a_row",
}
