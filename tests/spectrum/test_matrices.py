"""The helpers of this folder: a wrong oracle would pass anything."""

import math

import numpy as np
import pytest
import torch

from tests.spectrum import naive
from tests.spectrum.matrices import (
    EPS,
    eigenvalue_error,
    gaussian,
    orthonormal,
    rounding,
    rows_with,
    sign_rows,
    token_rows,
)


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize(("n", "m"), [(9, 4), (5, 5), (5, 12)])
def test_rows_have_the_prescribed_singular_values(n, m, centred):
    s = [5.0, 2.0, 2.0, 0.125]
    rows = rows_with(s, n, m, centred=centred)
    found = np.linalg.svd(rows.numpy(), compute_uv=False)
    # Each factor of U diag(s) Vᵀ is orthonormal to a few eps a column.
    tolerance = (n + m) * EPS * s[0]
    assert rows.shape == (n, m)
    np.testing.assert_allclose(found[:4], s, rtol=0, atol=tolerance)
    np.testing.assert_allclose(found[4:], 0, rtol=0, atol=tolerance)
    if centred:
        np.testing.assert_allclose(rows.mean(0), 0, rtol=0, atol=tolerance)


def test_more_singular_values_than_room_are_refused():
    with pytest.raises(AssertionError, match="more singular values"):
        rows_with([1.0, 1.0, 1.0], 3, 5, centred=True)


def test_orthonormal_columns():
    q = orthonormal(12, 5, centred=True)
    torch.testing.assert_close(q.T @ q, torch.eye(5, dtype=torch.float64), rtol=0, atol=32 * EPS)
    torch.testing.assert_close(q.sum(0), torch.zeros(5, dtype=torch.float64), rtol=0, atol=32 * EPS)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_sign_rows_are_exact_in_every_dtype(dtype):
    scales = [4.0, 1.0, 0.25]
    rows = sign_rows(scales, 8)
    assert torch.equal(rows.to(dtype).double(), rows)
    assert torch.equal(rows.T @ rows / 8, torch.diag(torch.tensor(scales).double().square()))
    assert not rows.sum(0).any()


def test_token_rows_of_one_text_are_correlated():
    rows, groups = token_rows([3, 500, 500], 200, spread=1.0)
    assert groups.bincount().tolist() == [3, 500, 500]
    unit = rows / rows.norm(dim=1, keepdim=True)
    within = (unit[3:503] @ unit[3:503].T).mean()
    across = (unit[3:503] @ unit[503:].T).mean()
    # Half of the energy is the text's; the feature scales leave about 35 effective dimensions, so
    # the cosine of two independent texts has a spread of about 1/sqrt(35).
    assert within > 0.4
    assert abs(across) < 3 / math.sqrt(35)


def test_rounding_is_the_first_order_change():
    # d(a·b) = b·da + a·db; the rest is the function's own rounding.
    found = rounding(lambda v: v[0] * v[1], [3.0, 4.0, 0.0], 1e-6)
    own = 3 * EPS * 12 * 4
    assert found == pytest.approx(
        (3 + 4) * 1e-6 + own, rel=1e-9, abs=0
    )  # differences of 12 to eps/1e-6


def test_naive_values_of_a_spectrum_computed_by_hand():
    found = naive.of_spectrum([1.0, 9.0, 0.0], ridge=1.0)
    by_hand = {
        "log_det": math.log(10 * 2 * 1),
        "log_det_per_dim": math.log(20) / 3,
        "coding_rate": math.log(20) / 2,
        "effective_rank": 4 / 3**0.75,  # s = (3/4, 1/4)
        "spectral_entropy": math.log(10) - 0.9 * math.log(9),  # p = (0.9, 0.1)
        "participation_ratio": 100 / 82,
        "stable_rank": 10 / 9,
        "condition_number": 9,
        "lambda_max": 9,
        "lambda_min": 0,
        "trace": 10,
        "decay_exponent": math.log(9) / math.log(2),
    }
    assert found == pytest.approx(by_hand, rel=16 * EPS, abs=0)
    assert naive.renyi_rank([1.0, 9.0, 0.0], 2) == pytest.approx(100 / 82, rel=16 * EPS, abs=0)
    assert naive.renyi_rank([1.0, 9.0, 0.0], 0) == 2


def test_naive_eigenvalues_are_those_of_the_covariance():
    rows = gaussian(20, 4) + 3
    expected = np.linalg.eigvalsh(np.cov(rows.numpy(), rowvar=False, bias=True))[::-1]
    found = naive.eigenvalues(rows, center=True)
    error = eigenvalue_error(20, 4) * expected.sum()
    np.testing.assert_allclose(found, expected, rtol=0, atol=error)


def test_naive_normalisation_keeps_a_zero_row():
    found = naive.prepare(np.array([[3.0, 4.0], [0.0, 0.0]]), normalize=True)
    np.testing.assert_allclose(found, [[0.6, 0.8], [0.0, 0.0]], rtol=4 * EPS)


def test_naive_mean_cosine_by_hand():
    rows = np.array([[1.0, 0.0], [0.0, 2.0], [0.0, 0.0], [-3.0, 0.0]])
    assert naive.mean_cosine(rows) == pytest.approx((0 + 0 - 1) / 3, rel=4 * EPS, abs=0)


def test_naive_deletions_drop_whole_examples():
    rows = np.arange(8.0).reshape(4, 2)
    assert [len(rest) for rest in naive.deletions(rows)] == [3, 3, 3, 3]
    ragged = naive.deletions(rows, np.array([0, 2, 2, 5]))
    assert [rest[:, 0].tolist() for rest in ragged] == [[2, 4, 6], [0, 6], [0, 2, 4]]


def test_isoscore_of_even_and_of_one_dimensional_data():
    assert naive.isoscore(sign_rows([1.0, 1.0, 1.0], 4)) == pytest.approx(1, abs=64 * EPS)
    assert naive.isoscore(sign_rows([1.0, 0.0, 0.0], 4)) == pytest.approx(0, abs=64 * EPS)
