"""A summary by the randomised way: certified brackets, and t-intervals over test vectors."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from sigma_monitor.errors import InputError
from sigma_monitor.estimate import Estimate
from sigma_monitor.spectrum import functionals
from sigma_monitor.spectrum.conventions import (
    Conventions,
    checked_energy,
    largest_storage_eigenvalue,
)
from sigma_monitor.spectrum.gram import Gram, Product, RowFacts
from sigma_monitor.spectrum.influence import log_rank_without
from sigma_monitor.spectrum.operator import DenseOperator, Operator, RowOperator
from sigma_monitor.spectrum.randomized import Effort, Sounding, sound
from sigma_monitor.spectrum.result import (
    RANKS,
    Randomized,
    SpectralSummary,
    described,
    exponential,
    mismatch,
)
from sigma_monitor.spectrum.trace import ENTROPY, TraceEstimate, log_ridge

__all__ = ["LanczosSettings", "Layers"]

# Change of the log effective rank, or of log det per dimension in nats, from which the level is
# measured anew with all test vectors instead of being followed.
_FOLLOWED_UP_TO = 0.1


@dataclass(frozen=True)
class LanczosSettings:
    """Of the randomised way."""

    test_vectors: int
    steps: int | None
    seed: int


@dataclass(frozen=True, eq=False)
class Layers:
    """Rows of layers of one shape as an operator, and what is known of them beside."""

    rows: Sequence[RowFacts]
    operator: Operator
    energies: Sequence[float]  # Σ‖x_i‖² of each layer under the convention
    conventions: Conventions
    settings: LanczosSettings
    reason: str

    @classmethod
    def of_rows(
        cls,
        grams: Sequence[Gram],
        conventions: Conventions,
        settings: LanczosSettings,
        reason: str,
    ) -> Layers:
        """Of rows at hand."""
        center = conventions.center
        energies = [checked_energy(gram, center=center) for gram in grams]
        operator = RowOperator(grams, center=center, traces=energies)
        return cls(grams, operator, energies, conventions, settings, reason)

    @classmethod
    def of_product(
        cls,
        product: Product,
        conventions: Conventions,
        settings: LanczosSettings,
        reason: str,
    ) -> Layers:
        """Of a product at hand, whose rows are gone."""
        center = conventions.center
        energy = checked_energy(product, center=center)
        operator = DenseOperator(product.product(center=center)[None], [energy])
        return cls([product], operator, [energy], conventions, settings, reason)

    @cached_property
    def traces(self) -> list[float]:
        """Tr C of each layer."""
        return [e / rows.n for e, rows in zip(self.energies, self.rows, strict=True)]

    @cached_property
    def epsilons(self) -> list[float]:
        """ε on C of each layer."""
        pairs = zip(self.rows, self.traces, strict=True)
        return [self.conventions.epsilon(rows, trace) for rows, trace in pairs]

    def summaries(self, started: float) -> list[SpectralSummary]:
        """Each layer by itself."""
        soundings = self.sound(Effort.first(self.settings.test_vectors, self.settings.steps))
        parts = [self.parts(layer, sounding) for layer, sounding in enumerate(soundings)]
        seconds = (time.perf_counter() - started) / len(soundings)
        return [
            self.summary(layer, sounding, part, seconds=seconds)
            for layer, (sounding, part) in enumerate(zip(soundings, parts, strict=True))
        ]

    def following(self, previous: SpectralSummary, started: float) -> SpectralSummary:
        """The one layer, at the level of `previous` and the change since while that is small."""
        before = self.checked(previous)
        anchor = before.anchor or previous
        level = before if anchor.randomized is None else anchor.randomized
        basis = level.sounding.basis
        if basis is None or basis.shape[-1] != self.operator.d:
            return self.summaries(started)[0]
        effort = Effort.following(level.sounding, self.settings.steps)
        (few,) = self.sound(effort, level.sounding)
        parts = self.parts(0, few)
        if _hardly_moved(anchor, parts):
            seconds = time.perf_counter() - started
            return self.summary(0, few, parts, seconds=seconds, anchor=anchor)
        (sounding,) = self.sound(Effort.first(self.settings.test_vectors, self.settings.steps))
        sounding = replace(sounding, matvecs=sounding.matvecs + few.matvecs)
        seconds = time.perf_counter() - started
        return self.summary(0, sounding, self.parts(0, sounding), seconds=seconds)

    def checked(self, previous: SpectralSummary) -> Randomized:
        """What `previous` keeps.

        Raises:
            InputError: When it was made otherwise than this one will be.
        """
        fields = described(self.rows[0], self.conventions, self.epsilons[0], self.reason)
        fields |= {"method": "lanczos", "seed": self.settings.seed}
        difference = mismatch(vars(previous), fields)
        if difference is not None or previous.randomized is None:
            raise InputError(
                f"previous cannot be followed: {difference}. Pass a summary of the same probe "
                "examples under the same conventions, or leave it out."
            )
        return previous.randomized

    def sound(self, effort: Effort, before: Sounding | None = None) -> list[Sounding]:
        """Run the recursions of all layers."""
        ridges = [e / trace for e, trace in zip(self.epsilons, self.traces, strict=True)]
        return sound(
            self.operator,
            effort,
            ridges=ridges,
            seed=self.settings.seed,
            confidence=self.conventions.confidence,
            before=before,
        )

    def parts(self, layer: int, sounding: Sounding) -> dict[str, TraceEstimate]:
        """The functionals that are traces, kinds of error apart; `RANKS` as logarithms."""
        m, epsilon = self.rows[layer].m, self.epsilons[layer]
        gain = sounding.trace(log_ridge(epsilon / self.traces[layer]))
        log_det = gain.scaled(1.0, m * math.log(epsilon))
        return {
            "log_det": log_det,
            "log_det_per_dim": log_det.scaled(1 / m),
            "coding_rate": gain.scaled(0.5),
            "effective_rank": sounding.log_effective_rank(),
            "spectral_entropy": sounding.trace(ENTROPY),
            "participation_ratio": sounding.log_renyi_rank(2),
        }

    def summary(
        self,
        layer: int,
        sounding: Sounding,
        parts: Mapping[str, TraceEstimate],
        *,
        seconds: float,
        anchor: SpectralSummary | None = None,
    ) -> SpectralSummary:
        """The estimates, and what the next summary needs."""
        rows, trace, confidence = self.rows[layer], self.traces[layer], self.conventions.confidence
        d = min(rows.n, rows.m)
        levels = {name: part.estimate(confidence) for name, part in parts.items()}
        ranks = {name: exponential(levels.pop(name), 1.0, d) for name in RANKS if name in levels}
        without = None
        if self.conventions.sampling and isinstance(self.operator, RowOperator):
            without = log_rank_without(
                self.operator,
                layer,
                sounding,
                center=self.conventions.center,
                groups=self.conventions.groups,
            )
        estimates: dict[str, Any] = levels | ranks | _extremes(sounding, trace, full=d == rows.m)
        return SpectralSummary(
            **estimates,
            trace=Estimate.exact(trace),
            mean_cosine=Estimate.exact(rows.mean_cosine()),
            decay_exponent=_decay_exponent(
                sounding, largest_storage_eigenvalue(rows, trace), trace
            ),
            method="lanczos",
            matvecs=sounding.matvecs,
            seconds=seconds,
            seed=self.settings.seed,
            randomized=Randomized(sounding, parts, without, anchor),
            **described(rows, self.conventions, self.epsilons[layer], self.reason),
        )


def _hardly_moved(anchor: SpectralSummary, parts: Mapping[str, TraceEstimate]) -> bool:
    """Whether the change is small, and its t-interval no wider than the interval of the level."""
    assert anchor.randomized is not None
    for name in ("log_det_per_dim", "effective_rank"):
        level = anchor.randomized.parts[name]
        change = parts[name].minus(level)
        if abs(change.value) > _FOLLOWED_UP_TO:
            return False
        interval = level.estimate(anchor.confidence)
        if change.statistical_half(anchor.confidence) > (interval.high - interval.low) / 2:
            return False
    return True


def _extremes(sounding: Sounding, trace: float, *, full: bool) -> dict[str, Estimate]:
    """What the ends of the spectrum allow to say; `full` when C has no more than d eigenvalues."""
    (found, bound), smallest, rounding = sounding.largest, sounding.smallest, sounding.rounding
    low, high = max(0.0, found - rounding), min(1.0, bound + rounding)
    ratio = found / smallest if smallest > 0 else math.inf
    sure = low / (smallest + rounding)
    return {
        "lambda_max": Estimate(trace * found, trace * low, trace * high, "test_vectors"),
        "stable_rank": Estimate(
            1 / found, 1 / high, 1 / low if low > 0 else math.inf, "test_vectors"
        ),
        "lambda_min": (
            Estimate(trace * smallest, 0.0, trace * (smallest + rounding), "quadrature")
            if full
            else Estimate.exact(0.0)
        ),
        "condition_number": Estimate(ratio, max(1.0, sure), math.inf, "quadrature"),
    }


def _decay_exponent(sounding: Sounding, noise: float, trace: float) -> Estimate:
    """By the definition of `functionals.decay_exponent`, on the eigenvalues the density implies."""
    floor = max(noise / trace, sounding.rounding)
    exponent = functionals.decay_exponent(sounding.measure.eigenvalues(), floor)
    return Estimate(exponent, -math.inf, math.inf, "quadrature")
