"""Standard errors and intervals against fresh samples, and against closed forms for Gaussian rows.

Every tolerance is four standard errors of the Monte Carlo estimate it stands beside; every seed is
fixed.
"""

import math

import numpy as np
import pytest
import torch
from scipy.special import digamma, polygamma

from sigma_monitor.spectrum import spectral_summary
from sigma_monitor.spectrum.uncertainty import jackknife_standard_error, paired_standard_error
from tests.spectrum.matrices import gaussian, generator, token_rows

NAMES = ("log_det", "log_effective_rank")


def root_mean_square(values):
    return math.sqrt(np.mean(np.square(values)))


def draws(make, count, **arguments):
    """Levels and their jackknife standard errors over `count` fresh samples, by functional."""
    levels, errors = {name: [] for name in NAMES}, {name: [] for name in NAMES}
    for seed in range(count):
        made = make(seed)
        rows, groups = made if isinstance(made, tuple) else (made, None)
        summary = spectral_summary(rows, groups=groups, **arguments)
        levels["log_det"].append(summary.log_det.value)
        levels["log_effective_rank"].append(math.log(summary.effective_rank.value))
        for name in NAMES:
            errors[name].append(jackknife_standard_error(getattr(summary.leave_one_out, name)))
    return levels, errors


def spread_error(count):
    """Relative standard error of a standard deviation over `count` draws, near enough normal."""
    return 1 / math.sqrt(2 * (count - 1))


def topic_rows(n, m, seed):
    """Ten fixed topics, rows about them at unequal distances: what embeddings look like."""
    topics = torch.randn(10, m, generator=generator(5), dtype=torch.float64)
    source = generator(1000 + seed)
    which = torch.randint(10, (n,), generator=source)
    distance = 0.3 + torch.rand(n, 1, generator=source, dtype=torch.float64)
    return topics[which] + distance * torch.randn(n, m, generator=source, dtype=torch.float64)


@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("n", [83, 167, 333])
def test_jackknife_is_the_spread_over_fresh_rows(n, center):
    """A smaller version of the figures of section 6: 64 features, n/m as at 384 features."""
    count = 120
    levels, errors = draws(lambda seed: topic_rows(n, 64, seed), count, center=center)
    for name in NAMES:
        ratio = root_mean_square(errors[name]) / np.std(levels[name], ddof=1)
        assert ratio == pytest.approx(1, abs=4 * spread_error(count)), name


def test_jackknife_with_fewer_rows_than_features_is_the_spread_over_fresh_rows():
    """With rows of unequal length most of it is the relative ridge following the trace."""
    count = 150

    def rows(seed):
        return gaussian(32, 64, seed) * torch.exp(0.5 * gaussian(32, 1, seed + 1000))

    levels, errors = draws(rows, count)
    for name in NAMES:
        ratio = root_mean_square(errors[name]) / np.std(levels[name], ddof=1)
        assert ratio == pytest.approx(1, abs=4 * spread_error(count)), name


@pytest.mark.parametrize("spread", [1.0, 2.0])
def test_the_unit_of_the_jackknife_is_the_example(spread):
    """Tokens of one text are correlated: deleting them one by one promises too much."""
    count = 150
    levels, errors = draws(lambda seed: token_rows([12] * 40, 16, seed, spread=spread), count)
    _, single = draws(lambda seed: token_rows([12] * 40, 16, seed, spread=spread)[0], 30)
    for name in NAMES:
        true = np.std(levels[name], ddof=1)
        assert root_mean_square(errors[name]) / true == pytest.approx(
            1, abs=4 * spread_error(count)
        ), name
        assert root_mean_square(single[name]) < 0.9 * root_mean_square(errors[name]), name


@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize(("n", "m"), [(40, 5), (100, 64), (300, 64)])
def test_gaussian_rows_have_the_mean_and_spread_of_the_closed_form(n, m, center):
    """log det of a Wishart matrix is a sum of independent log χ², n − 1 rows when centred."""
    count = 100
    levels, errors = draws(lambda seed: gaussian(n, m, seed + 9), count, center=center, ridge=1e-9)
    rows = n - center
    degrees = (rows - np.arange(m)) / 2
    bias = (digamma(degrees) + math.log(2 / n)).sum()
    true = math.sqrt(polygamma(1, degrees).sum())
    levels = np.array(levels["log_det"])
    assert abs(levels.mean() - bias) < 4 * true / math.sqrt(count)
    assert np.std(levels, ddof=1) == pytest.approx(true, rel=4 * spread_error(count), abs=0)
    # A leverage is Beta, so the jackknife has a closed form of its own, to 1/n: the variance of
    # log(1 − h), n − 1 times. By Efron and Stein it is never below the truth on the average.
    jackknife = math.sqrt((n - 1) * (polygamma(1, (rows - m) / 2) - polygamma(1, rows / 2)))
    found = np.array(errors["log_det"])
    uncertainty = np.std(found**2, ddof=1) / math.sqrt(count) / np.mean(found**2) / 2
    assert root_mean_square(found) == pytest.approx(jackknife, rel=4 * uncertainty + 1 / n, abs=0)
    assert root_mean_square(found) > true * (1 - 4 * uncertainty - 1 / n)


def test_paired_jackknife_is_the_spread_of_the_drift_and_far_narrower_than_unpaired():
    """The same rows before and after a small change of the model."""
    count, n, m = 120, 256, 32
    change = torch.eye(m, dtype=torch.float64) + 0.02 * gaussian(m, m, seed=3)
    drifts, paired, unpaired = ({name: [] for name in NAMES} for _ in range(3))
    for seed in range(count):
        rows = topic_rows(n, m, seed)
        noise = 0.02 * gaussian(n, m, seed + 5000)
        before, after = (
            spectral_summary(x, center=True) for x in (rows, torch.tanh(rows @ change / 4) + noise)
        )
        drifts["log_det"].append(after.log_det.value - before.log_det.value)
        drifts["log_effective_rank"].append(
            math.log(after.effective_rank.value / before.effective_rank.value)
        )
        for name in NAMES:
            one, other = (getattr(s.leave_one_out, name) for s in (before, after))
            paired[name].append(paired_standard_error(one, other))
            unpaired[name].append(
                math.hypot(jackknife_standard_error(one), jackknife_standard_error(other))
            )
    for name in NAMES:
        true = np.std(drifts[name], ddof=1)
        ratio = root_mean_square(paired[name]) / true
        assert ratio == pytest.approx(1, abs=4 * spread_error(count)), name
        assert root_mean_square(unpaired[name]) > 5 * true, name


@pytest.mark.parametrize("confidence", [0.8, 0.95])
@pytest.mark.parametrize("grouped", [False, True])
def test_the_interval_of_log_det_covers_where_the_bias_is_negligible(confidence, grouped):
    """At 3 features and 300 examples the bias −½(σ² + m² − m)/n is 0.14 standard errors."""
    count, n, m = 400, 300, 3
    covered = 0
    scale = torch.tensor([1.0, 0.5, 0.25], dtype=torch.float64)
    true = torch.log(scale**2 + 1e-3 * scale.square().mean()).sum().item()
    for seed in range(count):
        rows, groups = gaussian(n, m, seed) * scale, None
        if grouped:  # two rows an example, the second one a copy turned in sign
            rows, groups = torch.stack([rows, -rows], 1).flatten(0, 1), torch.arange(n * 2) // 2
        interval = spectral_summary(rows, groups=groups, confidence=confidence).log_det
        covered += interval.low <= true <= interval.high
    # Binomial; a bias of 0.14 standard errors costs less than 0.005.
    allowed = 4 * math.sqrt(confidence * (1 - confidence) / count) + 0.005
    assert covered / count == pytest.approx(confidence, abs=allowed)
