"""`Detector`: one series of log values in, status and alerts out."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import asdict
from statistics import median
from typing import Any, Literal

from sigma_monitor.alert import Alert, AlertKind, Severity, Status
from sigma_monitor.detection import baseline as baselines
from sigma_monitor.detection.baseline import Baseline
from sigma_monitor.detection.rule import Thresholds
from sigma_monitor.errors import InputError, RecordError

__all__ = ["Detector"]

# Below this many checks no median is taken: one odd check must not decide.
_LEAST_CHECKS = 3

_SEVERITY: dict[AlertKind, Severity] = {
    "BASELINE": "info",
    "WARNING": "warn",
    "COLLAPSED": "error",
    "RECOVERED": "info",
    "NONFINITE": "error",
    "VANISHED": "error",
}


class Detector:
    """Watches the natural log of one functional.

    WARNING and COLLAPSED are levels of rolling medians relative to a baseline, in ratio units, with
    a noise gate that can only raise them; COLLAPSED may also come from an absolute floor. A status
    is left only by recovery, and each episode raises one alert per severity. A value that is NaN
    raises NONFINITE and one that is −∞ (the functional is zero) VANISHED, at once; neither enters
    the series.

    Simulated on 1,000 healthy series of 500 checks with 2 % of AR(1) noise and a swing of 12 %
    (`benchmarks/false_alarms.py`): COLLAPSED in none; WARNING in none at φ = 0 and 0.5, and in
    2.4 % at φ = 0.9 with a `"plateau"` baseline. A fall to 60 % is told after 3 checks.

    Args:
        baseline: `"start"`: the first value is the reference (weights that were loaded).
            `"plateau"` or `"auto"`: the median of the first level stretch after a warm-up (weights
            that were drawn). `"none"`: only the floor is watched.
        expected_checks: Length of the run in checks; short runs get shorter windows. None keeps
            the windows of a long run.
        **thresholds: Fields of `Thresholds`.

    Raises:
        InputError: On an unknown baseline or a threshold out of range.
    """

    def __init__(
        self,
        *,
        baseline: Literal["auto", "start", "plateau", "none"] = "auto",
        expected_checks: int | None = None,
        **thresholds: Any,
    ) -> None:
        if baseline not in ("auto", "start", "plateau", "none"):
            raise InputError(f'baseline={baseline!r}: pass "auto", "start", "plateau" or "none".')
        try:
            rule = Thresholds(**thresholds)
        except TypeError as error:
            raise InputError(
                f"{error}: the thresholds are {', '.join(Thresholds.__dataclass_fields__)}."
            ) from error
        self.thresholds = rule.for_checks(expected_checks)
        self.kind = "plateau" if baseline == "auto" else baseline
        self.status = Status.HEALTHY if self.kind == "none" else Status.WARMUP
        self.alerts: list[Alert] = []
        self.baseline: Baseline | None = None
        self.unmeasured_in_a_row = 0
        self._checks = 0
        self._steps: list[int] = []  # of the warm-up, empty once the baseline is frozen
        self._history: list[float] = []
        self._stderrs: list[float] = []
        self._window: deque[float] = deque(maxlen=self.thresholds.slow_window)
        self._collapsed_in_a_row = 0
        self._floor_in_a_row = 0
        self._recovered_in_a_row = 0
        self._below_since: int | None = None

    def update(self, step: int, log_value: float, stderr: float | None = None) -> Status:
        """Take one check into account.

        Args:
            step: Training step.
            log_value: Natural log of the watched functional.
            stderr: Paired standard error of `log_value`, nats: against the first value for a
                `"start"` baseline, against the check before otherwise. None when unknown.

        Returns:
            The status; `alerts` holds what this update raised.
        """
        self.alerts = []
        self._checks += 1
        if not math.isfinite(log_value):
            self._note_unmeasured(step, log_value)
            return self.status
        self.unmeasured_in_a_row = 0
        self._window.append(log_value)
        if self.kind != "none" and self.baseline is None:
            self._extend_warmup(step, log_value, stderr or 0.0)
        else:
            self._judge(step, log_value, stderr or 0.0)
        return self.status

    @property
    def ratio(self) -> float | None:
        """The latest value over the baseline; None before there is one."""
        if self.baseline is None or not self._window:
            return None
        return math.exp(self._window[-1] - self.baseline.log_value)

    def _note_unmeasured(self, step: int, log_value: float) -> None:
        self.unmeasured_in_a_row += 1
        if self.unmeasured_in_a_row == 1:
            self._alert("VANISHED" if log_value == -math.inf else "NONFINITE", step)

    def _extend_warmup(self, step: int, log_value: float, stderr: float) -> None:
        if self.kind == "start":
            self.baseline = baselines.start(step, log_value)
        else:
            self._steps.append(step)
            self._history.append(log_value)
            self._stderrs.append(stderr)
            self.baseline = baselines.plateau(
                self._steps, self._history, self._stderrs, self.thresholds
            )
        if self.baseline is not None:
            self._steps, self._history, self._stderrs = [], [], []
            self.status = Status.HEALTHY
            self._alert("BASELINE", step, value=self.baseline.log_value)

    def _judge(self, step: int, log_value: float, stderr: float) -> None:
        rule = self.thresholds
        slow = self._drop(rule.slow_window, stderr)
        fast = self._drop(rule.fast_window, stderr)
        self._track_onset(step, log_value)
        collapsed_now = fast is not None and fast <= math.log(rule.collapsed)
        self._collapsed_in_a_row = self._collapsed_in_a_row + 1 if collapsed_now else 0
        floored_now = rule.floor is not None and log_value <= math.log(rule.floor)
        self._floor_in_a_row = self._floor_in_a_row + 1 if floored_now else 0
        if (
            self._collapsed_in_a_row >= rule.collapsed_patience
            or self._floor_in_a_row >= rule.floor_patience
        ):
            self._rise(Status.COLLAPSED, step, log_value, fast)
        elif fast is not None and fast <= math.log(rule.warning_fast):
            self._rise(Status.WARNING, step, log_value, fast)
        elif slow is not None and slow <= math.log(rule.warning_slow):
            self._rise(Status.WARNING, step, log_value, slow)
        self._recover(step, log_value, floored_now)

    def _drop(self, window: int, stderr: float) -> float | None:
        """Median of the latest `window` checks minus the baseline, in nats.

        None without a baseline or enough checks; 0.0 when the drop is within the noise gate.
        """
        if self.baseline is None or len(self._window) < min(window, _LEAST_CHECKS):
            return None
        if window == self.thresholds.slow_window > len(self._window):
            return None
        drop = median(list(self._window)[-window:]) - self.baseline.log_value
        sigma = max(self.baseline.sigma, stderr)
        gate = self.thresholds.noise_gate(sigma, self.baseline.phi, window, self.baseline.checks)
        return drop if -drop >= gate else max(drop, 0.0)

    def _track_onset(self, step: int, log_value: float) -> None:
        if self.baseline is None:
            return
        below = log_value - self.baseline.log_value <= math.log(self.thresholds.recovered)
        if not below:
            self._below_since = None
        elif self._below_since is None:
            self._below_since = step

    def _rise(self, status: Status, step: int, log_value: float, drop: float | None) -> None:
        self._recovered_in_a_row = 0
        if status <= self.status:
            return
        self.status = status
        kind: AlertKind = "COLLAPSED" if status is Status.COLLAPSED else "WARNING"
        self._alert(kind, step, value=log_value, drop=drop)

    def _recover(self, step: int, log_value: float, floored_now: bool) -> None:
        if self.status <= Status.HEALTHY:
            return
        rule = self.thresholds
        up = not floored_now
        if rule.floor is not None:
            up = up and log_value >= math.log(rule.floor / rule.recovered)
        if self.baseline is not None:
            latest = list(self._window)[-rule.slow_window :]
            up = up and median(latest) - self.baseline.log_value >= math.log(rule.recovered)
        self._recovered_in_a_row = self._recovered_in_a_row + 1 if up else 0
        if self._recovered_in_a_row >= rule.recovered_patience:
            self.status = Status.HEALTHY
            self._recovered_in_a_row = 0
            self._alert("RECOVERED", step, value=log_value)

    def _alert(
        self, kind: AlertKind, step: int, value: float | None = None, drop: float | None = None
    ) -> None:
        baseline = self.baseline
        self.alerts.append(
            Alert(
                kind=kind,
                severity=_SEVERITY[kind],
                step=step,
                check=self._checks,
                value=None if value is None else math.exp(value),
                baseline=None if baseline is None else math.exp(baseline.log_value),
                ratio=None if drop is None else math.exp(drop),
                onset_step=self._below_since if kind in ("WARNING", "COLLAPSED") else None,
            )
        )

    def state_dict(self) -> dict[str, Any]:
        """JSON-serialisable builtins: everything `update` depends on."""
        return {
            "kind": self.kind,
            "thresholds": asdict(self.thresholds),
            "status": self.status.name,
            "baseline": None if self.baseline is None else asdict(self.baseline),
            "unmeasured_in_a_row": self.unmeasured_in_a_row,
            "window": list(self._window),
            **{name: copy(getattr(self, f"_{name}")) for name in _PLAIN_STATE},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict()`; the thresholds of the state win.

        Raises:
            RecordError: When a field is missing or malformed; nothing is changed then.
        """
        try:
            thresholds = Thresholds(**state["thresholds"])
            status = Status[state["status"]]
            baseline = None if state["baseline"] is None else Baseline(**state["baseline"])
            window = deque((float(x) for x in state["window"]), maxlen=thresholds.slow_window)
            plain = {f"_{name}": read(state[name]) for name, read in _PLAIN_STATE.items()}
            kind, unmeasured = state["kind"], int(state["unmeasured_in_a_row"])
        except (KeyError, TypeError, ValueError) as error:
            raise RecordError(
                f"not a state of Detector: {type(error).__name__}: {error}"
            ) from error
        self.thresholds, self.status, self.baseline = thresholds, status, baseline
        self._window, self.kind, self.unmeasured_in_a_row = window, kind, unmeasured
        for name, value in plain.items():
            setattr(self, name, value)
        self.alerts = []


def _integers(values: Any) -> list[int]:
    return [int(value) for value in values]


def _floats(values: Any) -> list[float]:
    return [float(value) for value in values]


def _optional_integer(value: Any) -> int | None:
    return None if value is None else int(value)


# Attribute without its underscore -> how it is read back.
_PLAIN_STATE: dict[str, Callable[[Any], Any]] = {
    "checks": int,
    "steps": _integers,
    "history": _floats,
    "stderrs": _floats,
    "collapsed_in_a_row": int,
    "floor_in_a_row": int,
    "recovered_in_a_row": int,
    "below_since": _optional_integer,
}
