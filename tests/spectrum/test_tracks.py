"""The two tracks in closed form, against a naive recomputation, and what Theorem 3 is worth."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from sigma_monitor.spectrum import spectral_summary
from sigma_monitor.spectrum.corrections import gaussian_bias
from sigma_monitor.spectrum.tracks import PAPER_SETTINGS, TrackDrift, sigma_tracks
from tests.spectrum.matrices import EPS, gaussian, generator, orthonormal, rows_with, sign_rows
from tests.spectrum.test_bad_input import BAD_EMBEDDINGS, refused

LARGE = 1e6  # a ρ above every row: what is tested does not depend on it


def naive(rows, n_total, delta, rho):
    """Both log dets of the m x m matrix by LU, the variance by an inverse."""
    x = rows.double().numpy()
    n, m = x.shape
    beta = (n_total - n) * rho
    gram = x.T @ x
    log_det = np.linalg.slogdet(gram + delta * np.eye(m))[1]
    lifted = np.linalg.slogdet(gram + (beta + delta) * np.eye(m))[1]
    forms = [n * row @ np.linalg.inv(gram + delta * np.eye(m)) @ row for row in x]
    return {
        "log_det": log_det,
        "track_one": lifted - m * math.log(beta + delta),
        "track_two": log_det - m * math.log(n),
        "fixed_m_variance": np.var(forms, ddof=1) if n > 1 else 0.0,
    }


def unit(rows):
    return rows / torch.linalg.vector_norm(rows, dim=1, keepdim=True)


# --- closed forms --------------------------------------------------------------------------------


def test_orthonormal_rows():
    """Five rows of seven features, five more unobserved: G_A has five ones and two zeros."""
    tracks = sigma_tracks(orthonormal(7, 5).T, 10, delta=0.5, rho=1.0)
    assert tracks.log_det == pytest.approx(5 * math.log(1.5) + 2 * math.log(0.5), rel=64 * EPS)
    assert tracks.track_one == pytest.approx(5 * math.log1p(1 / 5.5), rel=64 * EPS)
    assert tracks.track_two == pytest.approx(tracks.log_det - 7 * math.log(5), rel=64 * EPS)


@pytest.mark.parametrize(("n", "m"), [(12, 5), (5, 12)])
def test_equal_rows(n, m):
    """n copies of a unit row: one eigenvalue n, the others zero."""
    rows = unit(gaussian(1, m)).expand(n, m)
    tracks = sigma_tracks(rows, n + 3, delta=1e-3)
    # A zero eigenvalue of G is known to a few eps of its trace, and stands beside delta.
    allowed = 8 * m * n * EPS / 1e-3
    assert tracks.log_det == pytest.approx(
        math.log(n + 1e-3) + (m - 1) * math.log(1e-3), abs=allowed
    )
    assert tracks.track_one == pytest.approx(math.log1p(n / 3.001), abs=allowed)


def test_known_singular_values():
    s = np.array([0.9, 0.5, 0.1])
    tracks = sigma_tracks(rows_with(s, 9, 3), 20, delta=0.01, rho=2.0)
    assert tracks.log_det == pytest.approx(np.log(s**2 + 0.01).sum(), rel=1e-12)
    assert tracks.track_one == pytest.approx(np.log1p(s**2 / 22.01).sum(), rel=1e-12)
    assert tracks.track_two == pytest.approx(np.log(s**2 + 0.01).sum() - 3 * math.log(9), rel=1e-12)


def test_zero_rows_have_a_regularised_log_det():
    tracks = sigma_tracks(torch.zeros(5, 3), 9)
    assert tracks.log_det == pytest.approx(3 * math.log(1e-3), rel=4 * EPS)
    assert tracks.track_one == tracks.fixed_m_variance == 0


def test_all_rows_observed_leave_no_beta():
    tracks = sigma_tracks(unit(gaussian(9, 4)), 9, delta=0.1)
    assert tracks.track_one == pytest.approx(tracks.log_det - 4 * math.log(0.1), rel=64 * EPS)


SHAPES = [(1, 1), (1, 5), (3, 8), (6, 6), (40, 7)]


@pytest.mark.parametrize(("n", "m"), SHAPES)
@pytest.mark.parametrize("extra", [0, 1, 100])
@pytest.mark.parametrize("delta", [1e-3, 1.0])
def test_tracks_are_their_definition_on_either_side(n, m, extra, delta):
    """For n < m the kernel matrix gives the log det of the m x m matrix: the dual identity."""
    rows = gaussian(n, m, seed=n + m)
    tracks = sigma_tracks(rows, n + extra, delta=delta, rho=40.0)
    allowed = m * (n + m) * EPS * float(rows.square().sum()) / delta
    for name, value in naive(rows, n + extra, delta, 40.0).items():
        assert getattr(tracks, name) == pytest.approx(value, rel=1e-12, abs=100 * allowed), name


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_storage_is_widened_before_anything_is_computed(dtype):
    rows = gaussian(30, 6).to(dtype)
    assert sigma_tracks(rows, 40, rho=99) == sigma_tracks(rows.double(), 40, rho=99)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert sigma_tracks(rows, 40, rho=99) == sigma_tracks(rows.double(), 40, rho=99)


@pytest.mark.parametrize(("n", "m"), [(30, 6), (6, 30)])
def test_track_one_is_twice_the_coding_rate(n, m):
    """At n_A ε = β + δ."""
    rows = unit(gaussian(n, m))
    tracks = sigma_tracks(rows, n + 12, delta=0.3)
    summary = spectral_summary(rows, ridge=12.3 / n)
    assert tracks.track_one == pytest.approx(2 * summary.coding_rate.value, rel=1e-12)


def test_track_one_is_a_weak_reading_of_the_participation_ratio():
    """x − x²/(2 PR), and 0.306 nats from one direction to an even spectrum, as at the paper's."""
    rows = unit(gaussian(500, 384) * torch.arange(1, 385) ** -0.7)
    tracks = sigma_tracks(rows, 1000)
    x = 500 / 500.001
    ratio = spectral_summary(rows).participation_ratio.value
    third_order = (500 * spectral_summary(rows).lambda_max.value / 500.001) ** 3 * ratio / 3
    assert tracks.track_one == pytest.approx(x - x**2 / (2 * ratio), abs=third_order)
    assert abs(tracks.track_one - (x - x**2 / (2 * ratio))) < 0.01
    one = sigma_tracks(unit(gaussian(1, 384)).expand(500, 384), 1000).track_one
    even = 384 * math.log1p(500 / 384 / 500.001)
    assert even - one == pytest.approx(0.306, abs=5e-4)
    assert one < tracks.track_one < even


def test_published_settings():
    assert PAPER_SETTINGS == {"delta": 1e-3, "rho": 1.0, "normalize": True}
    rows = gaussian(30, 6)
    published = sigma_tracks(rows, 60, **PAPER_SETTINGS)
    by_hand = sigma_tracks(unit(rows), 60, delta=1e-3, rho=1.0)
    assert published.normalize
    for name in ("log_det", "track_one", "track_two", "fixed_m_variance"):
        assert getattr(published, name) == pytest.approx(getattr(by_hand, name), rel=1e-11), name


# --- drift ---------------------------------------------------------------------------------------


def test_drift_is_the_change_of_both_tracks_and_negative_on_collapse():
    rows = unit(gaussian(60, 5))
    baseline = sigma_tracks(rows, 100)
    collapsed = sigma_tracks(unit(rows * torch.tensor([1, 1, 0.1, 0.1, 0.1])), 100)
    drift = collapsed.drift(baseline)
    assert drift == TrackDrift(
        collapsed.track_one - baseline.track_one, collapsed.track_two - baseline.track_two
    )
    assert drift.track_two < -5
    assert drift.track_one < 0
    assert baseline.drift(baseline) == (0, 0)


@pytest.mark.parametrize(
    ("name", "value"),
    [("n_observed", 59), ("n_total", 99), ("m", 4), ("delta", 1e-2), ("rho", 2), ("normalize", 1)],
)
def test_drift_between_unlike_settings_is_refused(name, value):
    tracks = sigma_tracks(unit(gaussian(60, 5)), 100)
    with refused(name, str(value), str(getattr(tracks, name)), "same rows and settings"):
        dataclasses.replace(tracks, **{name: value}).drift(tracks)


def test_drift_of_gaussian_self_consumption_end_to_end():
    """Refit to n samples of itself, C loses `gaussian_bias` nats in each generation."""
    n, m, generations, chains = 60, 3, 8, 100
    drifts = []
    for seed in range(chains):
        source, factor = generator(seed), torch.eye(m, dtype=torch.float64)
        tracks = []
        for _ in range(generations + 1):
            rows = torch.randn(n, m, generator=source, dtype=torch.float64) @ factor.T
            tracks.append(sigma_tracks(rows, n, delta=1e-9, rho=LARGE))
            factor = torch.linalg.cholesky(rows.T @ rows / n)
        drifts.append([t.drift(tracks[0]).track_two for t in tracks])
    drifts = np.array(drifts)
    expected = np.arange(generations + 1) * gaussian_bias(n, m)
    error = drifts.std(0, ddof=1) / math.sqrt(chains)
    assert (np.abs(drifts.mean(0) - expected) <= 4 * error).all()
    assert expected[-1] < -8 * error[-1]


# --- Theorem 3 -----------------------------------------------------------------------------------


def coverage(n_a, n, m, count):
    """Share of nominal 95 % intervals that hold the track of all n Gaussian rows; its error."""
    covered = 0
    for seed in range(count):
        rows = gaussian(n, m, seed)
        interval = sigma_tracks(rows[:n_a], n, rho=LARGE).interval()
        covered += interval.low <= sigma_tracks(rows, n, rho=LARGE).track_two <= interval.high
    return covered / count, math.sqrt(0.95 * 0.05 / count)


@pytest.mark.parametrize("n", [400, 4000])
def test_the_interval_covers_at_four_features(n):
    share, error = coverage(200, n, 4, 200)
    assert share == pytest.approx(0.95, abs=4 * error)


def test_the_interval_is_the_theorem():
    rows = gaussian(200, 4)
    tracks = sigma_tracks(rows, 500, rho=LARGE)
    found = tracks.interval(0.9)
    half = 1.6448536 * math.sqrt(tracks.fixed_m_variance * (1 / 200 - 1 / 500))
    assert found.kind == "sampling"
    assert found.value == tracks.track_two
    assert (found.low, found.high) == pytest.approx(
        (found.value - half, found.value + half), rel=1e-7
    )
    # σ² = Var(χ²_m) = 2m for Gaussian rows; its own standard error is σ² sqrt((2 + 12/m)/n).
    assert tracks.fixed_m_variance == pytest.approx(8, abs=4 * 8 * math.sqrt(5 / 200))


def test_the_interval_of_all_rows_is_a_point():
    found = sigma_tracks(gaussian(300, 4), 300, rho=LARGE).interval()
    assert found.low == found.value == found.high


def test_the_interval_is_refused_above_one_feature_in_fifty_rows():
    sigma_tracks(gaussian(200, 4), 210, rho=LARGE).interval()
    with refused("m=4", "n_A=199", "m/n_A=0.0201", "bias", "subset_bounds", "drift"):
        sigma_tracks(gaussian(199, 4), 210, rho=LARGE).interval()


def test_the_interval_is_refused_where_the_bias_decides_it():
    """m/n_A = 0.02 is not enough: bias over error grows as m there, and is three at m = 64."""
    tracks = sigma_tracks(gaussian(3200, 64), 10**9, rho=LARGE)
    with refused("m=64", "m/n_A=0.02", "bias of about -0.649", "standard error of 0.197"):
        tracks.interval()
    # Rows of equal leverage have no first-order spread at all, only the bias.
    with refused("bias of about -0.00172", "e-17, so its"):
        sigma_tracks(sign_rows([1, 1, 1], 256), 300, rho=LARGE).interval()


def test_the_bias_is_the_one_that_is_stated():
    """−½(σ² + m² − m)(1/n_A − 1/n), σ² = 2m: the exact Gaussian one to the next order."""
    stated = -(2 * 64 + 64**2 - 64) / 2 * (1 / 3200 - 1 / 6400)
    assert gaussian_bias(3200, 64) - gaussian_bias(6400, 64) == pytest.approx(stated, rel=0.02)


# --- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("embeddings", "words"), BAD_EMBEDDINGS.values(), ids=BAD_EMBEDDINGS.keys()
)
def test_bad_rows_are_refused(embeddings, words):
    with refused(*words):
        sigma_tracks(embeddings, 10)


@pytest.mark.parametrize("n_total", [4, 0, -1, 5.5, math.nan, math.inf])
def test_fewer_rows_in_all_than_observed_are_refused(n_total):
    with refused("n_total=", "5 observed", "at least 5"):
        sigma_tracks(unit(gaussian(5, 3)), n_total)


@pytest.mark.parametrize("name", ["delta", "rho"])
@pytest.mark.parametrize("value", [0, 0.0, -1e-3, math.nan, math.inf])
def test_a_ridge_or_norm_that_is_not_positive_is_refused(name, value):
    with refused(name, "positive and finite"):
        sigma_tracks(unit(gaussian(5, 3)), 9, **{name: value})


def test_rows_longer_than_rho_are_refused():
    rows = unit(gaussian(5, 3))
    with refused("squared norm 4", "rho=1.0", "unit length", "largest squared norm"):
        sigma_tracks(2 * rows, 9)
    sigma_tracks(2 * rows, 9, normalize=True)
    sigma_tracks(2 * rows, 9, rho=4.0)
    sigma_tracks(unit(rows.bfloat16()), 9)
    with refused("squared norm"):
        sigma_tracks(rows * (1 + 1e-6), 9)


def test_a_ridge_within_rounding_is_refused():
    """At the least ridge taken, even one direction and its rounding can be factorised."""
    rows = unit(gaussian(1, 40)).expand(10_000, 40)
    with refused("delta=1e-11", "rounding", "larger delta"):
        sigma_tracks(rows, 20_000, delta=1e-11)
    assert math.isfinite(sigma_tracks(rows, 20_000, delta=1e-8).log_det)


@pytest.mark.parametrize("confidence", [0, 1, -0.5, 95, math.nan])
def test_a_confidence_outside_zero_and_one_is_refused(confidence):
    with refused("confidence=", "between 0 and 1"):
        sigma_tracks(gaussian(300, 4), 400, rho=LARGE).interval(confidence)
