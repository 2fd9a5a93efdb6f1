"""The product of the rows, and the eigenpairs taken from it."""

import numpy as np
import pytest
import torch

from sigma_monitor.errors import InputError, ZeroTraceError
from sigma_monitor.spectrum import gram as gram_module
from sigma_monitor.spectrum.exact import decompose
from sigma_monitor.spectrum.gram import Gram
from tests.spectrum import naive
from tests.spectrum.matrices import (
    EPS,
    eigenvalue_error,
    gaussian,
    rows_with,
    sign_rows,
)

SHAPES = [(1, 1), (1, 4), (5, 1), (4, 9), (6, 6), (11, 3)]
shapes = pytest.mark.parametrize(("n", "m"), SHAPES)
conventions = pytest.mark.parametrize(
    ("center", "normalize"), [(False, False), (False, True), (True, False), (True, True)]
)


def rows_of(n, m):
    """Rows with a mean as large as their spread, and of unequal length."""
    rows = gaussian(n, m) + 1
    return rows * torch.linspace(0.5, 2, n, dtype=torch.float64)[:, None]


@shapes
@conventions
def test_product_is_that_of_the_prepared_rows_on_the_smaller_side(n, m, center, normalize):
    rows = rows_of(n, m)
    gram = Gram.from_embeddings(rows, normalize=normalize)
    x = naive.prepare(rows, center=center, normalize=normalize)
    expected = x.T @ x if n >= m else x @ x.T
    # Sums of max(n, m) products, and the mean taken out and put back, in units of all the energy.
    tolerance = 4 * (n + m) * EPS * (rows**2).sum().item()
    found = gram.product(center=center)
    assert (gram.n, gram.m, gram.on_features) == (n, m, n >= m)
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize(("n", "m"), SHAPES[2:])  # one row leaves nothing after centring
@conventions
def test_coordinates_are_the_rows_in_the_eigenbasis(n, m, center, normalize):
    rows = rows_of(n, m)
    x = naive.prepare(rows, center=center, normalize=normalize)
    gram = Gram.from_embeddings(rows, normalize=normalize)
    pairs = decompose(gram, center=center)
    z = gram.coordinates(pairs.values, pairs.vectors, center=center)
    assert z.shape == (n, len(pairs.values))
    tolerance = 8 * (n + m) * EPS * (x**2).sum()
    np.testing.assert_allclose(z.T @ z, torch.diag(pairs.values), rtol=0, atol=tolerance)
    np.testing.assert_allclose(z @ z.T, x @ x.T, rtol=0, atol=tolerance)


@pytest.mark.parametrize(("n", "m"), [(4, 9), (6, 6), (11, 3), (12, 12)])
@pytest.mark.parametrize("width", [1, 2, 4, 5, 12])
def test_the_width_of_the_blocks_does_not_matter(monkeypatch, n, m, width):
    rows = rows_of(n, m)
    whole = Gram.from_embeddings(rows)
    monkeypatch.setattr(gram_module, "_BLOCK_WIDTH", width)
    blocks = Gram.from_embeddings(rows)
    tolerance = 4 * (n + m) * EPS * (rows**2).sum().item()
    found = blocks.product(center=True)
    torch.testing.assert_close(found, whole.product(center=True), rtol=0, atol=tolerance)
    assert torch.equal(found, found.T)


@pytest.mark.parametrize("width", [1, 2, 5, 7, 8])
def test_mirroring_reads_nothing_above_the_diagonal(monkeypatch, width):
    """Whatever the width that the lower triangle was made with."""
    monkeypatch.setattr(gram_module, "_BLOCK_WIDTH", width)
    whole = gaussian(7, 7)
    whole = whole + whole.T
    above = torch.ones(7, 7).triu(1).bool()
    assert torch.equal(gram_module.mirror(whole.masked_fill(above, torch.nan)), whole)


@pytest.mark.parametrize(("n", "m"), [(4, 9), (6, 6), (11, 3)])
@pytest.mark.parametrize("elements", [1, 7, 20])
def test_the_size_of_the_chunks_does_not_matter(monkeypatch, n, m, elements):
    rows = rows_of(n, m)
    whole = Gram.from_embeddings(rows, normalize=True)
    monkeypatch.setattr(gram_module, "CHUNK_ELEMENTS", elements)
    parts = Gram.from_embeddings(rows, normalize=True)
    tolerance = 4 * (n + m) * EPS * n  # another order of summation, n rows of unit energy
    for center in (False, True):
        torch.testing.assert_close(
            parts.product(center=center), whole.product(center=center), rtol=0, atol=tolerance
        )
        pairs = decompose(parts, center=center)
        z = parts.coordinates(pairs.values, pairs.vectors, center=center)
        torch.testing.assert_close(z.T @ z, torch.diag(pairs.values), rtol=0, atol=2 * tolerance)
    assert parts.mean_cosine() == pytest.approx(whole.mean_cosine(), abs=tolerance)


@pytest.mark.parametrize(("n", "m"), [(40, 8), (8, 40)])
def test_a_huge_mean_costs_the_centred_product_no_digits(n, m):
    # The mean carries 1 − 1e-16 of the energy: EᵀE − n·mean·meanᵀ would have no digit left.
    offset = 2.0**26
    spread = torch.round(gaussian(n, m) * 2**20) * 2.0**-20  # sums with the offset are exact
    gram = Gram.from_embeddings(spread + offset)
    x = naive.prepare(spread, center=True)
    expected = x.T @ x if n >= m else x @ x.T
    # The mean is good to eps of itself, twice that a row, and each product has two such factors.
    mean_error = 4 * EPS * offset
    tolerance = 4 * max(n, m) * mean_error * np.abs(x).max()
    np.testing.assert_allclose(gram.product(center=True).numpy(), expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_products_are_accumulated_in_fp64(dtype):
    # 4096 + 2^-10 in one sum needs more digits than any storage type has.
    rows = torch.tensor([[64.0], [2.0**-5]]).to(dtype)
    assert Gram.from_embeddings(rows).product(center=False).item() == 4096 + 2.0**-10


def test_two_conventions_come_from_one_product():
    rows = rows_of(9, 4)
    gram = Gram.from_embeddings(rows)
    difference = gram.product(center=False) - gram.product(center=True)
    mean = rows.mean(0)
    expected = 9 * torch.outer(mean, mean)
    tolerance = 16 * EPS * (rows**2).sum().item()
    torch.testing.assert_close(difference, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize(
    "rows",
    [
        pytest.param(rows_of(7, 3), id="random"),
        pytest.param(rows_of(3, 7), id="wide"),
        pytest.param(torch.eye(4), id="orthonormal"),
        pytest.param(torch.tensor([[1.0, 2.0], [-3.0, -6.0]]), id="opposite"),
        pytest.param(torch.tensor([[1.0, 2.0], [0.0, 0.0], [2.0, 1.0]]), id="a zero row"),
        pytest.param(torch.tensor([[1e-30, 1e30], [1e30, 1e-30], [1e-30, 1e-30]]), id="scales"),
    ],
)
def test_mean_cosine_is_the_mean_over_all_pairs_of_raw_rows(rows, normalize):
    gram = Gram.from_embeddings(rows, normalize=normalize)
    n = len(rows)
    # ‖Σ u‖² is at most n², good to n·eps of that, and divided by n(n − 1).
    tolerance = 4 * n * EPS * n / (n - 1)
    assert gram.mean_cosine() == pytest.approx(naive.mean_cosine(rows), abs=tolerance)


@pytest.mark.parametrize("rows", [torch.ones(1, 3), torch.eye(3) * torch.tensor([[1.0], [0], [0]])])
def test_mean_cosine_of_fewer_than_two_directions_is_one(rows):
    assert Gram.from_embeddings(rows).mean_cosine() == 1.0


@conventions
def test_eigenpairs_solve_the_product(center, normalize):
    gram = Gram.from_embeddings(rows_of(12, 5), normalize=normalize)
    pairs = decompose(gram, center=center)
    product = gram.product(center=center)
    tolerance = eigenvalue_error(12, 5) * product.trace().item()
    assert (pairs.values.diff() <= 0).all()
    torch.testing.assert_close(
        product @ pairs.vectors, pairs.vectors * pairs.values, rtol=0, atol=tolerance
    )


@pytest.mark.parametrize(("n", "m"), [(3, 9), (9, 9), (9, 3)])
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_directions_without_energy_are_counted_as_empty(n, m, rank):
    pairs = decompose(Gram.from_embeddings(rows_with([3.0, 2.0, 1.0][:rank], n, m)), center=False)
    assert len(pairs.values) == rank
    assert pairs.vectors.shape == (min(n, m), rank)
    assert pairs.empty == m - rank


@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize(("n", "m"), [(100, 2), (1000, 2), (1000, 8), (20_000, 3)])
def test_rounding_over_many_rows_is_no_direction(n, m, center, normalize):
    # The error of a product grows with the number of rows summed, not with its size d.
    for seed in range(5):
        rows = gaussian(n, 1, seed) @ gaussian(1, m, seed + 100)
        pairs = decompose(Gram.from_embeddings(rows, normalize=normalize), center=center)
        assert len(pairs.values) == 1


def test_a_direction_at_1e_12_of_the_largest_is_kept():
    pairs = decompose(Gram.from_embeddings(sign_rows([1.0, 2.0**-20], 4)), center=True)
    np.testing.assert_array_equal(pairs.values.numpy(), [4, 4 * 2.0**-40])


def test_a_wrong_input_never_becomes_a_product():
    with pytest.raises(InputError):
        Gram.from_embeddings(torch.ones(3))


@pytest.mark.parametrize("normalize", [False, True])
def test_many_equal_rows_centre_to_zero(normalize):
    rows = gaussian(1, 8).expand(200_000, 8)
    gram = Gram.from_embeddings(rows, normalize=normalize)
    with pytest.raises(ZeroTraceError, match="all rows are equal"):
        decompose(gram, center=True)
