"""The closed-form jackknife against recomputation without each example."""

import math

import numpy as np
import pytest
import torch

from sigma_monitor.spectrum import spectral_summary, uncertainty
from sigma_monitor.spectrum.gram import Gram
from sigma_monitor.spectrum.uncertainty import (
    half_width,
    jackknife_standard_error,
    paired_standard_error,
)
from tests.spectrum import naive
from tests.spectrum.matrices import EPS, SQRT_EPS, gaussian, generator, rows_with, token_rows

conventions = pytest.mark.parametrize(
    ("center", "normalize"), [(False, False), (False, True), (True, False), (True, True)]
)
ridges = pytest.mark.parametrize("ridge", [{"ridge": 0.02}, {"relative_ridge": 0.01}])
shapes = pytest.mark.parametrize(("n", "m"), [(5, 12), (8, 8), (9, 8), (40, 6)])

# Of the Stieltjes integrals, as uncertainty.py states it: trapezoid step, and ends cut off.
QUADRATURE_ERROR = math.exp(-2 * math.pi**2 / 0.75) + math.exp(-50 / 2)


def rows_of(n, m, seed=0):
    """Rows of unequal length about a mean, so that every convention has something to do."""
    scale = torch.exp(0.5 * gaussian(n, 1, seed + 1))
    return gaussian(n, m, seed) * scale + 0.5


def log_det_error(rows, summary):
    """Each of d factors 1 − h is rounded to d·eps, and can be as small as ε/(λ₁ + ε)."""
    n, m = rows.shape
    d = min(n, m)
    lambda_max = rows.double().square().sum().item() / n  # before centring, which rounds there
    return 16 * d**2 * EPS * (1 + lambda_max / summary.ridge)


def entropy_error(rows, vanishing):
    """The quadrature's own error, and a root for every direction that a deletion ends.

    The eigenvalue of such a direction is a difference that leaves eps·λ in place of zero, so its
    share s is about sqrt(eps), and the entropy is off by −s log s + s.
    """
    own = 8 * min(rows.shape) * QUADRATURE_ERROR
    return own + vanishing * SQRT_EPS * (1 - math.log(SQRT_EPS))


def assert_deletions_match(rows, summary, expected, *, rank=True):
    found = summary.leave_one_out
    allowed = log_det_error(rows, summary)
    np.testing.assert_allclose(found.log_ridge, expected["log_ridge"], rtol=0, atol=allowed)
    np.testing.assert_allclose(found.log_det, expected["log_det"], rtol=0, atol=allowed)
    if rank:
        np.testing.assert_allclose(
            found.log_effective_rank,
            expected["log_effective_rank"],
            rtol=0,
            atol=entropy_error(rows, len(summary.eigenvalues) - min(expected["directions"])),
        )


@conventions
@ridges
@shapes
def test_single_rows_are_deleted_exactly(n, m, ridge, center, normalize):
    rows = rows_of(n, m)
    summary = spectral_summary(rows, center=center, normalize=normalize, **ridge)
    expected = naive.leave_one_out(rows, center=center, normalize=normalize, **ridge)
    assert_deletions_match(rows, summary, expected)


EDGES = {
    "a duplicated row": torch.cat([gaussian(6, 4), gaussian(6, 4)[:1]]),
    "a zero row": torch.cat([gaussian(6, 4), torch.zeros(1, 4, dtype=torch.float64)]),
    "orthonormal rows": rows_with([1.0] * 5, 5, 7),
    "the only row of a direction": torch.block_diag(gaussian(6, 3), torch.ones(1, 1).double()),
    "three rows": gaussian(3, 5),
    "one feature": gaussian(6, 1) + 2,
    "rank one": gaussian(7, 1) @ gaussian(1, 4, seed=1),
    "low rank": rows_with([3.0, 2.0], 12, 6),
    "steep": rows_with([1.0, 1e-2, 1e-4], 12, 6),
}


@pytest.mark.parametrize("center", [False, True])
@ridges
@pytest.mark.parametrize("rows", EDGES.values(), ids=EDGES.keys())
def test_edge_cases_are_deleted_exactly(rows, ridge, center):
    summary = spectral_summary(rows, center=center, **ridge)
    expected = naive.leave_one_out(rows, center=center, **ridge)
    assert_deletions_match(rows, summary, expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_rows_of_a_narrow_dtype_are_deleted_exactly(dtype):
    rows = rows_of(12, 5).to(dtype)
    summary = spectral_summary(rows, center=True, normalize=True)
    expected = naive.leave_one_out(rows, center=True, normalize=True, relative_ridge=1e-3)
    assert_deletions_match(rows, summary, expected)


LENGTHS = {
    "fewer tokens than features": [2, 1, 3, 2],
    "ragged": [1, 4, 2, 9, 1, 5],
    "longer than the features": [12, 15, 3, 30],
    "one has nearly all": [1, 40, 1, 2],
}


@conventions
@ridges
@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS.keys())
def test_log_det_of_whole_examples_is_deleted_exactly(lengths, ridge, center, normalize):
    rows, groups = token_rows(lengths, 7)
    rows = rows + 0.5
    summary = spectral_summary(rows, center=center, normalize=normalize, groups=groups, **ridge)
    expected = naive.leave_one_out(rows, groups, center=center, normalize=normalize, **ridge)
    assert_deletions_match(rows, summary, expected, rank=False)


@pytest.mark.parametrize("labels", [[0, 1, 2, 3, 4], [-7, 0, 1, 50, 51]])
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.int8])
def test_one_row_per_example_is_the_same_as_no_groups(labels, dtype):
    rows = gaussian(5, 3)
    without = spectral_summary(rows, center=True).leave_one_out
    grouped = spectral_summary(rows, center=True, groups=torch.tensor(labels, dtype=dtype))
    for name in ("log_det", "log_ridge", "log_effective_rank"):
        np.testing.assert_array_equal(getattr(grouped.leave_one_out, name), getattr(without, name))


@pytest.mark.parametrize("elements", [1, 50, 400])
def test_the_size_of_the_blocks_does_not_matter(monkeypatch, elements):
    rows, groups = token_rows([1, 4, 2, 9, 1, 5], 7)
    whole = spectral_summary(rows, center=True, groups=groups)
    monkeypatch.setattr(uncertainty, "_BLOCK_ELEMENTS", elements)
    parts = spectral_summary(rows, center=True, groups=groups)
    for name in ("log_det", "log_ridge", "log_effective_rank"):
        one, other = (getattr(summary.leave_one_out, name) for summary in (parts, whole))
        np.testing.assert_allclose(one, other, rtol=0, atol=log_det_error(rows, whole))


RAGGED = torch.repeat_interleave(torch.arange(7), torch.tensor([1, 4, 2, 40, 1, 5, 27]))
BLOCKS = {
    "single rows": (rows_of(80, 7), None),
    "single rows, fewer than features": (rows_of(20, 30), None),
    "examples of one length": (rows_of(80, 7), torch.arange(80) // 4),
    "examples longer than the features": (rows_of(80, 7), RAGGED),
    "examples shorter than the features": (rows_of(80, 90), RAGGED),
    "long examples of rank two": (rows_with([3.0, 2.0], 80, 7), RAGGED),
}


@conventions
@pytest.mark.parametrize("elements", [1, 2000, 8000])
@pytest.mark.parametrize(("rows", "groups"), BLOCKS.values(), ids=BLOCKS.keys())
def test_blocks_of_any_size_give_the_same_jackknife(
    monkeypatch, rows, groups, elements, center, normalize
):
    arguments = {"center": center, "normalize": normalize, "groups": groups}
    whole = spectral_summary(rows, **arguments)
    monkeypatch.setattr(uncertainty, "_BLOCK_ELEMENTS", elements)
    blocks = spectral_summary(rows, **arguments)
    allowed = {name: log_det_error(rows, whole) for name in ("log_det", "log_ridge")}
    # Rows that are the only ones of a direction leave rounding in its place, in both.
    allowed["log_effective_rank"] = entropy_error(rows, int(len(rows) <= rows.shape[1]))
    for name, tolerance in allowed.items():
        one, other = (getattr(summary.leave_one_out, name) for summary in (blocks, whole))
        np.testing.assert_allclose(one, other, rtol=0, atol=tolerance)


@pytest.mark.parametrize("center", [False, True])
def test_no_more_than_one_block_of_rows_is_in_memory(monkeypatch, center):
    taken = []
    coordinates = Gram.coordinates

    def counted(*args, **kwargs):
        rows = coordinates(*args, **kwargs)
        taken.append(rows.numel())
        return rows

    elements = 4000
    monkeypatch.setattr(Gram, "coordinates", counted)
    monkeypatch.setattr(uncertainty, "_BLOCK_ELEMENTS", elements)
    rows, groups = token_rows([1, 1, 3000, 2, 400, 1], 7)
    spectral_summary(rows, center=center, groups=groups)
    assert sum(taken) == rows.numel()
    assert max(taken) <= elements


@conventions
@pytest.mark.parametrize(
    ("examples", "m", "within"),
    [
        pytest.param(96, 16, 0.1, id="more examples than features"),
        # Each text then has directions of its own, which a derivative does not see end.
        pytest.param(32, 64, 0.25, id="fewer examples than features"),
    ],
)
def test_effective_rank_without_whole_examples_is_first_order(
    examples, m, within, center, normalize
):
    lengths = 15 + 30 * torch.rand(examples, generator=generator(0))
    rows, groups = token_rows(lengths.long(), m, spread=2.0)
    conventions = {"center": center, "normalize": normalize}
    summary = spectral_summary(rows + 0.3, groups=groups, **conventions)
    expected = naive.leave_one_out(rows + 0.3, groups, relative_ridge=1e-3, **conventions)
    found = summary.leave_one_out.log_effective_rank
    recomputed = expected["log_effective_rank"]
    ratio = jackknife_standard_error(found) / jackknife_standard_error(recomputed)
    assert ratio == pytest.approx(1, abs=within)
    # Example by example as well: influences in a wrong order would have the same spread.
    assert np.corrcoef(found, recomputed)[0, 1] > 1 - within


def test_first_order_deletion_of_a_small_share_is_its_derivative():
    # Two groups of tiny rows beside large ones: second order is the square of a 1e-4 share.
    rows = torch.cat([gaussian(40, 5), 1e-2 * gaussian(4, 5, seed=1)])
    groups = torch.cat([torch.arange(40), torch.tensor([40, 40, 41, 41])])
    summary = spectral_summary(rows, groups=groups)
    expected = naive.leave_one_out(rows, groups, relative_ridge=1e-3)["log_effective_rank"]
    change = expected[40:] - math.log(summary.effective_rank.value)
    found = summary.leave_one_out.log_effective_rank[40:] - math.log(summary.effective_rank.value)
    share = 2 * 5 * 1e-4 / (rows.square().sum(0).min().item())
    np.testing.assert_allclose(found, change, rtol=0, atol=share**2 * 5)
    assert abs(change).min() > 10 * share**2 * 5


def test_fixed_ridge_deletion_is_log_of_one_minus_the_leverage():
    """Deleting row i changes log det(G + δI) by log(1 − h_i), δ = nε held (section 6)."""
    rows = gaussian(30, 5)
    delta = 0.3
    gram = rows.T @ rows + delta * torch.eye(5, dtype=torch.float64)
    leverage = (rows @ torch.linalg.inv(gram) * rows).sum(1)
    summary = spectral_summary(rows, ridge=delta / 30)
    # The package holds ε = δ/n on C instead; move both to the same δ before comparing.
    expected = []
    for rest in naive.deletions(rows):
        at_delta = np.linalg.slogdet(rest.T @ rest + delta * np.eye(5))[1]
        at_epsilon = np.linalg.slogdet(rest.T @ rest + delta * 29 / 30 * np.eye(5))[1]
        expected.append(at_epsilon - at_delta)
    change = summary.leave_one_out.log_det + 5 * math.log(29) - torch.logdet(gram).item()
    tolerance = log_det_error(rows, summary)
    np.testing.assert_allclose(
        change - np.array(expected), torch.log1p(-leverage), rtol=0, atol=tolerance
    )


def test_the_trace_term_of_a_relative_ridge_matters_when_rows_are_few():
    """Without it the standard error is 2 to 25 times too small when n < m (section 6)."""
    rows = gaussian(16, 64) * torch.exp(0.5 * gaussian(16, 1, seed=1))
    relative = spectral_summary(rows).leave_one_out.log_det
    fixed = spectral_summary(rows, ridge=spectral_summary(rows).ridge).leave_one_out.log_det
    assert jackknife_standard_error(relative) > 2 * jackknife_standard_error(fixed)


def test_jackknife_of_a_mean_is_its_standard_error():
    x = np.array([1.0, 4.0, 9.0, 2.0])
    deleted = (x.sum() - x) / 3
    expected = x.std(ddof=1) / 2
    assert jackknife_standard_error(deleted) == pytest.approx(expected, rel=16 * EPS, abs=0)


def test_paired_jackknife_of_two_means_is_that_of_their_difference():
    x, y = np.array([1.0, 4.0, 9.0, 2.0]), np.array([1.5, 4.0, 9.25, 2.0])
    before, after = ((v.sum() - v) / 3 for v in (x, y))
    expected = (y - x).std(ddof=1) / 2
    assert paired_standard_error(before, after) == pytest.approx(expected, rel=64 * EPS, abs=0)


def test_a_shift_of_all_values_has_no_paired_error():
    before = np.array([1.0, 4.0, 9.0, 2.0])
    assert paired_standard_error(before, before + 2) == 0


def test_the_drift_of_rows_of_which_one_carries_everything_is_not_nan():
    """Without that row nothing is left, at both times: the error is unknown, or none."""
    deleted = spectral_summary(torch.tensor([[0.0], [1.0], [1.0]]), center=True).leave_one_out
    for values in (deleted.log_det, deleted.log_effective_rank):
        assert paired_standard_error(values, values) >= 0


def test_half_width_is_that_of_student_t():
    # t quantiles from tables: 12.706 at 1 degree of freedom, 2.045 at 29, to three decimals.
    assert half_width(1.0, 2, 0.95) == pytest.approx(12.706, abs=5e-4)
    assert half_width(2.0, 30, 0.95) == pytest.approx(2 * 2.045, abs=1e-3)
