"""Sampling error of the finite probe set: the delete-one jackknife in closed form.

The unit that is deleted is the *example*: a row, or all token rows of one text, since tokens of one
text are not independent. No deletion is recomputed: every leave-one-out value follows from one
eigendecomposition `G = V Λ Vᵀ` and the rows in its basis, `Z = X V` (or `Z = U Λ^½` on the kernel
side). Deleting group g of T rows, with mean `z̄_g`, gives `Λ − W_gᵀ W_g`, where `W_g` is the rows
of g and, when centred, one row more: `z̄_g T / sqrt(n − T)` for the mean that moves with them.

Rows are never bootstrapped: duplicated rows create null directions and move log det by hundreds of
nats.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import accumulate

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import t as student_t
from torch import Tensor

from sigma_monitor.spectrum.exact import Decomposition
from sigma_monitor.spectrum.gram import Gram

__all__ = [
    "LeaveOneOut",
    "half_width",
    "jackknife_standard_error",
    "leave_one_out",
    "mean_standard_error",
    "paired_difference",
    "paired_standard_error",
]

_EPS = torch.finfo(torch.float64).eps

# Trapezoid in u = log x of an analytic integrand whose strip of analyticity is |Im u| < π: the
# error is about exp(−2π²/step). Beyond the margin the integrand is below exp(−margin/2).
_NODE_STEP = 0.75
_NODE_MARGIN = 50.0

# Bounds a block of rows in the eigenbasis, padded to the longest of its examples, in elements
# (8 MiB of fp64); about five of its size exist at once. Larger ones leave the cache and took up to
# 1.6 times as long.
_BLOCK_ELEMENTS = 2**20


@dataclass(frozen=True)
class LeaveOneOut:
    """Values recomputed without each example, in the order of the examples."""

    log_det: NDArray[np.float64]  # (examples,) log det(C + εI) in nats
    log_ridge: NDArray[np.float64]  # (examples,) log ε, which follows the trace when relative
    log_effective_rank: NDArray[np.float64]  # (examples,) nats


def leave_one_out(
    gram: Gram,
    decomposition: Decomposition,
    *,
    center: bool,
    groups: Tensor | None,
    ridge: float,
    relative_ridge: float | None,
) -> LeaveOneOut | None:
    """Leave each example out in turn: log det and log effective rank of the rest.

    `log_det` is exact for every example, whatever its number of rows: with fixed ridge
    `log det(I − W (Λ+δ)^−1 Wᵀ)` is the change, and with a relative ridge the ridge that the
    remaining rows have is used. `log_effective_rank` is exact when every example is one row
    (`Σ sqrt(μ)` over the deleted spectrum as a Stieltjes integral of `log(1 − h(x))`), and first
    order in the example's share of the data for token rows. Its standard error is within a few per
    cent of the exact one where examples outnumber features, and 0.8 to 1.3 times it where they do
    not. "Exact" ends where one example carries all but 1e-12 of the energy.

    Args:
        gram: The rows.
        decomposition: Eigenpairs of `gram.product(center=center)`.
        center: The convention of `decomposition`.
        groups: (n,) example of each row, non-decreasing; None when every row is an example.
        ridge: ε on C = G/n.
        relative_ridge: ε = relative_ridge · tr(C)/m is recomputed for the remaining rows; None
            keeps `ridge` fixed.

    Returns:
        None when fewer than three examples leave no standard error to speak of.

    Cost: `2 n m r` flops for the rows in the eigenbasis and `O(n r T)` for the deletions, T rows an
    example. Memory: five blocks of 8 MiB, or five r x r matrices where those are larger, and some
    200 bytes an example, however many rows there are.
    """
    counts = _group_sizes(gram.n, groups, gram.device)
    if len(counts) < 3:
        return None
    deletions = _Deletions(gram, decomposition, counts, center=center)
    # Filled in place: small results kept between large blocks would hold on to the blocks' memory.
    without = decomposition.values.new_empty(3, len(counts))
    for run in deletions.runs():
        without[:, run] = deletions.values(run, ridge=ridge, relative_ridge=relative_ridge)
    return LeaveOneOut(*without.cpu().numpy())


def jackknife_standard_error(leave_one_out_values: NDArray[np.float64]) -> float:
    """`sqrt((n−1)/n Σ (θ_(i) − mean)²)` of n leave-one-out values (Efron and Stein 1981)."""
    n = len(leave_one_out_values)
    return math.sqrt((n - 1) * float(np.var(leave_one_out_values)))


def mean_standard_error(values: NDArray[np.float64]) -> float:
    """Standard error of the mean of independent values: of test vectors, not of examples.

    0 of none.
    """
    return float(np.std(values, ddof=1)) / math.sqrt(len(values)) if len(values) else 0.0


def paired_difference(one: NDArray[np.float64], two: NDArray[np.float64]) -> NDArray[np.float64]:
    """Vector by vector, as far as both go; where one is empty it counts as zeros."""
    if not len(two):
        return one
    if not len(one):
        return -two
    common = min(len(one), len(two))
    return one[:common] - two[:common]


def paired_standard_error(before: NDArray[np.float64], after: NDArray[np.float64]) -> float:
    """Jackknife standard error of `after − before` on the same probe examples.

    5 to 50 times narrower than treating the two levels as independent.
    """
    return jackknife_standard_error(after - before)


def half_width(standard_error: float, examples: int, confidence: float) -> float:
    """Half the width of the Student t-interval with `examples − 1` degrees of freedom."""
    return _quantile(examples - 1, confidence) * standard_error


@cache
def _quantile(freedom: int, confidence: float) -> float:
    return float(student_t.ppf(0.5 + confidence / 2, freedom))


class _Deletions:
    """The blocks `W_g`, of a few consecutive groups at a time."""

    def __init__(
        self, gram: Gram, decomposition: Decomposition, counts: Tensor, *, center: bool
    ) -> None:
        self.gram = gram
        self.decomposition = decomposition
        self.center = center
        self.counts = counts  # (groups,)
        self.sizes = counts.tolist()
        self.stops = list(accumulate(self.sizes))  # row after the last of each group
        self.single_rows = max(self.sizes) == 1
        self.nodes = _entropy_nodes(decomposition.values)  # (nodes,)
        width = max(len(decomposition.values), len(self.nodes))
        self.rows_at_once = max(1, _BLOCK_ELEMENTS // width)

    def runs(self) -> Iterator[slice]:
        """Consecutive groups whose rows, padded to one length, stay within the memory bound."""
        first, length = 0, 0
        for group, count in enumerate(self.sizes):
            length = max(length, count + int(self.center))
            if group > first and (group - first + 1) * length > self.rows_at_once:
                yield slice(first, group)
                first, length = group, count + int(self.center)
        yield slice(first, len(self.counts))

    def values(self, run: slice, *, ridge: float, relative_ridge: float | None) -> Tensor:
        """(3, groups of the run): log det, log ridge and log effective rank without each."""
        n, m, pairs = self.gram.n, self.gram.m, self.decomposition
        left = n - self.counts[run].double()  # (g,)
        rows = self.block(run)  # (g, length, r)
        energy = rows.square().sum(1)  # (g, r) what each deletion takes from a direction
        if relative_ridge is None:
            delta = left * ridge
        else:
            trace = pairs.values.sum()
            remaining = (trace - energy.sum(1)).clamp_min(_EPS * trace)
            delta = relative_ridge * remaining / m
        log_det = (
            torch.log(pairs.values + delta[:, None]).sum(1)
            + pairs.empty * delta.log()
            + _log_det_change(rows, pairs.values, delta)
            - m * left.log()
        )
        log_rank = (
            _deleted_entropy(energy, pairs.values, self.nodes)
            if self.single_rows
            else _first_order_entropy(energy, pairs.values)
        )
        return torch.stack([log_det, (delta / left).log(), log_rank])

    def block(self, run: slice) -> Tensor:
        """(g, length, r): `W_g` of each group, zero beyond its own rows."""
        counts = self.counts[run]
        longest = max(self.sizes[run])
        if longest > max(self.rows_at_once, len(self.decomposition.values)):
            rows, total = self.reduced(run)
        else:
            rows = self.padded(run, counts, longest)
            total = rows.sum(1)
        if not self.center:
            return rows
        weight = 1 / torch.sqrt(self.gram.n - counts.double())
        return torch.cat([rows, (total * weight[:, None])[:, None]], dim=1)

    def padded(self, run: slice, counts: Tensor, longest: int) -> Tensor:
        """(g, longest, r): the rows of each group, and zeros."""
        rows = self.coordinates(self.start(run), self.stops[run.stop - 1])
        if len(rows) == len(counts) * longest:
            return rows.view(len(counts), longest, -1)
        inside = torch.arange(longest, device=counts.device) < counts[:, None]  # (g, longest)
        padded = rows.new_zeros(*inside.shape, rows.shape[1])
        padded[inside] = rows
        return padded

    def reduced(self, run: slice) -> tuple[Tensor, Tensor]:
        """One long group: (1, r, r) `R` with `RᵀR = WᵀW`, and (1, r) the sum of its rows.

        By a QR decomposition, which keeps the digits of the weak directions as W itself does.
        """
        start, stop = self.start(run), self.stops[run.stop - 1]
        step = max(self.rows_at_once, len(self.decomposition.values))
        factor, total = self.coordinates(start, start), self.decomposition.values.new_zeros(1)
        for first in range(start, stop, step):
            rows = self.coordinates(first, min(first + step, stop))
            total = total + rows.sum(0, keepdim=True)
            factor = torch.linalg.qr(torch.cat([factor, rows]), mode="r").R
        return factor[None], total

    def start(self, run: slice) -> int:
        """First row of a run."""
        return self.stops[run.start - 1] if run.start else 0

    def coordinates(self, start: int, stop: int) -> Tensor:
        """(stop − start, r) fp64: these rows in the eigenbasis."""
        pairs, rows = self.decomposition, slice(start, stop)
        return self.gram.coordinates(pairs.values, pairs.vectors, center=self.center, rows=rows)


def _log_det_change(rows: Tensor, values: Tensor, delta: Tensor) -> Tensor:
    """(g,) `log det(I − W (Λ + δ_g)^−1 Wᵀ)`, on the smaller side of W (g, length, r)."""
    scaled = rows / torch.sqrt(values + delta[:, None])[:, None, :]
    small = scaled.mT @ scaled if scaled.shape[1] > scaled.shape[2] else scaled @ scaled.mT
    identity = torch.eye(small.shape[-1], dtype=small.dtype, device=small.device)
    sign, change = torch.linalg.slogdet(identity - small)
    # All eigenvalues of I − small are δ/(λ₁+δ) at least; rounding can take them below.
    lowest = torch.log(delta / (values[0] + delta)) * small.shape[-1]
    return torch.where(sign > 0, change, lowest).maximum(lowest)


def _group_sizes(n: int, groups: Tensor | None, device: torch.device) -> Tensor:
    if groups is None:
        return torch.ones(n, dtype=torch.long, device=device)
    counts: Tensor = torch.unique_consecutive(groups.to(device), return_counts=True)[1]
    return counts


def _entropy_nodes(values: Tensor) -> Tensor:
    """(nodes,) u = log x at which the Stieltjes integrals are taken, in units of λ₁."""
    return torch.arange(
        float((values[-1] / values[0]).log()) - _NODE_MARGIN,
        _NODE_MARGIN,
        _NODE_STEP,
        dtype=values.dtype,
        device=values.device,
    )


def _deleted_entropy(energy: Tensor, values: Tensor, nodes: Tensor) -> Tensor:
    """(g,) entropy of the singular values without each single row, exact to quadrature.

    With `h_i(x) = Σ_k e_ik/(λ_k + x)` for the (g, r) energy that row i has in every direction
    (`z_ik² n/(n−1)` when centred) and `λ^a = a sin(πa)/π ∫ log(1 + λ/x) x^(a−1) dx`, 0 < a < 1:
    `Σ sqrt(μ) − Σ sqrt(λ) = 1/(2π) ∫ log(1 − h(x)) x^−½ dx`, and, by the derivative in a at ½,
    `Σ sqrt(μ) log μ − Σ sqrt(λ) log λ = 1/(2π) ∫ log(1 − h(x)) x^−½ (2 + log x) dx`.
    """
    unit = values[0]
    values = values / unit
    resolvent = 1 / (values[:, None] + nodes.exp())  # (r, nodes)
    leverage = (energy / unit) @ resolvent  # (g, nodes)
    logs = torch.log1p(-leverage.clamp(max=1 - _EPS))
    weight = (nodes / 2).exp() * _NODE_STEP / (2 * math.pi)
    # The clamps act only when one row carries everything: nothing is left to have an entropy.
    root_sum = (values.sqrt().sum() + logs @ weight).clamp_min(_EPS)
    root_log_sum = (values.sqrt() * values.log()).sum() + logs @ (weight * (2 + nodes))
    entropy: Tensor = torch.log(root_sum) - root_log_sum / (2 * root_sum)
    return entropy.clamp(0, math.log(len(values)))


def _first_order_entropy(energy: Tensor, values: Tensor) -> Tensor:
    """(g,) entropy of the singular values without each group, to first order.

    Row i has influence `−Σ_k U_ik² · (−s_k (log s_k + H)/2)` on `H(s)`, with `U_ik² = z_ik²/λ_k`.
    """
    s = values.sqrt() / values.sqrt().sum()
    entropy = -(s * s.log()).sum()
    slope = s * (s.log() + entropy) / 2  # dH when direction k loses all its energy, per unit
    change: Tensor = (energy / values) @ slope
    return entropy + change
