"""`SigmaMonitor`: the one place where probe, spectrum, detection and sinks meet."""

from __future__ import annotations

import logging
import os
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from torch import Tensor, nn

from sigma_monitor.alert import Alert, Status
from sigma_monitor.channels import RunWatch, WatchOptions
from sigma_monitor.checking.instrument import Check, Instrument, synchronise
from sigma_monitor.checking.measure import Measured
from sigma_monitor.detection import worded
from sigma_monitor.errors import InputError, RecordError, described, traced
from sigma_monitor.estimate import Estimate
from sigma_monitor.generation.writing import Writing, WritingProbe
from sigma_monitor.monitor.cadence import Cadence
from sigma_monitor.monitor.observing import Observer, ObserverOptions
from sigma_monitor.monitor.options import (
    check_choices,
    check_name,
    check_output_dir,
    chosen_sinks,
    detector_options,
    generation_options,
    reference_and_kind,
    shown,
    stop_limits,
    whole_step,
)
from sigma_monitor.monitor.quoting import Quoting
from sigma_monitor.monitor.stop import OnResume, StopRule
from sigma_monitor.monitor.watcher import BaselineKind, Watcher
from sigma_monitor.probing import EncoderSpec, Probe, ProbeSet
from sigma_monitor.probing.forward import EmbedFn
from sigma_monitor.probing.layers import LayerSpec, layer_list, without_wrapper
from sigma_monitor.probing.pooling import Pooling
from sigma_monitor.ranks import failed, from_main, is_main, meet
from sigma_monitor.reference import Reference
from sigma_monitor.sinks import Sink
from sigma_monitor.sinks.outlet import RECORD, Outlet, SinkSpec
from sigma_monitor.snapshot import NAME, TURNED, UNCENTRED_PREFIX, WATCHED, Observation, Snapshot
from sigma_monitor.spectrum.summary import DEFAULT_RELATIVE_RIDGE, Method

__all__ = ["DEFAULT_FUNCTIONALS", "RECORD", "SigmaMonitor"]

_logger = logging.getLogger("sigma_monitor")

DEFAULT_FUNCTIONALS = ("effective_rank", "log_det", "participation_ratio", "mean_cosine", "trace")
_STATE_VERSION = 6  # grows with SCHEMA too, since a resumed run goes on in its record
_FAILURES_ALLOWED = 3  # checks in a row that fail before the monitor switches itself off
_MOST_OBSERVED = 1000  # that are kept where no host takes them
# Monitors that are calling their models now; those of one process may have the same model.
_checking: set[SigmaMonitor] = set()
_ROWS = {"tokens": "token", "mean": "mean-pooled", "last": "last-token"}


class SigmaMonitor:
    """Measures the spectrum of a model's embeddings of a probe set, and says when it collapses.

    Framework-free: call `step` after every optimiser step, or `check` where you like. The training
    is left bitwise as it was, and nothing that goes wrong in `step` reaches it.

    Args:
        probes: The probe set; may be set later through the attribute of this name.
        every: Shortest spacing of checks in steps, or `"auto"`: a hundredth of the run.
        max_overhead: Largest share of wall time; None switches the budget off.
        max_steps: Length of the run in steps, if known.
        warmup_steps: Of the learning rate; no plateau is looked for before.
        layers: `"last"`, the index of a block, a module's dotted name, or a list of these.
        pooling: `"tokens"` (every token but the first is a row), `"mean"` or `"last"`.
        relative_ridge: Ridge of log det, relative to tr(C)/m.
        functionals: Attributes of `SpectralSummary` to log; `effective_rank` always is.
        method: `"exact"` or `"lanczos"`, see `spectral_summary`; `"auto"` takes for each spectrum
            what costs less on the model's device at the first check, and keeps to it.
        channels: `("representation",)`, or with `"generation"` too: the model also writes, by
            sampling, and what it writes is embedded by a frozen encoder and watched.
        encoder: Of the generation channel: `"hashing"` (character n-grams, no download), `"start"`
            (a frozen copy of the model as it is at the first check), the name of a
            sentence-transformers model, or a callable `list of n texts -> (n, m)`.
        generation: Keyword arguments of `WritingProbe` and `Writer`: `every` (checks),
            `examples`, `prompt_tokens`, `new_tokens`, `temperature`.
        tokenizer: Of the generation channel.
        detector: Thresholds of the watched series, such as `{"collapsed": 0.4}`, or a preset,
            `"default"`, `"sensitive"` or `"quiet"`, or both, `{"preset": "quiet", ...}`; those of
            the other channels under `"generation"` and `"loss"`.
        baseline: `"start"` (loaded weights), `"plateau"` (drawn weights), or `"auto"`: start when
            the model has a `name_or_path`, plateau otherwise. Or the `record.jsonl` of another
            run on the same probe set, to be compared with its baseline, or a generation of a
            `RunLineage`.
        embed_fn: `(model, batch) -> (examples, m) or (examples, tokens, m)`, instead of `layers`.
        stop_on_collapse: True: `should_stop` is set on COLLAPSED, and after three checks in a row
            at which some layer had nothing to measure. A number: COLLAPSED is at this ratio of
            effective rank to its baseline, and sets it. A mapping: limits of functionals set it
            instead of COLLAPSED, `{"participation_ratio": 0.3, "uncentred/log_det_per_dim": -1.0}`,
            each a ratio to its baseline (ranks, trace) or a difference in nats (log_det,
            log_det_per_dim, coding_rate, spectral_entropy), judged with the windows of COLLAPSED.
            False: alerts only. A fall while held-out loss is better than at baseline does not stop.
        on_resume: What a run that was stopped does when it is resumed: `"continue"`, until it has
            been well and collapses again; `"rearm"`: it stops at the next check that still says
            so; `"stop"`: at once.
        sinks: By default `["default"]`: the record below `output_dir`, the console, W&B alerts.
            Others may stand beside it, `["default", MetricsSink(accelerator.log)]`, or replace it.
        output_dir: Folder of the run; without one there is no record. A run that begins at step 0
            renames the record of an older one to `record-1.jsonl`; so does any run where that is
            of another schema.
        name: First part of the names of metrics, and folder of the record: another one for each of
            several monitors of a run.
        include_examples: Quote the probe examples that moved most, and some of what the model
            writes, in alert texts; needs `tokenizer`.
        seed: Of the generators during the probe.
        enabled: False makes every call return at once. The same on all ranks: those where it is
            True would wait for the others for ever; rank 0 alone writes anyway.

    Attributes:
        probes: The probe set.
        instrument: What measures the model.
        cadence: When a check is due.
        status: The worst status over layers, channels and observed rows.
        should_stop: A stop was asked for and its condition is met; `stop_reason` says why.
        failures: Checks that raised, and calls of `step` with a step that is none.
        observed: The latest observations, which the callback of a host takes out and logs.
        between_runs: Set by the callback of a host outside its training: `observe` does nothing.
        trackers: Sinks of the host's trackers, which `"default"` stands for too; None: W&B's.
        revision: Grows whenever `state_dict()` changes in `step`.

    Raises:
        InputError: On an argument that cannot be used.

    Examples:
        ```python
        monitor = SigmaMonitor(ProbeSet.from_texts(held_out, tokenizer), output_dir="runs/a")
        monitor.step(model, 0)
        for step, batch in enumerate(loader, start=1):
            train_step(model, batch)
            monitor.step(model, step)
            if monitor.should_stop:
                break
        monitor.close()
        ```
    """

    def __init__(
        self,
        probes: ProbeSet | None = None,
        *,
        every: int | Literal["auto"] = "auto",
        max_overhead: float | None = 0.01,
        max_steps: int | None = None,
        warmup_steps: int = 0,
        layers: LayerSpec | Sequence[LayerSpec] = "last",
        pooling: Pooling = "tokens",
        relative_ridge: float = DEFAULT_RELATIVE_RIDGE,
        functionals: Sequence[str] = DEFAULT_FUNCTIONALS,
        method: Method = "auto",
        channels: Sequence[str] = ("representation",),
        encoder: EncoderSpec = "hashing",
        generation: Mapping[str, Any] | None = None,
        tokenizer: Any = None,
        detector: str | Mapping[str, Any] | None = None,
        baseline: Literal["auto", "start", "plateau"] | str | os.PathLike[str] | Reference = "auto",
        embed_fn: EmbedFn | None = None,
        stop_on_collapse: bool | float | Mapping[str, float] = False,
        on_resume: OnResume = "continue",
        sinks: Sequence[SinkSpec] | None = None,
        output_dir: str | os.PathLike[str] | None = None,
        name: str = NAME,
        include_examples: bool = False,
        seed: int = 0,
        enabled: bool = True,
    ) -> None:
        check_choices(functionals, method, channels, relative_ridge)
        check_name(name)
        check_output_dir(output_dir)
        self.limits = stop_limits(stop_on_collapse)
        limited = [key.removeprefix(UNCENTRED_PREFIX) for key in self.limits]
        writing_probe = None
        if "generation" in channels:
            options = generation_options(generation)
            writing_probe = WritingProbe(encoder=encoder, relative_ridge=relative_ridge, **options)
        self.instrument = Instrument(
            Probe(layers=layers, pooling=pooling, embed_fn=embed_fn, seed=seed),
            probes=probes,
            functionals=tuple(dict.fromkeys((WATCHED, *functionals, *limited))),
            relative_ridge=relative_ridge,
            method=method,
            writing_probe=writing_probe,
            tokenizer=tokenizer,
        )
        self.cadence = Cadence(every=every, max_overhead=max_overhead)
        self.cadence.max_steps = max_steps
        self.warmup_steps = warmup_steps
        self.reference, self.baseline_kind = reference_and_kind(baseline)
        self.include_examples = include_examples
        self.thresholds = detector_options(detector, stop_on_collapse)
        self.stop_on_collapse = stop_on_collapse
        self.on_resume = on_resume
        self.sinks = chosen_sinks(sinks)
        self.trackers: Sequence[Sink] | None = None
        self.output_dir = output_dir
        self.name = name
        self.enabled = enabled
        self.between_runs = False
        self._open_outlet: Outlet | None = None
        self.reset()

    def reset(self) -> None:
        """Begin a new run: no baseline, no status, no checks. The settings and probes stay."""
        self.status = Status.WARMUP
        self.should_stop = False
        self.stop_reason: str | None = None
        self._stop = StopRule(wanted=self.stop_on_collapse is not False, on_resume=self.on_resume)
        self.checks = 0
        self.failures = 0
        self.revision = 0
        self.last_snapshot: Snapshot | None = None
        self._failures_in_a_row = 0
        self._refused = 0  # failures that are calls of a bad step
        self._watcher = self._new_watcher()
        self._quoting = Quoting(self.instrument, self.note, wanted=self.include_examples)
        self._resuming = False  # from a loaded state, at a step that is not known yet
        self._observer = self._new_observer()
        self.observed: deque[Observation] = deque(maxlen=_MOST_OBSERVED)
        self.cadence.reset()
        self.instrument.reset()
        if self._open_outlet is not None:
            self._open_outlet.interrupt()
            self._open_outlet = None
        self.first_step = 0  # at which a run begins anew; later where a host counts on
        self._closed = False  # and nothing was measured since
        self._afresh = True  # no line of this run has been written, and none was before it

    def _new_watcher(self) -> Watcher:
        options = WatchOptions(
            rows=_ROWS[self.instrument.probe.pooling],
            warmup_steps=self.warmup_steps,
            limits=self.limits,
            representation=self.thresholds["representation"],
            generation=self.thresholds["generation"],
            loss=self.thresholds["loss"],
        )
        return Watcher(options, self.instrument, self.cadence, self.reference, self.note)

    def _new_observer(self) -> Observer:
        probe = self.instrument.probe
        layers = layer_list(probe.layers)
        options = ObserverOptions(
            functionals=self.instrument.functionals,
            relative_ridge=self.instrument.relative_ridge,
            method=self.instrument.method,
            thresholds=self.thresholds["representation"],
            limits=self.limits,
            stops=self.stop_on_collapse is not False,
            on_resume=self.on_resume,
            monitor=self.name,
            layers=["last"] if probe.embed_fn is not None else [str(layer) for layer in layers],
        )
        return Observer(options, self.cadence, lambda: self._outlet, self.note, self._note_refusal)

    @property
    def probes(self) -> ProbeSet | None:
        """The probe set."""
        return self.instrument.probes

    @probes.setter
    def probes(self, probes: ProbeSet | None) -> None:
        """Take another one from the next check on."""
        self.instrument.probes = probes

    @property
    def _watch(self) -> RunWatch | None:
        return self._watcher.watch

    @property
    def has_measured(self) -> bool:
        """Whether there was a check, or an observation, in this run or the one it goes on."""
        return bool(self.checks or self._observer.observations)

    @property
    def disabled(self) -> bool:
        """Whether checks failed so often that the monitor has switched itself off."""
        return self._failures_in_a_row >= _FAILURES_ALLOWED

    def step(self, model: nn.Module, step: int) -> Snapshot | None:
        """Check `model` if a check is due at `step`; call it before the first step and after each.

        Never raises: a failure is reported once, counted in `failures`, and kept in the record.

        Args:
            model: As it is trained: compiled, in DDP or prepared by accelerate. On all ranks.
            step: Optimiser steps so far; a step that was seen before, as in gradient accumulation,
                is not checked again.

        Returns:
            The snapshot, or None when no check was due or it failed.
        """
        if not self.enabled or self.disabled:
            return None
        called = time.perf_counter()
        try:
            step = whole_step(step)
        except InputError as error:
            self._note_refused(step, error)
            return None
        self._arrive(step)
        if not self.cadence.due(step):
            self.cadence.pass_by(time.perf_counter() - called)
            return None
        snapshot = None
        started = time.perf_counter()
        try:
            started = self._start_clock(model)
            self.revision += self._watcher.apply_budget(step, self.checks)
            due = self.cadence.due(step)
            if due:
                snapshot = self._check(model, step)
                self._failures_in_a_row = 0
            meet()
            if not due:
                return None
        except Exception as error:
            snapshot = None
            self._note_failure(step, failed(error))
        self._finish(step, started)
        self.revision += 1
        return snapshot

    def check(self, model: nn.Module, step: int) -> Snapshot:
        """Check `model` now, due or not.

        Raises:
            InputError: When there is no probe set, a layer does not exist, the step is no whole
                number, or `enabled=False`.
            ProbeError: When the model gives no embeddings of the probe set.
        """
        if not self.enabled:
            raise InputError("enabled=False: this monitor measures nothing; use step().")
        step = whole_step(step)
        self._arrive(step)
        try:
            started = self._start_clock(model)
            snapshot = self._check(model, step)
            meet()
        except Exception as raised:
            error = failed(raised)  # on several ranks that of all
            if error is not raised:
                raise error from raised
            raise
        self._finish(step, started)
        return snapshot

    def observe(self, name: str, embeddings: Tensor, step: int) -> Observation | None:
        """Measure and watch rows that you have at hand: a codebook, a table, a projector's output.

        They get a baseline, a status and alerts of their own by the thresholds of the
        representation; a collapse of theirs joins `status`, and sets `should_stop` where
        `stop_on_collapse` was asked for. Centred and uncentred rank are watched both: rows that
        come to point one way keep their centred spectrum. No probe set is needed.

        Measured is whatever comes, whenever it comes: the budget spaces the checks of the model
        alone, and the seconds spent here are in the overhead that is shown. Pass about as many rows
        each time, at best of the same examples.

        A call from within the model's forward pass does nothing while any monitor of the process
        checks a model, whose forward pass is then that of the probe set; likewise in a host outside
        its training, as in an evaluation after its end or in the sanity check of Lightning.

        Never raises, also on a bad name: a failure is reported once, counted in
        `observation_failures`, and kept in the record; after three in a row the name is observed no
        longer.

        Args:
            name: Of the rows, in metrics `sigma/<name>/...`: letters, digits, _ and -.
            embeddings: (n, m), or (examples, tokens, m), of a floating type; read without gradients
                and left as they are.
            step: Optimiser steps so far, as in `step`; one that was seen under this name is not
                measured again. In a run of several processes all of them must call, and follow the
                first one's rows.

        Returns:
            What was measured, of several processes that of the first; None when that failed, the
            step was seen, or a check goes on, or a host does not train.
        """
        if not self.enabled or _checking or self.between_runs:
            return None
        observer, revision = self._observer, self._observer.revision
        if not observer.accepts(name, step):
            return None
        step = whole_step(step)
        self._arrive(step)
        if not observer.wants(name, step):
            return None
        self._closed = False
        observation = observer.observe(
            name,
            embeddings,
            step,
            baseline=self._observed_baseline,
            warmup_steps=self.warmup_steps,
        )
        self._join_status()
        if observer.stop_reason is not None:
            self.should_stop, self.stop_reason = True, observer.stop_reason
        self.revision += observer.revision - revision
        if observation is not None:
            self.observed.append(observation)
        return observation

    @property
    def observation_failures(self) -> int:
        """Calls of `observe` that failed."""
        return self._observer.failures

    @property
    def _observed_baseline(self) -> Literal["start", "plateau"]:
        """As asked for, or that of the model where it was checked before."""
        if self.baseline_kind != "auto":
            return self.baseline_kind
        watched = [] if self._watch is None else list(self._watch.layers.values())
        return "start" if watched and watched[0].level.kind == "start" else "plateau"

    def _join_status(self) -> None:
        """The worst of the checks and of what is observed."""
        self.status = self._observer.joined(None if self._watch is None else self._watch.status)

    def _arrive(self, step: int) -> None:
        """Note whether a run begins at this step, or a loaded one goes on."""
        self._afresh &= step in (self.first_step, self.first_step + 1)
        # Earlier is the call before the first step of a loop that does not know of the load.
        if self._resuming and step >= max(self.cadence.last_step or 0, self._observer.last_step):
            self.go_on(step)

    def go_on(self, step: int) -> None:
        """Note at which step a loaded run is resumed, where that is before the first `step()`."""
        self._resuming = False
        self.cadence.go_on(step)
        self.note("resumed", step=step)

    def note(self, event: str, **details: Any) -> None:
        """Write an event of the run into the record; one that is closed stays as it is."""
        if self.enabled and not self._closed:
            self._outlet.note(event, details)

    def close(self) -> None:
        """Write the closing line of the record and release the sinks. May be called again.

        What is measured later goes on in the same record, and is to be closed anew.
        """
        if self._open_outlet is not None:
            self._watcher.note_end()
            outlet, self._open_outlet = self._open_outlet, None
            self._closed = True  # also where Ctrl-C ends the waiting
            outlet.close(self._outcome())
        self._closed = True

    def _outcome(self) -> dict[str, Any]:
        return {
            "status": self.status.name,
            "stop_reason": self.stop_reason,
            "checks": self.checks,
            "failures": self.failures,
            "observations": self._observer.observations,
            "observation_failures": self._observer.failures,
        }

    def _start_clock(self, model: nn.Module) -> float:
        """Time at which a check begins, once device and ranks have done what training gave them."""
        self._closed = False
        self.instrument.restart_clock()
        synchronise(model)
        meet()  # training would wait for the slowest rank too: that is no cost of a check
        return time.perf_counter()

    def _finish(self, step: int, started: float) -> None:
        once, writing = self.instrument.once_seconds, self.instrument.writing_seconds
        seconds = time.perf_counter() - started - once - writing
        writer = self.instrument.writing_probe
        every = 1 if writer is None else writer.every
        self.cadence.finish(step, seconds, once, extra=writing, extra_every=every)
        self.cadence.confirm_early(wanted=self._watch is not None and self._watch.excursion)
        self._agree(step)
        self._watcher.suit_windows()

    def _check(self, model: nn.Module, step: int) -> Snapshot:
        self.cadence.begin(step)
        started = time.perf_counter()
        writer = self.instrument.writing_probe
        _checking.add(self)
        try:
            check, smaller = self.instrument.check(
                model,
                step,
                writes=writer is not None and writer.due(self.checks + 1),
                part=self._watcher.part,
            )
        finally:
            _checking.discard(self)
        meet()  # all ranks have measured, before any of them concludes
        if check.writing_error is not None:
            self.note("writing_failed", step=step, error=check.writing_error)
        self._watcher.recognise(check.fingerprint, step)
        if self._watch is None:
            kind = self._kind_for(model)
            self._note_start(kind, step)
            self._watcher.begin(step, check, smaller, kind=kind, warmup_steps=self.warmup_steps)
        self.checks += 1
        alerts = self._watcher.update(step, check)
        self._join_status()
        alerts += self._stop_alerts(step)
        alerts = [self._worded(alert, check.writing) for alert in alerts]
        seconds = time.perf_counter() - started
        snapshot = self._snapshot(step, check, alerts, seconds)
        self.last_snapshot = snapshot
        self._outlet.deliver(snapshot, alerts)
        return snapshot

    def _note_start(self, kind: BaselineKind, step: int) -> None:
        probes = self.instrument.ready_probes
        self.note(
            "started",
            step=step,
            baseline=kind,
            baseline_asked=self.baseline_kind if self.reference is None else self.reference.source,
            held_out=probes.held_out,
            probes=probes.source,
            examples=len(probes),
            max_steps=self.cadence.max_steps,
            every=self.cadence.every,
            max_overhead=self.cadence.max_overhead,
            thresholds=self.thresholds,
            fingerprint=self._watcher.fingerprint,
        )

    def _kind_for(self, model: nn.Module) -> BaselineKind:
        if self.baseline_kind != "auto":
            return self.baseline_kind
        return "start" if getattr(without_wrapper(model), "name_or_path", "") else "plateau"

    def rebaseline(self) -> None:
        """Take what comes next as the reference of every channel and of all observed rows.

        Any episode ends untold.

        For a change of the training that is meant; it is never done by itself.
        """
        self._watcher.rebaseline()
        self._observer.rebaseline()
        self._join_status()
        self.revision += 1

    def bridge(self, offset: float, layer: str = "last") -> None:
        """Move the baseline of a layer by `offset` nats of log effective rank.

        For a change of scale that is known and means nothing.

        Raises:
            InputError: When the offset is not finite, there is no such layer, or no check yet.
        """
        self._watcher.bridge(offset, layer)
        self.revision += 1

    def _worded(self, alert: Alert, writing: Writing | None = None) -> Alert:
        placed = replace(alert, check=self.checks, fingerprint=self._watcher.fingerprint)
        quotes = self._quoting.of(alert, writing)
        if self._watch is None:
            return worded(placed, monitor=self.name, quotes=quotes)
        return worded(
            placed,
            monitor=self.name,
            loss=self._watch.loss.mean,
            start_loss=self._watch.loss_at_baseline(alert),
            quotes=quotes,
        )

    def _stop_alerts(self, step: int) -> list[Alert]:
        assert self._watch is not None
        reason = self._stop.reason(step, self._watch)
        if reason is None:
            return []
        self.should_stop, self.stop_reason = True, reason
        return [Alert("STOPPED", "info", step, self.checks, text=f"Reason: {reason}.")]

    def _snapshot(
        self, step: int, check: Check, alerts: Sequence[Alert], seconds: float
    ) -> Snapshot:
        assert self._watch is not None
        drifts = {name: layer.drift for name, layer in self._watch.layers.items()}
        instrument = self.instrument
        return Snapshot(
            step=step,
            check=self.checks,
            time=time.time(),
            status=self.status,
            layers={layer: _with_drift(m, drifts[layer]) for layer, m in check.measured.items()},
            ratios={
                layer: ratio
                for layer, ratio in self._watch.ratios.items()
                if check.measured[layer].estimates
            },
            finite=check.finite,
            loss=None if check.losses is None else check.losses.mean,
            alerted=any(alert.severity != "info" for alert in alerts),
            seconds=seconds,
            overhead=self.cadence.overhead_with(seconds),
            rows=max(m.rows for m in check.measured.values()),
            examples=check.examples,
            fingerprint=check.fingerprint,
            monitor=self.name,
            conventions={
                "pooling": instrument.probe.pooling,
                "relative_ridge": instrument.relative_ridge,
                "method": {layer: m.methods for layer, m in check.measured.items() if m.spectra},
                "seed": instrument.probe.seed,
                "held_out": instrument.ready_probes.held_out,
            },
            generation={} if check.writing is None else check.writing.estimates,
            spectra={layer: m.counts for layer, m in check.measured.items() if m.spectra},
        )

    def _note_failure(self, step: int, error: Exception) -> None:
        self.failures += 1
        self._failures_in_a_row += 1
        # A failure of one rank is one of all; that one has its traceback.
        tells = is_main() or error.__cause__ is not None
        if self.failures == self._refused + 1 and tells:
            _logger.warning(
                "sigma_monitor: the check at step %d failed (%s); training goes on, further "
                "failures are counted silently\n%s",
                step,
                described(error),
                traced(error),
            )
        if self.disabled and tells:
            _logger.warning(
                "sigma_monitor: switched off after %d failed checks in a row", _FAILURES_ALLOWED
            )
        self.note("failed", step=step, error=described(error))
        for alert in [] if self._watch is None else self._watch.missed(step):
            self._outlet.alert(self._worded(alert))

    def _note_refused(self, step: Any, error: InputError) -> None:
        self.failures += 1
        self._refused += 1
        if self._refused == 1:
            _logger.warning(
                "sigma_monitor: no check (%s); training goes on, further calls like it are counted "
                "silently",
                error,
            )
            self._note_refusal("failed", step=shown(step), error=described(error))

    def _note_refusal(self, event: str, **details: Any) -> None:
        """Write that a call was refused, unless it would be the first line of this run.

        It may come before the state of a run is loaded, whose record would be put aside.
        """
        if self._open_outlet is not None:
            self.note(event, **details)

    def _agree(self, step: int) -> None:
        """Every rank goes on with rank 0's conclusions."""
        cadence = self.cadence
        conclusions = (
            self.should_stop,
            self.stop_reason,
            self.checks,
            cadence.spacing,
            cadence.next_step,
        )
        try:
            agreed = from_main(conclusions)
        except Exception as error:  # the ranks have lost each other, which ends a training
            self._failures_in_a_row = _FAILURES_ALLOWED
            self._note_failure(step, error)
            return
        (
            self.should_stop,
            self.stop_reason,
            self.checks,
            cadence.spacing,
            cadence.next_step,
        ) = agreed

    @property
    def _outlet(self) -> Outlet:
        """The sinks, opened at the first use: the callback learns late where they are to go."""
        if self._open_outlet is None:
            self._open_outlet = Outlet(
                self.sinks,
                self.output_dir,
                name=self.name,
                afresh=self._afresh,
                trackers=self.trackers,
            )
            self._afresh = False
        return self._open_outlet

    def state_dict(self) -> dict[str, Any]:
        """JSON-serialisable builtins: everything a resumed run needs to go on as if unbroken."""
        return {
            "version": _STATE_VERSION,
            "status": self.status.name,
            "stop_armed": self._stop.armed,
            "stop_reason": self.stop_reason,
            "checks": self.checks,
            "failures": self.failures,
            "instrument": self.instrument.state_dict(),
            "cadence": self.cadence.state_dict(),
            "observer": self._observer.state_dict(),
            **self._watcher.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict()`, at the step of the next `step` or `go_on`.

        Whether a stop that was carried out is carried out again is for `on_resume` to say.

        Raises:
            RecordError: When the state is of another version or malformed.
        """
        try:
            version = state["version"]
        except (KeyError, TypeError):  # of a list or a text
            version = None
        if version != _STATE_VERSION:
            raise RecordError(
                f"monitor state version {version!r}: this version reads {_STATE_VERSION}. Resume "
                "with the sigma-monitor that wrote the checkpoint."
            )
        self.reset()
        self._afresh = False
        try:
            self.cadence.load_state_dict(state["cadence"])
            self.instrument.load_state_dict(state["instrument"])
            self._watcher.load_state_dict(state)
            self.status = Status[state["status"]]
            self.stop_reason = state["stop_reason"]
            self.should_stop = self._stop.resume(
                armed=bool(state["stop_armed"]), stopped=self.stop_reason is not None
            )
            if not self.should_stop:
                self.stop_reason = None  # or the next resume would take it for stopped again
            self.checks = int(state["checks"])
            self.failures = int(state["failures"])
            self._observer.load_state_dict(state["observer"])
            self._resuming = self.cadence.last_step is not None or bool(self._observer.observations)
        except (AttributeError, LookupError, OverflowError, TypeError, ValueError) as error:
            self.reset()
            raise RecordError(
                f"not a state of SigmaMonitor: {type(error).__name__}: {error}"
            ) from error


def _with_drift(measured: Measured, drift: float | None) -> dict[str, Estimate]:
    return measured.estimates | ({} if drift is None else {TURNED: Estimate.exact(drift)})
