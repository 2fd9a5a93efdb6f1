"""`SigmaMonitor`: the one place where probe, spectrum, detection and sinks meet."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from sigma_monitor.alert import Alert, Status
from sigma_monitor.cadence import Cadence
from sigma_monitor.detection import worded
from sigma_monitor.errors import InputError, RecordError
from sigma_monitor.estimate import Estimate
from sigma_monitor.lineage import BEGINNING, END, Reference
from sigma_monitor.measure import CENTRED, POOLED, TURNED, UNCENTRED, WATCHED, Measured, measure
from sigma_monitor.options import (
    check_choices,
    detector_options,
    generation_options,
    reference_and_kind,
)
from sigma_monitor.probing import EncoderSpec, Probe, ProbeSet, Reading
from sigma_monitor.probing.forward import EmbedFn
from sigma_monitor.probing.layers import LayerSpec
from sigma_monitor.probing.pooling import Pooling
from sigma_monitor.ranks import from_main, is_main
from sigma_monitor.sinks import ConsoleSink, Isolated, JsonlSink, Sink, WandbAlertSink
from sigma_monitor.snapshot import Snapshot
from sigma_monitor.spectrum.summary import DEFAULT_RELATIVE_RIDGE, Method
from sigma_monitor.watch import RunWatch, WatchOptions
from sigma_monitor.writing import Writing, WritingProbe

__all__ = ["DEFAULT_FUNCTIONALS", "RECORD", "SigmaMonitor"]

_logger = logging.getLogger("sigma_monitor")

DEFAULT_FUNCTIONALS = ("effective_rank", "log_det", "participation_ratio", "mean_cosine", "trace")
RECORD = Path("sigma") / "record.jsonl"  # below the run's output folder

_LEAST_CHECKS = 20  # of a run that the budget should pay for, before the probe set shrinks
_LEAST_EXAMPLES = 64
_STATE_VERSION = 2
_FAILURES_ALLOWED = 3  # checks in a row that fail before the monitor switches itself off
_QUOTES = 3  # texts in an alert
_UNMEASURED_STOPS = 3  # checks in a row without anything to measure that count as collapse
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
            `Lineage`.
        embed_fn: `(model, batch) -> (examples, m) or (examples, tokens, m)`, instead of `layers`.
        stop_on_collapse: True: `should_stop` is set on COLLAPSED. A number: COLLAPSED is at this
            ratio of effective rank to its baseline, and sets it. False: alerts only. A collapse
            while held-out loss is better than at baseline does not stop.
        sinks: Replaces the default: the record below `output_dir`, the console, W&B alerts.
        output_dir: Folder of the run; without one there is no record.
        include_examples: Quote the probe examples that moved most, and some of what the model
            writes, in alert texts; needs `tokenizer`.
        seed: Of the generators during the probe.
        enabled: False makes every call return at once.

    Attributes:
        status: The worst status over layers and channels.
        should_stop: A stop was asked for and its condition is met; `stop_reason` says why.
        failures: Checks that raised.
        revision: Grows whenever `state_dict()` changes in `step`.

    Raises:
        InputError: On an argument that cannot be used.

    Example::

        monitor = SigmaMonitor(ProbeSet.from_texts(held_out, tokenizer), output_dir="runs/a")
        monitor.step(model, 0)
        for step, batch in enumerate(loader, start=1):
            train_step(model, batch)
            monitor.step(model, step)
            if monitor.should_stop:
                break
        monitor.close()
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
        stop_on_collapse: bool | float = False,
        sinks: Sequence[Sink] | None = None,
        output_dir: str | os.PathLike[str] | None = None,
        include_examples: bool = False,
        seed: int = 0,
        enabled: bool = True,
    ) -> None:
        check_choices(functionals, method, channels, relative_ridge)
        self.probes = probes
        self.probe = Probe(layers=layers, pooling=pooling, embed_fn=embed_fn, seed=seed)
        self.cadence = Cadence(every=every, max_overhead=max_overhead)
        self.cadence.max_steps = max_steps
        self.warmup_steps = warmup_steps
        self.functionals = tuple(dict.fromkeys((WATCHED, *functionals)))
        self.relative_ridge = relative_ridge
        self.method = method
        self.reference, self.baseline = reference_and_kind(baseline)
        self.writer = (
            WritingProbe(
                encoder=encoder,
                relative_ridge=relative_ridge,
                **generation_options(generation),
            )
            if "generation" in channels
            else None
        )
        self.tokenizer = tokenizer
        self.include_examples = include_examples
        self.detector = detector_options(detector, stop_on_collapse)
        self.stop_on_collapse = stop_on_collapse
        self.sinks = sinks
        self.output_dir = output_dir
        self.enabled = enabled
        self._open_sinks: list[Isolated] | None = None
        self.reset()

    def reset(self) -> None:
        """Begin a new run: no baseline, no status, no checks. The settings and probes stay."""
        self.status = Status.WARMUP
        self.should_stop = False
        self.stop_reason: str | None = None
        self._stop_armed = True
        self.checks = 0
        self.failures = 0
        self.revision = 0
        self.last_snapshot: Snapshot | None = None
        self.cadence.reset()
        self._failures_in_a_row = 0
        self._watch: RunWatch | None = None
        self._opening: _Opening | None = None
        self._has_baseline = False
        self._writing_failures_in_a_row = 0
        self._writing_seconds = 0.0  # of the latest check
        self._fingerprint: str | None = None
        self._examples: int | None = None  # the probe set is cut to so many
        self._cut_probes: ProbeSet | None = None
        self._methods: dict[str, dict[str, Method]] = {}  # fixed by a run's first check, by layer
        self._previous: dict[str, Measured] = {}
        self._warm_up_seconds = 0.0
        if self.writer is not None:
            self.writer.reset()
        self._release_sinks()

    @property
    def disabled(self) -> bool:
        """Whether checks failed so often that the monitor has switched itself off."""
        return self._failures_in_a_row >= _FAILURES_ALLOWED

    def step(self, model: nn.Module, step: int) -> Snapshot | None:
        """Check `model` if a check is due at `step`; call it before the first step and after each.

        Never raises: a failure is reported once, counted in `failures`, and kept in the record.

        Returns:
            The snapshot, or None when no check was due or it failed.
        """
        if not self.enabled or self.disabled or not self.cadence.due(step):
            return None
        snapshot = None
        started = self._start_clock(model)
        try:
            self._apply_budget(step)
            if not self.cadence.due(step):
                return None
            snapshot = self._check(model, step)
            self._failures_in_a_row = 0
        except Exception as error:
            self._note_failure(step, error)
        self._finish(step, started)
        self.revision += 1
        return snapshot

    def check(self, model: nn.Module, step: int) -> Snapshot:
        """Check `model` now, due or not.

        Raises:
            InputError: When there is no probe set, a layer does not exist, or `enabled=False`.
            ProbeError: When the model gives no embeddings of the probe set.
        """
        if not self.enabled:
            raise InputError("enabled=False: this monitor measures nothing; use step().")
        started = self._start_clock(model)
        snapshot = self._check(model, step)
        self._finish(step, started)
        return snapshot

    def note(self, event: str, **details: Any) -> None:
        """Write an event of the run into the record."""
        if not self.enabled:
            return
        for sink in self._ready_sinks():
            sink.note(event, details)

    def close(self) -> None:
        """Write the closing line of the record and release the sinks. May be called again."""
        if self._open_sinks is None:
            return
        if self._watch is not None and self._has_baseline:
            present = self._watch.present()
            if present["layers"].keys() == self._watch.layers.keys():
                self.note(END, fingerprint=self._fingerprint, baselines=present)
        lost = {sink.name: sink.lost for sink in self._open_sinks if sink.lost}
        self.note("closed", checks=self.checks, failures=self.failures, lost=lost)
        self._release_sinks()

    def _release_sinks(self) -> None:
        for sink in self._open_sinks or ():
            sink.close()
        self._open_sinks = None

    def _start_clock(self, model: nn.Module) -> float:
        """Time at which a check begins, once the device has done what training gave it."""
        self._warm_up_seconds = 0.0
        _synchronise(model)
        return time.perf_counter()

    def _finish(self, step: int, started: float) -> None:
        warm_up, writing = self._warm_up_seconds, self._writing_seconds
        seconds = time.perf_counter() - started - warm_up - writing
        every = 1 if self.writer is None else self.writer.every
        self.cadence.finish(step, seconds, warm_up, extra=writing, extra_every=every)
        self.cadence.hurry(wanted=self._watch is not None and self._watch.excursion)
        self._agree()

    def _warm_up(self, model: nn.Module, probes: ProbeSet) -> None:
        """One example first: what a device sets up once is not the cost of a check."""
        started = time.perf_counter()
        self._measure(self.probe.read(model, probes.first(1)))
        self._warm_up_seconds = time.perf_counter() - started

    def _check(self, model: nn.Module, step: int) -> Snapshot:
        self.cadence.begin(step)
        self._writing_seconds = 0.0
        probes = self._ready_probes()
        if self._watch is None and _accelerator_of(model) is not None:
            self._warm_up(model, probes)
        started = time.perf_counter()
        reading = self.probe.read(model, probes)
        self._recognise(self._current_fingerprint(probes, reading), step)
        measured = self._measure(reading, follow=True)
        writing = self._read_writing(model, probes, step)
        if self._watch is None:
            self._watch = self._open(model, step, reading, measured, writing)
        self.checks += 1
        alerts = self._watch.update(step, measured, reading.losses, writing)
        self._note_baseline(alerts)
        self.status = self._watch.status
        alerts = [self._worded(alert, writing) for alert in alerts + self._stop_alerts(step)]
        seconds = time.perf_counter() - started
        snapshot = self._snapshot(step, reading, measured, writing, alerts, seconds)
        self.last_snapshot = snapshot
        for sink in self._ready_sinks():
            sink.log(snapshot)
            for alert in alerts:
                sink.alert(alert)
        return snapshot

    def _read_writing(self, model: nn.Module, probes: ProbeSet, step: int) -> Writing | None:
        """What the model writes, at the checks that are due for it.

        A failure here costs the channel, not the check.
        """
        writer = self.writer
        if writer is None or self._writing_failures_in_a_row >= _FAILURES_ALLOWED:
            return None
        if not writer.due(self.checks + 1):
            return None
        started = time.perf_counter()
        try:
            writing = writer.read(model, probes, self.tokenizer)
            self._writing_failures_in_a_row = 0
            return writing
        except Exception as error:
            self._writing_failures_in_a_row += 1
            if self._writing_failures_in_a_row == 1:
                _logger.warning(
                    "sigma_monitor: the generation channel failed at step %d (%s: %s); the "
                    "representation is watched on, and after %d failures in a row it alone",
                    step,
                    type(error).__name__,
                    error,
                    _FAILURES_ALLOWED,
                )
            self.note("writing_failed", step=step, error=f"{type(error).__name__}: {error}")
            return None
        finally:
            self._writing_seconds = time.perf_counter() - started

    def _note_baseline(self, alerts: Sequence[Alert]) -> None:
        """Keep what another run needs to be compared with this one."""
        if self._watch is not None and any(alert.kind == "BASELINE" for alert in alerts):
            self._has_baseline = True
            self.note(BEGINNING, fingerprint=self._fingerprint, baselines=self._watch.reference())

    def _ready_probes(self) -> ProbeSet:
        if self.probes is None:
            raise InputError("no probe set: pass probes=ProbeSet.from_texts(texts, tokenizer).")
        if self._examples is None or len(self.probes) <= self._examples:
            return self.probes
        if self._cut_probes is None:
            self._cut_probes = self.probes.first(self._examples)
        return self._cut_probes

    def _measure(self, reading: Reading, *, follow: bool = False) -> dict[str, Measured]:
        """The spectra of every layer; `follow` those of the check before."""
        measured = {}
        fixed = self._methods if follow and self.method == "auto" else {}
        for layer, rows in reading.layers.items():
            asked: dict[str, Method] = dict.fromkeys((CENTRED, UNCENTRED, POOLED), self.method)
            measured[layer] = measure(
                rows,
                functionals=self.functionals,
                relative_ridge=self.relative_ridge,
                methods=asked | fixed.get(layer, {}),
                previous=self._previous.get(layer) if follow else None,
            )
            if follow and measured[layer].spectra:
                # A series is of one method: two would differ by the error of the test vectors.
                self._methods[layer] = measured[layer].methods
                self._previous[layer] = measured[layer]
        return measured

    def _open(
        self,
        model: nn.Module,
        step: int,
        reading: Reading,
        measured: dict[str, Measured],
        writing: Writing | None,
    ) -> RunWatch:
        """The first check of a run: detectors, and what a smaller probe set would have seen."""
        kind = self._baseline_kind(model)
        smaller = None
        if self.cadence.untimed and len(self._ready_probes()) > _LEAST_EXAMPLES:
            part = reading.first(_LEAST_EXAMPLES)
            smaller = _Seen(part, self._measure(part))
        self._opening = _Opening(kind, step, _Seen(reading, measured), smaller, writing)
        self.note(
            "started",
            step=step,
            baseline=kind,
            baseline_asked=self.baseline if self.reference is None else self.reference.source,
            held_out=self._ready_probes().held_out,
            probes=self._ready_probes().source,
            examples=len(self._ready_probes()),
            max_steps=self.cadence.max_steps,
            every=self.cadence.every,
            max_overhead=self.cadence.max_overhead,
            fingerprint=self._fingerprint,
        )
        return self._new_watch(kind, measured)

    def _baseline_kind(self, model: nn.Module) -> Literal["start", "plateau"]:
        if self.baseline != "auto":
            return self.baseline
        return "start" if getattr(model, "name_or_path", "") else "plateau"

    def _new_watch(self, kind: Literal["start", "plateau"], layers: Collection[str]) -> RunWatch:
        checks = self.cadence.expected_checks
        every = 1 if self.writer is None else self.writer.every
        options = WatchOptions(
            baseline=kind,
            rows=_ROWS[self.probe.pooling],
            expected_checks=checks,
            expected_writings=None if checks is None else max(1, checks // every),
            warmup_steps=self.warmup_steps,
            **self.detector,
        )
        watch = RunWatch(list(layers), options, writes=self.writer is not None)
        if self.reference is not None and self._matches(self.reference, set(layers)):
            watch.refer(self.reference.baselines)
            self._has_baseline = True
        return watch

    def _matches(self, reference: Reference, layers: set[str]) -> bool:
        """Whether the baseline of another run was measured as this one is."""
        known = self._fingerprint is None or reference.fingerprint == self._fingerprint
        if known and layers <= reference.baselines["layers"].keys():
            return True
        if self.cadence.untimed:  # the budget may still choose the probe set that is known
            return False
        _logger.warning(
            "sigma_monitor: the baseline of %s was not used, since it has another probe set, "
            "other layers or other conventions (%s, here %s); this run is its own baseline",
            reference.source,
            reference.fingerprint,
            self._fingerprint,
        )
        return False

    def rebaseline(self) -> None:
        """Take the next check as the reference of every channel, and end any episode untold.

        For a change of the training that is meant; it is never done by itself.
        """
        if self._watch is not None:
            self._watch.rebaseline()
            self.status = self._watch.status
            self.revision += 1

    def bridge(self, offset: float, layer: str = "last") -> None:
        """Move the baseline of a layer by `offset` nats of log effective rank.

        For a change of scale that is known and means nothing.

        Raises:
            InputError: When the offset is not finite, there is no such layer, or no check yet.
        """
        if self._watch is None or layer not in self._watch.layers:
            known = [] if self._watch is None else list(self._watch.layers)
            raise InputError(f"layer={layer!r}: the layers watched so far are {known}.")
        self._watch.layers[layer].level.bridge(offset)
        self.revision += 1

    def _apply_budget(self, step: int) -> None:
        """Plan the checks anew once training time is known, which can move the one at `step`.

        The detectors begin anew with windows that suit the number of checks the budget pays for,
        and with the first check again, on the smaller probe set where one is used.
        """
        if not self.cadence.untimed or self.cadence.last_step is None:
            return
        self.cadence.begin(step)
        can_shrink = self._opening is not None and self._opening.smaller is not None
        shrink = can_shrink and self.checks + self.cadence.affordable_checks() < _LEAST_CHECKS
        self.cadence.respace(_LEAST_EXAMPLES / len(self._ready_probes()) if shrink else 1.0)
        plan = (shrink, self.cadence.spacing, self.cadence.next_step)
        shrink, self.cadence.spacing, self.cadence.next_step = from_main(plan)
        if shrink:
            self._examples = _LEAST_EXAMPLES
        self._reopen(shrink)
        self._say_plan(step, shrink)
        self.revision += 1

    def _reopen(self, shrink: bool) -> None:
        opening, self._opening = self._opening, None
        if opening is None:
            return
        seen = opening.smaller if shrink and opening.smaller else opening.seen
        if shrink:  # these are of the larger set
            self._fingerprint = self._current_fingerprint(self._ready_probes(), seen.reading)
            self._methods = {layer: m.methods for layer, m in seen.measured.items() if m.spectra}
            self._previous = {}
        self._watch = self._new_watch(opening.kind, seen.measured)
        alerts = self._watch.update(
            opening.step, seen.measured, seen.reading.losses, None if shrink else opening.writing
        )
        self._note_baseline(alerts)

    def _say_plan(self, step: int, shrink: bool) -> None:
        if not shrink and not self.cadence.stretched:
            return
        watched = {} if self._watch is None else self._watch.layers
        baselines = {
            name: math.exp(layer.level.baseline.log_value)
            for name, layer in watched.items()
            if layer.level.baseline is not None
        }
        self.note(
            "budget",
            step=step,
            spacing=self.cadence.spacing,
            examples=len(self._ready_probes()),
            baselines=baselines,
        )
        if is_main():
            _logger.warning(
                "sigma_monitor: a budget of %.3g of wall time allows a check every %s steps%s; "
                "pass max_overhead= to change it",
                self.cadence.max_overhead,
                self.cadence.spacing,
                f", with the probe set cut to {_LEAST_EXAMPLES} examples" if shrink else "",
            )

    def _current_fingerprint(self, probes: ProbeSet, reading: Reading) -> str:
        identity = {
            "probes": probes.fingerprint,
            "pooling": self.probe.pooling,
            "relative_ridge": self.relative_ridge,
            "generation": None if self.writer is None else self.writer.identity(),
            "layers": {
                layer: [str(rows.embeddings.dtype), rows.embeddings.shape[1]]
                for layer, rows in reading.layers.items()
            },
        }
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]

    def _recognise(self, fingerprint: str, step: int) -> None:
        """Refuse to compare with a baseline of another probe set or of other conventions."""
        if self._fingerprint is not None and fingerprint != self._fingerprint:
            self._watch, self._methods, self._previous = None, {}, {}
            _logger.warning(
                "sigma_monitor: probe set or conventions differ from those of the saved baseline "
                "(%s, now %s); the baseline begins anew at step %d with the model as it is",
                self._fingerprint,
                fingerprint,
                step,
            )
        self._fingerprint = fingerprint

    def _worded(self, alert: Alert, writing: Writing | None = None) -> Alert:
        placed = replace(alert, check=self.checks, fingerprint=self._fingerprint)
        quotes: tuple[str, ...] = ()
        if self.include_examples:
            quotes = self._quotes(alert, writing)
        if self._watch is None:
            return worded(placed, quotes=quotes)
        before = self._watch.loss.baseline(alert.channel)
        return worded(
            placed,
            loss=self._watch.loss.mean,
            start_loss=None if before is None else before.mean,
            quotes=quotes,
        )

    def _quotes(self, alert: Alert, writing: Writing | None) -> tuple[str, ...]:
        """Probe examples that moved most, or what the model writes."""
        if alert.channel == "generation":
            return () if writing is None else writing.texts[:_QUOTES]
        ids = self._ready_probes().tensors.get("input_ids")
        if ids is None or self.tokenizer is None:
            return ()
        return tuple(
            str(self.tokenizer.decode(ids[example].tolist(), skip_special_tokens=True))
            for example in alert.moved_examples
        )

    def _stop_alerts(self, step: int) -> list[Alert]:
        if self._watch is None:
            return []
        unmeasured = self._watch.unmeasured_in_a_row
        met = self._watch.collapsed or unmeasured >= _UNMEASURED_STOPS
        armed, self._stop_armed = self._stop_armed, not met
        if self.stop_on_collapse is False or not met or not armed:
            return []
        self.should_stop = True
        self.stop_reason = (
            f"COLLAPSED at step {step}"
            if self._watch.collapsed
            else f"nothing could be measured in {unmeasured} checks up to step {step}"
        )
        return [Alert("STOPPED", "info", step, self.checks, text=f"Reason: {self.stop_reason}.")]

    def _snapshot(
        self,
        step: int,
        reading: Reading,
        measured: Mapping[str, Measured],
        writing: Writing | None,
        alerts: Sequence[Alert],
        seconds: float,
    ) -> Snapshot:
        assert self._watch is not None
        drifts = {name: layer.drift for name, layer in self._watch.layers.items()}
        return Snapshot(
            step=step,
            check=self.checks,
            time=time.time(),
            status=self.status,
            layers={layer: _with_drift(m, drifts[layer]) for layer, m in measured.items()},
            ratios={
                layer: ratio
                for layer, ratio in self._watch.ratios.items()
                if measured[layer].estimates
            },
            finite=reading.finite,
            loss=reading.loss,
            alerted=any(alert.severity != "info" for alert in alerts),
            seconds=seconds,
            overhead=self.cadence.overhead_with(seconds),
            rows=max(m.rows for m in measured.values()),
            examples=len(self._ready_probes()),
            fingerprint=self._fingerprint or "",
            conventions={
                "pooling": self.probe.pooling,
                "relative_ridge": self.relative_ridge,
                "method": {layer: m.methods for layer, m in measured.items() if m.spectra},
                "seed": self.probe.seed,
                "held_out": self._ready_probes().held_out,
            },
            generation={} if writing is None else writing.estimates,
        )

    def _note_failure(self, step: int, error: Exception) -> None:
        self.failures += 1
        self._failures_in_a_row += 1
        if self.failures == 1:
            _logger.warning(
                "sigma_monitor: the check at step %d failed (%s: %s); training goes on, further "
                "failures are counted silently",
                step,
                type(error).__name__,
                error,
                exc_info=error,
            )
        if self.disabled:
            _logger.warning(
                "sigma_monitor: switched off after %d failed checks in a row", _FAILURES_ALLOWED
            )
        self.note("failed", step=step, error=f"{type(error).__name__}: {error}")
        for alert in [] if self._watch is None else self._watch.missed(step):
            for sink in self._ready_sinks():
                sink.alert(self._worded(alert))

    def _agree(self) -> None:
        """Every rank goes on with rank 0's conclusions."""
        cadence = self.cadence
        conclusions = (
            self.should_stop,
            self.stop_reason,
            self._failures_in_a_row,
            cadence.spacing,
            cadence.next_step,
        )
        (
            self.should_stop,
            self.stop_reason,
            self._failures_in_a_row,
            cadence.spacing,
            cadence.next_step,
        ) = from_main(conclusions)

    def _ready_sinks(self) -> list[Isolated]:
        if self._open_sinks is None:
            self._open_sinks = [Isolated(sink) for sink in self._chosen_sinks()]
        return self._open_sinks

    def _chosen_sinks(self) -> Sequence[Sink]:
        if not is_main():
            return ()
        if self.sinks is not None:
            return self.sinks
        record = [] if self.output_dir is None else [JsonlSink(Path(self.output_dir) / RECORD)]
        return (*record, ConsoleSink(), WandbAlertSink())

    def state_dict(self) -> dict[str, Any]:
        """JSON-serialisable builtins: everything a resumed run needs to go on as if unbroken."""
        return {
            "version": _STATE_VERSION,
            "fingerprint": self._fingerprint,
            "examples": self._examples,
            "status": self.status.name,
            "stop_armed": self._stop_armed,
            "stop_reason": self.stop_reason,
            "checks": self.checks,
            "failures": self.failures,
            "has_baseline": self._has_baseline,
            "methods": self._methods,
            "cadence": self.cadence.state_dict(),
            "watch": None if self._watch is None else self._watch.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict()`.

        A stop that was carried out is not carried out again: the run was resumed on purpose. It is
        armed anew once the status has left COLLAPSED.

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
        try:
            if state["watch"] is not None:
                self._watch = self._new_watch("plateau", state["watch"]["layers"])
                self._watch.load_state_dict(state["watch"])
            self.cadence.load_state_dict(state["cadence"])
            self.status = Status[state["status"]]
            self._stop_armed = bool(state["stop_armed"])
            self.stop_reason = state["stop_reason"]
            self.checks = int(state["checks"])
            self.failures = int(state["failures"])
            self._has_baseline = bool(state["has_baseline"])
            self._methods = {layer: dict(m) for layer, m in state["methods"].items()}
            self._fingerprint = state["fingerprint"]
            self._examples = state["examples"]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            self.reset()
            raise RecordError(
                f"not a state of SigmaMonitor: {type(error).__name__}: {error}"
            ) from error


@dataclass(frozen=True, eq=False)
class _Seen:
    """What a check read and measured."""

    reading: Reading
    measured: dict[str, Measured]


@dataclass(frozen=True, eq=False)
class _Opening:
    """The first check of a run, kept until the budget has been applied."""

    kind: Literal["start", "plateau"]
    step: int
    seen: _Seen
    smaller: _Seen | None  # of the first `_LEAST_EXAMPLES` examples
    writing: Writing | None


def _with_drift(measured: Measured, drift: float | None) -> dict[str, Estimate]:
    return measured.estimates | ({} if drift is None else {TURNED: Estimate.exact(drift)})


def _accelerator_of(model: nn.Module) -> torch.device | None:
    parameter = next(model.parameters(), None)
    return parameter.device if parameter is not None and parameter.is_cuda else None


def _synchronise(model: nn.Module) -> None:
    """Wait for the device, so that its queue is not counted as the cost of a check."""
    device = _accelerator_of(model)
    if device is not None:
        torch.cuda.synchronize(device)
