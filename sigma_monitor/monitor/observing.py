"""`Observer`: rows that the user hands over, measured and watched by name."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from sigma_monitor.alert import Alert, Status
from sigma_monitor.channels import ObservedWatch
from sigma_monitor.checking.measure import CENTRED, POOLED, UNCENTRED, Measured, measure
from sigma_monitor.detection import worded
from sigma_monitor.errors import InputError, described, traced
from sigma_monitor.monitor.cadence import Cadence
from sigma_monitor.monitor.options import shown, whole_step
from sigma_monitor.monitor.stop import OnResume, StopRule
from sigma_monitor.probing import Rows
from sigma_monitor.ranks import from_main
from sigma_monitor.sinks.outlet import Outlet
from sigma_monitor.snapshot import FLOORED, NAME, RESERVED, Observation, is_plain_name, metric_name
from sigma_monitor.spectrum import Method

__all__ = ["Observer", "ObserverOptions"]

_logger = logging.getLogger("sigma_monitor")

_FAILURES_ALLOWED = 3  # in a row, before rows of this name are no longer measured
# Above it the error of the finite number is small, and what the next ones are paired with is large.
_MOST_SAMPLED = 4096


@dataclass(frozen=True)
class ObserverOptions:
    """What is the same for all names."""

    functionals: Sequence[str]
    relative_ridge: float
    method: Method
    thresholds: Mapping[str, Any]
    limits: Mapping[str, float]  # by functional; the run stops there
    stops: bool  # a stop was asked for
    on_resume: OnResume
    layers: Collection[str] = ()  # names that are taken
    monitor: str = NAME  # its name

    def check_name(self, name: Any) -> None:
        """Raise an `InputError` on a name that cannot stand in a metric, or is taken."""
        if not is_plain_name(name):
            raise InputError(
                f"name={shown(name)}: it becomes part of metric names; pass letters, digits, _ "
                'and -, such as "codebook".'
            )
        if name in RESERVED or name in map(metric_name, self.layers):
            raise InputError(
                f"name={name!r}: the metrics below {self.monitor}/{name} are those of the monitor "
                "itself; pass another name."
            )


@dataclass
class _Series:
    """One name."""

    watch: ObservedWatch
    features: int  # rows of another space are another series
    stop: StopRule
    methods: dict[str, Method]  # settled, by spectrum
    number: int = 0


@dataclass
class _Attempts:
    """How observing one name went, whether or not anything was measured."""

    last_step: int | None = None
    failures_in_a_row: int = 0
    reported: bool = False

    @property
    def off(self) -> bool:
        return self.failures_in_a_row >= _FAILURES_ALLOWED


class Observer:
    """Measures and watches rows by name, each with a baseline and an episode of its own.

    Args:
        options: Of measuring and watching.
        cadence: Its clock counts the seconds, its `max_steps` is the length of the run.
        outlet: Where observations and alerts go, asked for at the first one.
        note: Writes an event, `note(event, **details)`.
        note_refusal: Likewise that of a call that was refused, which does not begin a record.

    Attributes:
        failures: Observations that raised.
        stop_reason: Why the latest observation asks for a stop; None when it does not.
        revision: Grows whenever `state_dict()` changes.
    """

    def __init__(
        self,
        options: ObserverOptions,
        cadence: Cadence,
        outlet: Callable[[], Outlet],
        note: Callable[..., None],
        note_refusal: Callable[..., None],
    ) -> None:
        self.options = options
        self._cadence = cadence
        self._outlet = outlet
        self._note = note
        self._note_refusal = note_refusal
        self.failures = 0
        self.stop_reason: str | None = None
        self.revision = 0
        self._series: dict[str, _Series] = {}
        self._attempts: dict[str, _Attempts] = {}
        self._refused = False  # a call of a bad name or step, and said so

    @property
    def observations(self) -> int:
        """How many there were."""
        return sum(series.number for series in self._series.values())

    @property
    def last_step(self) -> int:
        """The latest that was seen under any name; 0 before."""
        return max((attempts.last_step or 0 for attempts in self._attempts.values()), default=0)

    def joined(self, status: Status | None) -> Status:
        """The worst of `status` and that of every name; WARMUP where `status` is and none is worse.

        Args:
            status: Of the checks; None when there were none.
        """
        observed = [series.watch.status for series in self._series.values()]
        worst = max(observed, default=Status.WARMUP)
        return worst if status is None or worst > max(status, Status.HEALTHY) else status

    def accepts(self, name: Any, step: Any) -> bool:
        """Whether rows can be observed under that name and at that step; counted where not."""
        try:
            self.options.check_name(name)
            whole_step(step)
        except InputError as error:
            self._note_refused(name, step, error)
            return False
        return True

    def wants(self, name: str, step: int) -> bool:
        """Whether rows under that name are still measured, and were not yet at that step."""
        attempts = self._attempts.get(name, _Attempts())
        seen = attempts.last_step is not None and step <= attempts.last_step
        return not seen and not attempts.off

    def observe(
        self,
        name: str,
        embeddings: Tensor,
        step: int,
        *,
        baseline: Literal["start", "plateau"],
        warmup_steps: int = 0,
    ) -> Observation | None:
        """Measure the rows of `embeddings`, compare them with those before, and tell the sinks.

        Never raises: a failure is reported once for each name, counted, and kept in the record.

        Args:
            name: Of the rows, one that `accepts` and `wants`.
            embeddings: (n, m) or (examples, tokens, m).
            step: Training step, likewise.
            baseline: Of a name that is new.
            warmup_steps: Of the learning rate, likewise.
        """
        self.stop_reason = None
        attempts = self._attempts.setdefault(name, _Attempts())
        attempts.last_step, before = step, attempts.last_step
        started = time.perf_counter()
        observation = None
        try:
            started = _start_clock(embeddings)
            rows = _rows_of(embeddings)
            series = self._series_of(name, rows, step, baseline, warmup_steps)
            with torch.no_grad(), _as_written(rows.embeddings.device):
                observation = self._observe(series, rows, step, started)
            if before is not None:
                self._suit_windows(series, step, step - before)
            attempts.failures_in_a_row = 0
        except Exception as error:
            self._note_failure(name, step, error)
        self._cadence.spend(step, time.perf_counter() - started)
        observation = self._agreed(name, step, observation)
        self.revision += 1
        return observation

    def _agreed(self, name: str, step: int, observation: Observation | None) -> Observation | None:
        """Every rank goes on with rank 0's conclusions, and has its observation."""
        attempts = self._attempts[name]
        try:
            self.stop_reason, attempts.failures_in_a_row, first = from_main(
                (self.stop_reason, attempts.failures_in_a_row, observation)
            )
        except Exception as error:  # the ranks have lost each other, which ends a training
            attempts.failures_in_a_row = _FAILURES_ALLOWED
            self._note_failure(name, step, error)
            return None
        return first

    def _observe(self, series: _Series, rows: Rows, step: int, started: float) -> Observation:
        options, name = self.options, series.watch.name
        measured = measure(
            rows,
            functionals=options.functionals,
            relative_ridge=options.relative_ridge,
            methods=dict.fromkeys((CENTRED, UNCENTRED, POOLED), options.method) | series.methods,
            sampling=len(rows.finite) <= _MOST_SAMPLED,
        )
        if measured.spectra and options.method == "auto":
            series.methods = measured.methods  # two would differ by the error of the test vectors
        one_each = rows.groups is None
        series.number += 1
        alerts = series.watch.update(step, measured, one_each=one_each)
        alerts += self._stop_alerts(series, step)
        alerts = [self._worded(alert, series) for alert in alerts]
        seconds = time.perf_counter() - started
        observation = Observation(
            name=name,
            step=step,
            number=series.number,
            time=time.time(),
            status=series.watch.status,
            estimates=_without_pooled(measured) if one_each else measured.estimates,
            ratio=series.watch.ratio if measured.estimates else None,
            alerted=any(alert.severity != "info" for alert in alerts),
            rows=measured.rows,
            features=series.features,
            seconds=seconds,
            overhead=self._cadence.overhead_between(seconds),
            monitor=options.monitor,
            conventions={
                "relative_ridge": options.relative_ridge,
                "method": measured.methods,
            },
        )
        self._outlet().observe(observation, alerts)
        return observation

    def _series_of(
        self,
        name: str,
        rows: Rows,
        step: int,
        baseline: Literal["start", "plateau"],
        warmup_steps: int,
    ) -> _Series:
        """The series that these rows go on with, or a new one."""
        features = rows.embeddings.shape[1]
        known = self._series.get(name)
        if known is not None and known.features == features:
            return known
        if known is not None:
            _logger.warning(
                "sigma_monitor: the rows observed as %s have %d features, those before had %d; "
                "their baseline begins anew at step %d",
                name,
                features,
                known.features,
                step,
            )
        self._series[name] = series = self._new_series(
            name, features, baseline=baseline, warmup_steps=warmup_steps
        )
        details = {"step": step, "baseline": baseline, "rows": len(rows.embeddings)}
        self._note("observing", name=name, features=features, **details)
        return series

    def _new_series(
        self,
        name: str,
        features: int,
        *,
        baseline: Literal["start", "plateau"] = "plateau",
        warmup_steps: int = 0,
    ) -> _Series:
        options = self.options
        watch = ObservedWatch(
            name,
            baseline=baseline,
            warmup_steps=warmup_steps,
            thresholds=options.thresholds,
            limits=options.limits,
        )
        stop = StopRule(wanted=options.stops, on_resume=options.on_resume)
        return _Series(watch, features, stop, {})

    def _suit_windows(self, series: _Series, step: int, spacing: int) -> None:
        """Windows for the number of observations there will be, where that is another by now."""
        if self._cadence.max_steps is None:
            return
        expected = series.number + max(0, self._cadence.max_steps - step) // spacing
        known = series.watch.expected
        if known is None or not known / 2 < expected < known * 2:
            series.watch.expect(expected)

    def _stop_alerts(self, series: _Series, step: int) -> list[Alert]:
        reason = series.stop.reason(step, series.watch)
        if reason is None:
            return []
        name = series.watch.name
        self.stop_reason = f"observed {name}: {reason}"
        text = f"Reason: {self.stop_reason}."
        return [Alert("STOPPED", "info", step, series.number, "observed", name, text=text)]

    def _worded(self, alert: Alert, series: _Series) -> Alert:
        return worded(replace(alert, check=series.number), monitor=self.options.monitor)

    def _note_failure(self, name: str, step: int, error: Exception) -> None:
        self.failures += 1
        attempts = self._attempts[name]
        attempts.failures_in_a_row += 1
        if not attempts.reported:
            attempts.reported = True
            _logger.warning(
                "sigma_monitor: the rows observed as %s could not be measured at step %s (%s); "
                "training goes on, further failures are counted silently\n%s",
                name,
                step,
                described(error),
                traced(error),
            )
        if attempts.off:
            _logger.warning(
                "sigma_monitor: %s is observed no longer, after %d failures in a row",
                name,
                _FAILURES_ALLOWED,
            )
        self._note("observing_failed", name=name, step=step, error=described(error))
        series = self._series.get(name)
        if series is not None:
            for alert in series.watch.missed(step):
                self._outlet().alert(self._worded(alert, series))

    def _note_refused(self, name: Any, step: Any, error: Exception) -> None:
        self.failures += 1
        if not self._refused:
            self._refused = True
            _logger.warning(
                "sigma_monitor: observe(%s, ..., step=%s) measures nothing (%s); training goes on, "
                "further calls like it are counted silently",
                shown(name),
                shown(step),
                described(error),
            )
            self._note_refusal(
                "observing_failed", name=shown(name), step=shown(step), error=described(error)
            )

    def rebaseline(self) -> None:
        """What is observed next is the reference."""
        for series in self._series.values():
            series.watch.rebaseline()

    def state_dict(self) -> dict[str, Any]:
        """JSON-serialisable builtins."""
        return {
            "failures": self.failures,
            "attempts": {
                name: [attempts.last_step, attempts.failures_in_a_row, attempts.reported]
                for name, attempts in self._attempts.items()
            },
            "series": {
                name: {
                    "features": series.features,
                    "number": series.number,
                    "methods": dict(series.methods),
                    "armed": series.stop.armed,
                    "watch": series.watch.state_dict(),
                }
                for name, series in self._series.items()
            },
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict()`."""
        self.failures = int(state["failures"])
        self._attempts = {
            name: _Attempts(None if last is None else int(last), int(failures), bool(reported))
            for name, (last, failures, reported) in state["attempts"].items()
        }
        self._series = {name: self._loaded(name, saved) for name, saved in state["series"].items()}

    def _loaded(self, name: str, saved: Mapping[str, Any]) -> _Series:
        # Which kind of baseline is in the state too.
        series = self._new_series(name, int(saved["features"]))
        series.number, series.methods = int(saved["number"]), dict(saved["methods"])
        series.stop.resume(armed=bool(saved["armed"]), stopped=False)
        series.watch.load_state_dict(saved["watch"])
        return series


def _start_clock(embeddings: Any) -> float:
    """Now, once the device has done what training gave it."""
    if isinstance(embeddings, Tensor) and embeddings.is_cuda:
        torch.cuda.synchronize(embeddings.device)
    return time.perf_counter()


def _rows_of(embeddings: Any) -> Rows:
    """The tensor as rows, without its graph.

    Raises:
        InputError: When it is none of a shape and type that has a spectrum.
    """
    if not isinstance(embeddings, Tensor):
        raise InputError(
            f"embeddings is of type {type(embeddings).__name__}: pass a tensor of shape (n, "
            "features) or (examples, tokens, features)."
        )
    found = embeddings.detach()
    if found.ndim not in (2, 3) or not found.is_floating_point():
        raise InputError(
            f"embeddings is of {found.dtype} and shape {tuple(found.shape)}: pass floating-point "
            "values of shape (n, features) or (examples, tokens, features); the rows themselves, "
            "not their indices."
        )
    if not found.numel() or found.numel() == found.shape[-1]:
        raise InputError(
            f"embeddings has shape {tuple(found.shape)}: a spectrum takes two rows at least."
        )
    rows = found.flatten(0, -2)
    if found.ndim == 2:
        return Rows(rows, None, rows, torch.isfinite(rows).all(1))
    examples, tokens = found.shape[:2]
    groups = torch.arange(examples, device=found.device).repeat_interleave(tokens)
    pooled = found.mean(1, dtype=torch.promote_types(found.dtype, torch.float32))
    return Rows(rows, groups, pooled, torch.isfinite(found).all(2).all(1))


def _without_pooled(measured: Measured) -> dict[str, Any]:
    """Each row is its own mean: what is said of the means was said of the rows."""
    return {key: value for key, value in measured.estimates.items() if key != FLOORED}


def _as_written(device: torch.device) -> AbstractContextManager[Any]:
    """Arithmetic as it is written, also where the caller's forward runs under autocast."""
    if torch.is_autocast_enabled(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()
