"""Operators are `C / tr C`, whatever the shape, the type and the chunks; no row is lost."""

import math

import numpy as np
import pytest
import torch

from sigma_monitor.spectrum import operator as module
from sigma_monitor.spectrum.gram import Gram
from sigma_monitor.spectrum.operator import DenseOperator, RowOperator, compute_dtype
from tests.spectrum import naive
from tests.spectrum.matrices import EPS, gaussian, orthonormal, rows_with

DTYPES = [torch.bfloat16, torch.float16, torch.float32, torch.float64]

conventions = pytest.mark.parametrize(
    ("center", "normalize"), [(False, False), (False, True), (True, False), (True, True)]
)
shapes = pytest.mark.parametrize(
    ("n", "m"), [(6, 17), (17, 6), (9, 9), (1, 5), (5, 1), (1, 1)], ids=lambda size: str(size)
)


def rows_of(n, m, dtype=torch.float64, seed=0):
    """Of unequal length, around a mean that carries some of the energy."""
    lengths = torch.linspace(0.5, 2, n, dtype=torch.float64)[:, None]
    return (lengths * gaussian(n, m, seed) + gaussian(1, m, seed + 1)).to(dtype)


def operator_of(layers, *, center=False, normalize=False):
    grams = [Gram.from_embeddings(rows, normalize=normalize) for rows in layers]
    traces = [float(gram.row_energy(center=center).sum()) for gram in grams]
    return RowOperator(grams, center=center, traces=traces)


def dense(rows, *, center=False, normalize=False):
    """`C / tr C` on the smaller side, by definition."""
    x = naive.prepare(rows, center=center, normalize=normalize)
    product = x.T @ x if x.shape[0] >= x.shape[1] else x @ x.T
    return product / np.trace(product)


def matrix_of(operator):
    """(layers, d, d): the products with all unit vectors."""
    identity = torch.eye(operator.d, dtype=operator.dtype, device=operator.device)
    return operator.apply(identity.expand(operator.layers, -1, -1)).double().cpu().numpy()


def allowed(n, m, dtype):
    """Error of a product of trace 1: sums of n or m terms, and rows that were rounded by eps each.

    Centring a row rounds at the scale of the mean, which here carries about half of the energy.
    """
    return 4 * math.sqrt(n + m) * torch.finfo(compute_dtype(dtype)).eps


@conventions
@shapes
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_operator_is_the_dense_product(n, m, dtype, center, normalize):
    if center and n == 1:
        pytest.skip("nothing is left of a single row")
    if center and normalize and m == 1:
        pytest.skip("rows of one feature are ±1, and may all be equal")
    rows = rows_of(n, m, dtype)
    operator = operator_of([rows], center=center, normalize=normalize)
    assert (operator.layers, operator.d) == (1, min(n, m))
    assert operator.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    found = matrix_of(operator)[0]
    expected = dense(rows, center=center, normalize=normalize)
    np.testing.assert_allclose(found, expected, rtol=0, atol=allowed(n, m, dtype))
    assert np.trace(found) == pytest.approx(1, abs=min(n, m) * allowed(n, m, dtype))


@conventions
@pytest.mark.parametrize(("n", "m"), [(6, 17), (17, 6), (9, 9)])
@pytest.mark.parametrize("elements", [1, 13, 18, 40, 51, 10**6])
def test_chunks_do_not_matter_and_lose_nothing(monkeypatch, n, m, elements, center, normalize):
    rows = rows_of(n, m)
    monkeypatch.setattr(module, "_CHUNK_ELEMENTS", elements)
    operator = operator_of([rows], center=center, normalize=normalize)
    expected = dense(rows, center=center, normalize=normalize)
    np.testing.assert_allclose(
        matrix_of(operator)[0], expected, rtol=0, atol=allowed(n, m, rows.dtype)
    )
    chunks = list(operator._chunks(operator.grams[0]))
    assert all(chunk.shape[1] == min(n, m) for chunk in chunks)
    assert sum(len(chunk) for chunk in chunks) == max(n, m)
    assert all(chunk.numel() <= max(elements, min(n, m)) for chunk in chunks)


@conventions
@pytest.mark.parametrize(("n", "m"), [(6, 17), (17, 6), (9, 9), (2, 2)])
@pytest.mark.parametrize("threads", [2, 3, 8])
def test_rows_shared_between_threads_are_all_counted(monkeypatch, n, m, threads, center, normalize):
    rows = rows_of(n, m)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    monkeypatch.setattr(module, "_CHUNK_ELEMENTS", 20)
    found = matrix_of(operator_of([rows], center=center, normalize=normalize))[0]
    expected = dense(rows, center=center, normalize=normalize)
    np.testing.assert_allclose(found, expected, rtol=0, atol=allowed(n, m, rows.dtype))


@conventions
@pytest.mark.parametrize(("n", "m"), [(6, 17), (17, 6)])
def test_layers_are_each_their_own(n, m, center, normalize):
    layers = [rows_of(n, m, seed=10 * seed) * 10.0**seed for seed in range(3)]
    operator = operator_of(layers, center=center, normalize=normalize)
    vectors = gaussian(3 * 4, min(n, m), 99).view(3, 4, -1)
    products = operator.apply(vectors)
    assert operator.layers == 3
    for layer, rows in enumerate(layers):
        expected = vectors[layer].numpy() @ dense(rows, center=center, normalize=normalize)
        np.testing.assert_allclose(
            products[layer].numpy(), expected, rtol=0, atol=4 * allowed(n, m, rows.dtype)
        )
        alone = operator_of([rows], center=center, normalize=normalize)
        assert torch.equal(alone.apply(vectors[layer : layer + 1])[0], products[layer])


def test_a_product_changes_neither_vectors_nor_rows():
    rows = rows_of(17, 6)
    operator = operator_of([rows], center=True, normalize=True)
    vectors = gaussian(4, 6)[None]
    before = rows.clone(), vectors.clone()
    operator.apply(vectors)
    assert torch.equal(rows, before[0])
    assert torch.equal(vectors, before[1])


def test_vectors_may_be_views():
    operator = operator_of([rows_of(17, 6)] * 2)
    shared = gaussian(4, 6)[None].expand(2, -1, -1)  # one memory for both layers
    torch.testing.assert_close(
        operator.apply(shared), operator.apply(shared.clone()), rtol=0, atol=16 * EPS
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_dense_operator_divides_by_the_trace(dtype):
    layers = [rows_of(20, 7, seed=seed) for seed in range(3)]
    products = torch.stack([rows.T @ rows for rows in layers])
    traces = [float(product.trace()) for product in products]
    operator = DenseOperator(products.to(dtype), traces)
    assert (operator.layers, operator.d, operator.dtype) == (3, 7, dtype)
    expected = np.stack([dense(rows) for rows in layers])
    np.testing.assert_allclose(matrix_of(operator), expected, rtol=0, atol=allowed(20, 7, dtype))
    vectors = gaussian(3 * 2, 7, 5).view(3, 2, 7)
    np.testing.assert_allclose(
        operator.apply(vectors.to(dtype)).double().numpy(),
        vectors.numpy() @ expected,
        rtol=0,
        atol=4 * allowed(20, 7, dtype),
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_narrow_types_are_computed_in_single_precision(dtype):
    assert compute_dtype(dtype) == (torch.float64 if dtype == torch.float64 else torch.float32)


def test_a_mean_that_is_all_of_the_energy_cancels_no_digits():
    """Centred before the product, not after: 1e8 times the spread would leave nothing in fp32."""
    spread = rows_with([3.0, 2.0, 1.0], 64, 5, centred=True)
    rows = spread + 2.0**20
    operator = operator_of([rows], center=True)
    expected = dense(spread)
    # A row of 2^20 + x holds x to 2^20 eps.
    np.testing.assert_allclose(
        matrix_of(operator)[0], expected, rtol=0, atol=2.0**20 * allowed(64, 5, rows.dtype)
    )


@conventions
@pytest.mark.parametrize(("n", "m"), [(6, 17), (17, 6), (9, 9)])
@pytest.mark.parametrize("elements", [13, 10**6])
def test_shares_of_all_directions_are_those_of_the_eigenvectors(
    monkeypatch, n, m, elements, center, normalize
):
    monkeypatch.setattr(module, "_CHUNK_ELEMENTS", elements)
    rows = rows_of(n, m)
    operator = operator_of([rows], center=center, normalize=normalize)
    taken, values = operator.shares(0, None)
    x = naive.prepare(rows, center=center, normalize=normalize)
    u, s, _ = np.linalg.svd(x / np.linalg.norm(x), full_matrices=False)
    order = np.argsort(s)  # ascending, as the shares are
    expected = (u * s)[:, order] ** 2  # of each row along each direction
    assert taken.shape == (n, min(n, m))
    assert taken.dtype == values.dtype == torch.float64
    atol = 16 * allowed(n, m, rows.dtype)  # eigenvectors here have gaps of a tenth at least
    np.testing.assert_allclose(values.numpy(), s[order] ** 2, rtol=0, atol=atol)
    positive = s[order] > 1e3 * EPS  # when centred and n <= m, one is zero and any direction is it
    np.testing.assert_allclose(
        taken.numpy()[:, positive], expected[:, positive], rtol=0, atol=10 * atol
    )
    np.testing.assert_allclose(taken.numpy().sum(0), values.numpy(), rtol=0, atol=atol)
    energy = (x**2).sum(1) / (x**2).sum()
    np.testing.assert_allclose(taken.numpy().sum(1), energy, rtol=0, atol=atol)


@pytest.mark.parametrize(("n", "m"), [(6, 17), (17, 6)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_shares_within_a_span_are_those_of_its_ritz_vectors(n, m, dtype):
    rows = rows_of(n, m, dtype)
    operator = operator_of([rows, 2 * rows], center=True)
    basis = orthonormal(6, 3, 4).T  # (3, 6)
    full = dense(rows, center=True)
    ritz, rotation = np.linalg.eigh(basis.numpy() @ full @ basis.numpy().T)
    directions = rotation.T @ basis.numpy()
    x = naive.prepare(rows, center=True)
    x = x / np.linalg.norm(x)
    expected = (x @ directions.T) ** 2 if n >= m else directions.T**2 * ritz
    for layer in range(2):  # a share does not depend on scale
        taken, values = operator.shares(layer, basis.to(operator.dtype))
        atol = 64 * allowed(n, m, dtype)
        np.testing.assert_allclose(values.numpy(), ritz, rtol=0, atol=atol)
        np.testing.assert_allclose(taken.numpy(), expected, rtol=0, atol=atol)
        np.testing.assert_allclose(taken.numpy().sum(0), ritz, rtol=0, atol=atol)
