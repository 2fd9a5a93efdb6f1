"""No rows that could be made up lie outside the bounds, and some lie at each end."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.optimize import brentq

from sigma_monitor.errors import InputError
from sigma_monitor.spectrum.subset import (
    Bound,
    am_gm_log_det,
    subset_bounds,
    track_one_log_det,
    weyl_eigenvalues,
)
from sigma_monitor.spectrum.tracks import sigma_tracks
from tests.spectrum import naive
from tests.spectrum.matrices import gaussian, rows_with
from tests.spectrum.test_bad_input import refused

LOEWNER = (
    "log_det",
    "log_det_per_dim",
    "coding_rate",
    "lambda_max",
    "lambda_min",
    "trace",
)
SCALE_FREE = ("spectral_entropy", "participation_ratio", "stable_rank", "condition_number")
ORDERS = (0, 0.25, 0.5, 1, 1.0001, 1.5, 2, 7, math.inf)
# At the spike these are at their high end, at the fill at their low end; all others reversed.
SCHUR_CONVEX = ("lambda_max", "condition_number")

# Attained ends: norms are known to 1e-12, and nothing tested amplifies that a hundredfold.
ATTAINED = 1e-10


def truth(rows, delta):
    """Every functional of all rows, from their singular values: no small eigenvalue is lost."""
    s = np.zeros(rows.shape[1])
    s[: min(rows.shape)] = np.linalg.svd(rows.double().numpy(), compute_uv=False)
    values = s**2
    result = naive.of_spectrum(values, delta)
    result["condition_number"] = values[0] / values[-1] if values[-1] > 0 else math.inf
    for q in ORDERS:
        result[q] = naive.renyi_rank(values, q)
    return result


def bounds_of(observed, n_total, **arguments):
    """Every bound that is offered, by name, and the Renyi ranks by order."""
    found = subset_bounds(observed, n_total, **arguments)
    names = LOEWNER + (SCALE_FREE if found.unit_norm else ())
    offered = {name: getattr(found, name) for name in names}
    return offered | ({q: found.renyi_rank(q) for q in ORDERS} if found.unit_norm else {})


def unit(rows):
    return rows / torch.linalg.vector_norm(rows, dim=1, keepdim=True)


def eigenvectors(rows):
    """(m, m), of G, the largest eigenvalue first."""
    return torch.linalg.eigh(rows.T @ rows).eigenvectors.flip(1)


def doc_fill(a, n_unobserved, tau):
    """The fill as the mathematics states it: the r smallest raised to one level, in place."""
    r = min(len(a), n_unobserved)
    if r == 0:
        return a.copy()
    smallest = a[len(a) - r :]
    level = brentq(
        lambda mu: np.maximum(mu - smallest, 0).sum() - tau, 0, a[0] + 2 * tau, xtol=1e-15
    )
    return np.concatenate([a[: len(a) - r], np.maximum(smallest, level)])


def rows_of_equal_norm(increments, vectors, count):
    """(count, m) rows of one norm with Gram matrix `vectors diag(increments) vectorsᵀ`.

    Schur-Horn by rotations (Chan and Li 1983): two rows on either side of the mean norm are turned
    into each other until one has it, which leaves the Gram matrix as it is.
    """
    rows = np.zeros((count, vectors.shape[0]))
    rows[: len(increments)] = np.sqrt(increments)[:, None] * vectors.T
    target = increments.sum() / count
    for _ in range(count - 1):
        excess = (rows**2).sum(1) - target
        i, j = excess.argmin(), excess.argmax()
        if excess[j] <= 0 or excess[i] >= 0:
            break
        cross = rows[i] @ rows[j]
        tangent = (-cross + math.sqrt(cross**2 - excess[i] * excess[j])) / excess[j]
        c, s = 1 / math.hypot(1, tangent), tangent / math.hypot(1, tangent)
        rows[i], rows[j] = c * rows[i] + s * rows[j], c * rows[j] - s * rows[i]
    return torch.from_numpy(rows)


def filling_rows(observed, count, rho=1.0):
    """(count, m) rows of squared norm ρ that lift the spectrum of G to the fill."""
    m = observed.shape[1]
    a = np.zeros(m)
    a[: min(observed.shape)] = np.linalg.svd(observed.numpy(), compute_uv=False) ** 2
    increments = doc_fill(a, count, count * rho) - a
    r = min(m, count)
    return rows_of_equal_norm(
        increments[m - r :], eigenvectors(observed)[:, m - r :].numpy(), count
    )


# --- no case outside -----------------------------------------------------------------------------


def observed_rows(kind, n, m, seed):
    rows = gaussian(n, m, seed)
    if kind == "duplicates":
        rows = rows[torch.arange(n) % 2]
    elif kind == "one direction":
        rows = 1e-4 * rows + rows[0] / rows[0].norm()
    elif kind == "subspace":
        rows = rows[:, : max(1, m // 2)] @ gaussian(max(1, m // 2), m, seed + 1)
    elif kind == "axes":
        rows = torch.eye(m, dtype=torch.float64)[torch.arange(n) % m]
    elif kind == "steep":
        rows = rows * 10.0 ** -torch.arange(m)
    return unit(rows)


def unobserved_rows(kind, observed, count, seed):
    m = observed.shape[1]
    if kind == "spike":
        return eigenvectors(observed)[:, :1].T.expand(count, m)
    if kind == "pit":
        return eigenvectors(observed)[:, -1:].T.expand(count, m)
    if kind == "fill" and count:
        return filling_rows(observed, count)
    if kind == "copies":
        return observed[torch.arange(count) % len(observed)]
    return unit(gaussian(count, m, seed + 2))


OBSERVED = ("random", "duplicates", "one direction", "subspace", "axes", "steep")
UNOBSERVED = ("random", "spike", "pit", "fill", "copies")
# (n_A, n_B, m): none, one, few and many unobserved; fewer, as many and more rows than features.
SHAPES = [
    (5, 0, 3),
    (2, 0, 5),
    (1, 1, 1),
    (1, 1, 4),
    (3, 1, 3),
    (2, 2, 7),
    (6, 3, 4),
    (4, 4, 8),
    (9, 2, 4),
    (3, 40, 5),
    (1, 300, 3),
    (20, 1, 6),
]
ALL_CASES = list(itertools.product(OBSERVED, UNOBSERVED, SHAPES))  # 360


def violations(observed, unobserved, delta, **arguments):
    """Names of the functionals of all rows that lie outside their bounds."""
    rows = torch.cat([observed, unobserved])
    offered = bounds_of(observed, len(rows), delta=delta, **arguments)
    true = truth(rows, delta)
    return [
        (name, bound, true[name])
        for name, bound in offered.items()
        if not bound.low <= true[name] <= bound.high
    ]


@pytest.mark.parametrize("repeat", range(7))
def test_no_unit_rows_lie_outside_their_bounds(repeat):
    """2,520 cases in fp64, unit rows of squared norm 1e-3, 1 and 50."""
    for case, (kind, others, (n_a, n_b, m)) in enumerate(ALL_CASES):
        seed = 1000 * repeat + case
        rho = (1.0, 1.0, 1e-3, 50.0)[case % 4]
        observed = observed_rows(kind, n_a, m, seed)
        unobserved = unobserved_rows(others, observed, n_b, seed)
        scale = math.sqrt(rho)
        found = violations(scale * observed, scale * unobserved, delta=1e-3, rho=rho)
        assert not found, (kind, others, n_a, n_b, m, seed, found)


@pytest.mark.parametrize("repeat", range(4))
def test_no_rows_of_bounded_norm_lie_outside_their_bounds(repeat):
    """1,440 cases: rows of any length up to one, zero rows among them and no others."""
    for case, (kind, others, (n_a, n_b, m)) in enumerate(ALL_CASES):
        seed = 1000 * repeat + case
        observed = observed_rows(kind, n_a, m, seed)
        unobserved = unobserved_rows(others, observed, n_b, seed)
        if repeat % 3 == 1:
            observed = observed * gaussian(n_a, 1, seed).tanh()
            unobserved = unobserved * gaussian(n_b, 1, seed + 3).tanh()
        elif repeat % 3 == 2:
            unobserved = unobserved * (gaussian(n_b, 1, seed + 3) > 0)
        found = violations(observed, unobserved, delta=1e-2, unit_norm=False)
        assert not found, (kind, others, n_a, n_b, m, seed, found)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_no_unit_rows_lie_outside_their_bounds_as_stored(dtype):
    """Rounding to the dtype makes rows that are not quite of unit length."""
    for case, (kind, others, (n_a, n_b, m)) in enumerate(ALL_CASES):
        observed = observed_rows(kind, n_a, m, case)
        unobserved = unobserved_rows(others, observed, n_b, case)
        found = violations(observed.to(dtype), unobserved.to(dtype), delta=1e-3)
        assert not found, (kind, others, n_a, n_b, m, case, found)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("m", [2, 384, 4096])
def test_rows_normalised_in_their_dtype_are_unit_rows(dtype, m):
    rows = torch.nn.functional.normalize(gaussian(64, m).to(dtype), dim=1)
    subset_bounds(rows, 100)
    subset_bounds(torch.nn.functional.normalize(gaussian(64, m), dim=1).to(dtype), 100)


# --- both ends attained --------------------------------------------------------------------------


def assert_at(end, rows, observed, delta, names, **arguments):
    """The functionals of these rows are the named end of their bounds."""
    offered = bounds_of(observed, len(rows), delta=delta, **arguments)
    true = truth(rows, delta)
    for name in names:
        side = ("low", "high").index(end) ^ (name in SCHUR_CONVEX)
        # An eigenvalue is known in units of the trace.
        allowed = ATTAINED * (true["trace"] if name == "lambda_min" else abs(true[name]))
        assert offered[name][side] == pytest.approx(true[name], rel=0, abs=allowed), (name, end)


FULL_RANK = [(8, 1, 4), (12, 3, 5), (6, 9, 4), (5, 50, 5), (40, 2, 8)]
everything = (*LOEWNER, *SCALE_FREE, *(q for q in ORDERS if q != 1.0001))


@pytest.mark.parametrize("rho", [1.0, 7.0])
@pytest.mark.parametrize(("n_a", "n_b", "m"), FULL_RANK)
def test_rows_along_the_top_eigenvector_attain_the_spike(n_a, n_b, m, rho):
    observed = unit(gaussian(n_a, m)) * math.sqrt(rho)
    unobserved = unobserved_rows("spike", observed, n_b, 0) * math.sqrt(rho)
    rows = torch.cat([observed, unobserved])
    assert_at("low", rows, observed, 0.1, everything, rho=rho)


@pytest.mark.parametrize("rho", [1.0, 7.0])
@pytest.mark.parametrize(("n_a", "n_b", "m"), FULL_RANK)
def test_rows_by_schur_horn_attain_the_fill(n_a, n_b, m, rho):
    observed = unit(gaussian(n_a, m)) * math.sqrt(rho)
    unobserved = filling_rows(observed, n_b, rho)
    assert torch.allclose(unobserved.square().sum(1), torch.tensor(rho).double(), rtol=1e-12)
    rows = torch.cat([observed, unobserved])
    assert_at("high", rows, observed, 0.1, everything, rho=rho)


@pytest.mark.parametrize(("n_a", "n_b", "m"), [(2, 2, 7), (3, 1, 9), (2, 6, 6)])
def test_both_ends_are_attained_by_fewer_rows_than_features(n_a, n_b, m):
    """An eigenvalue of zero is certain where rows are missing, and lambda_min with it."""
    observed = unit(gaussian(n_a, m))
    names = (*LOEWNER, "spectral_entropy", "participation_ratio", "stable_rank", 1, 2, math.inf)
    for end, kind in (("low", "spike"), ("high", "fill")):
        rows = torch.cat([observed, unobserved_rows(kind, observed, n_b, 0)])
        assert_at(end, rows, observed, 0.1, names)
    bound = subset_bounds(observed, n_a + n_b)
    if n_a + n_b < m:
        assert bound.lambda_min == (0, 0)
        assert bound.condition_number == (math.inf, math.inf)
    else:
        assert bound.condition_number.high == math.inf > bound.condition_number.low


@pytest.mark.parametrize(("n_a", "n_b", "m"), FULL_RANK)
def test_bounded_rows_attain_both_ends(n_a, n_b, m):
    """No energy at all, and all of it where it counts; the largest eigenvalue takes it on top."""
    observed = unit(gaussian(n_a, m)) * gaussian(n_a, 1).tanh()
    nothing = torch.cat([observed, torch.zeros(n_b, m, dtype=torch.float64)])
    full = torch.cat([observed, filling_rows(observed, n_b)])
    spike = torch.cat([observed, unobserved_rows("spike", observed, n_b, 0)])
    names = [name for name in LOEWNER if name != "lambda_max"]
    assert_at("low", nothing, observed, 0.1, names, unit_norm=False)
    assert_at("high", full, observed, 0.1, names, unit_norm=False)
    assert_at("high", nothing, observed, 0.1, ["lambda_max"], unit_norm=False)  # its low end
    assert_at("low", spike, observed, 0.1, ["lambda_max"], unit_norm=False)


def test_all_rows_observed_leave_nothing_open():
    observed = unit(gaussian(9, 4))
    true = truth(observed, 1e-3)
    offered = bounds_of(observed, 9)
    for name in everything:
        bound = offered[name]
        assert bound.high - bound.low <= 1e-9 * abs(bound.high), name
        assert bound.high == pytest.approx(true[name], rel=1e-9), name


# --- closed forms --------------------------------------------------------------------------------


def test_orthonormal_rows_have_bounds_in_closed_form():
    """G_A = I of four features and two more rows: spike (3, 1, 1, 1), fill (2, 2, 1, 1)."""
    found = subset_bounds(torch.eye(4, dtype=torch.float64), 6, delta=1.0)
    expected = {
        "trace": (6, 6),
        "log_det": (math.log(4 * 8), math.log(9 * 4)),
        "log_det_per_dim": (math.log(32) / 4, math.log(36) / 4),
        "coding_rate": (math.log(32) / 2, math.log(36) / 2),
        "lambda_max": (2, 3),
        "lambda_min": (1, 1),
        "participation_ratio": (3, 3.6),
        "stable_rank": (2, 3),
        "condition_number": (2, 3),
        "spectral_entropy": (
            math.log(2) / 2 + math.log(6) / 2,
            2 * math.log(3) / 3 + math.log(6) / 3,
        ),
    }
    for name, ends in expected.items():
        assert getattr(found, name) == pytest.approx(ends, rel=ATTAINED), name
        assert isinstance(getattr(found, name), Bound)


def test_one_row_and_many_more_can_be_anything():
    found = subset_bounds(unit(gaussian(1, 3)), 301)
    assert found.participation_ratio == pytest.approx((1, 3), rel=ATTAINED)
    assert found.lambda_max == pytest.approx((301 / 3, 301), rel=ATTAINED)
    assert found.lambda_min == pytest.approx((0, 301 / 3), rel=ATTAINED)
    assert found.renyi_rank(0) == pytest.approx((1, 3), rel=ATTAINED)


def test_fewer_unobserved_rows_than_features_cannot_lift_them_all():
    """Two of four equal eigenvalues are raised, and the others stay."""
    observed = rows_with([0.1] * 4, 4, 4)
    found = subset_bounds(observed, 6, rho=5.0, unit_norm=False)
    a = np.full(4, 0.01)
    assert found.log_det.high == pytest.approx(
        2 * math.log(0.01 + 5 + 1e-3) + 2 * math.log(0.01 + 1e-3), rel=ATTAINED
    )
    assert found.observed == pytest.approx(a, rel=ATTAINED)


@pytest.mark.parametrize("seed", range(20))
def test_the_fill_is_the_one_of_the_mathematics(seed):
    n_a, n_b, m = np.random.default_rng(seed).integers([1, 0, 1], [9, 9, 9])
    observed = unit(gaussian(int(n_a), int(m), seed)) * gaussian(int(n_a), 1, seed + 1).tanh()
    found = subset_bounds(observed, int(n_a + n_b), unit_norm=False, delta=0.1)
    fill = doc_fill(found.observed, int(n_b), float(n_b))
    assert found.log_det.high == pytest.approx(np.log(fill + 0.1).sum(), rel=ATTAINED, abs=1e-9)


# --- effective rank ------------------------------------------------------------------------------


def effective_rank(values):
    return naive.of_spectrum(values, 1.0)["effective_rank"]


def test_effective_rank_is_not_schur_concave_and_so_not_bounded():
    """The counter-example of the message: the more even spectrum has the smaller rank."""
    uneven, even = [100, 50] + [1] * 198, [90, 60] + [1] * 198
    assert effective_rank(uneven) == pytest.approx(181.20, abs=0.005)
    assert effective_rank(even) == pytest.approx(181.07, abs=0.005)
    with refused("effective_rank", "181.20", "181.07", "renyi_rank(0.5)"):
        _ = subset_bounds(unit(gaussian(5, 3)), 9).effective_rank


def test_effective_rank_of_some_rows_is_half_a_unit_below_that_of_their_spike():
    """348 unit rows of spectrum (100, 50, 1 x 198) seen, 40 more along the second direction."""
    spectrum = np.array([100.0, 50.0] + [1.0] * 198)
    observed = rows_of_equal_norm(spectrum, np.eye(200), 348)
    rows = torch.cat([observed, torch.eye(200, dtype=torch.float64)[[1] * 40]])
    spike = spectrum.copy()
    spike[0] += 40
    true = truth(rows, 1.0)
    assert true["effective_rank"] == pytest.approx(effective_rank(spike) - 0.493, abs=0.001)
    bound = subset_bounds(observed, 388).spectral_entropy  # Schur-concave, and so in its bounds
    assert bound.low < true["spectral_entropy"] < bound.high


def test_effective_rank_lies_where_the_message_says():
    for case, (kind, others, (n_a, n_b, m)) in enumerate(ALL_CASES):
        observed = observed_rows(kind, n_a, m, case)
        rows = torch.cat([observed, unobserved_rows(others, observed, n_b, case)])
        true = truth(rows, 1e-3)["effective_rank"]
        found = subset_bounds(observed, len(rows))
        assert found.renyi_rank(0.5).low <= true <= found.renyi_rank(0).high


# --- the classical bounds ------------------------------------------------------------------------


@pytest.mark.parametrize(("n_a", "n_b", "m"), [*FULL_RANK, (2, 2, 7), (5, 0, 3)])
@pytest.mark.parametrize("kind", ["random", "spike", "fill"])
def test_classical_bounds_hold_and_the_fill_is_below_them(n_a, n_b, m, kind):
    observed = unit(gaussian(n_a, m))
    rows = torch.cat([observed, unobserved_rows(kind, observed, n_b, 0)])
    settings = {"delta": 0.1, "rho": 1.0}
    found = subset_bounds(observed, n_a + n_b, delta=0.1)
    am_gm = am_gm_log_det(n_a + n_b, m, **settings)
    track_one = track_one_log_det(found.observed, n_b, **settings)
    true = truth(rows, 0.1)["log_det"]
    slack = 1e-9
    assert true <= found.log_det.high <= min(am_gm, track_one) + slack
    published = sigma_tracks(observed, n_a + n_b, **settings).track_one
    assert track_one == pytest.approx(published + m * math.log(n_b + 0.1), rel=ATTAINED)
    values = np.linalg.eigvalsh((rows.T @ rows).numpy())[::-1]
    low, high = weyl_eigenvalues(found.observed, n_b, rho=1.0).T
    assert (low - slack <= values).all()
    assert (values <= high + slack).all()


def test_classical_bounds_are_attained():
    """Orthonormal rows, twice: the AM-GM bound; copies of one row: Weyl's upper end of λ₁."""
    twice = torch.eye(3, dtype=torch.float64).repeat(2, 1)
    true = truth(twice, 0.1)
    assert am_gm_log_det(6, 3, delta=0.1, rho=1) == pytest.approx(true["log_det"], rel=ATTAINED)
    few = torch.eye(2, 5, dtype=torch.float64)
    true = truth(few, 0.1)
    assert am_gm_log_det(2, 5, delta=0.1, rho=1) == pytest.approx(true["log_det"], rel=ATTAINED)
    assert weyl_eigenvalues(np.array([1.0, 0.0]), 4, rho=1).tolist() == [[1, 5], [0, 4]]


def test_track_one_can_be_looser_than_looking_at_no_data():
    """At the shape of the paper: 500 of 1,000 unit rows of 384 features."""
    settings = {"delta": 1e-3, "rho": 1.0}
    found = subset_bounds(unit(gaussian(500, 384)), 1000)
    track_one = track_one_log_det(found.observed, 500, **settings)
    assert found.log_det.high <= am_gm_log_det(1000, 384, **settings) < track_one - 100


# --- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SCALE_FREE)
def test_bounded_rows_refuse_what_needs_the_trace(name):
    found = subset_bounds(gaussian(5, 3), 9, rho=30.0, unit_norm=False)
    with refused(name, "unit_norm=False", "log_det", "one length"):
        getattr(found, name)
    with refused("renyi_rank(2)", "unit_norm=False"):
        found.renyi_rank(2)


@pytest.mark.parametrize("q", [-1, -1e-9, math.nan])
def test_orders_below_zero_are_refused(q):
    with refused("q=", "q >= 0"):
        subset_bounds(unit(gaussian(5, 3)), 9).renyi_rank(q)


def test_rows_that_contradict_their_norm_are_refused():
    rows = unit(gaussian(5, 3))
    with refused("squared norm 4", "rho=1.0", "unit length"):
        subset_bounds(2 * rows, 9)
    with refused("squared norm 0.25", "unit_norm=False"):
        subset_bounds(rows / 2, 9)
    zero = torch.cat([rows, torch.zeros(1, 3)])
    with refused("squared norm 0,", "unit_norm=False"):
        subset_bounds(zero, 9)
    assert subset_bounds(zero, 9, unit_norm=False).lambda_min.low > 0
    with pytest.raises(InputError):
        subset_bounds(rows, 4)
