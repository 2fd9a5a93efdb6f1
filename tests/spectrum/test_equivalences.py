"""The same numbers by other people's definitions, and by a recursion with a closed form."""

import math

import numpy as np
import pytest
import torch
from scipy.special import digamma

from sigma_monitor.spectrum import spectral_summary
from tests.spectrum import naive
from tests.spectrum.matrices import EPS, eigenvalue_error, gaussian, generator, rows_with

SHAPES = [(4, 11), (7, 7), (40, 6)]
shapes = pytest.mark.parametrize(("n", "m"), SHAPES)


def relative_error(n, m):
    """Of functions of shares p whose logarithm is Lipschitz in each log p: m of those, each of
    error `eigenvalue_error` over the share of a direction, here above 1e-4."""
    return m * eigenvalue_error(n, m) / 1e-4


@shapes
def test_exponential_of_the_entropy_is_the_vendi_score(n, m):
    vendi = pytest.importorskip("vendi_score.vendi", reason="vendi-score is not installed")
    rows = gaussian(n, m) * torch.linspace(0.1, 5, n, dtype=torch.float64)[:, None] + 0.3
    summary = spectral_summary(rows, normalize=True)
    expected = vendi.score_dual(rows.numpy(), q=1, normalize=True)
    found = math.exp(summary.spectral_entropy.value)
    assert found == pytest.approx(expected, rel=relative_error(n, m), abs=0)
    assert summary.renyi_rank(1).value == pytest.approx(expected, rel=relative_error(n, m), abs=0)


@shapes
@pytest.mark.parametrize("q", [0.5, 2.0, 7.0])
def test_renyi_rank_is_the_vendi_score_of_order_q(n, m, q):
    vendi = pytest.importorskip("vendi_score.vendi", reason="vendi-score is not installed")
    rows = gaussian(n, m)
    unit = rows / rows.norm(dim=1, keepdim=True)
    shares = np.linalg.eigvalsh((unit @ unit.T / n).numpy())
    expected = math.exp(vendi.entropy_q(shares[shares > n * EPS], q=q))
    found = spectral_summary(rows, normalize=True).renyi_rank(q).value
    assert found == pytest.approx(expected, rel=relative_error(n, m), abs=0)


@shapes
@pytest.mark.parametrize("offset", [0.0, 3.0])
def test_participation_ratio_is_isoscore(n, m, offset):
    rows = gaussian(n, m) * torch.arange(1, m + 1, dtype=torch.float64) ** -0.5 + offset
    participation_ratio = spectral_summary(rows, center=True).participation_ratio.value
    # IsoScore rotates and measures again: its own rounding, at the scale of the mean.
    tolerance = relative_error(n, m) * (1 + offset**2)
    found = (participation_ratio - 1) / (m - 1)
    assert found == pytest.approx(naive.isoscore(rows), abs=tolerance)


@shapes
@pytest.mark.parametrize(("beta", "delta"), [(0.0, 0.05), (7.0, 1e-3), (500.0, 1e-3)])
def test_track_one_is_twice_the_coding_rate(n, m, beta, delta):
    """Σ log(1 + λ_i(G)/(β+δ)) = 2 · coding_rate at n·ε = β + δ."""
    rows = gaussian(n, m)
    rows = rows / rows.norm(dim=1, keepdim=True)
    gram = (rows.T @ rows).numpy()
    regularised = gram + (beta + delta) * np.eye(m)
    track_one = np.linalg.slogdet(regularised)[1] - m * math.log(beta + delta)
    summary = spectral_summary(rows, ridge=(beta + delta) / n)
    # m eigenvalues at least δ apart from zero; the difference of two logs as large as m log δ.
    tolerance = m * (eigenvalue_error(n, m) * n / (beta + delta) + 16 * EPS * abs(math.log(delta)))
    assert 2 * summary.coding_rate.value == pytest.approx(track_one, abs=tolerance)


@shapes
def test_orders_one_two_and_infinity_are_the_named_ranks(n, m):
    summary = spectral_summary(gaussian(n, m))
    named = {
        0: min(n, m),
        1: math.exp(summary.spectral_entropy.value),
        2: summary.participation_ratio.value,
        math.inf: summary.stable_rank.value,
    }
    for q, expected in named.items():
        # The same eigenvalues: only the rounding of two sums of m terms.
        assert summary.renyi_rank(q).value == pytest.approx(expected, rel=8 * m * EPS, abs=0), q


def test_coding_rate_is_log_det_over_the_ridge():
    summary = spectral_summary(gaussian(9, 6))
    expected = (summary.log_det.value - 6 * math.log(summary.ridge)) / 2
    assert summary.coding_rate.value == pytest.approx(expected, rel=64 * EPS, abs=0)


def test_effective_rank_is_rankme_without_its_epsilon():
    # RankMe: exp of the entropy of the singular values of the raw rows, by an SVD.
    rows = gaussian(30, 8) + 0.5
    s = np.linalg.svd(rows.numpy(), compute_uv=False)
    shares = s / s.sum()
    expected = math.exp(-(shares * np.log(shares)).sum())
    found = spectral_summary(rows).effective_rank.value
    assert found == pytest.approx(expected, rel=relative_error(30, 8), abs=0)


def test_the_paper_value_is_log_det_of_the_gram_with_a_fixed_delta():
    # S = log det(G_A + δI) with δ = 1e-3, unit rows: ridge = δ/n, then m log n back.
    rows = gaussian(50, 12)
    rows = rows / rows.norm(dim=1, keepdim=True)
    gram = rows.T @ rows + 1e-3 * torch.eye(12, dtype=torch.float64)
    cholesky = 2 * torch.linalg.cholesky(gram).diagonal().log().sum().item()
    summary = spectral_summary(rows, ridge=1e-3 / 50)
    found = summary.log_det.value + 12 * math.log(50)
    tolerance = 12 * eigenvalue_error(50, 12) * 50 / summary.lambda_min.value
    assert found == pytest.approx(cholesky, abs=tolerance)


def expected_drift(n, d):
    """E[Δ log det Σ] of one generation of refitting a d-variate Gaussian to n of its samples."""
    return sum(digamma((n - i) / 2) + math.log(2 / n) for i in range(1, d + 1))


@pytest.mark.parametrize(("n", "drift"), [(10, -0.2206), (100, -0.0202)])
def test_drift_of_one_generation_in_figures(n, drift):
    assert expected_drift(n, 1) == pytest.approx(drift, abs=0.5e-4)  # four decimals are given


@pytest.mark.parametrize(("n", "d"), [(10, 1), (12, 4), (40, 4), (20, 12)])
def test_gaussian_self_consumption_drifts_as_the_closed_form_says(n, d):
    """Each generation is a Gaussian fitted by maximum likelihood to n samples of the last one."""
    generations, chains = 5, 60
    source = generator(n + d)
    steps = []
    for _ in range(chains):
        factor = rows_with(np.linspace(1, 2, d), d, d)
        level = None
        for _ in range(generations + 1):
            samples = torch.randn(n, d, generator=source, dtype=torch.float64) @ factor.T
            # ε at 1e-10 of the mean eigenvalue: d·1e-10·tr/λ_min, far below the Monte Carlo error.
            summary = spectral_summary(samples, center=True, relative_ridge=1e-10)
            if level is not None:
                steps.append(summary.log_det.value - level)
            level = summary.log_det.value
            covariance = torch.cov(samples.T, correction=0).reshape(d, d)
            factor = torch.linalg.cholesky(covariance)
    standard_error = np.std(steps, ddof=1) / math.sqrt(len(steps))
    # Steps are independent: log det of a refit depends on the last only by adding its log det.
    assert abs(np.mean(steps) - expected_drift(n, d)) < 4 * standard_error
    assert abs(expected_drift(n, d)) > 6 * standard_error  # no drift at all would not pass
