"""Intervals hold as often as they say, in every regime of the coverage benchmark."""

import importlib.util
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import binomtest

FILE = Path(__file__).parents[2] / "benchmarks" / "coverage.py"


def loaded():
    """The benchmark by its path: its folder is no package, and `coverage` is one that many have."""
    name = "sigma_monitor_coverage_benchmark"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, FILE)
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


benchmark = loaded()
MEASURED = benchmark.MEASURED
SEEDS = 200
LEVEL = 1e-3  # of each binomial test
# The benchmark's own, but for some that take long or are there twice.
LEFT_OUT = {"exponential", "power law, fp64", "collapsed, fp64"}
RANDOM = [regime for regime in benchmark.REGIMES if regime.name not in LEFT_OUT]
# What only `pytest -m long` runs: of each kind (random, followed, steep) one is always run.
OFTEN = {"healthy", "collapsed", "steep, n = m", "followed, power law"}
random = pytest.mark.parametrize(
    "regime",
    [
        pytest.param(regime, marks=[] if regime.name in OFTEN else [pytest.mark.long])
        for regime in RANDOM
    ],
    ids=[regime.name for regime in RANDOM],
)
certain = pytest.mark.parametrize("regime", benchmark.CERTAIN, ids=lambda regime: regime.name)
functionals = pytest.mark.parametrize("functional", MEASURED)


@cache
def outcomes(regime):
    return benchmark.measure(regime, range(20 if regime.certain else SEEDS))


def test_the_regimes_are_eight_and_one_is_collapsed_in_single_precision():
    assert len(RANDOM) >= 8
    assert not any(regime.certain for regime in RANDOM)
    assert all(regime.certain for regime in benchmark.CERTAIN)
    assert any(r.spectrum == "collapsed" and r.dtype == torch.float32 for r in RANDOM)
    assert {regime.n < regime.m for regime in RANDOM} == {False, True}


@random
@functionals
def test_coverage_is_not_below_nominal(regime, functional):
    held = int(outcomes(regime).covered()[MEASURED.index(functional)].sum())
    assert binomtest(held, SEEDS, 0.935, alternative="less").pvalue > LEVEL, held / SEEDS


@random
@functionals
def test_intervals_are_no_wider_than_they_need_be(regime, functional):
    found, row = outcomes(regime), MEASURED.index(functional)
    shares = found.shares()
    if shares["quadrature"][row] + shares["rounding"][row] > 0.1:
        pytest.skip("brackets and rounding, which are bounds, are much of the width")
    held = int(found.covered()[row].sum())
    assert binomtest(held, SEEDS, 0.975, alternative="greater").pvalue > LEVEL, held / SEEDS


@random
def test_the_bound_of_the_largest_eigenvalue_holds_as_often_as_it_says(regime):
    held = int(outcomes(regime).bound_held.sum())
    assert binomtest(held, SEEDS, 0.95, alternative="less").pvalue > LEVEL


@certain
def test_nothing_random_never_fails(regime):
    found = outcomes(regime)
    assert found.covered().all()
    assert found.bound_held.mean() >= 0.95


@certain
def test_nothing_random_is_narrow(regime):
    found, row = outcomes(regime), MEASURED.index("log_det")
    # Steps end at 5e-4 nats a dimension.
    assert np.median(found.quadrature[row]) / regime.m <= 5e-4
    if found.shares()["rounding"][row] < 0.9:  # else fp32 does not hold what the bracket does
        width = np.median(found.high[row] - found.low[row])
        assert width / regime.m <= 1e-3
