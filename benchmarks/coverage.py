"""How often the intervals of the randomised way hold, and what their width is made of.

The test vectors change with the seed and the rows of a regime stay; where nothing is random, the
rows change. The truth is the exact way in fp64 on the rows as they are stored. `rounding_needed`
compares with the same recursions on rows widened to fp64: by how much products in fp32 move a
value, in units of the rounding term without its factor.

Run: python benchmarks/coverage.py [--quick] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sigma_monitor.spectrum import SpectralSummary, spectral_summary
from sigma_monitor.spectrum import trace as engine
from sigma_monitor.spectrum.gram import Gram
from sigma_monitor.spectrum.operator import RowOperator
from sigma_monitor.spectrum.randomized import DEFLATED, Effort, Sounding, sound

MEASURED = ("log_det", "effective_rank", "spectral_entropy", "participation_ratio")
SEEDS = 2000
CERTAIN_SEEDS = ROUNDING_SEEDS = 50
RELATIVE_RIDGE = 1e-3
RESULT = Path(__file__).parent / "results" / "coverage.json"


@dataclass(frozen=True)
class Regime:
    """Rows whose covariance has a known shape, and the effort spent on them."""

    name: str
    n: int
    m: int
    spectrum: str  # see `eigenvalues`
    dtype: torch.dtype
    test_vectors: int = 32
    center: bool = False
    mean_energy: float = 0.0  # share of the energy that the mean row carries
    changed: float = 0.0  # relative change of every entry since the summary that is followed

    @property
    def certain(self) -> bool:
        """Whether every direction is taken, so that the test vectors do not matter."""
        return min(self.n, self.m) <= DEFLATED + self.test_vectors


REGIMES = (
    Regime("healthy", 192, 96, "flat", torch.float32),
    Regime("slow decay, n < m", 96, 192, "slow", torch.float32, test_vectors=16),
    Regime("power law", 256, 128, "power", torch.float32, test_vectors=16, center=True),
    Regime("power law, fp64", 256, 128, "power", torch.float64, test_vectors=8),
    Regime("steep, n = m", 112, 112, "steep", torch.float32, test_vectors=8),
    Regime("exponential", 96, 192, "exponential", torch.float32, test_vectors=8),
    Regime("three levels", 160, 112, "levels", torch.float32, test_vectors=8),
    Regime("collapsed", 192, 96, "collapsed", torch.float32, test_vectors=16),
    Regime("collapsed, fp64", 192, 96, "collapsed", torch.float64, test_vectors=16),
    Regime("collapsed on noise", 96, 160, "noisy", torch.float32, test_vectors=16),
    Regime("mean of 99 %", 256, 128, "power", torch.bfloat16, test_vectors=8, mean_energy=0.99),
    Regime("half of the rank, fp16", 192, 96, "half", torch.float16, test_vectors=8),
    Regime("followed, power law", 256, 128, "power", torch.float32, 16, changed=1e-2),
    Regime("followed, collapsed", 192, 96, "collapsed", torch.float32, 16, changed=1e-4),
)
CERTAIN = (
    Regime("certain, healthy", 128, 48, "flat", torch.float32),
    Regime("certain, power law", 48, 96, "power", torch.float32),
    Regime("certain, steep", 64, 64, "steep", torch.float64),
    Regime("certain, collapsed", 96, 40, "collapsed", torch.float32),
    Regime("certain, on noise", 40, 96, "noisy", torch.float32),
)


def eigenvalues(spectrum: str, d: int) -> Tensor:
    """(d,) fp64, descending, the largest 1."""
    i = torch.arange(1, d + 1, dtype=torch.float64)
    index = i - 1
    return {
        "flat": 1 - 0.9 * index / d,
        "slow": i**-0.5,
        "power": i**-1.0,
        "steep": i**-3.0,
        "exponential": torch.exp(-index / 12),
        "levels": torch.where(i <= d // 10, 1.0, torch.where(i <= d // 2, 0.1, 1e-3)).double(),
        "collapsed": torch.where(i <= 8, i**-1.0, 0.0),
        "noisy": torch.where(i <= 8, i**-1.0, 1e-6),
        "half": torch.where(i <= d // 2, i**-0.5, 0.0),
    }[spectrum]


def rows_of(regime: Regime, seed: int = 0) -> Tensor:
    """(n, m) rows of the storage type."""
    n, m = regime.n, regime.m
    generator = torch.Generator().manual_seed(seed)
    values = eigenvalues(regime.spectrum, min(n, m))
    left, right = (
        torch.linalg.qr(torch.randn(size, len(values), generator=generator, dtype=torch.float64)).Q
        for size in (n, m)
    )
    rows = (left * values.sqrt()) @ right.mT
    if regime.mean_energy:
        mean = torch.randn(m, generator=generator, dtype=torch.float64)
        energy = values.sum() * regime.mean_energy / (1 - regime.mean_energy)
        rows = rows + mean * (energy / n).sqrt() / mean.norm()
    return rows.to(regime.dtype)


@dataclass(frozen=True)
class Outcomes:
    """Of all seeds in one regime; arrays are by functional of `MEASURED` and by seed."""

    regime: Regime
    truth: np.ndarray  # (4, seeds)
    low: np.ndarray  # (4, seeds)
    high: np.ndarray
    value: np.ndarray
    quadrature: np.ndarray  # width of the bracket, logarithms for the ranks
    rounding: np.ndarray  # twice the rounding term, likewise
    statistical: np.ndarray  # twice the half-width of the t-interval, likewise
    bound_held: np.ndarray  # (seeds,) whether λ_max was below its upper end
    seconds: float  # a summary

    def covered(self) -> np.ndarray:
        """(4, seeds) whether the interval holds the truth, up to the rounding of the exact way."""
        slack = _exact_rounding(self.regime, self.truth)
        return (self.low - slack <= self.truth) & (self.truth <= self.high + slack)

    def shares(self) -> dict[str, np.ndarray]:
        """(4,) median share of the width by kind of error."""
        parts = {
            "quadrature": self.quadrature,
            "rounding": self.rounding,
            "statistical": self.statistical,
        }
        width = sum(parts.values())
        return {name: np.median(part / width, axis=1) for name, part in parts.items()}


def measure(regime: Regime, seeds: range) -> Outcomes:
    """Summaries by both ways for every seed."""
    conventions = {"center": regime.center, "relative_ridge": RELATIVE_RIDGE, "sampling": False}
    found, truths, bounds, seconds = [], [], [], 0.0
    for seed in seeds:
        if regime.certain or not truths:
            before = rows_of(regime, seed)
            rows = _changed(before, regime.changed)
            exact = spectral_summary(rows, method="exact", **conventions)
        randomized = partial(
            spectral_summary,
            method="lanczos",
            test_vectors=regime.test_vectors,
            generator=torch.Generator().manual_seed(seed),
            **conventions,
        )
        previous = randomized(before) if regime.changed else None
        summary = randomized(rows, previous=previous)
        seconds += summary.seconds
        found.append([_numbers(summary, name) for name in MEASURED])
        truths.append([getattr(exact, name).value for name in MEASURED])
        bounds.append((summary.lambda_max.high, exact.lambda_max.value))
    numbers = np.array(found).transpose(2, 1, 0)  # (6, functionals, seeds)
    bound, largest = np.array(bounds).T
    return Outcomes(
        regime,
        np.array(truths).T,
        *numbers,
        bound_held=bound + _exact_rounding(regime, largest) >= largest,
        seconds=seconds / len(seeds),
    )


def _changed(rows: Tensor, relative: float) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return rows * (1 + relative * torch.randn(rows.shape, generator=generator)).to(rows.dtype)


def _exact_rounding(regime: Regime, truth: np.ndarray) -> np.ndarray:
    """Of the exact way, whose products and sums are good to some eps for each dimension."""
    return (regime.n + regime.m) * np.finfo(float).eps * np.maximum(1, abs(truth))


def _numbers(summary: SpectralSummary, name: str) -> tuple[float, ...]:
    """Low, high, value, and the width by kind of error."""
    estimate, part = getattr(summary, name), summary.randomized.parts[name]
    quadrature, rounding = part.below + part.above, 2 * part.rounding
    statistical = 2 * part.statistical_half(summary.confidence)
    return estimate.low, estimate.high, estimate.value, quadrature, rounding, statistical


def rounding_needed(regime: Regime, seeds: range) -> dict[str, float]:
    """Largest error by rounding over the rounding term of factor one, by functional."""
    needed = dict.fromkeys(MEASURED, 0.0)
    for seed in seeds:
        rows = rows_of(regime, seed)
        first = _sounding(rows, regime, seed)
        if first.basis is not None:  # orthonormal to the rounding of fp64, too
            basis = torch.linalg.qr(first.basis.double().mT).Q.mT
            first = replace(first, basis=basis)
        narrow, wide = (
            _parts(_sounding(kind, regime, seed, steps=first.steps, before=first))
            for kind in (rows, rows.double())
        )
        for name, part in narrow.items():
            error = abs(part.value - wide[name].value)
            needed[name] = max(needed[name], error * engine._ROUNDING / part.rounding)
    return needed


def _sounding(
    rows: Tensor,
    regime: Regime,
    seed: int,
    *,
    steps: int | None = None,
    before: Sounding | None = None,
) -> Sounding:
    gram = Gram.from_embeddings(rows)
    energy = gram.energy(center=regime.center)
    operator = RowOperator([gram], center=regime.center, traces=[energy])
    (found,) = sound(
        operator,
        Effort.first(regime.test_vectors, steps),
        ridges=[RELATIVE_RIDGE / regime.m],
        seed=seed,
        confidence=0.95,
        before=before,
    )
    return found


def _parts(sounding: Sounding) -> dict[str, engine.TraceEstimate]:
    sounding = replace(sounding, level=None)
    ridge = RELATIVE_RIDGE / sounding.measure.dimension
    return {
        "log_det": sounding.trace(engine.log_ridge(ridge)),
        "effective_rank": sounding.log_effective_rank(),
        "spectral_entropy": sounding.trace(engine.ENTROPY),
        "participation_ratio": sounding.log_renyi_rank(2),
    }


def coverage(regime: Regime, seeds: range) -> Iterator[dict[str, Any]]:
    """One row a functional."""
    outcomes = measure(regime, seeds)
    covered, shares, truth = outcomes.covered(), outcomes.shares(), outcomes.truth
    for i, name in enumerate(MEASURED):
        width = outcomes.high[i] - outcomes.low[i]
        yield {
            "regime": regime.name,
            "functional": name,
            "seeds": len(seeds),
            "coverage": float(covered[i].mean()),
            "missed_above": int((truth[i] > outcomes.high[i]).sum()),  # the truth is above
            "missed_below": int((truth[i] < outcomes.low[i]).sum()),
            "bias_in_standard_errors": _bias(outcomes.value[i] - truth[i]),
            "median_width": float(np.median(width)),
            **{f"share_{kind}": float(share[i]) for kind, share in shares.items()},
            "largest_eigenvalue_bounded": float(outcomes.bound_held.mean()),
            "seconds": outcomes.seconds,
        }


def _bias(errors: np.ndarray) -> float:
    """Mean error over its standard error."""
    spread = float(errors.std(ddof=1))
    return float(errors.mean()) / spread * math.sqrt(len(errors)) if spread > 0 else 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a self-check of a few seconds")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    from environment import environment  # a neighbour of this script, not of those who import it

    torch.set_num_threads(1)
    seeds, rounding_seeds = range(options.seeds), range(ROUNDING_SEEDS)
    if options.quick:
        seeds, rounding_seeds = range(3), range(1)
    started = time.perf_counter()
    rows = []
    for regime in REGIMES + CERTAIN:
        for row in coverage(regime, seeds[:CERTAIN_SEEDS] if regime.certain else seeds):
            rows.append(row)
            print({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()})
    needed = []
    for regime in REGIMES + CERTAIN:
        if regime.dtype != torch.float64:
            needed.append({"regime": regime.name, **rounding_needed(regime, rounding_seeds)})
            print(needed[-1])
    result = {
        "environment": environment(),
        "threads": 1,
        "relative_ridge": RELATIVE_RIDGE,
        "confidence": 0.95,
        "rounding_factor": engine._ROUNDING,
        "total_seconds": time.perf_counter() - started,
        "coverage": rows,
        "rounding_needed": needed,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
