"""Traces of functions of an operator from Lanczos coefficients: brackets, then a mean of vectors.

Two kinds of error, kept apart. Given the start vectors, a Gauss rule and a Gauss-Radau rule with a
node at 0 lie on either side of `vᵀ f(A) v` (quadrature error). Over the start vectors, the mean has
a Student t-interval (test-vector error). Everything here is small and in fp64 on the host.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import xlogy

from sigma_monitor.estimate import Estimate
from sigma_monitor.spectrum.uncertainty import half_width, mean_standard_error, paired_difference

__all__ = [
    "ENTROPY",
    "ROOT",
    "ROOT_ENTROPY",
    "FollowedMeasure",
    "Rule",
    "ScalarFunction",
    "SpectralMeasure",
    "TraceEstimate",
    "gauss_rule",
    "log_ridge",
    "radau_rule",
    "root_entropy_slope",
    "scaled_power",
]

Array: TypeAlias = NDArray[np.float64]
Coefficients: TypeAlias = tuple[Array, Array]  # α and β of tridiagonals, (vectors, k) each

# Products in arithmetic of unit roundoff u move an eigenvalue λ of an operator A of trace 1 by
# about u·sqrt(λ), since both factors of XᵀX are off by u·‖X‖, and a recursion that starts from v
# cannot tell nodes closer than u·‖Av‖. Widened to what the worst regime of the coverage study
# needs.
_ROUNDING = 8.0

_WEIGHTLESS = 1e-28  # square of what rounding leaves of a component that is zero

# Share of the trace outside the leading directions, in units of roundoff, below which it is not
# known well enough to be a control variate.
_LEAST_ENERGY = 1e3


@dataclass(frozen=True)
class ScalarFunction:
    """A function on [0, 1] whose even derivatives have one sign and the odd ones the other."""

    value: Callable[[Array], Array]
    slope: Callable[[Array], Array]  # |f'(x)| for x > 0


def log_ridge(ridge: float) -> ScalarFunction:
    """`log(1 + x/ε)`."""
    return ScalarFunction(lambda x: np.log1p(x / ridge), lambda x: 1 / (x + ridge))


def scaled_power(q: float, unit: float) -> ScalarFunction:
    """`(x/unit)^q`, q > 0."""
    return ScalarFunction(
        lambda x: np.float_power(x / unit, q), lambda x: q / unit * np.float_power(x / unit, q - 1)
    )


def _entropy(x: Array) -> Array:
    return -np.asarray(xlogy(x, x), dtype=np.float64)


ENTROPY = ScalarFunction(_entropy, lambda x: np.abs(1 + np.log(x)))
ROOT = ScalarFunction(np.sqrt, lambda x: 0.5 / np.sqrt(x))
ROOT_ENTROPY = ScalarFunction(  # −sqrt(x) log sqrt(x)
    lambda x: _entropy(np.sqrt(x)), lambda x: np.abs(1 + np.log(x) / 2) / (2 * np.sqrt(x))
)


def root_entropy_slope(root_sum: float, root_entropy: float) -> ScalarFunction:
    """First-order change of the entropy of the shares `sqrt(x)/S` when the spectrum changes.

    That entropy is `H = log S + R/S`, with `S = Σ sqrt(x)` and `R = −Σ sqrt(x) log sqrt(x)`.
    """
    by_root = 1 / root_sum - root_entropy / root_sum**2
    return ScalarFunction(
        lambda x: by_root * ROOT.value(x) + ROOT_ENTROPY.value(x) / root_sum,
        lambda x: np.abs(by_root - (1 + np.log(x) / 2) / root_sum) / (2 * np.sqrt(x)),
    )


@dataclass(frozen=True, eq=False)
class Rule:
    """Quadrature rules for the spectral measures of start vectors; each sums to `‖v‖² = 1`."""

    nodes: Array  # (vectors, k) in [0, 1]
    weights: Array  # (vectors, k)

    def apply(self, function: Callable[[Array], Array]) -> Array:
        """(vectors,) values of `Σ_j w_j f(x_j)`."""
        total: Array = (self.weights * function(self.nodes)).sum(-1)
        return total

    def ritz_values(self) -> Array:
        """Nodes without those that only pad a recursion which ended early: these weigh nothing."""
        return self.nodes[self.weights > _WEIGHTLESS]


def gauss_rule(alpha: Array, beta: Array) -> Rule:
    """The k-point Gauss rules of tridiagonals (Golub and Welsch 1969).

    Upper bound of `vᵀ f(A) v` where `f^(2k) <= 0` (log, square root, −x log x), lower where >= 0.

    Args:
        alpha: (vectors, k) diagonals.
        beta: (vectors, k) off-diagonals; the last one is not used.
    """
    return _rule(alpha, beta[..., :-1])


def radau_rule(alpha: Array, beta: Array, node: float = 0.0) -> Rule:
    """The (k+1)-point Gauss-Radau rules with one node fixed (Golub 1973).

    With a node at or below the spectrum, a lower bound where `f^(2k+1) >= 0` (log, square root,
    −x log x); with one at or above the spectrum, an upper bound. One end of the spectrum is always
    certified: 0 bounds a positive semi-definite operator, and its trace the other end.

    Args:
        alpha: (vectors, k) diagonals.
        beta: (vectors, k) off-diagonals, the last one coupling to the step that was not taken.
        node: 0 or below, or at or above the spectrum.
    """
    side = 1.0 if node <= 0 else -1.0
    tiny = np.finfo(np.float64).tiny
    pivot = np.maximum(side * (alpha[..., 0] - node), tiny)
    for j in range(1, alpha.shape[-1]):
        # A pivot can only lose its sign by rounding: then the Krylov space is exhausted.
        pivot = np.maximum(side * (alpha[..., j] - node) - beta[..., j - 1] ** 2 / pivot, tiny)
    coupling = beta[..., -1] ** 2
    last = node + side * np.where(coupling > 0, coupling / pivot, 0.0)
    return _rule(np.concatenate([alpha, last[..., None]], -1), beta)


def _rule(diagonal: Array, off_diagonal: Array) -> Rule:
    size = diagonal.shape[-1]
    index = np.arange(size)
    matrix = np.zeros((*diagonal.shape, size))
    matrix[..., index, index] = diagonal
    matrix[..., index[1:], index[:-1]] = off_diagonal  # eigh reads the lower triangle
    # Not NumPy's: its threads wait for busy cores, which took 30 times as long beside a training.
    nodes, vectors = torch.linalg.eigh(torch.from_numpy(matrix))
    return Rule(nodes.numpy().clip(0.0, 1.0), vectors[..., 0, :].square().numpy())


@dataclass(frozen=True, eq=False)
class TraceEstimate:
    """A trace, or a monotone function of one, with its kinds of error apart.

    The bracket is certain for the test vectors it was measured on. Where the last steps were taken
    from a few of them, their mean bracket stands for all.

    A followed trace is its level at an earlier time, by all test vectors, and the change since, by
    a few of them: `value` is the sum of the means of `per_vector` and `change`.
    """

    value: float
    below: float  # quadrature: given the test vectors, the truth is at most so far below
    above: float  # and so far above
    rounding: float
    per_vector: Array  # (vectors,) estimates; none if nothing is random
    deep: Array  # (deep,) of the first of them, with all steps: what pairs with another estimate
    # (few,) of the first of them, since the level; none if not followed
    change: Array = field(default_factory=lambda: np.empty(0))

    def mapped(self, function: Callable[[float], float], slope: float) -> TraceEstimate:
        """Under a monotone function, of that slope at `value`."""
        value = function(self.value)
        ends = sorted((function(self.value - self.below), function(self.value + self.above)))
        return TraceEstimate(
            value,
            max(0.0, value - ends[0]),
            max(0.0, ends[1] - value),
            abs(slope) * self.rounding,
            value + slope * (self.per_vector - self.value),
            value + slope * (self.deep - self.value),
            slope * self.change,
        )

    def scaled(self, factor: float, shift: float = 0.0) -> TraceEstimate:
        """`factor · trace + shift`."""
        return self.mapped(lambda x: factor * x + shift, factor)

    def minus(self, other: TraceEstimate) -> TraceEstimate:
        """The difference, paired vector by vector where both have test vectors."""
        sizes, others = ((len(each.per_vector), len(each.deep)) for each in (self, other))
        if sizes == others:
            paired = self.per_vector - other.per_vector
        elif sizes[1] and others[1]:
            common = min(sizes[1], others[1])
            paired = self.deep[:common] - other.deep[:common]
        elif sizes[1]:
            paired = self.per_vector - other.value
        else:
            paired = self.value - other.per_vector
        change = paired_difference(self.change, other.change)
        value = self.value - other.value
        if len(paired):
            value = float(paired.mean()) + (float(change.mean()) if len(change) else 0.0)
        return TraceEstimate(
            value,
            self.below + other.above,
            self.above + other.below,
            self.rounding + other.rounding,
            paired,
            paired,
            change,
        )

    def statistical_half(self, confidence: float) -> float:
        """Half-width of the t-interval over the test vectors: that of the level and of the change.

        They share vectors and need not be independent, so they add up. 0 when nothing is random.
        """
        return sum(
            half_width(mean_standard_error(values), len(values), confidence)
            for values in (self.per_vector, self.change)
            if len(values)
        )

    def estimate(self, confidence: float) -> Estimate:
        """The t-interval over the test vectors, widened by quadrature and rounding on its side."""
        half = self.statistical_half(confidence)
        return Estimate(
            self.value,
            self.value - self.below - self.rounding - half,
            self.value + self.above + self.rounding + half,
            "test_vectors" if len(self.per_vector) else "quadrature",
        )


@dataclass(frozen=True, eq=False)
class SpectralMeasure:
    """What Lanczos recursions tell of the spectrum of one operator A of trace 1 and dimension d.

    A trace is the sum over s orthonormal leading directions, plus what random unit vectors of
    their complement say about the other `d − s`. The trace of A itself being 1, each vector's
    share of it is a control variate. What more steps would change hardly differs from vector to
    vector, so the last steps are taken from the first few only.
    """

    leading: Coefficients  # (s, k) each, of the leading directions
    rest: Coefficients  # (vectors, k) each; no vectors when the leading directions are a basis
    deep: Coefficients  # (deep, k' >= k) each, of the first test vectors, or of all
    rest_dimension: int  # d − s
    unit_roundoff: float  # of the arithmetic of the products

    @cached_property
    def leading_gauss(self) -> Rule:
        """(s, k)."""
        return gauss_rule(*self.leading)

    @cached_property
    def leading_radau(self) -> Rule:
        """(s, k + 1)."""
        return radau_rule(*self.leading)

    @cached_property
    def rest_gauss(self) -> Rule:
        """(vectors, k)."""
        return gauss_rule(*self.rest)

    @cached_property
    def deep_gauss(self) -> Rule:
        """(deep, k')."""
        return gauss_rule(*self.deep)

    @cached_property
    def deep_radau(self) -> Rule:
        """(deep, k' + 1)."""
        return radau_rule(*self.deep)

    @property
    def rest_share(self) -> Array:
        """(vectors,) vᵀAv."""
        return self.rest[0][:, 0]

    def cut(self, leading_steps: int, vectors: int, steps: int) -> SpectralMeasure:
        """What fewer steps from fewer test vectors would have told."""
        deep = _cut(self.deep, vectors, steps)
        leading = _cut(self.leading, len(self.leading[0]), leading_steps)
        return replace(self, leading=leading, rest=deep, deep=deep)

    @property
    def dimension(self) -> int:
        """D."""
        return len(self.leading_gauss.nodes) + self.rest_dimension

    @property
    def vectors(self) -> int:
        """Number of test vectors; 0 when nothing is random."""
        return len(self.rest_share)

    def trace(self, function: ScalarFunction) -> TraceEstimate:
        """`tr f(A)`; its rounding term is the first-order effect of inexact products."""
        return self.corrected_trace(function, self.slopes(function))

    def corrected_trace(self, function: ScalarFunction, slopes: Array) -> TraceEstimate:
        """`trace` with these (vectors,) slopes of the control variate."""
        gauss = float(self.leading_gauss.apply(function.value).sum())
        radau = float(self.leading_radau.apply(function.value).sum())
        rounding = float(self._rounding(self.leading_gauss, function).sum())
        per_vector = single = np.empty(0)
        if self.vectors:
            shallow = self.rest_gauss.apply(function.value)
            values = shallow - self._control(slopes)
            deep = self.deep_gauss.apply(function.value)
            gap = float((self.deep_radau.apply(function.value) - deep).mean())
            change = deep - shallow[: len(deep)]
            single = gauss + self.rest_dimension * (values[: len(deep)] + change)
            per_vector = gauss + self.rest_dimension * _deepened(values, change)
            radau += float(per_vector.mean()) - gauss + self.rest_dimension * gap
            gauss = float(per_vector.mean())
            rest = self._rounding(self.rest_gauss, function)
            rounding += self.rest_dimension * float(rest.mean())
            rounding += self._control_rounding(slopes)
        rounding += _ROUNDING * self.unit_roundoff * abs(gauss)
        return TraceEstimate(
            gauss, max(0.0, gauss - radau), max(0.0, radau - gauss), rounding, per_vector, single
        )

    def node_rounding(self, node: float) -> float:
        """How far rounding can move a Ritz value."""
        return float(self._error(np.array(math.sqrt(node) + node)))

    def _error(self, scale: Array) -> Array:
        error: Array = _ROUNDING * self.unit_roundoff * (scale + self.unit_roundoff)
        return error

    def _rounding(self, rule: Rule, function: ScalarFunction) -> Array:
        """(vectors,) change of each value when every node moves by its rounding."""
        nodes = rule.nodes
        image = np.sqrt((rule.weights * nodes**2).sum(-1, keepdims=True))  # ‖Av‖
        error = self._error(np.sqrt(nodes) + image)
        change: Array = (rule.weights * function.slope(np.maximum(nodes, error)) * error).sum(-1)
        return change

    def slopes(self, function: ScalarFunction) -> Array:
        """(vectors,) slopes of f on x, by which a vector's share of the trace corrects its value.

        Each is that of the spectral density as all *other* vectors see it: independent of the
        vector it corrects, which keeps the estimate unbiased.
        """
        if self._rest_energy() < _LEAST_ENERGY * self.unit_roundoff:
            return np.zeros(self.vectors)  # the difference of two traces would be rounding
        x, weights = self.rest_gauss.nodes, self.rest_gauss.weights
        f = function.value(x)

        def others(values: Array) -> Array:
            own = (values * weights).sum(-1)
            mean: Array = (own.sum() - own) / max(self.vectors - 1, 1)
            return mean

        mean_f, mean_x = others(f), others(x)
        spread = others(x * x) - mean_x**2
        slopes: Array = np.where(
            spread > 0, (others(f * x) - mean_f * mean_x) / np.where(spread > 0, spread, 1), 0
        )
        return slopes

    def _control(self, slopes: Array) -> Array:
        """(vectors,) zero-mean part of each vector's value that its share of the trace explains."""
        known = self._rest_energy() / self.rest_dimension
        control: Array = slopes * (self.rest_share - known)
        return control

    def _control_rounding(self, slopes: Array) -> float:
        """The rounding of the leading directions' share, which the slopes carry into the value."""
        slope = abs(float(slopes.mean()))
        return _ROUNDING * self.unit_roundoff * slope * (1 - self._rest_energy())

    def _rest_energy(self) -> float:
        """Share of the trace outside the leading directions."""
        return 1 - float(self.leading_gauss.apply(lambda x: x).sum())

    def gaps(self, function: ScalarFunction) -> tuple[float, float]:
        """Width of the quadrature bracket of the leading part, and of the other part."""
        gauss, radau = self.leading_gauss, self.leading_radau
        leading = abs(float((gauss.apply(function.value) - radau.apply(function.value)).sum()))
        if not self.vectors:
            return leading, 0.0
        gauss, radau = self.deep_gauss, self.deep_radau
        gap = abs(float((gauss.apply(function.value) - radau.apply(function.value)).mean()))
        return leading, self.rest_dimension * gap

    def nodes(self) -> Array:
        """Ritz values: the nodes of the Gauss rules with most steps."""
        return np.concatenate([self.leading_gauss.ritz_values(), self.deep_gauss.ritz_values()])

    def eigenvalues(self) -> Array:
        """(d,) descending: those that the density implies."""
        nodes, counts = self.density()
        middle = np.arange(self.dimension) + 0.5
        values: Array = nodes[np.searchsorted(counts.cumsum(), middle).clip(max=len(nodes) - 1)]
        return values

    def density(self) -> tuple[Array, Array]:
        """Nodes, descending, and the number of eigenvalues each stands for."""
        nodes, counts = self.leading_gauss.nodes.ravel(), self.leading_gauss.weights.ravel()
        if self.vectors:
            share = self.rest_dimension / self.vectors
            nodes = np.concatenate([nodes, self.rest_gauss.nodes.ravel()])
            counts = np.concatenate([counts, share * self.rest_gauss.weights.ravel()])
        order = np.argsort(-nodes)
        return nodes[order], counts[order]


class FollowedMeasure:
    """Today's spectrum by few steps from few test vectors, at the level of an earlier time.

    A trace is that of the earlier time, by all vectors and steps, and the change since, by the few
    and as many steps then as now.

    Args:
        level: Of the earlier time.
        now: Of today: the same leading directions, and the first of the same test vectors.
    """

    def __init__(self, level: SpectralMeasure, now: SpectralMeasure) -> None:
        steps = now.leading[0].shape[-1], now.deep[0].shape[-1]
        self._level, self._now = level, now
        self._then = level.cut(steps[0], now.vectors, steps[1])

    def trace(self, function: ScalarFunction) -> TraceEstimate:
        """`tr f(A)`; what more steps would change is taken from the earlier time.

        Given the vectors the truth lies in the bracket of today's few steps, which is moved to
        where it stands beside that level.
        """
        slopes = self._level.slopes(function)  # the same at both times, so that vectors pair
        few = slopes[: self._now.vectors]
        level = self._level.corrected_trace(function, slopes)
        then, now = (each.corrected_trace(function, few) for each in (self._then, self._now))
        change = now.per_vector - then.per_vector
        deeper = float((level.deep[: len(change)] - then.per_vector).mean())
        return TraceEstimate(
            level.value + float(change.mean()),
            max(0.0, now.below + deeper),
            max(0.0, now.above - deeper),
            max(level.rounding, now.rounding),
            level.per_vector,
            level.deep,
            change,
        )


def _cut(coefficients: Coefficients, vectors: int, steps: int) -> Coefficients:
    alpha, beta = coefficients
    return alpha[:vectors, :steps], beta[:vectors, :steps]


def _deepened(values: Array, change: Array) -> Array:
    """(vectors,) values of few steps, with what more steps change for the first of them.

    All get the mean of that change. Its spread is blown up for those it was measured on, so that
    the mean of all has the standard error of both means together.
    """
    size = len(change)
    changes = np.full(len(values), change.mean())
    changes[:size] += len(values) / size * (change - change.mean())
    result: Array = values + changes
    return result
