"""`spectral_summary` against closed forms, and against a naive version on random rows."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from scipy.stats import t as student_t

from sigma_monitor.estimate import Estimate
from sigma_monitor.spectrum import Gram, spectral_summary, summarize
from sigma_monitor.spectrum.summary import FUNCTIONALS
from tests.spectrum import naive
from tests.spectrum.matrices import (
    EPS,
    eigenvalue_error,
    gaussian,
    is_unbounded,
    rounding,
    rows_with,
    sign_rows,
    token_rows,
)

DTYPES = [torch.bfloat16, torch.float16, torch.float32, torch.float64]
SAMPLED = ("log_det", "log_det_per_dim", "coding_rate", "effective_rank")
OF_SPECTRUM = [name for name in FUNCTIONALS if name != "mean_cosine"]
ORDERS = [0.5, 1, 2, 3.5, math.inf]

conventions = pytest.mark.parametrize(
    ("center", "normalize"), [(False, False), (False, True), (True, False), (True, True)]
)


def values_of(summary):
    return {name: getattr(summary, name).value for name in FUNCTIONALS}


def padded(values, m):
    return np.concatenate([values, np.zeros(m - len(values))])


def assert_matches_spectrum(summary, eigenvalues, error):
    """Every functional equals its definition on these m eigenvalues, each good to `error`."""
    for name in OF_SPECTRUM:
        expected = naive.of_spectrum(eigenvalues, summary.ridge)[name]
        allowed = rounding(
            lambda v, name=name: naive.of_spectrum(v, summary.ridge)[name], eigenvalues, error
        )
        # λ_min = 0 is a decision about rounding: within it of zero, or of what was prescribed.
        allowed = max(allowed, error)
        found = getattr(summary, name).value
        assert found == pytest.approx(expected, rel=0, abs=allowed), name
    for q in ORDERS:
        expected = naive.renyi_rank(eigenvalues, q)
        allowed = rounding(lambda v, q=q: naive.renyi_rank(v, q), eigenvalues, error)
        assert summary.renyi_rank(q).value == pytest.approx(expected, rel=0, abs=allowed), q


SPECTRA = {
    "one direction": [3.0],
    "even": [2.0, 2.0, 2.0, 2.0],
    "repeated": [2.0, 2.0, 0.5, 0.5],
    "distinct": [4.0, 3.0, 2.0, 1.0],
    "steep": [1.0, 1e-2, 1e-4, 1e-6],  # eigenvalues down to 1e-12 of the largest
}


@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize(("n", "m"), [(5, 12), (7, 7), (30, 6)])
@pytest.mark.parametrize("singular_values", SPECTRA.values(), ids=SPECTRA.keys())
@pytest.mark.parametrize("ridge", [{"ridge": 0.01}, {"relative_ridge": 0.01}, {}])
def test_functionals_of_rows_with_prescribed_singular_values(singular_values, n, m, center, ridge):
    rows = rows_with(singular_values, n, m, seed=3, centred=center)
    eigenvalues = padded(np.square(singular_values) / n, m)
    summary = spectral_summary(rows, center=center, **ridge)
    expected_ridge = ridge.get("ridge", ridge.get("relative_ridge", 1e-3) * eigenvalues.mean())
    assert summary.ridge == pytest.approx(expected_ridge, rel=(n + m) * EPS, abs=0)
    assert len(summary.eigenvalues) == len(singular_values)
    error = eigenvalue_error(n, m) * eigenvalues.sum()
    assert_matches_spectrum(summary, eigenvalues, error)


def test_a_flat_spectrum_in_numbers():
    summary = spectral_summary(sign_rows([2.0, 2.0, 2.0], 8), ridge=1.0)
    # C = 4·I exactly, so every number is good to a few eps.
    by_hand = {
        "log_det": 3 * math.log(5),
        "log_det_per_dim": math.log(5),
        "coding_rate": 1.5 * math.log(5),
        "effective_rank": 3,
        "spectral_entropy": math.log(3),
        "participation_ratio": 3,
        "stable_rank": 3,
        "condition_number": 1,
        "lambda_max": 4,
        "lambda_min": 4,
        "trace": 12,
        "decay_exponent": 0,
        "mean_cosine": -1 / 7,  # rows sum to zero: −n / (n(n−1))
    }
    assert values_of(summary) == pytest.approx(by_hand, rel=16 * EPS, abs=16 * EPS)


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize(("n", "m"), [(4, 4), (4, 9)])
def test_orthonormal_rows_fill_every_direction_they_can(n, m, normalize):
    rows = rows_with(np.ones(n), n, m)
    summary = spectral_summary(rows, normalize=normalize)
    error = eigenvalue_error(n, m)
    assert_matches_spectrum(summary, padded(np.full(n, 1 / n), m), error)
    assert summary.mean_cosine.value == pytest.approx(0, abs=n * error)


@pytest.mark.parametrize("m", [1, 2, 5])
def test_a_single_row_has_rank_one(m):
    row = gaussian(1, m)
    summary = spectral_summary(row)
    energy = row.square().sum().item()
    assert_matches_spectrum(summary, padded([energy], m), eigenvalue_error(1, m) * energy)
    assert summary.mean_cosine.value == 1.0


@pytest.mark.parametrize("center", [False, True])
def test_a_single_feature_has_rank_one(center):
    rows = gaussian(9, 1)
    summary = spectral_summary(rows, center=center)
    energy = (rows**2).mean().item() - (rows.mean().item() ** 2 if center else 0)
    assert_matches_spectrum(summary, np.array([energy]), eigenvalue_error(9, 1) * energy)


@pytest.mark.parametrize("center", [False, True])
def test_a_duplicated_row_adds_no_direction(center):
    rows = torch.cat([gaussian(4, 8), gaussian(4, 8)[:1]])
    summary = spectral_summary(rows, center=center)
    assert len(summary.eigenvalues) == (3 if center else 4)
    expected = naive.eigenvalues(rows, center=center)
    assert_matches_spectrum(summary, expected, eigenvalue_error(5, 8) * expected.sum())


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("zeros", [1, 7])
def test_zero_rows_only_dilute_the_uncentred_spectrum(zeros, normalize):
    rows = gaussian(6, 4)
    with_zeros = torch.cat([rows, torch.zeros(zeros, 4)])
    summary = spectral_summary(with_zeros, normalize=normalize)
    diluted = naive.eigenvalues(rows, normalize=normalize) * 6 / (6 + zeros)
    assert_matches_spectrum(summary, diluted, eigenvalue_error(6 + zeros, 4) * diluted.sum())
    assert summary.mean_cosine.value == pytest.approx(naive.mean_cosine(rows), abs=16 * EPS)


def test_a_zero_row_is_still_a_row_when_centring():
    rows = torch.cat([gaussian(6, 4) + 2, torch.zeros(1, 4)])
    summary = spectral_summary(rows, center=True, normalize=True)
    expected = naive.eigenvalues(rows, center=True, normalize=True)
    assert_matches_spectrum(summary, expected, eigenvalue_error(7, 4) * expected.sum())


@conventions
@pytest.mark.parametrize(("n", "m"), [(2, 3), (5, 13), (8, 8), (9, 8), (60, 5)])
def test_random_rows_agree_with_the_naive_version(n, m, center, normalize):
    rows = gaussian(n, m, seed=n) + 0.7 * gaussian(1, m, seed=m)
    rows = rows * torch.linspace(0.3, 3, n, dtype=torch.float64)[:, None]
    summary = spectral_summary(rows, center=center, normalize=normalize)
    eigenvalues = naive.eigenvalues(rows, center=center, normalize=normalize)
    uncentred = naive.eigenvalues(rows, normalize=normalize).sum()  # centring rounds at that scale
    error = eigenvalue_error(n, m) * uncentred
    assert_matches_spectrum(summary, eigenvalues, error)
    # By LU of C + εI and over all pairs, not from eigenvalues: another route to the same numbers.
    direct = naive.summary(rows, center=center, normalize=normalize, ridge=summary.ridge)
    for name in ("log_det", "log_det_per_dim"):
        assert getattr(summary, name).value == pytest.approx(
            direct[name], abs=m * error / summary.ridge
        )
    assert summary.mean_cosine.value == pytest.approx(direct["mean_cosine"], abs=4 * n * EPS)


@pytest.mark.parametrize(("n", "m"), [(3, 8), (1, 5)])
def test_dual_identity_when_there_are_fewer_rows_than_features(n, m):
    """log det(G + δI) = (m − n) log δ + log det(K + δI)."""
    rows = gaussian(n, m)
    delta = 0.05
    summary = spectral_summary(rows, ridge=delta / n)
    kernel = rows @ rows.T + delta * torch.eye(n, dtype=torch.float64)
    dual = (m - n) * math.log(delta) + torch.logdet(kernel).item()
    error = m * eigenvalue_error(n, m) * rows.square().sum().item() / delta
    assert summary.log_det.value + m * math.log(n) == pytest.approx(dual, abs=error)


@conventions
def test_gram_and_kernel_side_agree(center, normalize):
    # Every row twice leaves C as it is and turns 5 x 8, kernel side, into 10 x 8, Gram side.
    rows = gaussian(5, 8) + 1
    kernel_side = spectral_summary(rows, center=center, normalize=normalize)
    twice = torch.cat([rows, rows])
    gram_side = spectral_summary(twice, center=center, normalize=normalize)
    eigenvalues = naive.eigenvalues(rows, center=center, normalize=normalize)
    error = eigenvalue_error(10, 8) * naive.eigenvalues(rows, normalize=normalize).sum()
    assert gram_side.ridge == pytest.approx(kernel_side.ridge, rel=32 * EPS, abs=0)
    for summary in (kernel_side, gram_side):
        assert_matches_spectrum(summary, eigenvalues, error)


def test_zero_features_change_only_what_counts_features():
    rows = gaussian(6, 4)  # Gram side; with eight features more, kernel side
    narrow = spectral_summary(rows, ridge=0.1)
    wide = spectral_summary(torch.cat([rows, torch.zeros(6, 8)], dim=1), ridge=0.1)
    error = eigenvalue_error(6, 12) * narrow.trace.value
    tolerance = 12 * error / narrow.lambda_min.value  # relative, in the least certain direction
    expected = values_of(narrow)
    expected["log_det"] += 8 * math.log(0.1)
    expected["log_det_per_dim"] = expected["log_det"] / 12
    expected["lambda_min"] = 0.0
    assert values_of(wide) == pytest.approx(expected, rel=tolerance, abs=tolerance)


@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_exact_rows_have_the_same_spectrum_in_every_dtype(dtype, center):
    summary = spectral_summary(sign_rows([4.0, 2.0, 2.0, 0.5], 16).to(dtype), center=center)
    eigenvalues = np.array([16.0, 4.0, 4.0, 0.25])
    assert_matches_spectrum(summary, eigenvalues, eigenvalue_error(16, 4) * 16)


@conventions
@pytest.mark.parametrize(("n", "m"), [(5, 12), (40, 6)])
@pytest.mark.parametrize("dtype", DTYPES[:3])
def test_a_narrow_dtype_is_read_exactly(dtype, n, m, center, normalize):
    rows = (gaussian(n, m) + 0.5).to(dtype)
    narrow = spectral_summary(rows, center=center, normalize=normalize)
    wide = spectral_summary(rows.double(), center=center, normalize=normalize)
    assert values_of(narrow) == values_of(wide)


@pytest.mark.parametrize(("n", "m"), [(256, 32), (32, 256), (40, 40), (20_000, 64)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_directions_made_by_storage_rounding_do_not_set_the_condition_number(dtype, n, m):
    rows = rows_with([8.0, 4.0, 2.0, 1.0], n, m).to(dtype)
    summary = spectral_summary(rows)
    if dtype.itemsize == 2:
        assert len(summary.eigenvalues) > 4  # the rounding is there
    # Rounding to storage moves a singular value by less than its eps of the largest, 8 of the
    # smallest; the square of that, and of the largest itself.
    moved = 2 * (8 + 1) * torch.finfo(dtype).eps
    tolerance = moved + 64 * eigenvalue_error(n, m) * 85
    assert summary.condition_number.value == pytest.approx(64, rel=tolerance, abs=0)


@pytest.mark.parametrize("layout", ["transposed", "strided", "expanded", "parameter"])
def test_any_memory_layout_is_read(layout):
    rows = gaussian(7, 4)
    views = {
        "transposed": rows.T.contiguous().T,
        "strided": torch.stack([rows, rows], dim=2)[..., 0],
        "expanded": rows[None].expand(3, 7, 4)[1],
        "parameter": torch.nn.Parameter(rows),
    }
    found = values_of(spectral_summary(views[layout]))
    # BLAS may sum strided rows in another order.
    tolerance = 4 * eigenvalue_error(7, 4) * rows.square().sum().item()
    assert found == pytest.approx(values_of(spectral_summary(rows)), rel=tolerance, abs=tolerance)


def test_default_ridge_is_a_thousandth_of_the_mean_eigenvalue():
    summary = spectral_summary(gaussian(20, 5))
    assert summary.ridge == pytest.approx(1e-3 * summary.trace.value / 5, rel=4 * EPS, abs=0)


def test_relative_ridge_follows_the_trace_of_the_chosen_convention():
    rows = gaussian(20, 5) + 100
    for center in (False, True):
        summary = spectral_summary(rows, center=center, relative_ridge=0.5)
        assert summary.ridge == pytest.approx(0.5 * summary.trace.value / 5, rel=4 * EPS, abs=0)


def test_the_record_of_what_was_done_is_in_the_summary():
    rows, groups = token_rows([2, 3, 1, 4], 3)
    summary = spectral_summary(
        rows, center=True, normalize=True, ridge=0.25, confidence=0.5, groups=groups
    )
    assert (summary.n, summary.m, summary.examples) == (10, 3, 4)
    assert (summary.center, summary.normalize) == (True, True)
    assert (summary.ridge, summary.confidence) == (0.25, 0.5)
    assert (summary.method, summary.matvecs, summary.device) == ("exact", 0, "cpu")
    assert summary.seconds > 0
    with pytest.raises(dataclasses.FrozenInstanceError):
        summary.ridge = 1.0


def test_without_groups_every_row_is_an_example():
    summary = spectral_summary(gaussian(10, 3))
    assert summary.examples == 10
    assert (summary.center, summary.normalize) == (False, False)


@pytest.mark.parametrize("center", [False, True])
def test_one_gram_serves_both_conventions(center):
    rows = gaussian(10, 3) + 1
    gram = Gram.from_embeddings(rows, normalize=True)
    found = summarize(gram, center=center)
    expected = spectral_summary(rows, center=center, normalize=True)
    assert values_of(found) == values_of(expected)
    assert found.normalize


def test_auto_is_exact():
    rows = gaussian(10, 3)
    auto, exact = (spectral_summary(rows, method=method) for method in ("auto", "exact"))
    assert auto.method == "exact"
    assert values_of(auto) == values_of(exact)


def test_kinds_of_the_intervals():
    summary = spectral_summary(gaussian(30, 4), center=True)
    for name in FUNCTIONALS:
        estimate = getattr(summary, name)
        if name in SAMPLED:
            assert estimate.kind == "sampling", name
            assert estimate.low < estimate.value < estimate.high, name
        else:
            assert estimate == Estimate.exact(estimate.value), name
    assert summary.renyi_rank(3).kind == "exact"


def test_an_estimate_is_its_value():
    estimate = Estimate(2.0, 1.0, 3.0, "sampling")
    assert float(estimate) == 2.0
    assert Estimate.exact(2.0) == Estimate(2.0, 2.0, 2.0, "exact")
    with pytest.raises(dataclasses.FrozenInstanceError):
        estimate.value = 1.0


@pytest.mark.parametrize("rows", [1, 2])
def test_fewer_than_three_rows_have_unbounded_intervals(rows):
    summary = spectral_summary(gaussian(rows, 4))
    assert summary.leave_one_out is None
    for name in SAMPLED:
        assert is_unbounded(getattr(summary, name)), name
        assert getattr(summary, name).kind == "sampling"


def test_many_rows_of_two_examples_have_unbounded_intervals():
    rows, groups = token_rows([20, 30], 4)
    summary = spectral_summary(rows, groups=groups)
    assert summary.examples == 2
    assert all(is_unbounded(getattr(summary, name)) for name in SAMPLED)


def test_three_rows_are_enough_for_an_interval():
    summary = spectral_summary(gaussian(3, 4))
    assert not any(is_unbounded(getattr(summary, name)) for name in SAMPLED)


@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.999])
def test_confidence_is_that_of_student_t_over_the_examples(confidence):
    rows, groups = token_rows([3, 1, 4, 1, 5, 2], 3)
    summary = spectral_summary(rows, groups=groups, confidence=confidence)
    deleted = summary.leave_one_out.log_det
    standard_error = math.sqrt(5 / 6 * ((deleted - deleted.mean()) ** 2).sum())
    half = student_t.ppf((1 + confidence) / 2, 5) * standard_error
    # Differences of leave-one-out values, good to a few eps of the value.
    tolerance = 64 * EPS * abs(summary.log_det.value)
    assert summary.log_det.high - summary.log_det.value == pytest.approx(half, abs=tolerance)
    assert summary.log_det.value - summary.log_det.low == pytest.approx(half, abs=tolerance)


def test_the_interval_per_dimension_is_that_of_log_det_divided():
    summary = spectral_summary(gaussian(12, 5))
    for end in ("value", "low", "high"):
        expected = getattr(summary.log_det, end) / 5
        assert getattr(summary.log_det_per_dim, end) == pytest.approx(expected, rel=64 * EPS, abs=0)


def test_the_interval_of_the_coding_rate_is_half_that_of_log_det_at_a_fixed_ridge():
    summary = spectral_summary(gaussian(12, 5), ridge=0.1)
    for end in ("value", "low", "high"):
        expected = (getattr(summary.log_det, end) - 5 * math.log(0.1)) / 2
        assert getattr(summary.coding_rate, end) == pytest.approx(expected, rel=64 * EPS, abs=0)


def test_the_interval_of_the_coding_rate_follows_a_relative_ridge():
    # The rate at a relative ridge does not depend on scale; log det moves with it.
    rows = gaussian(40, 4) * torch.exp(gaussian(40, 1, seed=7))
    summary = spectral_summary(rows)
    deleted = summary.leave_one_out
    rates = [spectral_summary(torch.from_numpy(rest)) for rest in naive.deletions(rows)]
    expected = [rate.coding_rate.value for rate in rates]
    found = (deleted.log_det - 4 * deleted.log_ridge) / 2
    # 1 − h is rounded to eps, and h is up to 1 − ε/λ₁.
    tolerance = 64 * EPS * summary.lambda_max.value / summary.ridge
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)
    half = student_t.ppf(0.975, 39) * math.sqrt(39 * np.var(expected))
    width = summary.coding_rate.high - summary.coding_rate.low
    assert width == pytest.approx(2 * half, abs=40 * tolerance)


def test_the_interval_of_a_rank_is_symmetric_on_the_log_scale():
    rank = spectral_summary(gaussian(6, 4)).effective_rank
    assert rank.low > 0
    assert rank.high / rank.value == pytest.approx(rank.value / rank.low, rel=64 * EPS, abs=0)
