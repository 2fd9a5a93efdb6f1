"""Everything that is compared with a baseline in one run: three channels, one status."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from sigma_monitor.alert import Alert, Channel, Status
from sigma_monitor.channels.channel import ChannelWatch
from sigma_monitor.channels.generation import GenerationWatch
from sigma_monitor.channels.layer import LayerWatch
from sigma_monitor.channels.limits import LimitWatch
from sigma_monitor.channels.loss import LOSS_RULE, LossWatch
from sigma_monitor.checking.measure import Measured
from sigma_monitor.detection import Evidence, Thresholds
from sigma_monitor.generation.writing import Writing
from sigma_monitor.probing import TokenLosses
from sigma_monitor.snapshot import ENTROPY, TEXT_RANK

__all__ = ["RunWatch", "WatchOptions"]

_LAST = "last"
_ONCE = ("NONFINITE", "VANISHED", "NO_DATA", "FLAPPING")  # the same of several layers is told once


@dataclass(frozen=True)
class WatchOptions:
    """What is the same for all series of a run."""

    baseline: Literal["start", "plateau"] = "start"
    rows: str = "token"  # "mean-pooled", "last-token": for the wording
    has_loss: bool = True  # the model has a token loss, so that there is a held-out one
    expected_checks: int | None = None
    expected_writings: int | None = None  # checks of the generation channel
    writing_series: tuple[str, ...] = (TEXT_RANK, ENTROPY)  # that it watches
    warmup_steps: int = 0  # of the learning rate
    # Thresholds, by channel:
    representation: Mapping[str, Any] = field(default_factory=dict)
    generation: Mapping[str, Any] = field(default_factory=dict)
    loss: Mapping[str, Any] = field(default_factory=dict)
    limits: Mapping[str, float] = field(default_factory=dict)  # by functional; the run stops there


class RunWatch:
    """The channels `representation`, `generation` and `loss`, each with its own episodes.

    Args:
        layers: Names of the layers that are read.
        options: Baseline, expected length and thresholds.
        writes: Whether the model's writing is watched too.
    """

    def __init__(self, layers: Sequence[str], options: WatchOptions, *, writes: bool) -> None:
        self.layers = {
            layer: LayerWatch(
                layer,
                options.rows,
                baseline=options.baseline,
                expected_checks=options.expected_checks,
                warmup_steps=options.warmup_steps,
                thresholds=options.representation,
                has_loss=options.has_loss,
            )
            for layer in layers
        }
        self.loss = LossWatch(
            [*layers, "generation"],
            expected_checks=options.expected_checks,
            thresholds=options.loss,
        )
        self.generation = (
            GenerationWatch(
                options.writing_series,
                baseline=options.baseline,
                expected_checks=options.expected_writings,
                warmup_steps=options.warmup_steps,
                thresholds=options.generation,
            )
            if writes
            else None
        )
        deciding = _LAST if _LAST in self.layers else list(self.layers)[-1]
        self.limits = LimitWatch(
            options.limits,
            layers,
            deciding=deciding,
            baseline=options.baseline,
            expected_checks=options.expected_checks,
            warmup_steps=options.warmup_steps,
            thresholds=options.representation,
        )
        rules: dict[Channel, Mapping[str, Any]] = {
            "representation": options.representation,
            "generation": options.generation,
            "loss": {**LOSS_RULE, **options.loss},
        }
        self._channels = {
            name: ChannelWatch(
                name,
                Thresholds.of(**rules[name]),
                deciding=deciding if name == "representation" else None,
            )
            for name in rules
        }

    @property
    def status(self) -> Status:
        """The worst over channels; WARMUP while the representation has no baseline."""
        worst = max(channel.status for channel in self._channels.values())
        return worst if worst > Status.HEALTHY else self._channels["representation"].status

    @property
    def collapsed(self) -> bool:
        """Whether a stop that was asked for is due: COLLAPSED, and no loss excuses it."""
        return any(
            channel.status is Status.COLLAPSED and not channel.excused
            for channel in self._channels.values()
        )

    @property
    def low(self) -> bool:
        """Whether a stop that was asked for would be due, were there no loss to excuse it."""
        return bool(self.limits.fallen) if self.limits else self.status is Status.COLLAPSED

    @property
    def reached(self) -> str | None:
        """What a stop that was asked for is due to, in words; None when none is.

        Limits take the place of COLLAPSED, and the same excuse holds for them.
        """
        if self.limits:
            return self.limits.reached(lambda layer: self.loss.judgement(layer) == "better")
        return "COLLAPSED" if self.collapsed else None

    @property
    def unmeasured_in_a_row(self) -> int:
        """Checks in a row in which some layer had nothing to measure."""
        return max(layer.unmeasured_in_a_row for layer in self.layers.values())

    @property
    def _loss_is_told(self) -> bool:
        """Whether another channel's alarm says what that of the loss channel would say."""
        others = (channel for name, channel in self._channels.items() if name != "loss")
        return any(channel.tells_of_loss for channel in others)

    @property
    def excursion(self) -> bool:
        """Whether the latest check of some layer was off its baseline.

        False once the run is COLLAPSED, or at its limit: nothing worse is left to confirm.
        """
        if self.limits.falling:
            return True
        if self.status is Status.COLLAPSED:
            return False
        return any(layer.level.off_baseline for layer in self.layers.values())

    @property
    def ratios(self) -> dict[str, float]:
        """Layer -> effective rank over its baseline, where there is one."""
        found = {name: layer.level.ratio for name, layer in self.layers.items()}
        return {name: ratio for name, ratio in found.items() if ratio is not None}

    def update(
        self,
        step: int,
        measured: Mapping[str, Measured],
        losses: TokenLosses | None,
        writing: Writing | None = None,
    ) -> list[Alert]:
        """Take one check into account; the alerts it raised, without their words.

        Args:
            step: Training step.
            measured: Spectra by layer.
            losses: Held-out loss of the probe examples.
            writing: What the model wrote; None at a check without.
        """
        loss_events = self.loss.update(step, losses)
        events = [
            event
            for name, layer in self.layers.items()
            for event in layer.update(step, measured[name])
        ]
        self.limits.update(step, measured)
        if self.generation is not None and writing is not None:
            if self.generation.of_another_encoder(writing):
                self.generation.begin_anew(step, writing)
                self._channels["generation"].reset()
            events += self.generation.update(step, writing)
        for event in events:
            if event.kind == "BASELINE":
                self.loss.freeze(_series(event))
        news = self._channels["representation"].conclude(step, self.layers, self._evidence)
        if self.generation is not None and writing is not None:
            series = self.generation.series
            news += self._channels["generation"].conclude(step, series, self._evidence)
        if losses is not None and not self._loss_is_told:
            news += self._channels["loss"].conclude(step, {"loss": self.loss}, self._evidence)
        return _told_once(events + loss_events) + news

    def _evidence(self, alarm: Alert) -> Evidence:
        lost = None if self.generation is None else self.generation.diversity_lost
        return Evidence(self.loss.judgement(_series(alarm)), lost)

    def loss_at_baseline(self, alert: Alert) -> float | None:
        """Held-out loss when the series that `alert` is about took its baseline, nats per token."""
        losses = self.loss.baseline(_series(alert)) or self.loss.baseline(next(iter(self.layers)))
        return None if losses is None else losses.mean

    def missed(self, step: int) -> list[Alert]:
        """Take into account that a check did not happen."""
        return _told_once([e for layer in self.layers.values() for e in layer.missed(step)])

    def rebaseline(self) -> None:
        """What comes next is the reference, in every channel."""
        for layer in self.layers.values():
            layer.rebaseline()
        self.limits.rebaseline()
        self.loss.rebaseline()
        if self.generation is not None:
            self.generation.rebaseline()
        for channel in self._channels.values():
            channel.reset()

    @property
    def expected_checks(self) -> int | None:
        """The length of the run that the windows suit."""
        return next(iter(self.layers.values())).level.expected_checks

    def expect(self, checks: int | None, writings: int | None) -> None:
        """Go on in windows that suit a run of so many checks, and so many with writing."""
        for layer in self.layers.values():
            layer.expect(checks)
        self.limits.expect(checks)
        self.loss.expect(checks)
        if self.generation is not None:
            self.generation.expect(writings)

    def baselines(self) -> dict[str, Any]:
        """JSON-ready baselines for another run to be compared with, as far as there are any."""
        layers = {name: layer.baselines() for name, layer in self.layers.items()}
        return {
            "layers": {name: found for name, found in layers.items() if found is not None},
            "limits": self.limits.baselines(),
            "loss": self.loss.baselines(),
            "generation": None if self.generation is None else self.generation.baselines(),
        }

    def latest_as_baselines(self) -> dict[str, Any]:
        """The latest check as baselines for another run, as far as it measured anything."""
        layers = {name: layer.latest_as_baselines() for name, layer in self.layers.items()}
        generation = self.generation
        return {
            "layers": {name: found for name, found in layers.items() if found is not None},
            "limits": self.limits.latest_as_baselines(),
            "loss": self.loss.latest_as_baselines(),
            "generation": None if generation is None else generation.latest_as_baselines(),
        }

    def adopt(self, reference: Mapping[str, Any]) -> None:
        """Take the baselines of another run.

        Raises:
            KeyError: When one of the layers is not in `reference`.
        """
        for name, layer in self.layers.items():
            layer.adopt(reference["layers"][name])
        self.limits.adopt(reference.get("limits", {}))
        self.loss.adopt(reference["loss"])
        if self.generation is not None and reference["generation"] is not None:
            self.generation.adopt(reference["generation"])

    def state_dict(self) -> dict[str, Any]:
        """JSON-serialisable builtins."""
        return {
            "order": list(
                self.layers
            ),  # the last one decides, and JSON is written with sorted keys
            "layers": {name: layer.state_dict() for name, layer in self.layers.items()},
            "limits": self.limits.state_dict(),
            "loss": self.loss.state_dict(),
            "generation": None if self.generation is None else self.generation.state_dict(),
            "channels": {name: c.state_dict() for name, c in self._channels.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict()`."""
        for name, layer in self.layers.items():
            layer.load_state_dict(state["layers"][name])
        self.limits.load_state_dict(state.get("limits", {}))
        self.loss.load_state_dict(state["loss"])
        if self.generation is not None and state["generation"] is not None:
            self.generation.load_state_dict(state["generation"])
        for name, channel in self._channels.items():
            channel.load_state_dict(state["channels"][name])


def _series(alert: Alert) -> str:
    """Under which name the loss at its baseline is known."""
    return alert.layer if alert.layer is not None else alert.channel


def _told_once(events: Sequence[Alert]) -> list[Alert]:
    told: list[Alert] = []
    for event in events:
        if event.kind not in _ONCE or event.kind not in [earlier.kind for earlier in told]:
            told.append(event)
    return told
