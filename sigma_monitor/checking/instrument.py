"""One check of a model: its spectra, its held-out loss, what it writes. It knows no baseline."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from sigma_monitor.checking.measure import CENTRED, POOLED, UNCENTRED, Measured, measure
from sigma_monitor.errors import InputError, described
from sigma_monitor.generation.writing import TextProbe, Writing
from sigma_monitor.probing import Probe, ProbeSet, Reading, TokenLosses
from sigma_monitor.ranks import failed, from_main, is_main, meet, rank_and_size
from sigma_monitor.spectrum.cost import adopt_rates, is_large, rates
from sigma_monitor.spectrum.summary import Method

__all__ = ["Check", "Instrument", "synchronise"]

_logger = logging.getLogger("sigma_monitor")

_WRITING_FAILURES_ALLOWED = 3  # in a row, before the model is no longer asked to write


@dataclass(frozen=True, eq=False)
class Check:
    """What one check measured."""

    measured: Mapping[str, Measured]  # by layer
    losses: TokenLosses | None  # held-out loss by example
    finite: float  # share of examples whose embeddings are finite
    examples: int
    fingerprint: str  # of probe set and conventions
    writing: Writing | None = None
    writing_error: str | None = None  # why there is none, where there should be


class Instrument:
    """Measures a model on a probe set, in the same way at every check of a run.

    Args:
        probe: How the probe set goes through the model.
        probes: The probe set; may be set later.
        functionals: Attributes of `SpectralSummary` to keep.
        relative_ridge: Of log det.
        method: Of the spectra; `"auto"` is settled by the first check, for each spectrum.
        writing_probe: Reads what the model writes; None does not.
        tokenizer: For the writing; may be set later.

    Attributes:
        once_seconds: Since `restart_clock`, spent on what no later check needs.
        writing_seconds: Since then, spent on writing.
    """

    def __init__(
        self,
        probe: Probe,
        *,
        probes: ProbeSet | None,
        functionals: Sequence[str],
        relative_ridge: float,
        method: Method,
        writing_probe: TextProbe | None,
        tokenizer: Any,
    ) -> None:
        self.probe = probe
        self.functionals = tuple(functionals)
        self.relative_ridge = relative_ridge
        self.method = method
        self.writing_probe = writing_probe
        self.tokenizer = tokenizer
        self._probes = probes
        self.reset()

    def reset(self) -> None:
        """Begin a new run."""
        self.restart_clock()
        self._ready = False  # the device has been used
        self._examples: int | None = None  # the probe set is cut to so many
        self._cut: ProbeSet | None = None
        self._writing_failures_in_a_row = 0
        self._forget(None)
        if self.writing_probe is not None:
            self.writing_probe.reset()

    def restart_clock(self) -> None:
        """Count the seconds of one check from here."""
        self.once_seconds = self.writing_seconds = 0.0

    def _forget(self, fingerprint: str | None) -> None:
        self._fingerprint = fingerprint  # of what follows
        self._methods: dict[str, dict[str, Method]] = {}  # settled, by layer
        self._previous: dict[str, Measured] = {}

    def call_within(self, context: Callable[[], AbstractContextManager[Any]]) -> None:
        """Call the model inside `context()` from now on, which is the host's precision."""
        self.probe.context = context
        if self.writing_probe is not None:
            self.writing_probe.call_within(context)

    @property
    def probes(self) -> ProbeSet | None:
        """The probe set as it was given."""
        return self._probes

    @probes.setter
    def probes(self, probes: ProbeSet | None) -> None:
        """Take another one from the next check on."""
        self._probes, self._cut = probes, None

    @property
    def ready_probes(self) -> ProbeSet:
        """The examples that a check reads.

        Raises:
            InputError: When there is no probe set.
        """
        if self._probes is None:
            raise InputError("no probe set: pass probes=ProbeSet.from_texts(texts, tokenizer).")
        if self._examples is None or len(self._probes) <= self._examples:
            return self._probes
        if self._cut is None:
            self._cut = self._probes.first(self._examples)
        return self._cut

    def check(
        self, model: nn.Module, step: int, *, writes: bool = False, part: int | None = None
    ) -> tuple[Check, Check | None]:
        """Measure `model`.

        Args:
            model: Left as found.
            step: Training step, for messages.
            writes: Let it write too.
            part: Also say what the first so many examples alone would have given.

        Returns:
            The check, and that of the part; None when the probe set has no more than these.

        Raises:
            InputError: When there is no probe set, or a layer does not exist.
            ProbeError: When the model gives no embeddings of the probe set.
        """
        probes = self.ready_probes
        if not self._ready:
            self._ready = True  # also on a rank that fails in it: the others do not warm up again
            if _accelerator_of(model) is not None:
                self._warm_up(model, probes)
        reading = self.probe.read(model, probes)
        fingerprint = self._fingerprint_of(probes, reading)
        if fingerprint != self._fingerprint:
            self._forget(fingerprint)
        if self.method == "auto" and rank_and_size()[1] > 1:
            self._agree_on_rates(reading)
        measured = self._measure(reading, follow=True)
        if writes:
            meet()  # or a rank that failed would leave the others alone with the model
        writing, error = self._write(model, step) if writes else (None, None)

        def checked(probes: ProbeSet, reading: Reading, measured: dict[str, Measured]) -> Check:
            return Check(
                measured,
                reading.losses,
                reading.finite,
                len(probes),
                self._fingerprint_of(probes, reading),
                writing,
                error,
            )

        smaller = None
        if part is not None and len(probes) > part:
            first = reading.first(part)
            smaller = checked(probes.first(part), first, self._measure(first))
        return checked(probes, reading, measured), smaller

    def as_cut_to(self, smaller: Check) -> dict[str, Any]:
        """The state in which it measures the examples of `smaller` alone, as that did."""
        return {
            "examples": smaller.examples,
            "fingerprint": smaller.fingerprint,
            "methods": {name: m.methods for name, m in smaller.measured.items() if m.spectra},
        }

    def texts_of(self, examples: Sequence[int]) -> tuple[str, ...]:
        """Probe examples as text; none without a tokenizer or tokens."""
        ids = self.ready_probes.tensors.get("input_ids")
        if ids is None or self.tokenizer is None:
            return ()
        return tuple(
            str(self.tokenizer.decode(ids[example].tolist(), skip_special_tokens=True))
            for example in examples
        )

    def _warm_up(self, model: nn.Module, probes: ProbeSet) -> None:
        """One example first: what a device sets up once is not the cost of a check."""
        started = time.perf_counter()
        self._measure(self.probe.read(model, probes.first(1)))
        synchronise(model)
        self.once_seconds += time.perf_counter() - started

    def _agree_on_rates(self, reading: Reading) -> None:
        """Let all ranks take the methods that rank 0 does, which would time its device alone."""
        unsettled = [
            rows.embeddings
            for layer, rows in reading.layers.items()
            if layer not in self._methods and is_large(rows.embeddings)
        ]
        own = rates(unsettled[0].device) if is_main() and unsettled else None
        shared = from_main(own)
        if shared is not None:
            for embeddings in unsettled:
                adopt_rates(shared, embeddings.device)

    def _measure(self, reading: Reading, *, follow: bool = False) -> dict[str, Measured]:
        """The spectra of every layer; `follow` those of the check before."""
        measured = {}
        settled = self._methods if follow and self.method == "auto" else {}
        for layer, rows in reading.layers.items():
            asked: dict[str, Method] = dict.fromkeys((CENTRED, UNCENTRED, POOLED), self.method)
            measured[layer] = measure(
                rows,
                functionals=self.functionals,
                relative_ridge=self.relative_ridge,
                methods=asked | settled.get(layer, {}),
                previous=self._previous.get(layer) if follow else None,
            )
            if follow and measured[layer].spectra:
                # A series is of one method: two would differ by the error of the test vectors.
                self._methods[layer] = measured[layer].methods
                self._previous[layer] = measured[layer]
        return measured

    def _write(self, model: nn.Module, step: int) -> tuple[Writing | None, str | None]:
        """What the model writes, or why it does not: a failure costs the channel, not the check."""
        failures = self._writing_failures_in_a_row
        if self.writing_probe is None or failures >= _WRITING_FAILURES_ALLOWED:
            return None, None
        started = time.perf_counter()
        try:
            self.writing_probe.prepare(model, self.tokenizer)
            prepared = time.perf_counter()
            self.once_seconds += prepared - started
            started = prepared
            meet()
            # Of the whole probe set: cutting it leaves the prompts as they are.
            assert self._probes is not None
            writing = self.writing_probe.read(model, self._probes, self.tokenizer)
            meet()
            self._writing_failures_in_a_row = 0
            return writing, None
        except Exception as raised:
            error = failed(raised)
            self._writing_failures_in_a_row += 1
            reason = described(error)
            if self._writing_failures_in_a_row == 1:
                _logger.warning(
                    "sigma_monitor: the generation channel failed at step %d (%s); the "
                    "representation is watched on, and after %d failures in a row it alone",
                    step,
                    reason,
                    _WRITING_FAILURES_ALLOWED,
                )
            return None, reason
        finally:
            self.writing_seconds += time.perf_counter() - started

    def _fingerprint_of(self, probes: ProbeSet, reading: Reading) -> str:
        generation = None
        if self.writing_probe is not None and self._probes is not None:
            generation = {**self.writing_probe.identity(), "prompts": self._probes.fingerprint}
        identity = {
            "probes": probes.fingerprint,
            "pooling": self.probe.pooling,
            "relative_ridge": self.relative_ridge,
            "generation": generation,
            "layers": {
                layer: [str(rows.embeddings.dtype), rows.embeddings.shape[1]]
                for layer, rows in reading.layers.items()
            },
        }
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]

    def state_dict(self) -> dict[str, Any]:
        """JSON-serialisable builtins: what the next check must have in common with the last."""
        return {
            "examples": self._examples,
            "fingerprint": self._fingerprint,
            "methods": self._methods,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict()`."""
        self._forget(state["fingerprint"])
        self._examples, self._cut = state["examples"], None
        self._methods = {layer: dict(methods) for layer, methods in state["methods"].items()}


def synchronise(model: nn.Module) -> None:
    """Wait for the device, so that its queue is not counted as the cost of what comes next."""
    device = _accelerator_of(model)
    if device is not None:
        torch.cuda.synchronize(device)


def _accelerator_of(model: nn.Module) -> torch.device | None:
    parameter = next(model.parameters(), None)
    return parameter.device if parameter is not None and parameter.is_cuda else None
