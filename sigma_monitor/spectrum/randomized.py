"""The randomised way: leading directions by subspace iteration, the rest by test vectors.

Nothing of size d² is made. The operator is `C / tr C`, whose trace is known exactly and whose
eigenvalues lie in [0, 1].
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from sigma_monitor.spectrum.lanczos import Lanczos, leading_subspace
from sigma_monitor.spectrum.operator import Operator
from sigma_monitor.spectrum.trace import (
    ENTROPY,
    ROOT,
    ROOT_ENTROPY,
    FollowedMeasure,
    ScalarFunction,
    SpectralMeasure,
    TraceEstimate,
    gauss_rule,
    log_ridge,
    root_entropy_slope,
    scaled_power,
)

__all__ = ["Effort", "Sounding", "sound"]

DEFLATED = 32  # leading directions taken out before the test vectors
STEPS = 20  # from the test vectors, before a look at the brackets
_SUBSPACE_ITERATIONS = 2

# Steps end when the quadrature brackets are so narrow, half of it for each of the two parts. With
# test vectors, 1 % on either side; without, narrow enough for nothing else to be said.
_LOG_DET, _ENTROPIES = 0.02, 0.02  # share of log det(I + C/ε); nats
_SURE_LOG_DET_PER_DIMENSION, _SURE_ENTROPIES = 5e-4, 5e-3  # nats
_MOST_STEPS = 64
_DEEP = 8  # test vectors that tell how wide the brackets are, and from which steps go on

# A check that follows another ends at brackets so many times as wide as that, or as those it
# follows: a third of the products.
_WIDER, _WIDER_THAN_THEN = 3.0, 1.5

_NEAR_ONE = 1e-6  # orders so close to one are taken as one, where Σ x^q loses its digits
_NONE = np.empty(0)
_TINY = np.finfo(np.float64).tiny

# Purposes that random vectors are drawn for, part of their key.
_START, _TEST, _SPHERE = range(3)


@dataclass(frozen=True)
class Effort:
    """How much is spent on one sounding."""

    test_vectors: int  # N
    sphere_vectors: int  # of the upper bound of the largest eigenvalue
    leading_steps: int  # at first
    steps: int  # at first
    fixed: bool = False  # whether steps end there for all, or for a few once brackets are narrow

    @classmethod
    def first(cls, test_vectors: int, steps: int | None) -> Effort:
        """Of a check that stands for itself."""
        return cls(test_vectors, 4, steps or 4, steps or STEPS, fixed=steps is not None)

    @classmethod
    def following(cls, before: Sounding, steps: int | None) -> Effort:
        """Of a check that measures the change since another."""
        few = min(6, before.measure.vectors)
        return cls(
            few,
            2,
            min(steps or 2, before.leading_steps),
            min(steps or STEPS, before.steps),
            fixed=steps is not None,
        )


@dataclass(frozen=True, eq=False)
class Sounding:
    """What the recursions found in the spectrum of one layer's `C / tr C`."""

    measure: SpectralMeasure  # by the vectors and steps of this time alone
    largest: tuple[float, float]  # Ritz value, and the probabilistic upper bound of λ_max
    smallest: float  # smallest Ritz value: an upper bound of λ_min
    rounding: float  # of both Ritz values
    basis: Tensor | None  # (s, d) leading directions; None when all d were taken
    leading_steps: int
    steps: int  # most from a test vector
    matvecs: int  # products with single vectors
    level: SpectralMeasure | None = None  # of the earlier time that was followed

    def trace(self, function: ScalarFunction) -> TraceEstimate:
        """`tr f`, at the level of the earlier time where one was followed."""
        return self._followed.trace(function)

    @cached_property
    def _followed(self) -> SpectralMeasure | FollowedMeasure:
        return self.measure if self.level is None else FollowedMeasure(self.level, self.measure)

    def log_effective_rank(self) -> TraceEstimate:
        """Entropy of the singular values, `H = log S + R/S`; see `root_entropy_slope` for S and R.

        H grows with R, and with S above S = R, so its extremes over the bracket of both are at
        corners or at S = R.
        """
        root, entropy = self.trace(ROOT), self.trace(ROOT_ENTROPY)

        def at(s: float, r: float) -> float:
            return math.log(s) + r / s if s > 0 else 0.0

        low_s, high_s = root.value - root.below, root.value + root.above
        low_r, high_r = entropy.value - entropy.below, entropy.value + entropy.above
        value = at(root.value, entropy.value)
        low = min(at(s, low_r) for s in (low_s, high_s, min(max(low_r, low_s), high_s)))
        high = max(at(s, high_r) for s in (low_s, high_s))
        linear = self.trace(root_entropy_slope(root.value, entropy.value))
        return TraceEstimate(
            value,
            max(0.0, value - low),
            max(0.0, high - value),
            linear.rounding,
            value + linear.per_vector - linear.value,
            value + linear.deep - linear.value,
            linear.change,
        )

    def log_renyi_rank(self, q: float) -> TraceEstimate:
        """`log Σ x^q / (1 − q)`, by order: the entropy at q = 1, `−log λ_max` at q = ∞.

        Ranks fall with their order. Where the rules do not bracket, that does: at q = 0, where
        nothing can tell a small eigenvalue from none and the value counts the nodes above rounding,
        and above twice the number of steps, where both rules lie on one side.

        At other orders than one and two nothing is followed: the level may have had a larger λ_max,
        and its high powers would swamp today's.
        """
        if abs(q - 1) < _NEAR_ONE:
            return self.trace(ENTROPY)
        if math.isinf(q):
            return self.log_stable_rank()
        if q == 0:
            return self._log_rank()
        top = self.largest[0]  # powers of x / top do not underflow all together
        power = scaled_power(q, top)
        total = self.trace(power) if q == 2 else self.measure.trace(power)
        log_total = total.mapped(_log, 1 / total.value)
        rank = log_total.scaled(1 / (1 - q), q * math.log(top) / (1 - q))
        if q <= 2 * min(self.leading_steps, self.steps):
            return rank
        least, most = self.log_stable_rank(), self.log_renyi_rank(2)
        return replace(
            rank,
            below=max(0.0, rank.value - least.value + least.below),
            above=max(0.0, most.value + most.above + most.rounding - rank.value),
        )

    def log_stable_rank(self) -> TraceEstimate:
        """`−log λ_max`, certified above and with the probability of `largest` below."""
        found, bound = self.largest
        rounding = self.rounding / found
        return TraceEstimate(-math.log(found), math.log(bound / found), 0.0, rounding, _NONE, _NONE)

    def _log_rank(self) -> TraceEstimate:
        nodes, counts = self.measure.density()
        most = math.log(self.measure.dimension)
        least = self.log_stable_rank()
        value = math.log(max(1.0, float(counts[nodes > self.rounding].sum())))
        value = min(value, most)
        below = max(0.0, value - least.value + least.below + least.rounding)
        return TraceEstimate(value, below, most - value, 0.0, _NONE, _NONE)


def sound(
    operator: Operator,
    effort: Effort,
    *,
    ridges: Sequence[float],
    seed: int,
    confidence: float,
    before: Sounding | None = None,
) -> list[Sounding]:
    """Run the recursions for every layer of `operator`.

    The test vectors are Gaussian, drawn on the host and keyed by seed and dimension, so that they
    are the same at every check and on every rank. Projected off the leading directions and scaled
    to unit length they are uniform on the sphere of the complement. Where leading directions and
    test vectors would reach d together, a full basis is used and nothing is random.

    Args:
        operator: Of trace 1.
        effort: Vectors and steps.
        ridges: ε / tr C of each layer, for the width of the bracket of log det.
        seed: Of the random vectors.
        confidence: Of the upper bound of λ_max.
        before: Of the one layer at an earlier time. Its leading directions are taken as they are:
            that spares the subspace iteration, and leaves the projected test vectors what they
            were, so that differences are paired.

    Cost: products with `3 s + k' s + (N + 4) k + 8 (k'' − k)` vectors: s = 32 leading directions,
    k' = 4 steps or more from them, k = 20 from the N test vectors and k'' up to 64 from 8 of these.
    After an earlier time `k' s + 8 k + 6 (k'' − k)`, k' = 2 or more, steps as many as then at most.
    """
    runs = _Recursions(operator, effort, seed, before)
    if not effort.fixed:
        runs.narrow_brackets(ridges)
    return runs.soundings(confidence)


class _Recursions:
    """From the leading directions, from test vectors and vectors on the sphere, and the deep ones.

    What more steps change hardly differs between test vectors, so the last steps are taken from a
    few of them.
    """

    def __init__(
        self, operator: Operator, effort: Effort, seed: int, before: Sounding | None
    ) -> None:
        d, layers = operator.d, operator.layers
        self.operator = operator
        self.test_vectors = 0 if d <= DEFLATED + effort.test_vectors else effort.test_vectors
        self.few = min(self.test_vectors, _DEEP)
        self.matvecs = 0
        self.level = None if before is None or not self.test_vectors else before.measure
        most = min(d, _MOST_STEPS)
        self.most = (most, most) if before is None else (before.leading_steps, before.steps)
        if not self.test_vectors:
            identity = torch.eye(d, dtype=operator.dtype, device=operator.device)
            basis = identity.expand(layers, d, d)
        elif before is not None and before.basis is not None:
            basis = before.basis[None].to(operator.device, operator.dtype)
        else:
            start = _gaussian(operator, DEFLATED, seed, _START)
            basis, _ = leading_subspace(operator, start, iterations=_SUBSPACE_ITERATIONS)
            self.matvecs = DEFLATED * (_SUBSPACE_ITERATIONS + 1)
        self.basis = basis = operator.shared(basis)
        test = _complement(_gaussian(operator, self.test_vectors, seed, _TEST), basis)
        sphere = _gaussian(operator, effort.sphere_vectors, seed, _SPHERE)
        self.leading = Lanczos(operator, basis)
        self.rest = self.deep = Lanczos(operator, _unit(torch.cat([test, sphere], dim=1)))
        self.leading.advance(effort.leading_steps)
        self.rest.advance(effort.steps)

    def narrow_brackets(self, ridges: Sequence[float]) -> None:
        """Take steps until the brackets are narrow; every look waits for the device."""
        allowed = np.ones(2)
        if self.level is not None:
            then = np.array(_widths(self.level, ridges[0]))
            allowed = np.maximum(_WIDER, _WIDER_THAN_THEN * then)
        while True:
            pairs = zip(self._measures(self.deep, self.few, self.few), ridges, strict=True)
            wide = np.array([_widths(measure, ridge) for measure, ridge in pairs]).max(0) > allowed
            runs = (self.leading, self.deep)
            wide &= [run.steps < most for run, most in zip(runs, self.most, strict=True)]
            goes_on = self.operator.agreed(wide.tolist())
            if not any(goes_on):
                return
            if goes_on[1] and self.deep is self.rest:
                self.deep = self.rest.narrowed(self.few)
            runs = (self.leading, self.deep)
            for run, most, more in zip(runs, self.most, goes_on, strict=True):
                run.advance(min(max(4, run.steps // 3), most - run.steps) * int(more))

    def soundings(self, confidence: float) -> list[Sounding]:
        """By layer."""
        deep_vectors = self.test_vectors if self.deep is self.rest else self.few
        measures = self._measures(self.rest, self.test_vectors, deep_vectors)
        deeper = (self.deep.steps - self.rest.steps) * self.few
        matvecs = self.matvecs + self.leading.matvecs + self.rest.matvecs + deeper
        alpha, beta = self.rest.coefficients()
        rules = [gauss_rule(*pair) for pair in zip(alpha, beta, strict=True)]
        spheres = alpha.shape[1] - self.test_vectors
        factor = _largest_over_ritz(
            self.operator.d, self.rest.steps, (1 - confidence) ** (1 / spheres)
        )
        soundings = []
        for layer, (measure, rest) in enumerate(zip(measures, rules, strict=True)):
            ends = np.concatenate([measure.nodes(), rest.ritz_values()])
            found = float(ends.max())
            bound = min(1.0, max(found, factor * float(rest.nodes[self.test_vectors :].max())))
            rounding = measure.node_rounding(found)
            soundings.append(
                Sounding(
                    measure,
                    (found, bound),
                    float(ends.min()),
                    rounding,
                    self.basis[layer] if self.test_vectors else None,
                    self.leading.steps,
                    self.deep.steps,
                    matvecs,
                    self.level,
                )
            )
        return soundings

    def _measures(self, rest: Lanczos, vectors: int, deep_vectors: int) -> list[SpectralMeasure]:
        """By layer, of the first so many vectors of `rest` and of the deep recursions."""
        runs = ((self.leading, None), (rest, vectors), (self.deep, deep_vectors))
        by_layer = (
            zip(*(part[:, :count] for part in run.coefficients()), strict=True)
            for run, count in runs
        )
        _, s, d = self.leading.shape
        return [
            SpectralMeasure(
                leading,
                test,
                deep,
                rest_dimension=d - s,
                unit_roundoff=torch.finfo(self.operator.dtype).eps / 2,
            )
            for leading, test, deep in zip(*by_layer, strict=True)
        ]


def _log(x: float) -> float:
    return math.log(x) if x > 0 else -math.inf


def _widths(measure: SpectralMeasure, ridge: float) -> tuple[float, float]:
    """Bracket of the leading and of the other part, in units of what either may have."""
    root, entropy = measure.trace(ROOT), measure.trace(ROOT_ENTROPY)
    s, r = max(root.value, 1.0), entropy.value  # Σ sqrt(x) >= Σ x = 1
    log_det = _SURE_LOG_DET_PER_DIMENSION * measure.dimension
    entropies = _SURE_ENTROPIES
    if measure.vectors:
        log_det, entropies = _LOG_DET * measure.trace(log_ridge(ridge)).value, _ENTROPIES
    widths = np.zeros(2)
    for function, allowed in (
        (log_ridge(ridge), log_det),
        (ENTROPY, entropies),
        (ROOT, entropies / max(abs(1 / s - r / s**2), _TINY)),
        (ROOT_ENTROPY, entropies * s),
    ):
        widths = np.maximum(widths, np.array(measure.gaps(function)) / (allowed / 2))
    return float(widths[0]), float(widths[1])


def _largest_over_ritz(d: int, steps: int, probability: float) -> float:
    """Factor by which λ_max exceeds the largest Ritz value of a start on the sphere, at most.

    With probability `1 − probability`: `1/(1 − x)`, `sqrt(x) = ln(1.648 sqrt(d)/p) / (2k − 1)`
    (Kuczynski and Wozniakowski 1992, theorem 4.2).
    """
    x = (math.log(1.648 * math.sqrt(d) / probability) / (2 * steps - 1)) ** 2
    return 1 / (1 - x) if x < 1 else math.inf


def _gaussian(operator: Operator, count: int, seed: int, purpose: int) -> Tensor:
    """(layers, count, d) standard normal vectors, the same for every layer, type and device."""
    key = np.random.SeedSequence((seed, operator.d, purpose)).generate_state(1, np.uint64)[0]
    generator = torch.Generator().manual_seed(int(key))
    # Of 16 vectors at a time: torch draws the last numbers anew where their count is no multiple of
    # 16, and few vectors would not be the first of many.
    rounded = 16 * math.ceil(count / 16)
    vectors = torch.randn(
        rounded, operator.d, generator=generator, dtype=torch.float32, device="cpu"
    )[:count]
    vectors = vectors.to(operator.device, operator.dtype)
    return vectors.expand(operator.layers, count, operator.d)


def _complement(vectors: Tensor, basis: Tensor) -> Tensor:
    """(layers, b, d) without their part in the span of the orthonormal (layers, s, d) rows."""
    for _ in range(2):  # the second time for what rounding left
        vectors = torch.baddbmm(vectors, vectors @ basis.mT, basis, alpha=-1)
    return vectors


def _unit(vectors: Tensor) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    return vectors / norms
