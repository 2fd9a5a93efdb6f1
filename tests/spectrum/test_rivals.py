"""Independent packages find the same numbers in the same rows; those that are not here are left."""

import math

import numpy as np
import pytest
import torch
from scipy.sparse.linalg import LinearOperator, eigsh

from sigma_monitor.spectrum import spectral_summary
from sigma_monitor.spectrum.gram import Gram
from sigma_monitor.spectrum.lanczos import Lanczos, leading_subspace
from sigma_monitor.spectrum.operator import RowOperator
from tests.spectrum.matrices import EPS, SQRT_EPS, gaussian, rows_with

SURE = 1 - 1e-5  # confidence at which no interval of this file fails by chance


def power_law(n, m, decay=0.5):
    return rows_with(torch.arange(1, min(n, m) + 1).double() ** -decay, n, m)


def lanczos(rows, **options):
    return spectral_summary(rows, method="lanczos", sampling=False, **options)


def operator_of(rows, *, center=False):
    gram = Gram.from_embeddings(rows)
    energy = float(gram.row_energy(center=center).sum())
    return RowOperator([gram], center=center, traces=[energy])


def covariance(rows, *, center=False):
    x = rows.double().numpy()
    x = x - x.mean(0) if center else x
    return x.T @ x / len(x)


def arpack(matrix, k):
    """(k,) leading eigenvalues, descending, to machine precision, from products alone."""
    product = LinearOperator(matrix.shape, matvec=lambda v: matrix @ v, dtype=np.float64)
    values = eigsh(product, k=k, which="LA", tol=0, return_eigenvectors=False, rng=0)
    return np.sort(values)[::-1]


@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize(("n", "m"), [(300, 90), (90, 300), (40, 12)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_arpack_finds_the_same_largest_eigenvalue(n, m, dtype, center):
    rows = (power_law(n, m) + 0.02).to(dtype)
    (largest,) = arpack(covariance(rows, center=center), 1)
    found = lanczos(rows, center=center, confidence=SURE)
    slack = 4 * (n + m) * EPS * largest  # of arpack's and of numpy's product
    assert found.lambda_max.low - slack <= largest <= found.lambda_max.high + slack
    # Ritz values are good to the square of what their vectors are.
    eps = torch.finfo(dtype).eps
    assert found.lambda_max.value == pytest.approx(largest, rel=max(SQRT_EPS, 64 * eps))
    assert found.renyi_rank(math.inf).value == pytest.approx(
        found.trace.value / largest, rel=max(SQRT_EPS, 64 * eps)
    )


@pytest.mark.parametrize(("n", "m"), [(300, 90), (90, 300)])
def test_arpack_finds_the_same_leading_directions(n, m):
    rows = power_law(n, m, decay=1.0)
    operator = operator_of(rows)
    expected = arpack(covariance(rows), 5)
    basis, _ = leading_subspace(operator, gaussian(32, 90)[None], iterations=6)
    ritz = (basis * operator.apply(basis)).sum(-1)[0].flip(0)[:5].numpy()
    trace = np.trace(covariance(rows))
    # The error falls as (λ_33 / λ_5)^(2 · 6 + 2), here (25 / 1089)^14, below eps.
    np.testing.assert_allclose(ritz * trace, expected, rtol=64 * EPS * 32, atol=0)


@pytest.mark.parametrize(("n", "m"), [(120, 30), (30, 120), (100, 90)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_vendi_score_lies_in_the_interval(n, m, dtype):
    vendi = pytest.importorskip("vendi_score.vendi", reason="vendi-score is not installed")
    rows = (power_law(n, m) + 0.02).to(dtype)
    expected = vendi.score_dual(rows.double().numpy(), q=1, normalize=True)
    found = lanczos(rows, normalize=True, confidence=SURE)
    for rank in (
        found.renyi_rank(1),
        found.spectral_entropy,
    ):
        truth = math.log(expected) if rank is found.spectral_entropy else expected
        slack = (n + m) * SQRT_EPS**1.5  # vendi-score drops eigenvalues and adds no rounding term
        assert rank.low - slack <= truth <= rank.high + slack
    assert found.renyi_rank(1).value == pytest.approx(math.exp(found.spectral_entropy.value))


def test_hessian_eigenthings_makes_the_same_tridiagonal():
    rival = pytest.importorskip(
        "hessian_eigenthings", reason="hessian-eigenthings is not installed"
    )
    d, k = 60, 20
    operator = operator_of(power_law(100, d))
    start = torch.nn.functional.normalize(gaussian(1, d), dim=1)
    theirs = rival.lanczos_tridiagonal(
        rival.LambdaOperator(
            lambda v: operator.apply(v[None, None])[0, 0],
            size=d,
            dtype=torch.float64,
            device=torch.device("cpu"),
        ),
        start[0],
        k,
    )
    recursion = Lanczos(operator, start[None])
    recursion.advance(k)
    alpha, beta = recursion.coefficients()
    # They orthogonalise once, one vector after another: good until Ritz values converge.
    np.testing.assert_allclose(theirs.alphas.numpy(), alpha[0, 0], rtol=0, atol=SQRT_EPS)
    np.testing.assert_allclose(theirs.betas.numpy(), beta[0, 0, :-1], rtol=0, atol=SQRT_EPS)
    assert theirs.last_beta == pytest.approx(beta[0, 0, -1], abs=SQRT_EPS)


@pytest.mark.parametrize("power", [0.5, 1, 2])
def test_imate_finds_the_same_traces(power):
    imate = pytest.importorskip("imate", reason="imate is not installed")
    rows = power_law(300, 90, decay=0.4)
    matrix = covariance(rows)
    trace = np.trace(matrix)
    theirs, info = imate.trace(
        matrix / trace,
        p=power,
        method="slq",
        orthogonalize=-1,
        lanczos_degree=40,
        min_num_samples=400,
        max_num_samples=400,
        seed=1,
        return_info=True,
    )
    from sigma_monitor.spectrum.trace import scaled_power

    measure = lanczos(rows).randomized.sounding.measure
    ours = measure.trace(scaled_power(power, 1.0))
    # Their deviation of the mean of 400, and five of both: no chance at that level.
    deviation = float(np.max(info["error"]["absolute_error"]))
    half = ours.estimate(SURE).high - ours.value
    assert abs(ours.value - theirs) <= 5 * deviation + half
