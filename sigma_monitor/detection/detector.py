"""`Detector`: one series of log values in, status and alerts out."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any, Literal

from sigma_monitor.alert import Alert, AlertKind, Severity, Side, Status
from sigma_monitor.detection import baseline as baselines
from sigma_monitor.detection.baseline import Baseline
from sigma_monitor.detection.episode import Episode, Flapping
from sigma_monitor.detection.finding import Point
from sigma_monitor.detection.rule import Thresholds
from sigma_monitor.detection.status import StatusRule
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
        self.unmeasured_in_a_row = 0
        self._unmeasured: float | None = None  # NaN or −∞, of the latest of these
        self.missed_in_a_row = 0
        self._warmup: list[tuple[int, float, float]] = []  # step, value, stderr; empty once frozen
        self._rule = StatusRule()
        self._episode = Episode(self.thresholds)
        self._gaps = Flapping(self.thresholds)

    @property
    def status(self) -> Status:
        """What the series says now."""
        waiting = self.kind != "none" and self.baseline is None
        return Status.WARMUP if waiting else self._rule.status

    @property
    def side(self) -> Side:
        """To which the present excursion goes, or the last one went."""
        return self._rule.side

    @property
    def onset_step(self) -> int | None:
        """Training step at which the present excursion began; None when there is none."""
        return self._rule.onset_step

    @property
    def alerts(self) -> list[Alert]:
        """What the last update raised."""
        return self.events + self.news

    @property
    def log_value(self) -> float | None:
        """Natural log of the latest value that was measured."""
        return self._points[-1][1] if self._points else None

    @property
    def step(self) -> int | None:
        """Step of that value."""
        return self._points[-1][0] if self._points else None

    @property
    def ratio(self) -> float | None:
        """The latest value over the baseline; None before there is one."""
        if self.baseline is None or self.log_value is None:
            return None
        return _exp(self.log_value - self.baseline.log_value)

    @property
    def moved(self) -> float:
        """Nats from the baseline to the median that decides, as of the latest check."""
        return self._rule.finding.moved

    @property
    def off_baseline(self) -> bool:
        """Whether the latest value is off by as much as a trend must be to be told."""
        least = self.thresholds.warning_trend
        return self.ratio is not None and not least < self.ratio < 1 / least

    def update(self, step: int, log_value: float, stderr: float | None = None) -> Status:
        """Take one check into account; one at a step that was seen changes nothing.

        Args:
            step: Training step.
            log_value: Natural log of the watched functional.
            stderr: Paired standard error of the change of `log_value`, nats: against the check
                before while a plateau is looked for, against the check at which the baseline was
                frozen afterwards. None when unknown.

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
            self._judge(step, stderr or 0.0)
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
        was_muted = self._gaps.muted
        if self._gaps.update(self._checks, changed=begins):
            self._tell("FLAPPING", step)
        elif (begins or was_muted) and not self._gaps.muted:  # or held back until now
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

    def _judge(self, step: int, stderr: float) -> None:
        """Status, and what of it is news."""
        self._rule.update(list(self._points), self.baseline, self.thresholds, stderr)
        severity: Severity = "error" if self._rule.status is Status.COLLAPSED else "warn"
        for news in self._episode.update(self._rule.status, severity, self.side):
            alert = self.describe(news.kind, step)
            self.news.append(replace(alert, severity=news.severity, reminder=news.reminder))

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
        value = None if self.log_value is None else _exp(self.log_value)
        alert = replace(alert, baseline=baseline, value=value)
        if kind == "RECOVERED":
            return alert
        return replace(
            alert,
            side=self.side,
            ratio=None if self.baseline is None else _exp(self._rule.finding.moved),
            onset_step=self.onset_step,
            forecast=self._forecast(step),
        )

    def _forecast(self, step: int) -> str | None:
        left = self._rule.finding.steps_left
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
            "points": [list(point) for point in self._points],
            "warmup": [list(check) for check in self._warmup],
            "rule": self._rule.state_dict(),
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
        new._points.extend((int(step), float(value)) for step, value in state["points"])
        new._warmup = [(int(step), float(x), float(e)) for step, x, e in state["warmup"]]
        new._rule = StatusRule.from_state(state["rule"])
        new.last_step = None if state["last_step"] is None else int(state["last_step"])
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
}
