"""Each functional of a spectrum against closed forms and against its definition."""

import math

import numpy as np
import pytest

from sigma_monitor.spectrum import functionals
from tests.spectrum import naive
from tests.spectrum.matrices import EPS

RIDGE = 0.01
ORDERS = [0, 0.3, 0.5, 1, 1.5, 2, 3, 10, math.inf]


def close(expected, terms):
    """Equal up to the rounding of a sum of `terms` terms, each a few operations long."""
    return pytest.approx(expected, rel=8 * terms * EPS, abs=8 * terms * EPS)


SPECTRA = {
    "one value": np.array([2.0]),
    "flat": np.full(7, 0.3),
    "repeated": np.array([4.0, 4.0, 1.0, 1.0, 1.0]),
    "steep": np.array([1.0, 1e-6, 1e-12]),
    "large": np.array([1e30, 1e29]),
    "small": np.array([1e-30, 1e-31]),
    "random": np.sort(np.random.default_rng(0).exponential(size=40))[::-1],
}
every_spectrum = pytest.mark.parametrize("values", SPECTRA.values(), ids=SPECTRA.keys())


@every_spectrum
def test_functionals_agree_with_their_definitions(values):
    ridge = RIDGE * values.mean()
    found = {
        "log_det": functionals.log_det(values, len(values), ridge),
        "coding_rate": functionals.coding_rate(values, ridge),
        "effective_rank": functionals.effective_rank(values),
        "spectral_entropy": functionals.spectral_entropy(values),
        "participation_ratio": functionals.renyi_rank(values, 2),
        "stable_rank": functionals.stable_rank(values),
        "condition_number": functionals.condition_number(values, 0.0),
    }
    expected = naive.of_spectrum(values, ridge)
    for name, value in found.items():
        assert value == close(expected[name], len(values)), name


@every_spectrum
def test_decay_exponent_agrees_with_its_definition(values):
    # Least squares divides the rounding of log λ by the spread of log i, log 2 at least.
    terms = len(values) * (1 + abs(np.log(values)).max() / math.log(2))
    found = functionals.decay_exponent(values, 0.0)
    assert found == close(naive.decay_exponent(values), terms)


@pytest.mark.parametrize("q", ORDERS)
@every_spectrum
def test_renyi_rank_agrees_with_its_definition(values, q):
    # The power 1/(1−q) multiplies the relative error of the sum.
    terms = len(values) * (1 if q in (1, math.inf) else 1 + 1 / abs(1 - q))
    assert functionals.renyi_rank(values, q) == close(naive.renyi_rank(values, q), terms)


@pytest.mark.parametrize("zeros", [0, 5])
@pytest.mark.parametrize("k", [1, 3, 8])
def test_a_flat_spectrum_has_every_rank_equal_to_its_support(k, zeros):
    values = np.concatenate([np.full(k, 0.7), np.zeros(zeros)])
    assert functionals.effective_rank(values) == close(k, k)
    assert functionals.stable_rank(values) == close(k, k)
    assert functionals.spectral_entropy(values) == close(math.log(k), k)
    assert functionals.condition_number(values, 0.0) == 1
    for q in ORDERS:
        assert functionals.renyi_rank(values, q) == close(k, 4 * k), q


def test_a_geometric_spectrum_in_closed_form():
    # p_i ∝ r^i without end: H = −log(1−r) − r log r/(1−r), PR = (1+r)/(1−r), Σλ/λ₁ = 1/(1−r).
    r = 0.25
    values = r ** np.arange(60.0)  # what is cut off is r^60, far below eps
    entropy = -math.log(1 - r) - r * math.log(r) / (1 - r)
    root = math.sqrt(r)
    assert functionals.spectral_entropy(values) == close(entropy, 60)
    assert functionals.renyi_rank(values, 2) == close((1 + r) / (1 - r), 60)
    assert functionals.stable_rank(values) == close(1 / (1 - r), 60)
    assert functionals.effective_rank(values) == close(
        math.exp(-math.log(1 - root) - root * math.log(root) / (1 - root)), 60
    )


def test_missing_eigenvalues_count_as_zeros():
    short = functionals.log_det(np.array([3.0, 1.0]), 5, RIDGE)
    padded = functionals.log_det(np.array([3.0, 1.0, 0.0, 0.0, 0.0]), 5, RIDGE)
    assert short == close(padded, 5)
    assert short == close(math.log(3.01 * 1.01) + 3 * math.log(0.01), 5)


def test_coding_rate_is_log_det_measured_from_the_ridge():
    values = np.array([3.0, 1.0, 0.2])
    log_det = functionals.log_det(values, 6, RIDGE)
    assert 2 * functionals.coding_rate(values, RIDGE) == close(log_det - 6 * math.log(RIDGE), 12)


def test_coding_rate_keeps_eigenvalues_far_below_the_ridge():
    # ½ log(1 + x) = x/2 − x²/4 + …, and 1 + 1e-17 rounds to 1.
    assert functionals.coding_rate(np.array([1e-17]), 1.0) == pytest.approx(
        0.5e-17, rel=1e-16, abs=0
    )


def test_zero_values_leave_no_nan_in_entropies():
    values = np.array([1.0, 0.0, 0.0])
    assert functionals.spectral_entropy(values) == 0
    assert functionals.effective_rank(values) == 1


def test_no_epsilon_is_added_to_the_shares():
    # Adding 1e-5 to each share makes rank-one data of 4096 features read 1.6.
    values = np.concatenate([[1.0], np.zeros(4095)])
    assert functionals.effective_rank(values) == 1
    assert math.exp(functionals.spectral_entropy(values)) == 1


@pytest.mark.parametrize("q", [1e2, 1e4, 1e6])
def test_a_large_order_does_not_underflow(q):
    # Σ p^q = p₁^q (1 + tiny), so the rank is p₁^(−q/(1−q)·…) = p₁^(q/(1−q)).
    values = np.array([0.5, 0.3, 0.2])
    expected = 0.5 ** (q / (1 - q))
    assert functionals.renyi_rank(values, q) == close(expected, 3)


@pytest.mark.parametrize("step", [1e-3, 1e-5, 1e-7])
def test_renyi_rank_is_continuous_at_order_one(step):
    values = np.array([0.6, 0.3, 0.1])
    at_one = functionals.renyi_rank(values, 1)
    # |d log R/dq| at 1 is half the variance of −log p, and rounding is amplified by 1/|1−q|.
    p = values
    surprise = -np.log(p)
    variance = (p * surprise**2).sum() - (p * surprise).sum() ** 2
    allowed = at_one * (variance * step + 8 * len(values) * EPS / step)
    for q in (1 - step, 1 + step):
        assert abs(functionals.renyi_rank(values, q) - at_one) < allowed


def test_order_zero_counts_the_non_zero_values():
    assert functionals.renyi_rank(np.array([5.0, 1e-9, 0.0]), 0) == close(2, 3)


def test_condition_number_stops_at_the_floor():
    values = np.array([8.0, 2.0, 2.0**-30])
    assert functionals.condition_number(values, 2.0**-29) == 4
    assert functionals.condition_number(values, 2.0**-31) == 2.0**33


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0, 2.5])
@pytest.mark.parametrize("size", [2, 9, 10, 64])
def test_decay_exponent_of_a_power_law_is_its_exponent(alpha, size):
    values = 3.0 * np.arange(1, size + 1.0) ** -alpha
    terms = size * (1 + abs(np.log(values)).max() / math.log(2))  # as above
    assert functionals.decay_exponent(values, 0.0) == close(alpha, terms)


def test_decay_exponent_leaves_out_head_and_tail():
    values = np.arange(1, 41.0) ** -1.5
    expected = functionals.decay_exponent(values, 0.0)
    values[:3] *= [9, 5, 3]  # ⌈40/10⌉ = 4 is the first that counts
    values[20:] *= np.linspace(0.9, 0.1, 20)  # ⌈40/2⌉ = 20 the last
    assert functionals.decay_exponent(values, 0.0) == expected
    values[3] *= 2
    assert functionals.decay_exponent(values, 0.0) > expected + 0.1


def test_decay_exponent_counts_only_values_above_the_floor():
    law = np.arange(1, 21.0) ** -2.0
    values = np.concatenate([law, np.full(60, 1e-9)])
    assert functionals.decay_exponent(values, 1e-8) == close(2.0, 80)


def test_decay_exponent_of_a_single_direction_is_infinite():
    assert functionals.decay_exponent(np.array([3.0]), 0.0) == math.inf
    assert functionals.decay_exponent(np.array([3.0, 1e-9]), 1e-8) == math.inf


def test_effective_rank_is_not_schur_concave():
    """The counter-example of mathematics.md section 2: the more even spectrum has the lower one."""
    uneven = np.concatenate([[100.0, 50.0], np.ones(198)])
    more_even = np.concatenate([[90.0, 60.0], np.ones(198)])
    assert round(functionals.effective_rank(uneven), 2) == 181.20
    assert round(functionals.effective_rank(more_even), 2) == 181.07
