"""Leading directions against a full decomposition, and angles that are known."""

import math

import numpy as np
import pytest
import torch

from sigma_monitor.errors import InputError
from sigma_monitor.spectrum import Gram, spectral_summary
from sigma_monitor.spectrum.subspace import leading_directions, principal_angles, subspace_drift
from tests.spectrum.matrices import gaussian, orthonormal, rows_with

# Geometric: every direction is a quarter in energy of the one before.
STEEP = [2.0**-i for i in range(20)]
# As slow as language models have it; what lies beyond the eighth is held off by the oversampling.
SLOW = [(1.0 + i) ** -0.5 for i in range(40)]


def by_eigh(rows, count, *, center=True):
    """(count, m) leading eigenvectors of the covariance, the leading one first."""
    rows = rows.double()
    rows = rows - rows.mean(0) if center else rows
    vectors = torch.linalg.eigh(rows.T @ rows / len(rows)).eigenvectors
    return vectors.flip(1)[:, :count].T


def cosines(one, two):
    """Of each direction with its partner, whatever its sign."""
    return (one.double() * two.double()).sum(1).abs()


# --- leading directions --------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "m"), [(200, 24), (24, 200), (40, 40)], ids=["tall", "wide", "even"])
@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize("count", [1, 3, 8])
def test_directions_are_the_leading_eigenvectors(n, m, center, count):
    rows = rows_with(STEEP, n, m, centred=True) + 0.3 * gaussian(1, m, seed=5)
    found = leading_directions(Gram.from_embeddings(rows), count, center=center)
    assert found.shape == (count, m)
    # A gap of a factor of four from one to the next, and nine of them to what is left out.
    assert cosines(found, by_eigh(rows, count, center=center)).min() > 1 - 1e-10
    torch.testing.assert_close(found @ found.T, torch.eye(count).double(), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 1e-5), (torch.bfloat16, 1e-5)])
def test_directions_of_narrow_types_are_those_of_the_rows_as_stored(dtype, error):
    rows = rows_with(STEEP[:10], 200, 24).to(dtype)
    found = leading_directions(Gram.from_embeddings(rows), 4)
    assert found.dtype is torch.float32
    assert cosines(found, by_eigh(rows, 4)).min() > 1 - error


def test_a_slow_spectrum_is_found_to_a_hundredth():
    """The error in sin² is about (λ17/λ8)^12, 1e-4; without spare directions (λ9/λ8)^12, 0.2."""
    rows = rows_with(SLOW, 300, 64, centred=True)
    found = leading_directions(Gram.from_embeddings(rows), 8)
    assert subspace_drift(found, by_eigh(rows, 8)) < 1e-3


def test_directions_of_scaled_rows_are_the_same():
    """Squares of these leave the range of fp32."""
    rows = rows_with(STEEP[:10], 100, 24).float()
    plain = leading_directions(Gram.from_embeddings(rows), 4)
    for scale in (1e-25, 1e25):
        found = leading_directions(Gram.from_embeddings(rows * scale), 4)
        assert cosines(found, plain).min() > 1 - 1e-5


@pytest.mark.parametrize(("n", "m", "count", "kept"), [(100, 3, 8, 3), (5, 40, 8, 4), (9, 9, 2, 2)])
def test_there_are_no_more_directions_than_centred_rows_or_features(n, m, count, kept):
    found = leading_directions(Gram.from_embeddings(gaussian(n, m)), count)
    assert found.shape == (kept, m)


def test_directions_are_the_same_each_time_whatever_the_host_draws():
    gram = Gram.from_embeddings(gaussian(60, 30))  # no gap: chance would show
    torch.manual_seed(1)
    first = leading_directions(gram, 8)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    assert torch.equal(leading_directions(gram, 8), first)
    assert torch.equal(torch.get_rng_state(), state)


def test_rows_of_low_rank_have_no_arbitrary_directions():
    """What a collapse leaves: four directions, the same at both checks."""
    basis = orthonormal(32, 4).T
    one, two = (gaussian(64, 4, seed) @ basis for seed in (0, 1))
    directions = [leading_directions(Gram.from_embeddings(rows.float()), 8) for rows in (one, two)]
    assert subspace_drift(*directions) < 1e-6


# --- angles --------------------------------------------------------------------------------------


def turned(rows, angle, first=0, second=1):
    """The rows, turned by `angle` in the plane of two features."""
    rotation = torch.eye(rows.shape[1], dtype=torch.float64)
    c, s = math.cos(angle), math.sin(angle)
    rotation[first, first], rotation[first, second] = c, s
    rotation[second, first], rotation[second, second] = -s, c
    return rows @ rotation


UNIT = torch.eye(6, dtype=torch.float64)


@pytest.mark.parametrize("angle", [0.0, 1e-8, 1e-3, 0.3, math.pi / 4, 1.5, math.pi / 2])
def test_angle_of_a_rotation_in_a_plane(angle):
    """Three directions, one of which turns out of their span."""
    span = UNIT[:3]
    other = turned(span, angle, first=0, second=4)
    # Small ones from the sine: from the cosine, 1e-8 would not be told from 0.
    assert principal_angles(span, other) == pytest.approx([angle, 0, 0], rel=1e-7, abs=1e-15)
    drift = math.sin(angle) ** 2 / 3
    assert subspace_drift(span, other) == pytest.approx(drift, rel=1e-7, abs=1e-15)


def test_two_angles_at_once_come_largest_first():
    other = turned(turned(UNIT[:2], 0.2, first=0, second=4), 0.7, first=1, second=5)
    assert principal_angles(UNIT[:2], other) == pytest.approx([0.7, 0.2], rel=1e-12)
    expected = (math.sin(0.7) ** 2 + math.sin(0.2) ** 2) / 2
    assert subspace_drift(UNIT[:2], other) == pytest.approx(expected, rel=1e-12)


def test_one_and_the_same_subspace_has_no_drift_whatever_its_basis():
    basis = orthonormal(20, 5).T
    mixed = gaussian(5, 5, seed=3) @ basis  # any spanning rows will do
    assert subspace_drift(basis, basis) == pytest.approx(0, abs=1e-15)
    assert subspace_drift(basis, mixed) == pytest.approx(0, abs=1e-12)
    assert subspace_drift(basis, basis.flip(0)) == pytest.approx(0, abs=1e-15)
    assert subspace_drift(turned(UNIT[:2], 0.9), UNIT[:2]) == pytest.approx(0, abs=1e-15)


def test_orthogonal_subspaces_have_a_drift_of_one():
    basis = orthonormal(20, 10).T
    assert subspace_drift(basis[:5], basis[5:]) == pytest.approx(1, rel=1e-12)
    assert principal_angles(basis[:5], basis[5:]) == pytest.approx([math.pi / 2] * 5, rel=1e-7)


def test_a_subspace_within_another_has_no_angle_to_it():
    assert len(principal_angles(UNIT[:2], UNIT[:4])) == 2
    assert subspace_drift(UNIT[:2], UNIT[:4]) == pytest.approx(0, abs=1e-15)
    assert subspace_drift(UNIT[:4], UNIT[:2]) == pytest.approx(0, abs=1e-15)


def test_drift_by_projections():
    """`k − ‖A Bᵀ‖²` of orthonormal rows, which needs no angle."""
    one, two = orthonormal(30, 7, seed=1).T, orthonormal(30, 7, seed=2).T
    expected = 1 - float((one @ two.T).square().sum()) / 7
    assert subspace_drift(one, two) == pytest.approx(expected, rel=1e-12)
    assert subspace_drift(two, one) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("k", "other"), [(1, 1), (4, 4), (8, 8), (2, 6)])
def test_random_subspaces_have_the_drift_that_chance_gives(k, other):
    """Σ cos² has mean `k other/m`; over the smaller number of angles that is max(k, other)/m."""
    m, draws = 20, 400
    found = [
        subspace_drift(gaussian(k, m, seed=2 * i), gaussian(other, m, seed=2 * i + 1))
        for i in range(draws)
    ]
    error = np.std(found, ddof=1) / math.sqrt(draws)
    assert abs(np.mean(found) - (1 - max(k, other) / m)) < 4 * error
    assert error < 0.01


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_narrow_types_are_compared_in_double_precision(dtype):
    basis = orthonormal(40, 6).T
    rounding = torch.finfo(dtype).eps
    assert subspace_drift(basis.to(dtype), basis) < 40 * rounding**2
    assert subspace_drift(basis.to(dtype), basis.to(dtype)) == pytest.approx(0, abs=1e-15)


def test_spaces_of_different_dimensions_are_refused():
    with pytest.raises(InputError, match=r"subspaces of 6 and of 5 dimensions"):
        principal_angles(UNIT[:2], UNIT[:2, :5])
    with pytest.raises(InputError, match="one space only"):
        subspace_drift(UNIT[:2], UNIT[:2, :5])


# --- what no spectrum sees -----------------------------------------------------------------------


@pytest.mark.parametrize("angle", [0.1, 0.8, math.pi / 2])
def test_a_rotation_leaves_the_eigenvalues_and_not_the_directions(angle):
    """Three strong features and three weak ones; one of either kind change places by degrees."""
    scales = torch.tensor([4.0, 3.0, 2.0, 0.3, 0.2, 0.1], dtype=torch.float64)
    rows = orthonormal(64, 6, centred=True) * scales
    other = turned(rows, angle, first=1, second=4)
    before, after = (spectral_summary(x, center=True, method="exact") for x in (rows, other))
    assert after.effective_rank.value == pytest.approx(before.effective_rank.value, rel=1e-12)
    assert after.log_det.value == pytest.approx(before.log_det.value, rel=1e-12)
    one, two = (leading_directions(Gram.from_embeddings(x), 3) for x in (rows, other))
    assert subspace_drift(one, two) == pytest.approx(math.sin(angle) ** 2 / 3, rel=1e-6)


def test_a_loss_of_spread_leaves_the_directions():
    rows = rows_with(STEEP[:12], 64, 24, centred=True)
    less = rows_with([s**2 for s in STEEP[:12]], 64, 24, centred=True)
    one, two = (leading_directions(Gram.from_embeddings(x), 8) for x in (rows, less))
    assert subspace_drift(one, two) < 1e-12
    ranks = [spectral_summary(x, center=True).effective_rank.value for x in (rows, less)]
    assert ranks[1] < 0.7 * ranks[0]
