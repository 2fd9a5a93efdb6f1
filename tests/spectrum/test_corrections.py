"""Corrections against populations whose log det and ranks are known."""

import math

import numpy as np
import pytest

from sigma_monitor.spectrum import (
    gaussian_bias,
    kappa_corrected_log_det,
    ridge_for_kappa,
    unbiased_participation_ratio,
)
from tests.spectrum.test_bad_input import refused


def spectrum_of(rows):
    """Eigenvalues of C on the smaller side: min(n, m) of them."""
    product = rows.T @ rows if len(rows) >= rows.shape[1] else rows @ rows.T
    return np.clip(np.linalg.eigvalsh(product) / len(rows), 0, None)


def power_law(m, exponent=1.0):
    return np.arange(1, m + 1) ** -exponent


def gaussian_rows(n, population, seed):
    source = np.random.default_rng(seed)
    return source.standard_normal((n, len(population))) * np.sqrt(population)


# --- κ -------------------------------------------------------------------------------------------


def kappa_errors(n, m, relative, count):
    """Errors of the corrected and of the plain log det, and what should remain of the first."""
    population = power_law(m)
    errors, plain, remainders = [], [], []
    for seed in range(count):
        values = spectrum_of(gaussian_rows(n, population, seed))
        ridge = relative * values.sum() / m
        found = kappa_corrected_log_det(values, m, n, ridge)
        errors.append(found.log_det - np.log(population + found.kappa).sum())
        padded = np.r_[values, np.zeros(m - len(values))]
        plain.append(np.log((padded + ridge) / (population + ridge)).sum())
        second = ((population / (population + found.kappa)) ** 2).sum()
        remainders.append(math.log(1 - second / n) / 2)
    return np.array(errors), np.array(plain), np.array(remainders)


@pytest.mark.parametrize(
    ("n", "relative", "raw"), [(48, 0.05, -1.3), (150, 0.03, -0.7), (400, 0.01, -0.25)]
)
def test_kappa_correction_is_within_five_thousandths_of_a_nat_a_dimension(n, relative, raw):
    """Mean of 40 draws, for fewer and for more rows than features; `raw` is what it takes off."""
    errors, plain, _ = kappa_errors(n, 192, relative, count=40)
    assert abs(errors.mean()) / 192 < 0.005
    assert plain.mean() / 192 < raw


@pytest.mark.parametrize(("n", "relative"), [(24, 0.05), (48, 0.01), (60, 1e-3)])
def test_what_remains_of_gaussian_rows_is_less_than_a_nat_in_all(n, relative):
    errors, plain, remainders = kappa_errors(n, 48, relative, count=400)
    error = errors.std(ddof=1) / math.sqrt(400)
    assert errors.mean() == pytest.approx(remainders.mean(), abs=4 * error)
    assert errors.mean() < -4 * error  # so that no remainder would not pass
    assert plain.mean() < 30 * errors.mean()


def test_kappa_in_closed_form():
    """Four eigenvalues of one at ε = 1: df = 2, so κ = 1/(1 − 2/8)."""
    found = kappa_corrected_log_det(np.ones(4), 4, 8, 1.0)
    assert found.kappa == pytest.approx(4 / 3, rel=1e-14)
    log_ratio = math.log(4 / 3)
    expected = 4 * math.log(2) + 4 * log_ratio - 8 * (log_ratio + 3 / 4 - 1)
    assert found.log_det == pytest.approx(expected, rel=1e-14)


def test_kappa_tends_to_the_ridge_as_rows_are_added():
    values = power_law(5)
    found = kappa_corrected_log_det(values, 5, 10**9, 0.1)
    assert found.kappa == pytest.approx(0.1, rel=1e-8)
    assert found.log_det == pytest.approx(np.log(values + 0.1).sum(), rel=1e-7)


def test_zero_eigenvalues_may_be_given_or_left_out():
    values = spectrum_of(gaussian_rows(6, power_law(10), 0))
    padded = np.r_[np.zeros(4), values]
    assert kappa_corrected_log_det(values, 10, 6, 0.1) == pytest.approx(
        kappa_corrected_log_det(padded, 10, 6, 0.1), rel=1e-14
    )


@pytest.mark.parametrize(("n", "m"), [(30, 50), (50, 50), (80, 50)])
@pytest.mark.parametrize("ridge", [1e-9, 1e-3, 1.0, 1e3])
def test_the_ridge_for_a_kappa_is_the_inverse(n, m, ridge):
    values = spectrum_of(gaussian_rows(n, power_law(m), 1))
    kappa = kappa_corrected_log_det(values, m, n, ridge).kappa
    found = ridge_for_kappa(values, m, n, kappa)
    again = kappa_corrected_log_det(values, m, n, found).kappa
    assert again == pytest.approx(kappa, rel=1e-12)
    if ridge > 1e-6 or n > m:  # else κ hardly depends on ε, and ε is lost in its rounding
        assert found == pytest.approx(ridge, rel=1e-9)


def test_a_common_kappa_measures_a_drift_that_a_common_ridge_distorts():
    """Halving the tail: the corrected drift at one κ is that of the population at this κ."""
    n, m, kappa = 120, 96, 0.05
    before, after = power_law(m), power_law(m) * np.where(np.arange(m) < 10, 1, 0.5)
    true = np.log((after + kappa) / (before + kappa)).sum()
    common, fixed, kappas = [], [], []
    for seed in range(40):
        spectra = [spectrum_of(gaussian_rows(n, p, seed)) for p in (before, after)]
        one, other = (
            kappa_corrected_log_det(v, m, n, ridge_for_kappa(v, m, n, kappa)) for v in spectra
        )
        assert other.kappa == pytest.approx(one.kappa, rel=1e-12)
        common.append(other.log_det - one.log_det - true)
        one, other = (kappa_corrected_log_det(v, m, n, 0.02) for v in spectra)
        fixed.append(other.log_det - one.log_det - true)
        kappas.append(other.kappa / one.kappa)
    assert abs(np.mean(common)) < 4 * np.std(common, ddof=1) / math.sqrt(40) + 0.005 * m / 10
    assert abs(np.mean(fixed)) > 5 * abs(np.mean(common))
    assert np.mean(kappas) < 0.95


def test_a_kappa_below_every_ridge_is_refused():
    """n = m = 4 eigenvalues of one: κ(ε) = 1 + ε, so 1.5 is reached and 1 is not."""
    assert ridge_for_kappa(np.ones(4), 4, 4, 1.5) == pytest.approx(0.5, rel=1e-12)
    for kappa in (1.0, 0.3):
        with refused(f"kappa={kappa}", "more than 1,", "larger kappa"):
            ridge_for_kappa(np.ones(4), 4, 4, kappa)


# --- Gaussian bias -------------------------------------------------------------------------------


@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize(("n", "m"), [(3, 1), (6, 4), (40, 5), (100, 64)])
def test_gaussian_bias_is_the_mean_over_draws(n, m, center):
    count = 400
    found = []
    for seed in range(count):
        rows = np.random.default_rng(seed).standard_normal((n, m)) + 3 * center
        rows = rows - rows.mean(0) if center else rows
        found.append(np.linalg.slogdet(rows.T @ rows / n)[1])
    error = np.std(found, ddof=1) / math.sqrt(count)
    assert np.mean(found) == pytest.approx(gaussian_bias(n, m, center=center), abs=4 * error)
    assert gaussian_bias(n, m, center=center) < -4 * error  # so that zero would not pass


def test_gaussian_bias_at_the_shape_of_the_paper():
    assert gaussian_bias(500, 384) == pytest.approx(-215, abs=0.5)
    assert gaussian_bias(1000, 384) == pytest.approx(-86, abs=0.5)


@pytest.mark.parametrize(("n", "expected"), [(10, -0.2206), (100, -0.0202)])
def test_gaussian_self_consumption_of_one_dimension(n, expected):
    """Refit by maximum likelihood to n samples of itself, generation after generation."""
    assert gaussian_bias(n, 1, center=True) == pytest.approx(expected, abs=5e-5)
    chains, generations = 2000, 30
    source = np.random.default_rng(0)
    mean, deviation = np.zeros(chains), np.ones(chains)
    for _ in range(generations):
        samples = mean + deviation * source.standard_normal((n, chains))
        mean, deviation = samples.mean(0), samples.std(0)
    drift = 2 * np.log(deviation) / generations
    error = drift.std(ddof=1) / math.sqrt(chains)
    assert drift.mean() == pytest.approx(expected, abs=4 * error)
    assert abs(expected) > 20 * error


# --- participation ratio -------------------------------------------------------------------------


def unbiased(rows):
    return unbiased_participation_ratio(spectrum_of(rows), len(rows), (rows**2).sum(1))


def test_unbiased_participation_ratio_is_the_mean_over_pairs():
    rows = gaussian_rows(7, power_law(4), 0)
    pairs = [(a, b) for i, a in enumerate(rows) for j, b in enumerate(rows) if i != j]
    expected = sum(a @ a * (b @ b) for a, b in pairs) / sum((a @ b) ** 2 for a, b in pairs)
    assert unbiased(rows) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("n", [32, 128])
def test_participation_ratio_corrected_at_any_number_of_rows(n):
    """The plug-in is too low by far, the corrected one by nothing that 60 draws would show."""
    population = power_law(64, 0.4)
    true = population.sum() ** 2 / (population**2).sum()
    found, plain = [], []
    for seed in range(60):
        rows = gaussian_rows(n, population, seed)
        values = spectrum_of(rows)
        found.append(unbiased(rows))
        plain.append(values.sum() ** 2 / (values**2).sum())
    error = np.std(found, ddof=1) / math.sqrt(60)
    # A ratio is biased by its own relative variance.
    assert np.mean(found) == pytest.approx(true, abs=4 * error + np.var(found, ddof=1) / true)
    assert np.mean(plain) < true - 20 * np.std(plain, ddof=1) / math.sqrt(60)


def test_rows_without_overlap_have_an_infinite_ratio_and_copies_a_ratio_of_one():
    assert unbiased(np.eye(5)[:4]) == math.inf
    assert unbiased(np.ones((6, 3))) == pytest.approx(1, rel=1e-12)


# --- bad input -----------------------------------------------------------------------------------


BAD_VALUES = [[-1e-9, 1.0], [math.nan, 1.0], [math.inf], [], [[1.0, 2.0]]]


@pytest.mark.parametrize("values", BAD_VALUES)
def test_values_that_are_no_spectrum_are_refused(values):
    for call in (kappa_corrected_log_det, ridge_for_kappa):
        with refused("eigenvalues", "finite", "np.clip"):
            call(values, 4, 9, 0.1)
    with refused("eigenvalues", "finite"):
        unbiased_participation_ratio(values, 2, [1.0, 1.0])
    with refused("squared_norms", "finite"):
        unbiased_participation_ratio([1.0], 2, values)


@pytest.mark.parametrize("values", [np.ones(5), np.ones(3)])
def test_more_eigenvalues_than_rows_or_features_are_refused(values):
    with refused(f"{len(values)} eigenvalues", "n=2", "m=4", "min(n, m)"):
        kappa_corrected_log_det(values, 4, 2, 0.1)


@pytest.mark.parametrize("value", [0, -1.0, math.nan, math.inf])
def test_a_ridge_that_is_not_positive_is_refused(value):
    with refused("ridge=", "positive"):
        kappa_corrected_log_det([1.0], 2, 3, value)
    with refused("kappa=", "positive"):
        ridge_for_kappa([1.0], 2, 3, value)


@pytest.mark.parametrize(
    ("n", "m", "center"), [(3, 4, False), (4, 4, True), (0, 1, False), (3, 0, False)]
)
def test_a_singular_matrix_has_no_gaussian_bias(n, m, center):
    with refused(f"n={n}", f"m={m}", "singular", "kappa_corrected_log_det"):
        gaussian_bias(n, m, center=center)


def test_inconsistent_participation_ratios_are_refused():
    rows = gaussian_rows(5, power_law(3), 0)
    norms = (rows**2).sum(1)
    with refused("n=4", "5 squared norms"):
        unbiased_participation_ratio(spectrum_of(rows), 4, norms)
    with refused("n=1"):
        unbiased_participation_ratio([1.0], 1, [1.0])
    with refused("must agree", "XᵀX/n"):
        unbiased_participation_ratio(5 * spectrum_of(rows), 5, norms)
    with refused("at most one is not zero"):
        unbiased_participation_ratio([0.5], 2, [1.0, 0.0])
