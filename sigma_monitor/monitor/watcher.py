"""What watches the checks of a run: with whose baseline, and of which examples."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

from sigma_monitor.alert import Alert
from sigma_monitor.channels import RunWatch, WatchOptions
from sigma_monitor.checking.instrument import Check, Instrument
from sigma_monitor.errors import InputError
from sigma_monitor.monitor.cadence import Cadence
from sigma_monitor.ranks import from_main, is_main
from sigma_monitor.reference import BEGINNING, END, Reference

__all__ = ["BaselineKind", "Watcher"]

_logger = logging.getLogger("sigma_monitor")

BaselineKind: TypeAlias = Literal["start", "plateau"]

_LEAST_EXAMPLES = 64  # to which the probe set may shrink, to stay within the budget
_MOST_BEHIND = 1  # checks that the detectors of the smaller probe set may have missed


@dataclass(frozen=True, eq=False)
class _Smaller:
    """What watches the first examples alone, from the first check until the budget is applied."""

    watch: RunWatch
    cut: dict[str, Any]  # state of an instrument that reads these
    fits: bool  # the baseline of another run is of these, and not of all

    def state_dict(self) -> dict[str, Any]:
        """JSON-serialisable builtins."""
        return {"watch": self.watch.state_dict(), "cut": self.cut, "fits": self.fits}


class Watcher:
    """Begins the detectors of a run at its first check, and suits them to its budget and length.

    Args:
        options: Of watching; what only a check or the length of the run tells is filled in here.
        instrument: What measures the model.
        cadence: When a check is due.
        reference: Baseline of another run.
        note: Writes an event, `note(event, **details)`.

    Attributes:
        watch: The detectors; None before the first check.
        fingerprint: Of the probe set and the conventions that the baseline is of.
    """

    def __init__(
        self,
        options: WatchOptions,
        instrument: Instrument,
        cadence: Cadence,
        reference: Reference | None,
        note: Callable[..., None],
    ) -> None:
        self._options = options
        self._instrument = instrument
        self._cadence = cadence
        self._reference = reference
        self._note = note
        self._smaller: _Smaller | None = None
        self._has_baseline = False  # that another run can be compared with
        self.watch: RunWatch | None = None
        self.fingerprint: str | None = None

    @property
    def part(self) -> int | None:
        """Examples that the next check is to measure by themselves too."""
        begins = self.watch is None and not self._cadence.planned
        return _LEAST_EXAMPLES if begins else None

    def recognise(self, fingerprint: str, step: int) -> None:
        """Refuse to compare with a baseline of another probe set or of other conventions."""
        if self.fingerprint is not None and fingerprint != self.fingerprint:
            self.watch = None
            _logger.warning(
                "sigma_monitor: probe set or conventions differ from those of the saved baseline "
                "(%s, now %s); the baseline begins anew at step %d with the model as it is",
                self.fingerprint,
                fingerprint,
                step,
            )
        self.fingerprint = fingerprint

    def begin(
        self,
        step: int,
        check: Check,
        smaller: Check | None,
        *,
        kind: BaselineKind,
        warmup_steps: int,
    ) -> None:
        """Begin to watch, with this check.

        Args:
            step: Training step.
            check: Of all examples.
            smaller: Of the first of them alone.
            kind: Of the baseline, where that of another run does not fit.
            warmup_steps: Of the learning rate; no plateau is looked for before.
        """
        self._options = replace(self._options, baseline=kind, warmup_steps=warmup_steps)
        reference = self._reference
        self.watch, adopted = self._watch_of(check)
        if adopted and reference is not None:
            self._note_baseline(source=reference.source)
        if smaller is not None:
            watch, fits = self._watch_of(smaller)
            watch.update(step, smaller.measured, smaller.losses, smaller.writing)
            self._smaller = _Smaller(watch, self._instrument.as_cut_to(smaller), fits)
            adopted |= fits
        if self._reference is not None and not adopted:
            _logger.warning(
                "sigma_monitor: the baseline of %s was not used, since it has another probe set, "
                "other layers or other conventions (%s, here %s); this run is its own baseline",
                self._reference.source,
                self._reference.fingerprint,
                self.fingerprint,
            )

    def update(self, step: int, check: Check) -> list[Alert]:
        """Take what was measured, and return what is to be told of it."""
        assert self.watch is not None
        alerts = self.watch.update(step, check.measured, check.losses, check.writing)
        if any(alert.kind == "BASELINE" for alert in alerts):
            self._note_baseline()
        return alerts

    def note_end(self) -> None:
        """Write what a run that begins where this one ended is compared with."""
        if self.watch is not None and self._has_baseline:
            present = self.watch.latest_as_baselines()
            if present["layers"].keys() == self.watch.layers.keys():
                self._note(END, fingerprint=self.fingerprint, baselines=present)

    def _note_baseline(self, **details: Any) -> None:
        """Write what another run needs to be compared with this one."""
        assert self.watch is not None
        self._has_baseline = True
        baselines = self.watch.baselines()
        self._note(BEGINNING, fingerprint=self.fingerprint, baselines=baselines, **details)

    def _watch_of(self, check: Check) -> tuple[RunWatch, bool]:
        """New detectors for what `check` measured; whether another run's baseline fits them."""
        layers, has_loss = list(check.measured), check.losses is not None
        watch, reference = self._blank_watch(layers, has_loss=has_loss), self._reference
        if reference is None or reference.fingerprint != check.fingerprint:
            return watch, False
        if not check.measured.keys() <= reference.baselines["layers"].keys():
            return watch, False
        try:
            watch.adopt(reference.baselines)
            return watch, True
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            self._reference = None
            _logger.warning(
                "sigma_monitor: the baseline of %s cannot be read (%s: %s); this run is its own "
                "baseline",
                reference.source,
                type(error).__name__,
                error,
            )
            return self._blank_watch(layers, has_loss=has_loss), False

    def _blank_watch(self, layers: Sequence[str], *, has_loss: bool) -> RunWatch:
        checks, writings = self._expected
        writer = self._instrument.writing_probe
        options = replace(
            self._options,
            has_loss=has_loss,
            expected_checks=checks,
            expected_writings=writings,
            writing_series=() if writer is None else writer.series,
        )
        return RunWatch(layers, options, writes=writer is not None)

    @property
    def _expected(self) -> tuple[int | None, int | None]:
        """Checks that the run will have, and how many of them with writing."""
        checks, writer = self._cadence.expected_checks, self._instrument.writing_probe
        every = 1 if writer is None else writer.every
        return checks, None if checks is None else max(1, checks // every)

    def rebaseline(self) -> None:
        """Take what comes next as the reference of every channel."""
        for watch in self._watches:
            watch.rebaseline()

    def bridge(self, offset: float, layer: str) -> None:
        """Move the baseline of a layer by `offset` nats of log effective rank.

        Raises:
            InputError: When the offset is not finite, there is no such layer, or no check yet.
        """
        if self.watch is None or layer not in self.watch.layers:
            known = [] if self.watch is None else list(self.watch.layers)
            raise InputError(f"layer={layer!r}: the layers watched so far are {known}.")
        for watch in self._watches:
            watch.layers[layer].level.bridge(offset)

    @property
    def _watches(self) -> list[RunWatch]:
        """That of this run, and that of the smaller probe set, which may take its place."""
        smaller = None if self._smaller is None else self._smaller.watch
        return [watch for watch in (self.watch, smaller) if watch is not None]

    def apply_budget(self, step: int, checks: int) -> bool:
        """Plan the checks anew once training time is known, which can move the one at `step`.

        Where the budget pays for a smaller probe set only, or the baseline of another run is of
        that, the detectors that saw it at the first check take over.

        Args:
            step: Training step.
            checks: So far.

        Returns:
            Whether there is a plan now, and was none before.
        """
        cadence = self._cadence
        if cadence.planned or self.watch is None:
            return False
        cadence.begin(step)
        if cadence.untimed:
            return False
        # Detectors that are further behind would take over another status.
        smaller = self._smaller if checks <= _MOST_BEHIND + 1 else None
        self._smaller = None
        examples = len(self._instrument.ready_probes)
        share = None if smaller is None else smaller.cut["examples"] / examples
        shrink = cadence.apply_budget(step, smaller=share, needed=bool(smaller and smaller.fits))
        plan = (shrink, cadence.spacing, cadence.next_step)
        shrink, cadence.spacing, cadence.next_step = from_main(plan)
        if shrink and smaller is not None:
            self.watch = smaller.watch
            self._instrument.load_state_dict(smaller.cut)
            self.fingerprint = smaller.cut["fingerprint"]
            if self.watch.baselines()["layers"]:
                self._note_baseline()
        self._suit_windows(always=True)
        self._say_plan(step, shrink)
        return True

    def suit_windows(self) -> None:
        """Windows for the number of checks the run will have, where that is another by now."""
        if self._cadence.planned:
            self._suit_windows()

    def _suit_windows(self, *, always: bool = False) -> None:
        checks, writings = self._expected
        if self.watch is None or checks is None:
            return
        before = self.watch.expected_checks
        if always or before is None or not before / 2 < checks < before * 2:
            self.watch.expect(checks, writings)

    def _say_plan(self, step: int, shrink: bool) -> None:
        if not shrink and not self._cadence.stretched:
            return
        watched = {} if self.watch is None else self.watch.layers
        baselines = {
            name: math.exp(layer.level.baseline.log_value)
            for name, layer in watched.items()
            if layer.level.baseline is not None
        }
        self._note(
            "budget",
            step=step,
            spacing=self._cadence.spacing,
            examples=len(self._instrument.ready_probes),
            baselines=baselines,
        )
        if is_main():
            _logger.warning(
                "sigma_monitor: a budget of %.3g of wall time allows a check every %s steps%s; "
                "pass max_overhead= to change it",
                self._cadence.max_overhead,
                self._cadence.spacing,
                f", with the probe set cut to {_LEAST_EXAMPLES} examples" if shrink else "",
            )

    def state_dict(self) -> dict[str, Any]:
        """JSON-serialisable builtins: everything a resumed run needs to go on as if unbroken."""
        return {
            "fingerprint": self.fingerprint,
            "has_baseline": self._has_baseline,
            "watch": None if self.watch is None else self.watch.state_dict(),
            "smaller": None if self._smaller is None else self._smaller.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict()`; a state that is none raises as builtins do."""
        self._has_baseline = bool(state["has_baseline"])
        self.fingerprint = state["fingerprint"]
        if state["watch"] is not None:
            self.watch = self._loaded_watch(state["watch"])
        smaller = state["smaller"]
        if smaller is not None:
            watch = self._loaded_watch(smaller["watch"])
            self._smaller = _Smaller(watch, dict(smaller["cut"]), bool(smaller["fits"]))

    def _loaded_watch(self, state: Mapping[str, Any]) -> RunWatch:
        # Which kind of baseline, and whether there is a loss, is in the state too.
        watch = self._blank_watch(state["order"], has_loss=True)
        watch.load_state_dict(state)
        return watch
