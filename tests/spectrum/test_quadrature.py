"""Lanczos recursions, the side of every quadrature rule at every number of steps, and traces."""

import math
from functools import cache, cached_property

import numpy as np
import pytest
import torch
from scipy.special import xlogy

from sigma_monitor.spectrum.gram import Gram
from sigma_monitor.spectrum.lanczos import Lanczos, leading_subspace, orthonormal
from sigma_monitor.spectrum.operator import DenseOperator, RowOperator
from sigma_monitor.spectrum.randomized import Sounding
from sigma_monitor.spectrum.trace import (
    ENTROPY,
    ROOT,
    ROOT_ENTROPY,
    SpectralMeasure,
    TraceEstimate,
    gauss_rule,
    log_ridge,
    radau_rule,
    root_entropy_slope,
    scaled_power,
)
from tests.spectrum.matrices import EPS, SQRT_EPS, gaussian, generator
from tests.spectrum.matrices import orthonormal as columns

# Nothing overflows and nothing is divided by zero on the way.
pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")

D = 12
INDEX = np.arange(1.0, D + 1)

SPECTRA = {
    "healthy": 1 + 1 / INDEX,
    "equidistant": INDEX,
    "fast decay": np.exp(-1.5 * INDEX),
    "faster decay": 10.0 ** (1 - INDEX),  # down to 1e-11 of the largest
    "collapsed": np.where(INDEX <= 2, INDEX, 0),
    "one direction": np.where(INDEX <= 1, 1.0, 0),
    "collapsed on noise": np.where(INDEX <= 2, 1.0, 1e-14),
    "repeated": np.repeat([4.0, 2.0, 1.0], 4),
    "isotropic": np.ones(D),
    "one spike": np.where(INDEX <= 1, 50.0, 1.0),
    "rank deficient": np.where(INDEX <= 8, 1 / INDEX, 0),
    "repeated and deficient": np.repeat([3.0, 1.0, 0.0], 4),
}
spectra = pytest.mark.parametrize("name", SPECTRA)

# Section 5 of the mathematics: which side Gauss lies on. Radau at 0 lies on the other one, Radau
# at or above the spectrum on the same one.
UPPER, LOWER = 1, -1
RIDGES = (1e-8, 1e-3, 1.0)
TABLE = {
    **{f"log(x + {e:g})": (lambda x, e=e: np.log(x + e), UPPER) for e in RIDGES},
    **{f"log(1 + x / {e:g})": (log_ridge(e).value, UPPER) for e in RIDGES},
    "x log x": (lambda x: xlogy(x, x), LOWER),
    "sqrt(x)": (np.sqrt, UPPER),
    "sqrt(x) log x": (lambda x: xlogy(np.sqrt(x), x), LOWER),
    "-x log x, the package's": (ENTROPY.value, UPPER),
    "sqrt(x), the package's": (ROOT.value, UPPER),
    "-sqrt(x) log sqrt(x), the package's": (ROOT_ENTROPY.value, UPPER),
    "x^0.5, the package's": (scaled_power(0.5, 1.0).value, UPPER),
    "x^1.5, the package's": (scaled_power(1.5, 1.0).value, LOWER),
}
rows_of_the_table = pytest.mark.parametrize(("function", "side"), TABLE.values(), ids=TABLE.keys())


class Case:
    """`C / tr C` with a prescribed spectrum, and recursions from some unit vectors."""

    def __init__(self, spectrum, starts=5, seed=0):
        values = np.sort(np.asarray(spectrum, dtype=float))
        self.values = values / values.sum()
        self.d = len(values)
        basis = columns(self.d, self.d, seed)
        product = (basis * torch.as_tensor(self.values)) @ basis.T
        self.operator = DenseOperator(((product + product.T) / 2)[None], [1.0])
        self.start = unit(gaussian(starts, self.d, seed + 1))
        self.weights = (self.start @ basis).square().numpy()  # of each eigenvector
        self.weights /= self.weights.sum(1, keepdims=True)

    def recursion(self, steps):
        recursion = Lanczos(self.operator, self.start[None])
        recursion.advance(steps)
        return recursion

    @cached_property
    def all_coefficients(self):
        return self.recursion(self.d).coefficients()

    def coefficients(self, steps):
        """The same as of a recursion of so many steps."""
        return tuple(part[0, :, :steps] for part in self.all_coefficients)

    def truth(self, function):
        return self.weights @ function(self.values)

    def rounding(self, function):
        """Change of vᵀ f(A) v, and of any rule for it, when eigenvalues move by their rounding.

        fp64 products, a recursion and two eigendecompositions each leave some d eps of norm 1.
        """
        error = 4 * self.d * EPS
        low, high = np.clip(self.values - error, 0, 1), np.clip(self.values + error, 0, 1)
        values = np.stack([function(self.values), function(low), function(high)])
        scale = 1 + np.abs(values).max(0)
        return 4 * (self.weights @ (np.ptp(values, axis=0) + self.d * EPS * scale))


@cache
def case_of(name):
    return Case(SPECTRA[name])


def unit(vectors):
    return vectors / vectors.norm(dim=-1, keepdim=True)


@spectra
@rows_of_the_table
def test_every_rule_lies_on_its_side_at_every_number_of_steps(name, function, side):
    case = case_of(name)
    truth, slack = case.truth(function), case.rounding(function)
    for k in range(1, D + 1):
        alpha, beta = case.coefficients(k)
        gauss = gauss_rule(alpha, beta).apply(function)
        at_zero = radau_rule(alpha, beta).apply(function)
        above = radau_rule(alpha, beta, node=1.0).apply(function)
        assert (side * (gauss - truth) >= -slack).all(), k
        assert (side * (at_zero - truth) <= slack).all(), k
        assert (side * (above - truth) >= -slack).all(), k


@spectra
@rows_of_the_table
def test_a_node_just_above_the_spectrum_is_enough(name, function, side):
    case = case_of(name)
    truth, slack = case.truth(function), case.rounding(function)
    node = case.values[-1] * (1 + 4 * D * EPS)  # the computed largest eigenvalue may lie above
    for k in range(1, 5):
        above = radau_rule(*case.coefficients(k), node=node).apply(function)
        assert (side * (above - truth) >= -slack).all(), k


@pytest.mark.parametrize("function", [log_ridge(1e-3), ENTROPY, ROOT, ROOT_ENTROPY])
@pytest.mark.parametrize("name", ["healthy", "equidistant", "fast decay"])
def test_brackets_are_strict_and_close_as_steps_are_taken(name, function):
    case = case_of(name)
    widths = []
    for k in range(1, 5):
        alpha, beta = case.coefficients(k)
        gauss, at_zero = (
            rule.apply(function.value)
            for rule in (gauss_rule(alpha, beta), radau_rule(alpha, beta))
        )
        truth, slack = case.truth(function.value), case.rounding(function.value)
        assert (gauss > truth - slack).all()
        assert (at_zero < truth + slack).all()
        widths.append(gauss - at_zero)
    assert (widths[0] > 100 * case.rounding(function.value)).all()  # no bracket by being trivial
    assert (np.diff(widths, axis=0) < 0).all()


def polynomial(degree):
    """Of values and coefficients of order one on [0, 1]."""
    coefficients = np.random.default_rng(degree).standard_normal(degree + 1)
    return lambda x: np.polynomial.chebyshev.chebval(2 * x - 1, coefficients)


# Products, recursion and eigendecomposition: some d eps each, times the polynomial's slope, which
# on [0, 1] is at most 2 · degree² times its size (Markov).
def polynomial_rounding(degree):
    return 16 * D * EPS * (1 + degree) * 2 * max(1, degree) ** 2


@pytest.mark.parametrize("k", [1, 2, 3, 4, 5])
def test_gauss_is_exact_up_to_degree_2k_minus_1_and_no_further(k):
    case = case_of("equidistant")
    rule = gauss_rule(*case.coefficients(k))
    for degree in range(2 * k):
        function = polynomial(degree)
        allowed = polynomial_rounding(degree)
        np.testing.assert_allclose(rule.apply(function), case.truth(function), rtol=0, atol=allowed)

    def beyond(x):
        return (x / case.values[-1]) ** (2 * k)

    assert (case.truth(beyond) - rule.apply(beyond) > polynomial_rounding(2 * k)).all()


@pytest.mark.parametrize("node", [0.0, 1.0])
@pytest.mark.parametrize("k", [1, 2, 3, 4, 5])
def test_radau_is_exact_up_to_degree_2k_and_no_further(k, node):
    case = case_of("equidistant")
    rule = radau_rule(*case.coefficients(k), node=node)
    for degree in range(2 * k + 1):
        function = polynomial(degree)
        allowed = polynomial_rounding(degree)
        np.testing.assert_allclose(rule.apply(function), case.truth(function), rtol=0, atol=allowed)

    def beyond(x):
        return (x / case.values[-1]) ** (2 * k + 1)

    assert (abs(case.truth(beyond) - rule.apply(beyond)) > polynomial_rounding(2 * k)).all()


@pytest.mark.parametrize("node", [0.0, 1.0])
def test_the_fixed_node_is_a_node(node):
    for k in range(1, 6):
        nodes = radau_rule(*case_of("equidistant").coefficients(k), node=node).nodes
        assert nodes.shape[-1] == k + 1
        assert (abs(nodes - node).min(-1) <= 16 * D * EPS).all()


@spectra
def test_weights_are_positive_and_sum_to_one(name):
    case = case_of(name)
    for k in range(1, D + 1):
        alpha, beta = case.coefficients(k)
        for rule in (
            gauss_rule(alpha, beta),
            radau_rule(alpha, beta),
            radau_rule(alpha, beta, node=1.0),
        ):
            assert (rule.weights >= 0).all()
            assert ((rule.nodes >= 0) & (rule.nodes <= 1)).all()
            np.testing.assert_allclose(rule.weights.sum(-1), 1, rtol=0, atol=8 * D * EPS)


DISTINCT = {
    "collapsed": 3,
    "one direction": 2,
    "repeated": 3,
    "isotropic": 1,
    "one spike": 2,
    "rank deficient": 9,
    "repeated and deficient": 3,
}


@pytest.mark.parametrize(("name", "distinct"), DISTINCT.items())
@rows_of_the_table
def test_beyond_the_distinct_eigenvalues_every_rule_is_exact(name, distinct, function, side):
    case = case_of(name)
    # The rule ends on an eigenvalue to d eps, and where f rises like log(x + ε) or sqrt(x) from an
    # eigenvalue 0 it sees the node that rounding put there at its weight.
    truth, slack = case.truth(function), 4 * case.rounding(function)
    for k in range(distinct, D + 1):
        alpha, beta = case.coefficients(k)
        for rule in (gauss_rule(alpha, beta), radau_rule(alpha, beta)):
            value = rule.apply(function)
            assert np.isfinite(value).all()
            assert (abs(value - truth) <= slack).all(), k


@spectra
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_breakdown_leaves_no_nan(name, dtype):
    case = case_of(name)
    operator = DenseOperator(case.operator._products.to(dtype), [1.0])
    recursion = Lanczos(operator, case.start.to(dtype)[None])
    recursion.advance(D)
    alpha, beta = recursion.coefficients()
    assert np.isfinite(alpha).all()
    assert np.isfinite(beta).all()
    assert (beta >= 0).all()
    for rule in (gauss_rule(alpha, beta), radau_rule(alpha, beta), radau_rule(alpha, beta, 1.0)):
        assert np.isfinite(rule.nodes).all()
        assert np.isfinite(rule.weights).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_where_nothing_is_left_the_coefficients_are_zero(dtype):
    # Start vectors that are eigenvectors of a diagonal matrix, exactly: the residual is exactly 0.
    values = torch.tensor([0.5, 0.25, 0.25, 0.0], dtype=dtype)
    operator = DenseOperator(torch.diag(values)[None], [1.0])
    recursion = Lanczos(operator, torch.eye(4, dtype=dtype)[None])
    recursion.advance(4)
    alpha, beta = recursion.coefficients()
    assert alpha[0, :, 0].tolist() == values.tolist()
    assert not alpha[0, :, 1:].any()
    assert not beta.any()
    rule = radau_rule(alpha, beta)
    for function in (ENTROPY, ROOT, ROOT_ENTROPY, log_ridge(1e-3)):
        expected = function.value(values.double().numpy())
        np.testing.assert_allclose(rule.apply(function.value)[0], expected, rtol=0, atol=8 * EPS)


def test_no_more_than_d_steps_are_taken():
    recursion = case_of("healthy").recursion(3)
    recursion.advance(100)
    assert recursion.steps == D
    assert recursion.matvecs == 5 * D
    recursion.advance(1)
    recursion.advance(0)
    assert recursion.steps == D


def basis_of(recursion):
    """(layers · b, k, d)."""
    return torch.cat(recursion._blocks, dim=1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "condition", [1e2, 1e6, 1e12], ids=["well conditioned", "condition 1e6", "condition 1e12"]
)
def test_the_basis_stays_orthonormal(condition, dtype):
    d, k = 80, 60
    case = Case(np.geomspace(1, 1 / condition, d), starts=3)
    operator = DenseOperator(case.operator._products.to(dtype), [1.0])
    recursion = Lanczos(operator, unit(case.start.to(dtype))[None])
    recursion.advance(k)
    basis = basis_of(recursion)
    defect = basis @ basis.mT - torch.eye(k, dtype=dtype)
    # Twice is enough (Kahan and Parlett): k vectors, each orthogonal to a few sqrt(d) eps.
    assert defect.abs().max() <= 4 * math.sqrt(d) * torch.finfo(dtype).eps


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rank", [1, 3, 10])
def test_the_basis_of_a_collapsed_spectrum_stays_orthonormal_until_it_ends(rank, dtype):
    d, k = 64, 30
    rows = (gaussian(100, rank, 1) @ gaussian(rank, d, 2)).to(dtype)
    gram = Gram.from_embeddings(rows)
    energy = float(gram.row_energy(center=False).sum())
    operator = RowOperator([gram], center=False, traces=[energy])
    recursion = Lanczos(operator, unit(gaussian(4, d, 3).to(dtype))[None])
    recursion.advance(k)
    basis = basis_of(recursion)
    gram = basis @ basis.mT
    size = gram.diagonal(dim1=1, dim2=2)
    allowed = 4 * math.sqrt(d) * torch.finfo(dtype).eps
    alive = size > 0.5
    assert (alive[:, 1:] <= alive[:, :-1]).all()  # once it ended it does not begin again
    assert (alive.sum(1) >= rank).all()
    expected = torch.diag_embed(alive.to(dtype))
    assert (gram - expected).abs().max() <= allowed


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rank", [1, 2])
def test_rounding_that_is_left_does_not_spoil_the_basis(rank, dtype):
    """About one start vector in ten goes on after the space is exhausted, at β just above eps²."""
    d, k = 72, 20
    for seed in range(20):
        rows = (gaussian(80, rank, seed) @ gaussian(rank, d, seed + 1)).to(dtype)
        gram = Gram.from_embeddings(rows)
        energy = float(gram.row_energy(center=False).sum())
        operator = RowOperator([gram], center=False, traces=[energy])
        recursion = Lanczos(operator, unit(gaussian(8, d, seed + 3).to(dtype))[None])
        recursion.advance(k)
        assert recursion.coefficients()[1].max() <= 1  # the norm of the operator
        basis = basis_of(recursion)
        products = basis @ basis.mT
        alive = products.diagonal(dim1=1, dim2=2) > 0.5
        defect = (products - torch.diag_embed(alive.to(dtype))).abs().max()
        assert defect <= 4 * math.sqrt(d) * torch.finfo(dtype).eps


def test_one_orthogonalisation_less_would_be_seen():
    """The test above tells: with three-term recurrences alone the basis is lost."""
    d, k = 80, 60
    case = Case(np.geomspace(1, 1e-6, d), starts=1)
    product, vector = case.operator._products[0], case.start[0]
    basis, previous, beta = [], torch.zeros(d), 0.0
    for _ in range(k):
        basis.append(vector)
        rest = product @ vector - beta * previous
        rest = rest - (rest @ vector) * vector
        beta, previous = rest.norm(), vector
        vector = rest / beta
    basis = torch.stack(basis)
    defect = (basis @ basis.T - torch.eye(k)).abs().max()
    assert defect > SQRT_EPS


def test_the_tridiagonal_is_the_operator_in_the_basis():
    case = case_of("healthy")
    recursion = case.recursion(5)
    alpha, beta = recursion.coefficients()
    for vector, basis in enumerate(basis_of(recursion)):
        projected = (case.operator.apply(basis[None])[0] @ basis.T).numpy()
        expected = np.diag(alpha[0, vector])
        off = beta[0, vector, :-1]
        expected += np.diag(off, 1) + np.diag(off, -1)
        np.testing.assert_allclose(projected, expected, rtol=0, atol=8 * D * EPS)


def layered(layers=3, d=10):
    products = torch.stack(
        [gaussian(20, d, seed).T @ gaussian(20, d, seed) for seed in range(layers)]
    )
    return products, [float(product.trace()) for product in products]


def test_a_batch_is_every_recursion_by_itself():
    products, traces = layered()
    start = unit(gaussian(3 * 4, 10, 9)).view(3, 4, 10)
    batch = Lanczos(DenseOperator(products, traces), start)
    batch.advance(7)
    alpha, beta = batch.coefficients()
    assert alpha.shape == beta.shape == (3, 4, 7)
    for layer in range(3):
        for vector in range(4):
            operator = DenseOperator(products[layer : layer + 1], traces[layer : layer + 1])
            single = Lanczos(operator, start[layer : layer + 1, vector : vector + 1])
            single.advance(7)
            # A coefficient is as sensitive as the recursion is long; well conditioned here.
            for found, expected in zip((alpha, beta), single.coefficients(), strict=True):
                np.testing.assert_allclose(
                    found[layer, vector], expected[0, 0], rtol=0, atol=SQRT_EPS * 1e-3
                )


@pytest.mark.parametrize("parts", [(1,) * 8, (3, 5), (5, 3), (2, 1, 5), (8, 4)])
def test_advancing_in_parts_is_advancing_at_once(parts):
    products, traces = layered()
    start = unit(gaussian(3 * 4, 10, 9)).view(3, 4, 10)
    at_once, in_parts = (Lanczos(DenseOperator(products, traces), start) for _ in range(2))
    at_once.advance(sum(parts))
    for steps in parts:
        in_parts.advance(steps)
        in_parts.coefficients()  # a look between changes nothing
    assert in_parts.steps == at_once.steps == min(10, sum(parts))
    for found, expected in zip(in_parts.coefficients(), at_once.coefficients(), strict=True):
        # Sums over blocks of the basis are added in another order.
        np.testing.assert_allclose(found, expected, rtol=0, atol=SQRT_EPS * 1e-3)


def test_a_narrowed_recursion_is_that_of_the_first_vectors():
    products, traces = layered()
    start = unit(gaussian(3 * 4, 10, 9)).view(3, 4, 10)
    whole = Lanczos(DenseOperator(products, traces), start)
    whole.advance(3)
    few = whole.narrowed(2)
    assert (few.steps, few.matvecs) == (3, 6)
    few.advance(4)
    assert (whole.steps, few.steps) == (3, 7)  # the others stay where they are
    whole.advance(4)
    for found, expected in zip(few.coefficients(), whole.coefficients(), strict=True):
        np.testing.assert_allclose(found, expected[:, :2], rtol=0, atol=SQRT_EPS * 1e-3)


def refuse_to_wait(monkeypatch):
    def refuse(*_args, **_kwargs):
        raise AssertionError("the host waited for the device")

    names = ["item", "cpu", "numpy", "tolist", "__bool__", "__float__", "__int__", "__index__"]
    for name in [*names, "nonzero"]:
        monkeypatch.setattr(torch.Tensor, name, refuse)


@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize(("n", "m"), [(30, 8), (8, 30)])
@pytest.mark.parametrize("normalize", [False, True])
def test_advance_never_waits_for_the_device(monkeypatch, n, m, center, normalize):
    gram = Gram.from_embeddings(gaussian(n, m).float(), normalize=normalize)
    energy = float(gram.row_energy(center=center).sum())
    operator = RowOperator([gram], center=center, traces=[energy])
    recursion = Lanczos(operator, unit(gaussian(3, 8, 1).float())[None])
    with monkeypatch.context() as patched:
        refuse_to_wait(patched)
        with pytest.raises(AssertionError, match="waited"):  # the spy sees what it should
            bool(torch.ones(1) > 0)
        recursion.advance(4)
        recursion.advance(30)
    assert recursion.steps == 8
    assert np.isfinite(recursion.coefficients()).all()


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU")
@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize(("n", "m"), [(300, 80), (80, 300)])
def test_advance_never_waits_for_a_gpu(n, m, center):
    gram = Gram.from_embeddings(gaussian(n, m).float().cuda())
    energy = float(gram.row_energy(center=center).sum())
    operator = RowOperator([gram], center=center, traces=[energy])
    recursion = Lanczos(operator, unit(gaussian(3, 80, 1).float())[None].cuda())
    recursion.advance(2)  # the first product of a process sets up its library
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        recursion.advance(10)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert np.isfinite(recursion.coefficients()).all()


def test_leading_subspace_finds_the_leading_directions():
    values = np.concatenate([[1.0, 0.8, 0.6], np.full(20, 1e-3)])
    case = Case(values)
    basis, found = leading_subspace(case.operator, gaussian(3, 23, 4)[None], iterations=4)
    torch.testing.assert_close(
        basis[0] @ basis[0].T, torch.eye(3, dtype=torch.float64), rtol=0, atol=32 * EPS
    )
    ritz = (basis * case.operator.apply(basis)).sum(-1)[0].numpy()
    # The error of a Ritz value falls as the ratio of eigenvalues to twice the iterations, here
    # (1e-3 / 0.6)^8, below eps.
    np.testing.assert_allclose(ritz, case.values[-3:], rtol=0, atol=64 * EPS)
    np.testing.assert_allclose(found[0].numpy(), ritz, rtol=0, atol=64 * EPS)


def test_leading_subspace_of_short_rank_is_a_full_orthonormal_set():
    case = case_of("collapsed")
    start = torch.randn(1, 5, D, generator=generator(0), dtype=torch.float64)
    (basis,), _ = leading_subspace(case.operator, start, iterations=2)
    expected = torch.eye(5, dtype=torch.float64)
    torch.testing.assert_close(basis @ basis.T, expected, rtol=0, atol=32 * EPS)
    again = orthonormal(basis[None])[0]
    torch.testing.assert_close(again @ again.T, expected, rtol=0, atol=32 * EPS)


@pytest.mark.parametrize(
    "function",
    [
        ENTROPY,
        ROOT,
        ROOT_ENTROPY,
        log_ridge(1e-3),
        scaled_power(3.0, 0.5),
        root_entropy_slope(4, 5),
    ],
)
def test_slopes_are_those_of_the_functions(function):
    x = np.linspace(0.05, 0.95, 31)
    step = EPS ** (1 / 3)  # balances truncation, step², with rounding, eps / step
    numeric = (function.value(x + step) - function.value(x - step)) / (2 * step)
    size = abs(function.value(x)).max() + abs(numeric).max()
    # Third derivatives of these are below 1e6 on the interval.
    np.testing.assert_allclose(
        function.slope(x), abs(numeric), rtol=0, atol=1e6 * step**2 * max(1.0, size)
    )


# From rules to traces.


def measure_of(spectrum, *, leading, vectors, steps, deep=None, deep_steps=None, seed=0):
    """A measure of a diagonal operator: its first `leading` eigenvectors, and random vectors."""
    values = np.sort(np.asarray(spectrum, dtype=float))[::-1] / np.sum(spectrum)
    d = len(values)
    operator = DenseOperator(torch.diag(torch.as_tensor(values.copy()))[None], [1.0])
    basis = torch.eye(d, dtype=torch.float64)[:leading]
    test = gaussian(vectors, d, seed)
    test[:, :leading] = 0
    runs = []
    for start, count in ((basis, steps), (unit(test), steps), (unit(test)[:deep], deep_steps)):
        run = Lanczos(operator, start[None])
        run.advance(count or steps)
        runs.append(tuple(part[0] for part in run.coefficients()))
    return SpectralMeasure(*runs, rest_dimension=d - leading, unit_roundoff=EPS / 2)


def naive_per_vector(measure, function):
    """Each vector by itself, its control variate by a regression over the nodes of all others."""
    leading = sum(
        weight * function.value(node)
        for nodes, weights in zip(
            measure.leading_gauss.nodes, measure.leading_gauss.weights, strict=True
        )
        for node, weight in zip(nodes, weights, strict=True)
    )
    energy = 1 - (measure.leading_gauss.nodes * measure.leading_gauss.weights).sum()
    nodes, weights = measure.rest_gauss.nodes, measure.rest_gauss.weights
    found = []
    for i in range(len(nodes)):
        x, w = (np.delete(array, i, axis=0).ravel() for array in (nodes, weights))
        slope = np.polyfit(x, function.value(x), 1, w=np.sqrt(w))[0]
        own = weights[i] @ function.value(nodes[i])
        own -= slope * (weights[i] @ nodes[i] - energy / measure.rest_dimension)
        found.append(leading + measure.rest_dimension * own)
    return np.array(found)


FUNCTIONS = [ENTROPY, ROOT, ROOT_ENTROPY, log_ridge(1e-3), scaled_power(2.0, 1.0)]


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("vectors", [2, 3, 8])
def test_a_vector_is_corrected_by_the_slope_that_the_others_see(function, vectors):
    measure = measure_of(1 / np.arange(1, 31), leading=4, vectors=vectors, steps=6)
    part = measure.trace(function)
    # Regression is exact to eps of its condition, which on nodes in [0, 1] is that of their spread.
    np.testing.assert_allclose(
        part.per_vector, naive_per_vector(measure, function), rtol=SQRT_EPS, atol=0
    )
    assert part.value == pytest.approx(part.per_vector.mean(), rel=8 * EPS)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_the_control_variate_takes_out_most_of_the_spread(function):
    measure = measure_of(np.linspace(1, 0.3, 40), leading=4, vectors=16, steps=8)
    plain = 36 * measure.rest_gauss.apply(function.value)
    assert measure.trace(function).per_vector.std() < plain.std() / 3


@pytest.mark.parametrize("function", FUNCTIONS[:4])  # a square is exact after two steps
def test_deeper_steps_of_some_vectors_change_all_by_their_mean(function):
    spectrum = np.arange(1, 41) ** -1.5
    options = {"leading": 4, "vectors": 12, "steps": 4}
    shallow = measure_of(spectrum, **options).trace(function)
    deep_measure = measure_of(spectrum, **options, deep=3, deep_steps=9)
    deep = deep_measure.trace(function)
    few = slice(3)
    change = (
        deep_measure.deep_gauss.apply(function.value)
        - deep_measure.rest_gauss.apply(function.value)[few]
    )
    assert deep.value - shallow.value == pytest.approx(36 * change.mean(), rel=SQRT_EPS)
    # The others are moved by the mean, those gone on with by that and N/n times the rest.
    moved = deep.per_vector - shallow.per_vector
    expected = np.full(12, change.mean())
    expected[few] += 12 / 3 * (change - change.mean())
    atol = SQRT_EPS * abs(36 * change).max()
    np.testing.assert_allclose(moved, 36 * expected, rtol=0, atol=atol)


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("steps", [2, 3, 4, 6])
def test_the_bracket_of_a_trace_holds_what_more_steps_find(steps, function):
    spectrum = np.arange(1, 41) ** -1.5
    options = {"leading": 4, "vectors": 6}
    few = measure_of(spectrum, **options, steps=steps)
    part, gap = few.trace(function), sum(few.gaps(function))
    all_steps = measure_of(spectrum, **options, steps=40)
    # The same vectors, and the control variate left out, whose slope moves with the nodes too.
    gauss, final = (
        measure.leading_gauss.apply(function.value).sum()
        + 36 * measure.rest_gauss.apply(function.value).mean()
        for measure in (few, all_steps)
    )
    slack = 40 * part.rounding
    assert gauss - part.below - slack <= final <= gauss + part.above + slack
    # And is no wider than both rules are apart.
    assert part.below + part.above == pytest.approx(gap, rel=SQRT_EPS, abs=slack)


class Known:
    """In place of a measure: the two sums that the effective rank is made of, with brackets."""

    def __init__(self, root, entropy):
        self.parts = {ROOT: root, ROOT_ENTROPY: entropy}

    def trace(self, function):
        return self.parts.get(function, self.parts[ROOT])


def between(low, value, high):
    return TraceEstimate(value, value - low, high - value, 0.0, np.empty(0), np.empty(0))


@pytest.mark.parametrize("seed", range(40))
def test_the_bracket_of_the_effective_rank_holds_all_of_the_box(seed):
    """`log S + R/S` over the box of both brackets, against a grid."""
    rng = np.random.default_rng(seed)
    s = np.sort(rng.uniform(1, 6, 3))
    r = np.sort(rng.uniform(0, 8, 3))
    if seed % 4 == 0:
        r = r.mean() + (r - r.mean()) / 50  # a narrow one that S = R crosses
    rank = Sounding.log_effective_rank(Known(between(*s), between(*r)))
    sums, entropies = np.meshgrid(np.linspace(s[0], s[2], 401), np.linspace(r[0], r[2], 401))
    values = np.log(sums) + entropies / sums
    # The grid misses a minimum by the square of its step; it never lies outside.
    assert rank.value - rank.below <= values.min() + 16 * EPS
    assert rank.value + rank.above >= values.max() - 16 * EPS
    assert rank.value - rank.below >= values.min() - (s[2] - s[0]) ** 2 / 400**2 * 8 - 16 * EPS
    assert rank.value + rank.above <= values.max() + 16 * EPS
