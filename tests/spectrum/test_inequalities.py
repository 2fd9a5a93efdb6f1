"""Theorems about the functionals, over spectra and rows that hypothesis makes up."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from sigma_monitor.errors import InputError
from sigma_monitor.spectrum import functionals, spectral_summary
from sigma_monitor.spectrum.summary import FUNCTIONALS
from tests.spectrum.matrices import EPS, eigenvalue_error, gaussian, orthonormal

# The same examples on every run, so that a failure in CI is a failure at the desk.
property_test = settings(max_examples=40, deadline=None, derandomize=True)

RIDGE = 1e-3
ORDERS = [0.25, 0.5, 1, 1.5, 2, 4, math.inf]
SCHUR_CONCAVE = {
    "log_det": lambda v: functionals.log_det(v, len(v), RIDGE),
    "coding_rate": lambda v: functionals.coding_rate(v, RIDGE),
    "spectral_entropy": functionals.spectral_entropy,
    "stable_rank": functionals.stable_rank,
    **{f"renyi_rank({q})": lambda v, q=q: functionals.renyi_rank(v, q) for q in ORDERS},
}
schur_concave = pytest.mark.parametrize(
    "functional", SCHUR_CONCAVE.values(), ids=SCHUR_CONCAVE.keys()
)


def own_rounding(values):
    """Of one functional: a sum of d terms of up to log(1e9) each, and a power of up to 1/|1−q| = 2
    of it, relative to a result of d at most (or of d·log(1e9))."""
    return 16 * len(values) ** 2 * math.log(1e9) * EPS


eigenvalues = st.floats(-6, 3).map(lambda exponent: 10.0**exponent)


def spectra(min_size=1, *, zeros=True):
    """Descending, from 1e-6 to 1e3, some of them zero, the first one not."""
    rest = st.one_of(eigenvalues, st.just(0.0)) if zeros else eigenvalues
    lists = st.tuples(eigenvalues, st.lists(rest, min_size=min_size - 1, max_size=11))
    return lists.map(lambda drawn: np.sort([drawn[0], *drawn[1]])[::-1])


@st.composite
def averaged(draw, *, zeros=True):
    """A spectrum, and the same after a T-transform: two eigenvalues moved towards each other."""
    before = draw(spectra(2, zeros=zeros))
    i, j = draw(st.sampled_from([(i, j) for i in range(len(before)) for j in range(i)]))
    t = draw(st.floats(0, 1))
    after = before.copy()
    after[i] = t * before[i] + (1 - t) * before[j]
    after[j] = (1 - t) * before[i] + t * before[j]
    return before, np.sort(after)[::-1]


@schur_concave
@property_test
@given(averaged())
def test_averaging_two_eigenvalues_never_lowers_a_schur_concave_functional(functional, pair):
    before, after = pair
    assert functional(after) >= functional(before) - own_rounding(before)


@property_test
@given(averaged(zeros=False))
def test_averaging_two_eigenvalues_never_raises_the_condition_number(pair):
    before, after = pair
    allowed = 1 + 4 * EPS  # one product, one sum, one quotient
    assert functionals.condition_number(after, 0.0) <= allowed * functionals.condition_number(
        before, 0.0
    )


@schur_concave
def test_averaging_does_raise_a_schur_concave_functional(functional):
    assert functional(np.array([3.0, 2.0, 1.0])) > functional(np.array([4.0, 1.0, 1.0])) + 0.01


def test_averaging_does_lower_the_condition_number():
    assert functionals.condition_number(np.array([3.0, 3.0, 2.0]), 0.0) == 1.5
    assert functionals.condition_number(np.array([4.0, 3.0, 1.0]), 0.0) == 4


@schur_concave
@property_test
@given(seed=st.integers(0, 2**31), n=st.integers(1, 9), m=st.integers(1, 6))
def test_the_diagonal_of_c_is_more_even_than_its_spectrum(functional, seed, n, m):
    """Schur-Horn, so that f(diag C) ≥ f(λ(C)); Hadamard's inequality when f is log det."""
    rows = gaussian(n, m, seed)
    values = np.zeros(m)
    found = spectral_summary(rows).eigenvalues
    values[: len(found)] = found
    diagonal = np.sort(rows.square().mean(0).numpy())[::-1]
    # log det is the least certain: m eigenvalues over the ridge.
    error = m * eigenvalue_error(n, m) * diagonal.sum() / RIDGE
    assert functional(diagonal) >= functional(values) - own_rounding(values) - error


@property_test
@given(spectra(), st.floats(0.05, 0.95), st.floats(1.05, 50))
def test_renyi_rank_falls_with_its_order_from_the_support_to_the_stable_rank(values, low, high):
    orders = [0, low, 1, high, 2 * high, math.inf]
    ranks = [functionals.renyi_rank(values, q) for q in orders]
    amplified = own_rounding(values) * 20  # 1/|1 − q| up to 20
    for larger, smaller in itertools.pairwise(ranks):
        assert larger >= smaller - amplified
    assert ranks[0] == pytest.approx((values > 0).sum(), rel=16 * len(values) * EPS, abs=0)
    assert ranks[-1] == pytest.approx(
        functionals.stable_rank(values), rel=4 * len(values) * EPS, abs=0
    )


@property_test
@given(spectra())
def test_the_ranks_stand_in_order(values):
    """Shares of sqrt(λ) are more even than shares of λ, so effective rank is above exp H(p)."""
    ranks = [
        1.0,
        functionals.stable_rank(values),
        functionals.renyi_rank(values, 2),
        math.exp(functionals.spectral_entropy(values)),
        functionals.effective_rank(values),
        (values > 0).sum(),
    ]
    for smaller, larger in itertools.pairwise(ranks):
        assert smaller <= larger + own_rounding(values)


@property_test
@given(spectra(), st.floats(-6, 3), st.floats(-6, 3))
def test_log_det_rises_and_coding_rate_falls_with_the_ridge(values, first, second):
    low, high = sorted((10**first, 10**second))
    m = len(values) + 2
    assert functionals.log_det(values, m, low) <= functionals.log_det(values, m, high)
    assert functionals.coding_rate(values, low) >= functionals.coding_rate(values, high)


@property_test
@given(spectra(), spectra())
def test_log_det_and_coding_rate_rise_with_every_eigenvalue(first, second):
    size = min(len(first), len(second))
    low, high = (choose(first[:size], second[:size]) for choose in (np.minimum, np.maximum))
    assert functionals.log_det(low, size, RIDGE) <= functionals.log_det(high, size, RIDGE)
    assert functionals.coding_rate(low, RIDGE) <= functionals.coding_rate(high, RIDGE)


@property_test
@given(spectra(), st.integers(0, 3))
def test_log_det_per_dimension_is_at_most_that_of_an_even_spectrum(values, zeros):
    m = len(values) + zeros
    bound = m * math.log(values.sum() / m + RIDGE)
    assert functionals.log_det(values, m, RIDGE) <= bound + own_rounding(values)


# --- through spectral_summary --------------------------------------------------------------------

shapes = {"n": st.integers(2, 12), "m": st.integers(1, 8)}
seeds = st.integers(0, 2**31)
RANKS = ("effective_rank", "participation_ratio", "stable_rank")
conventions = pytest.mark.parametrize(
    ("center", "normalize"), [(False, False), (False, True), (True, False), (True, True)]
)


def tolerance(summary):
    """Relative error of a rank or log det: that of the smallest eigenvalue, m of them.

    Centring rounds at the scale of the uncentred rows, whose energy is at most n times as large
    for the rows drawn here.
    """
    n, m = summary.n, summary.m
    return m * n * eigenvalue_error(n, m) * summary.trace.value / summary.eigenvalues[-1]


def assert_same(found, expected, names, allowed):
    for name in names:
        value = getattr(expected, name).value
        assert getattr(found, name).value == pytest.approx(value, rel=allowed, abs=allowed), name


SHARES = (*RANKS, "spectral_entropy", "coding_rate", "condition_number", "mean_cosine")


@conventions
@property_test
@given(seed=seeds, exponent=st.integers(-40, 40), **shapes)
def test_scale_moves_log_det_by_its_logarithm_and_nothing_else(
    seed, n, m, exponent, center, normalize
):
    rows = gaussian(n, m, seed)
    assume(m > 1 or not normalize)  # unit rows of one feature may all be equal
    factor = 2.0**exponent
    summary = spectral_summary(rows, center=center, normalize=normalize)
    scaled = spectral_summary(rows * factor, center=center, normalize=normalize)
    allowed = tolerance(summary)
    assert_same(scaled, summary, (*SHARES, "decay_exponent"), allowed)
    shift = 0 if normalize else 2 * math.log(factor)
    expected = summary.log_det_per_dim.value + shift
    assert scaled.log_det_per_dim.value == pytest.approx(expected, abs=allowed + 100 * EPS)


@conventions
@property_test
@given(seed=seeds, **shapes)
def test_rotating_the_features_changes_nothing(seed, n, m, center, normalize):
    rows = gaussian(n, m, seed)
    assume(m > 1 or not normalize)
    summary = spectral_summary(rows, center=center, normalize=normalize)
    turned = spectral_summary(
        rows @ orthonormal(m, m, seed + 1), center=center, normalize=normalize
    )
    assert_same(turned, summary, (*SHARES, "log_det_per_dim"), 2 * tolerance(summary))


@conventions
@property_test
@given(seed=seeds, **shapes)
def test_the_order_of_rows_and_of_features_does_not_matter(seed, n, m, center, normalize):
    rows = gaussian(n, m, seed)
    assume(m > 1 or not normalize)
    summary = spectral_summary(rows, center=center, normalize=normalize)
    shuffled = rows.flip(0).roll(1, dims=1)
    found = spectral_summary(shuffled, center=center, normalize=normalize)
    assert_same(found, summary, (*SHARES, "log_det_per_dim"), 2 * tolerance(summary))


@property_test
@given(seed=seeds, shift=st.floats(-5, 5), **shapes)
def test_a_shift_of_all_rows_is_seen_uncentred_only(seed, n, m, shift):
    rows = gaussian(n, m, seed)
    centred = spectral_summary(rows, center=True)
    shifted = spectral_summary(rows + shift, center=True)
    names = [name for name in SHARES if name != "mean_cosine"]
    # The shift raises the energy at which rows are rounded by 25 m at most.
    assert_same(shifted, centred, names, tolerance(centred) * (1 + 25 * m))


@property_test
@given(seed=seeds, **shapes)
def test_centring_interlaces_the_eigenvalues(seed, n, m):
    """G − n·mean·meanᵀ: λ_i ≥ centred λ_i ≥ λ_{i+1}, hence centred log det is the smaller."""
    rows = gaussian(n, m, seed) + 1
    raw, centred = (spectral_summary(rows, center=c, ridge=RIDGE) for c in (False, True))
    error = eigenvalue_error(n, m) * raw.trace.value
    high, low = np.zeros(m), np.zeros(m)
    high[: len(raw.eigenvalues)] = raw.eigenvalues
    low[: len(centred.eigenvalues)] = centred.eigenvalues
    assert (high >= low - 2 * error).all()
    assert (low[:-1] >= high[1:] - 2 * error).all()
    assert centred.log_det.value <= raw.log_det.value + m * error / RIDGE


@property_test
@given(seed=seeds, **shapes)
def test_adding_a_row_interlaces_the_eigenvalues(seed, n, m):
    """λ₁(G + vvᵀ) ≥ λ₁(G) ≥ λ₂(G + vvᵀ) ≥ …"""
    rows = gaussian(n + 1, m, seed)
    more, less = np.zeros(m), np.zeros(m)
    for values, part in ((more, rows), (less, rows[:-1])):
        found = spectral_summary(part).eigenvalues * len(part)
        values[: len(found)] = found
    error = 2 * eigenvalue_error(n + 1, m) * more.sum()
    assert (more >= less - error).all()
    assert (less[:-1] >= more[1:] - error).all()


@property_test
@given(seed=seeds, k=st.integers(1, 8), ratio=st.floats(0.01, 100), **shapes)
def test_log_det_of_two_sets_of_rows_together(seed, n, k, m, ratio):
    """With G = G_A + G_B, and S(X) = log det(X + δI):

    S(G_A) ≤ S(G) (Loewner), S(G) − m log δ ≤ the sum of both (submodular), and
    det(G + 2δI)^(1/m) ≥ the sum of both det(· + δI)^(1/m) (Minkowski).
    """
    a, b = gaussian(n, m, seed), ratio * gaussian(k, m, seed + 1)
    both = torch.cat([a, b])
    delta = 0.1

    def log_det(rows, delta):
        return spectral_summary(rows, ridge=delta / len(rows)).log_det.value + m * math.log(
            len(rows)
        )

    energy = both.square().sum().item()
    error = 3 * m * eigenvalue_error(n + k, m) * energy / delta
    base = m * math.log(delta)
    assert log_det(both, delta) >= max(log_det(a, delta), log_det(b, delta)) - error
    assert log_det(both, delta) - base <= log_det(a, delta) + log_det(b, delta) - 2 * base + error
    joint = math.exp(log_det(both, 2 * delta) / m)
    parts = math.exp(log_det(a, delta) / m) + math.exp(log_det(b, delta) / m)
    assert joint >= parts * (1 - error)


@property_test
@given(seed=seeds, ratio=st.floats(0.01, 100), **shapes)
def test_log_det_is_concave_in_the_second_moments(seed, n, m, ratio):
    """Two sets of as many rows, pooled, have at least the mean of their log dets."""
    a, b = gaussian(n, m, seed), ratio * gaussian(n, m, seed + 1)
    pooled, one, two = (
        spectral_summary(rows, ridge=RIDGE).log_det.value for rows in (torch.cat([a, b]), a, b)
    )
    energy = torch.cat([a, b]).square().sum().item()
    assert pooled >= (one + two) / 2 - 2 * m * eigenvalue_error(2 * n, m) * energy / RIDGE


# --- any finite input ----------------------------------------------------------------------------

entries = st.one_of(
    st.sampled_from([0.0, 1.0, -1.0, 1e-20, 1e20, 1e-8, 3.0]),
    st.floats(-1e3, 1e3, width=32),
)


@st.composite
def any_rows(draw):
    """Small matrices full of zeros, repeats and wild scales; a grouping of their rows, or None."""
    n, m = draw(st.integers(1, 7)), draw(st.integers(1, 6))
    rows = draw(arrays(np.float64, (n, m), elements=entries))
    groups = draw(st.none() | st.lists(st.integers(0, 3), min_size=n, max_size=n).map(sorted))
    dtype = draw(st.sampled_from([torch.float64, torch.float32, torch.bfloat16]))
    return torch.from_numpy(rows).to(dtype), None if groups is None else torch.tensor(groups)


def only(row, n, m):
    rows = torch.zeros(n, m, dtype=torch.float64)
    rows[row] = 1
    return rows


@conventions
@settings(property_test, max_examples=150)
@given(drawn=any_rows(), ridge=st.sampled_from([{}, {"ridge": 1e-3}, {"relative_ridge": 1.0}]))
@example(drawn=(only(0, 5, 3), None), ridge={})
@example(drawn=(only(2, 5, 3), torch.tensor([0, 0, 1, 2, 2])), ridge={})
@example(drawn=(only(0, 5, 3), torch.tensor([0, 0, 1, 2, 2])), ridge={"ridge": 1e-3})
@example(drawn=(only(0, 1, 4), None), ridge={})
@example(drawn=(torch.ones(4, 3), torch.tensor([0, 0, 1, 2])), ridge={})
@example(drawn=(torch.eye(4) * torch.tensor([1.0, 1e-9, 1e-9, 1e-9]), None), ridge={})
def test_finite_rows_give_numbers_in_range_or_a_stated_refusal(drawn, ridge, center, normalize):
    rows, groups = drawn
    try:
        summary = spectral_summary(rows, center=center, normalize=normalize, groups=groups, **ridge)
    except InputError as refusal:
        # Nothing but rows without energy, or so much of it that an absolute ridge is lost in it.
        if "trace" in str(refusal) or ("ridge" in ridge and "floor" in str(refusal)):
            return
        raise
    d = min(summary.n, summary.m)
    slack = 1 + 16 * d * EPS
    for name in FUNCTIONALS:
        estimate = getattr(summary, name)
        assert estimate.low <= estimate.value <= estimate.high, (name, estimate)  # so none is NaN
        assert math.isfinite(estimate.value) or name == "decay_exponent"
    for name in RANKS:
        assert 1 / slack <= getattr(summary, name).value <= d * slack, name
    for q in (0, 0.5, 1, 2, 50, math.inf):
        assert 1 / slack <= summary.renyi_rank(q).value <= d * slack, q
    assert -8 * EPS <= summary.spectral_entropy.value <= math.log(d) + 8 * d * EPS
    assert summary.coding_rate.value >= 0
    assert summary.condition_number.value >= 1
    assert 0 <= summary.lambda_min.value <= summary.lambda_max.value <= summary.trace.value * slack
    assert -slack <= summary.mean_cosine.value <= slack
    assert (np.diff(summary.eigenvalues) <= 0).all()
