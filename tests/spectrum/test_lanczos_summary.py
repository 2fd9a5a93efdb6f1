"""The randomised way agrees with the exact one, is deterministic, and refuses what it cannot do."""

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sigma_monitor.errors import InputError, ZeroTraceError
from sigma_monitor.spectrum import Gram, cost, spectral_summaries, spectral_summary, summarize
from sigma_monitor.spectrum.operator import RowOperator
from sigma_monitor.spectrum.summary import FUNCTIONALS
from tests.spectrum import naive
from tests.spectrum.matrices import EPS, SQRT_EPS, gaussian, generator, rows_with, token_rows

# Nothing overflows and nothing is divided by zero on the way.
pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")

DTYPES = [torch.bfloat16, torch.float16, torch.float32, torch.float64]
TRACES = (
    "log_det",
    "log_det_per_dim",
    "coding_rate",
    "effective_rank",
    "spectral_entropy",
    "participation_ratio",
)
ORDERS = [0, 0.5, 1, 1 + 1e-9, 1.5, 2, 3, 30, math.inf]
RANDOM_ORDERS = [0.5, 1, 1 + 1e-9, 1.5, 2, 3]  # traces of functions with a bracket

conventions = pytest.mark.parametrize(
    ("center", "normalize"), [(False, False), (False, True), (True, False), (True, True)]
)


def lanczos(rows, *, seed=None, **options):
    if seed is not None:
        options["generator"] = generator(seed)
    return spectral_summary(rows, method="lanczos", **options)


def exact(rows, **options):
    return spectral_summary(rows, method="exact", sampling=False, **options)


def power_law(n, m, decay=0.5, seed=0):
    """Eigenvalues `i^(−2 decay)`."""
    return rows_with(torch.arange(1, min(n, m) + 1).double() ** -decay, n, m, seed)


def numbers(summary):
    """All that a summary says, bit for bit; not what it took."""
    ranks = tuple(summary.renyi_rank(q) for q in ORDERS)
    without = summary.log_rank_without
    rest = summary.matvecs, summary.fingerprint, None if without is None else without.tolist()
    return tuple(getattr(summary, name) for name in FUNCTIONALS), ranks, rest


def assert_holds(estimate, truth, n, m, what=None):
    """The truth lies in the interval, up to the rounding of the exact way."""
    slack = 4 * (n + m) * EPS * max(1.0, abs(truth))
    assert estimate.low <= estimate.value <= estimate.high, what
    assert estimate.low - slack <= truth <= estimate.high + slack, (what, truth, estimate)


SHAPES = {"quadrature": [(50, 12), (12, 50), (64, 64)], "test_vectors": [(300, 90), (90, 200)]}
SHAPES = [(kind, *shape) for kind, shapes in SHAPES.items() for shape in shapes]


@conventions
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("kind", "n", "m"), SHAPES)
def test_intervals_hold_the_exact_values(kind, n, m, dtype, center, normalize):
    rows = (power_law(n, m) + 0.3 * gaussian(1, m, 5) / math.sqrt(n)).to(dtype)
    options = {"center": center, "normalize": normalize, "relative_ridge": 1e-3}
    truth = exact(rows, **options)
    # Of so many intervals one in twenty would fail at 95 %: at this level none does.
    options |= {"confidence": 1 - 1e-5, "test_vectors": 16 if kind == "test_vectors" else 32}
    for seed in range(2):
        summary = lanczos(rows, seed=seed, **options)
        assert summary.method == "lanczos"
        for name in TRACES:
            estimate = getattr(summary, name)
            assert estimate.kind == kind, name
            assert estimate.low < estimate.high, name
            assert_holds(estimate, getattr(truth, name).value, n, m, name)
        for q in RANDOM_ORDERS:
            # Orders so close to one are the order one to 1e-9, which its interval has room for.
            order = 1 if abs(q - 1) < SQRT_EPS else q
            assert summary.renyi_rank(q).kind == kind, q
            assert_holds(summary.renyi_rank(q), truth.renyi_rank(order).value, n, m, q)
        for q in (0, math.inf):
            assert_holds(summary.renyi_rank(q), truth.renyi_rank(q).value, n, m, q)


def test_an_exact_order_close_to_one_is_the_order_one():
    summary = exact(power_law(50, 12))
    near, one = summary.renyi_rank(1 + 1e-9).value, summary.renyi_rank(1).value
    # The rank falls with its order by half the variance of log p, below (log d)² here.
    assert near == pytest.approx(one, rel=1e-9 * math.log(12) ** 2)


def test_the_order_zero_holds_with_few_vectors():
    rows = rows_with(torch.linspace(1, 0.95, 100), 400, 150)
    for seed in range(30):
        # Steps enough for the bracket to be nothing beside the error of the vectors.
        options = {"test_vectors": 2, "lanczos_steps": 30, "sampling": False}
        assert_holds(lanczos(rows, seed=seed, **options).renyi_rank(0), 100, 400, 150)


@pytest.mark.parametrize("q", [9, 30, 200])
def test_the_bracket_of_a_high_order_holds(q):
    rows = rows_with(torch.linspace(1, 0.9, 40), 80, 40)
    assert_holds(lanczos(rows).renyi_rank(q), exact(rows).renyi_rank(q).value, 80, 40)


@pytest.mark.parametrize("q", [30, math.inf])
def test_a_high_order_of_a_spectrum_that_is_led_by_few(q):
    for n, m in [(50, 12), (12, 50), (300, 90)]:
        rows = power_law(n, m, decay=1.0)
        summary = lanczos(rows, confidence=1 - 1e-5)
        assert_holds(summary.renyi_rank(q), exact(rows).renyi_rank(q).value, n, m)


@pytest.mark.parametrize("d", [64, 65])
def test_nothing_is_random_up_to_twice_the_deflated_directions(d):
    rows = power_law(130, d)
    summaries = [lanczos(rows, seed=seed, test_vectors=32) for seed in (0, 1)]
    estimates = [[getattr(summary, name) for name in TRACES] for summary in summaries]
    if d == 64:
        assert estimates[0] == estimates[1]
        assert {e.kind for e in estimates[0]} == {"quadrature"}
    else:
        assert all(a != b for a, b in zip(*estimates, strict=True))
        assert {e.kind for e in estimates[0]} == {"test_vectors"}


def test_brackets_are_narrow():
    """As narrow as the docstring of `lanczos_steps` says."""
    for n, m in [(50, 12), (12, 50), (64, 64)]:
        summary = lanczos(power_law(n, m, decay=1.0))
        assert summary.log_det_per_dim.high - summary.log_det_per_dim.low <= 1e-3
        d = min(n, m)
        assert summary.log_det.high - summary.log_det.low <= 5e-4 * d * 1.01  # and rounding
        assert math.log(summary.effective_rank.high / summary.effective_rank.low) <= 2 * 5e-3
        assert summary.spectral_entropy.high - summary.spectral_entropy.low <= 2 * 5e-3


@conventions
@pytest.mark.parametrize(("n", "m"), [(50, 12), (12, 50), (300, 90), (90, 300)])
def test_what_is_not_random_is_exact(n, m, center, normalize):
    rows = power_law(n, m) + 0.1 * gaussian(1, m)
    found, truth = (
        way(rows, center=center, normalize=normalize, ridge=0.01) for way in (lanczos, exact)
    )
    assert found.trace.kind == found.mean_cosine.kind == "exact"
    assert found.mean_cosine == truth.mean_cosine
    # One sums squares of rows, the other eigenvalues.
    raw = naive.eigenvalues(rows, normalize=normalize).sum()
    assert found.trace.value == pytest.approx(truth.trace.value, abs=4 * (n + m) * EPS * raw)
    for name in ("n", "m", "examples", "ridge", "center", "normalize", "confidence", "device"):
        assert getattr(found, name) == getattr(truth, name), name


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("n", "m"), [(50, 12), (12, 50), (300, 90), (90, 300), (100, 100)])
def test_the_ends_of_the_spectrum(n, m, seed):
    rows = power_law(n, m, decay=0.8)
    found, values = lanczos(rows, seed=seed), naive.eigenvalues(rows)
    largest = found.lambda_max
    assert largest.kind == found.stable_rank.kind == "test_vectors"
    assert_holds(largest, values[0], n, m)
    assert_holds(found.stable_rank, values.sum() / values[0], n, m)
    # A Ritz value is never above: the lower end is certified, and found to half the digits here.
    assert largest.low <= values[0]
    assert largest.value == pytest.approx(values[0], rel=SQRT_EPS)
    trace = found.trace.value
    for mine, end in (("value", "value"), ("high", "low"), ("low", "high")):
        product = getattr(found.stable_rank, mine) * getattr(largest, end)
        assert product == pytest.approx(trace, rel=16 * EPS)
    if n < m:
        assert (found.lambda_min.value, found.lambda_min.low, found.lambda_min.high) == (0, 0, 0)
        assert found.lambda_min.kind == "exact"
    else:
        assert (found.lambda_min.kind, found.lambda_min.low) == ("quadrature", 0)
        assert found.lambda_min.high >= values[-1] * (1 - SQRT_EPS)
        assert found.lambda_min.value <= found.lambda_min.high
    condition = found.condition_number
    assert (condition.kind, condition.high) == ("quadrature", math.inf)
    d = min(n, m)
    assert 1 <= condition.low <= condition.value
    assert condition.low <= values[0] / values[d - 1] * (1 + SQRT_EPS)


@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.999])
@pytest.mark.parametrize("steps", [16, 30])
def test_the_bound_of_the_largest_is_that_of_four_starts_on_the_sphere(steps, confidence):
    """Kuczynski and Wozniakowski 1992, theorem 4.2, where all Ritz values have converged."""
    found = lanczos(
        rows_with([2.0] + [1.0] * 89, 300, 90), lanczos_steps=steps, confidence=confidence
    )
    failure = (1 - confidence) ** (1 / 4)  # all four must fail
    x = (math.log(1.648 * math.sqrt(90) / failure) / (2 * steps - 1)) ** 2
    bound = 4 / 300 / (1 - x)
    assert found.lambda_max.value == pytest.approx(4 / 300, rel=SQRT_EPS)
    assert found.lambda_max.high == pytest.approx(bound, rel=SQRT_EPS)


def test_the_decay_exponent_has_no_interval():
    for n, m in [(40, 10), (300, 90)]:
        found = lanczos(power_law(n, m)).decay_exponent
        assert (found.low, found.high, found.kind) == (-math.inf, math.inf, "quadrature")
        assert math.isfinite(found.value)


@pytest.mark.parametrize(("n", "m"), [(40, 10), (10, 40), (20, 20), (2, 4), (3, 2)])
@pytest.mark.parametrize("center", [False, True])
def test_as_many_steps_as_dimensions_leave_only_rounding(n, m, center):
    rows = gaussian(n, m)
    found, truth = (
        way(rows, center=center, **options)
        for way, options in ((lanczos, {"lanczos_steps": 40}), (exact, {}))
    )
    for name in TRACES:
        value = getattr(truth, name).value
        # Where n <= m centring leaves an eigenvalue of rounding, some eps, and −sqrt(x) log sqrt(x)
        # of it counts.
        rounding = 4 * SQRT_EPS * abs(math.log(SQRT_EPS))
        assert getattr(found, name).value == pytest.approx(value, rel=rounding, abs=rounding)
        assert_holds(getattr(found, name), value, n, m, name)
    if not (center and n <= m):  # else the exact way knows that one eigenvalue is zero
        for name in ("decay_exponent", "condition_number", "lambda_min", "stable_rank"):
            expected = pytest.approx(getattr(truth, name).value, rel=SQRT_EPS, abs=SQRT_EPS)
            assert getattr(found, name).value == expected, name


@pytest.mark.parametrize(("n", "m"), [(1, 4), (4, 1), (1, 1)])
def test_one_dimension(n, m):
    rows = gaussian(n, m)
    found, truth = lanczos(rows), exact(rows)
    for name in TRACES:
        assert_holds(getattr(found, name), getattr(truth, name).value, n, m, name)


@pytest.mark.parametrize("sampling", [False, True])
def test_the_jackknife_of_the_rank_is_there_when_asked_for(sampling):
    rows, groups = token_rows([3, 5, 2, 7, 4, 6] * 10, 80)
    summary = lanczos(rows, groups=groups, sampling=sampling)
    assert summary.examples == 60
    assert summary.leave_one_out is None
    assert summary.eigenvalues is None
    if sampling:
        assert summary.log_rank_without.shape == (60,)
        assert np.isfinite(summary.log_rank_without).all()
    else:
        assert summary.log_rank_without is None


@pytest.mark.parametrize(("n", "m"), [(500, 24), (30, 60), (400, 80)])
@pytest.mark.parametrize("center", [False, True])
def test_the_jackknife_is_that_of_the_exact_way_to_first_order(n, m, center):
    rows = gaussian(n, m) * torch.arange(1, m + 1).double() ** -0.5
    found = lanczos(rows, center=center).log_rank_without
    expected = spectral_summary(rows, method="exact", center=center).log_rank_without
    assert len(found) == n
    # Deleting a row moves the rank to first order by d/n of it; the second order is d/n smaller
    # when n > d. With n < d only the order of magnitude is asked for.
    ratio = np.std(found) / np.std(expected)
    assert 0.4 < ratio < 2.5
    if n > m:
        assert np.corrcoef(found, expected)[0, 1] > 0.8


# Determinism.


@pytest.mark.parametrize(("n", "m"), [(50, 12), (300, 90), (90, 300)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_the_same_call_gives_the_same_bits(n, m, dtype):
    rows = power_law(n, m).to(dtype)
    assert numbers(lanczos(rows, seed=3)) == numbers(lanczos(rows, seed=3))


def test_no_generator_is_seed_zero_and_seeds_differ():
    rows = power_law(300, 90)
    assert numbers(lanczos(rows)) == numbers(lanczos(rows, seed=0))
    assert lanczos(rows).seed == 0
    zero, one = lanczos(rows, seed=0), lanczos(rows, seed=1)
    assert one.seed == 1
    assert all(getattr(zero, name) != getattr(one, name) for name in TRACES)
    assert zero.fingerprint != one.fingerprint


def test_a_generator_keys_by_its_seed_and_is_not_advanced():
    rows = power_law(300, 90)
    source = generator(7)
    torch.rand(100, generator=source)  # however far it is
    before = source.get_state()
    global_before = torch.get_rng_state()
    used = lanczos(rows, generator=source)
    assert torch.equal(source.get_state(), before)
    assert torch.equal(torch.get_rng_state(), global_before)
    assert numbers(used) == numbers(lanczos(rows, seed=7))


def test_large_seeds_are_accepted():
    rows = power_law(300, 90)
    for seed in (2**63 - 1, 2**64 - 1, torch.Generator().seed()):
        source = torch.Generator().manual_seed(seed)
        assert lanczos(rows, generator=source).seed == source.initial_seed()


def test_vectors_depend_on_nothing_but_seed_and_dimension(monkeypatch):
    """Types, conventions and layers do not change them: only so are drifts paired."""
    from sigma_monitor.spectrum import randomized

    drawn = []
    original = randomized._gaussian

    def spied(operator, count, seed, purpose):
        vectors = original(operator, count, seed, purpose)
        drawn.append(vectors)
        return vectors

    monkeypatch.setattr(randomized, "_gaussian", spied)

    def draws(rows, **options):
        drawn.clear()
        lanczos(rows, **options)
        return [vectors[0].double() for vectors in drawn]

    first = draws(power_law(300, 90), seed=1)
    assert not any(torch.equal(a[:1], b[:1]) for a in first for b in first if a is not b)
    same = [
        draws(power_law(300, 90).float(), seed=1),
        draws(power_law(90, 300).bfloat16(), seed=1, center=True),
    ]
    for other in same:
        assert all(torch.equal(a, b) for a, b in zip(first, other, strict=True))
    others = draws(power_law(300, 90), seed=2)
    assert not any(torch.equal(a, b) for a, b in zip(first, others, strict=True))


def test_fewer_vectors_are_the_first_of_more():
    """Vectors that a following summary takes up again are those of the one it follows."""
    from sigma_monitor.spectrum import randomized

    for d in (65, 90, 96, 99, 101, 300):
        operator = RowOperator([Gram.from_embeddings(gaussian(2, d))], center=False, traces=[1.0])
        operator.d = d
        most = randomized._gaussian(operator, 32, 0, 1)
        for count in (2, 3, 6, 8, 17, 31):
            assert torch.equal(randomized._gaussian(operator, count, 0, 1), most[:, :count])


# What is refused, and what is spent.


def refused(rows, *words, **options):
    with pytest.raises(InputError) as caught:
        spectral_summary(rows, **options)
    for word in words:
        assert word in str(caught.value), word


@pytest.mark.parametrize("method", ["auto", "lanczos", "exact"])
@pytest.mark.parametrize("value", [1, 0, -3])
def test_too_few_vectors_or_steps_are_refused(method, value):
    for name in ("test_vectors", "lanczos_steps"):
        refused(gaussian(6, 3), name, repr(value), "2 or more", method=method, **{name: value})


def test_an_unknown_method_is_refused():
    refused(gaussian(6, 3), "'randomised'", "auto", "exact", "lanczos", method="randomised")
    with pytest.raises(InputError, match="'svd'"):
        spectral_summaries([gaussian(6, 3)], method="svd")


PREVIOUS = {
    "n": ({}, {}, (301, 90)),
    "m": ({}, {}, (300, 91)),
    "center": ({}, {"center": True}, (300, 90)),
    "normalize": ({}, {"normalize": True}, (300, 90)),
    "relative_ridge": ({}, {"relative_ridge": 0.01}, (300, 90)),
    "seed": ({"seed": 1}, {"seed": 2}, (300, 90)),
    "ridge": ({"ridge": 0.01}, {"ridge": 0.02}, (300, 90)),
}


@pytest.mark.parametrize("name", PREVIOUS)
def test_a_previous_summary_of_another_kind_is_refused(name):
    before_options, after_options, shape = PREVIOUS[name]
    previous = lanczos(power_law(300, 90), **before_options)
    with pytest.raises(InputError, match=f"previous cannot be followed: {name} is"):
        lanczos(power_law(*shape), previous=previous, **after_options)


def test_an_exact_previous_summary_is_refused():
    rows = power_law(300, 90)
    with pytest.raises(InputError, match="previous cannot be followed: method is 'exact'"):
        lanczos(rows, previous=exact(rows))


@pytest.mark.parametrize(("n", "m"), [(50, 12), (300, 90), (90, 300)])
@pytest.mark.parametrize("steps", [2, 3, 7, 12])
def test_fixed_steps_are_respected(n, m, steps):
    summary = lanczos(power_law(n, m, decay=2.0), lanczos_steps=steps)
    sounding = summary.randomized.sounding
    assert sounding.steps == steps
    assert sounding.measure.leading_gauss.nodes.shape[1] == steps
    if min(n, m) > 64:
        assert sounding.measure.rest_gauss.nodes.shape == (32, steps)


def test_few_steps_give_wide_intervals_that_hold():
    rows = power_law(50, 12, decay=2.0)
    truth = exact(rows)
    few, many = lanczos(rows, lanczos_steps=2), lanczos(rows, lanczos_steps=12)
    for name in ("log_det", "effective_rank", "spectral_entropy"):
        assert_holds(getattr(few, name), getattr(truth, name).value, 50, 12, name)
        widths = [getattr(s, name).high - getattr(s, name).low for s in (few, many)]
        assert widths[0] > 10 * widths[1], name


@pytest.mark.parametrize("test_vectors", [2, 5, 40])
def test_the_number_of_test_vectors_is_respected(test_vectors):
    summary = lanczos(power_law(300, 90), test_vectors=test_vectors)
    assert summary.randomized.sounding.measure.vectors == test_vectors
    assert len(summary.randomized.parts["log_det"].per_vector) == test_vectors


@pytest.mark.parametrize("options", [{}, {"lanczos_steps": 5}, {"test_vectors": 4}])
@pytest.mark.parametrize(("n", "m"), [(50, 12), (300, 90), (90, 300)])
def test_matvecs_are_counted_truly(monkeypatch, n, m, options):
    counted = []
    original = RowOperator.apply

    def spied(self, vectors):
        counted.append(vectors.shape[1])
        return original(self, vectors)

    monkeypatch.setattr(RowOperator, "apply", spied)
    rows = power_law(n, m)
    first = lanczos(rows, **options)
    assert first.matvecs == sum(counted) > 0
    counted.clear()
    followed = lanczos(rows * 1.001, previous=first, **options)
    assert followed.matvecs == sum(counted)
    counted.clear()
    jumped = lanczos(rows**3, previous=first, **options)
    assert jumped.randomized.anchor is None
    assert jumped.matvecs == sum(counted)


# Several layers.


@conventions
@pytest.mark.parametrize(("n", "m"), [(50, 12), (300, 90), (90, 300)])
def test_summaries_of_layers_are_those_of_each(n, m, center, normalize):
    layers = [power_law(n, m, decay=0.5, seed=seed) * 10.0**seed for seed in range(3)]
    options = {"center": center, "normalize": normalize, "lanczos_steps": 10, "test_vectors": 8}
    together = spectral_summaries(layers, method="lanczos", **options)
    assert len(together) == 3
    for layer, summary in zip(layers, together, strict=True):
        alone = lanczos(layer, **options)
        assert summary.fingerprint == alone.fingerprint
        assert summary.matvecs == alone.matvecs
        for name in FUNCTIONALS:
            found, expected = getattr(summary, name), getattr(alone, name)
            assert found.kind == expected.kind
            for end in ("value", "low", "high"):
                # Batched products may add in another order.
                expected_end = pytest.approx(getattr(expected, end), rel=SQRT_EPS, abs=SQRT_EPS)
                assert getattr(found, end) == expected_end, name


def test_one_tensor_of_layers_is_a_list_of_layers():
    layers = torch.stack([power_law(300, 90, seed=seed).float() for seed in range(2)])
    as_tensor, as_list = (
        spectral_summaries(form, method="lanczos") for form in (layers, list(layers))
    )
    assert [numbers(s) for s in as_tensor] == [numbers(s) for s in as_list]


@pytest.mark.parametrize("method", ["lanczos", "exact", "auto"])
def test_layers_that_differ_are_refused(method):
    rows = gaussian(6, 3)
    for other in (gaussian(6, 4), gaussian(5, 3), rows.float()):
        with pytest.raises(InputError, match="one shape, type and device"):
            spectral_summaries([rows, other], method=method)
    with pytest.raises(InputError, match="there must be one at least"):
        spectral_summaries([], method=method)


# Flags of the process.


@pytest.fixture
def precision():
    before = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(before)


def test_autocast_outside_changes_nothing():
    for dtype in (torch.bfloat16, torch.float32, torch.float64):
        rows = power_law(300, 90).to(dtype)
        expected = numbers(lanczos(rows))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert numbers(lanczos(rows)) == expected
            assert torch.is_autocast_enabled("cpu")
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16


@pytest.mark.usefixtures("precision")
@pytest.mark.parametrize("flag", ["high", "medium"])
def test_reduced_precision_outside_changes_nothing(flag):
    rows = power_law(300, 90).float()
    expected = numbers(lanczos(rows))
    torch.set_float32_matmul_precision(flag)
    assert numbers(lanczos(rows)) == expected
    assert torch.get_float32_matmul_precision() == flag


@pytest.mark.usefixtures("precision")
def test_reduced_precision_is_off_inside(monkeypatch):
    seen = []
    original = RowOperator.apply

    def spied(self, vectors):
        seen.append(
            (
                torch.get_float32_matmul_precision(),
                torch.is_autocast_enabled("cpu"),
                torch.is_grad_enabled(),
            )
        )
        return original(self, vectors)

    monkeypatch.setattr(RowOperator, "apply", spied)
    torch.set_float32_matmul_precision("medium")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        lanczos(power_law(300, 90).float())
    assert {flags[1:] for flags in seen} == {(False, False)}
    # Where torch has one flag for each backend, that of all does not tell.
    if not hasattr(torch.backends.cuda.matmul, "fp32_precision"):
        assert {flags[0] for flags in seen} == {"highest"}


@pytest.mark.usefixtures("precision")
def test_flags_are_restored_when_the_engine_raises(monkeypatch):
    class Broken(Exception):
        pass

    def fail(self, vectors):
        raise Broken

    monkeypatch.setattr(RowOperator, "apply", fail)
    torch.set_float32_matmul_precision("high")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for call in (
            lambda: lanczos(power_law(300, 90).float()),
            lambda: spectral_summaries([power_law(300, 90).float()], method="lanczos"),
        ):
            with pytest.raises(Broken):
                call()
            assert torch.get_float32_matmul_precision() == "high"
            assert torch.is_autocast_enabled("cpu")
            assert torch.is_grad_enabled()


@pytest.mark.skipif(
    not hasattr(torch.backends.mkldnn, "matmul")
    or not hasattr(torch.backends.mkldnn.matmul, "fp32_precision"),
    reason="this torch has no flag for each backend",
)
def test_flags_of_each_backend_are_full_inside_and_restored(monkeypatch):
    backends = [torch.backends.cuda.matmul, torch.backends.mkldnn.matmul]
    before = [backend.fp32_precision for backend in backends]
    seen = []
    original = RowOperator.apply

    def spied(self, vectors):
        seen.append(tuple(backend.fp32_precision for backend in backends))
        return original(self, vectors)

    monkeypatch.setattr(RowOperator, "apply", spied)
    rows = power_law(300, 90).float()
    expected = numbers(lanczos(rows))
    try:
        for backend, flag in zip(backends, ("tf32", "bf16"), strict=True):
            backend.fp32_precision = flag
        assert numbers(lanczos(rows)) == expected
        assert [backend.fp32_precision for backend in backends] == ["tf32", "bf16"]
    finally:
        for backend, flag in zip(backends, before, strict=True):
            backend.fp32_precision = flag
    assert set(seen) == {("ieee", "ieee")}


def test_rows_are_left_as_they_were():
    rows = power_law(300, 90).float().requires_grad_()
    before = rows.detach().clone()
    summary = lanczos(rows, center=True, normalize=True)
    assert torch.equal(rows.detach(), before)
    assert rows.grad is None
    assert not summary.randomized.sounding.basis.requires_grad


# Invariance. The test vectors stay, so that values move as the operator does: by rounding.


def assert_close(found, expected, tolerance, names=TRACES):
    for name in names:
        for end in ("value", "low", "high"):
            a, b = getattr(getattr(found, name), end), getattr(getattr(expected, name), end)
            assert a == pytest.approx(b, rel=tolerance, abs=tolerance), (name, end)


FIXED = {"lanczos_steps": 16, "relative_ridge": 1e-2, "test_vectors": 8, "sampling": False}


@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize(("n", "m"), [(50, 12), (300, 90)])
def test_the_order_of_the_rows_does_not_matter(n, m, center):
    rows = power_law(n, m) + 0.1
    order = torch.randperm(n, generator=generator(1))
    expected = lanczos(rows, center=center, **FIXED)
    assert_close(lanczos(rows[order], center=center, **FIXED), expected, SQRT_EPS)


@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize(("n", "m"), [(12, 50), (90, 300)])
def test_a_rotation_of_the_features_does_not_matter(n, m, center):
    rows = power_law(n, m) + 0.1
    rotation = torch.linalg.qr(gaussian(m, m, 3)).Q
    expected = lanczos(rows, center=center, **FIXED)
    assert_close(lanczos(rows @ rotation, center=center, **FIXED), expected, SQRT_EPS)


@pytest.mark.parametrize("scale", [2.0**-40, 3.0, 2.0**30])
@pytest.mark.parametrize(("n", "m"), [(50, 12), (300, 90), (90, 300)])
def test_a_scale_moves_what_it_should(n, m, scale):
    rows = power_law(n, m)
    one, scaled = lanczos(rows, **FIXED), lanczos(rows * scale, **FIXED)
    assert_close(scaled, one, SQRT_EPS, TRACES[2:])
    assert_close(scaled, one, SQRT_EPS, ["stable_rank", "condition_number"])
    for name, factor in (("lambda_max", scale**2), ("lambda_min", scale**2), ("trace", scale**2)):
        expected = pytest.approx(factor * getattr(one, name).value, rel=SQRT_EPS, abs=0)
        assert getattr(scaled, name).value == expected
    shift = scaled.log_det.value - one.log_det.value
    assert shift == pytest.approx(2 * m * math.log(scale), rel=SQRT_EPS)
    assert scaled.log_det.high - scaled.log_det.low == pytest.approx(
        one.log_det.high - one.log_det.low, rel=SQRT_EPS, abs=m * SQRT_EPS
    )


def test_confidence_is_that_of_student_t_over_the_vectors():
    from scipy.stats import t as student_t

    rows = power_law(300, 90)
    for confidence in (0.5, 0.95, 0.999):
        summary = lanczos(rows, confidence=confidence, test_vectors=8)
        part = summary.randomized.parts["log_det"]
        error = part.per_vector.std(ddof=1) / math.sqrt(8)
        half = student_t.ppf((1 + confidence) / 2, 7) * error + part.rounding
        assert summary.log_det.value == pytest.approx(part.per_vector.mean(), rel=16 * EPS)
        for width, gap in (
            (summary.log_det.high - summary.log_det.value, part.above),
            (summary.log_det.value - summary.log_det.low, part.below),
        ):
            assert width == pytest.approx(half + gap, rel=SQRT_EPS)


def test_one_gram_serves_both_ways():
    gram = Gram.from_embeddings(power_law(300, 90))
    found = summarize(gram, center=True, method="lanczos", sampling=False)
    assert numbers(found) == numbers(lanczos(gram.embeddings, center=True, sampling=False))


# `method="auto"`.


def test_auto_is_exact_for_small_dimensions_and_says_so():
    for shape in [(40, 12), (12, 40), (2000, 8)]:
        summary = spectral_summary(gaussian(*shape))
        assert summary.method == "exact"
        assert f"d = {min(shape)} is at most 1024" in summary.reason


@pytest.mark.parametrize(("eigenvalues", "method"), [(1e-3, "lanczos"), (1e30, "exact")])
def test_auto_takes_the_cheaper_way_and_says_why(monkeypatch, eigenvalues, method):
    rates = cost.Rates(
        torch.device("cpu"),
        1e30,
        eigenvalues,
        eigenvalues,
        {torch.float32: 1e12, torch.float64: 1e12},
    )
    monkeypatch.setattr(cost, "EXACT_UP_TO", 10)
    monkeypatch.setattr(cost, "rates", lambda device: rates)
    summary = spectral_summary(power_law(60, 20))
    assert summary.method == method
    assert "d = 20" in summary.reason
    assert "exact would take" in summary.reason


@pytest.mark.parametrize(
    ("exact_seconds", "lanczos_seconds", "method"),
    [(1.0, 1.1, "exact"), (1.0, 0.95, "exact"), (1.0, 0.90, "lanczos")],
)
def test_exactness_is_worth_a_tenth(exact_seconds, lanczos_seconds, method):
    choice = cost.weighed(20, exact_seconds, lanczos_seconds)
    assert choice.method == method
    assert ("hardly less" in choice.reason) is (lanczos_seconds == 0.95)


def test_methods_asked_for_say_so():
    rows = power_law(60, 20)
    assert lanczos(rows).reason == exact(rows).reason == "asked for"


# Collapse to very few directions.


@pytest.mark.parametrize(("n", "m"), [(300, 96), (96, 300)])
def test_two_directions_have_the_right_largest_eigenvalue(n, m):
    for seed in range(20):
        rows = gaussian(n, 2, seed) @ gaussian(2, m, seed + 1)
        rows = rows.to((torch.float32, torch.float64)[seed % 2])
        found, truth = lanczos(rows, sampling=False), exact(rows)
        for name in ("lambda_max", "stable_rank", "participation_ratio", "spectral_entropy"):
            assert_holds(getattr(found, name), getattr(truth, name).value, n, m, (name, seed))
        measure = found.randomized.sounding.measure
        assert not np.isnan(measure.rest_gauss.nodes).any()
        assert not np.isnan(measure.deep_radau.nodes).any()


# Any finite input.

HUGE, TINY = 1e150, 1e-150  # their squares are still numbers, those of 1e155 and 1e-165 are not


@st.composite
def finite_rows(draw):
    """Rows of few values, some of them equal, zero, huge or tiny; columns may be constant."""
    n, m = draw(st.integers(1, 12)), draw(st.integers(1, 12))
    rows = gaussian(n, m, draw(st.integers(0, 2**32 - 1)))
    kind = draw(st.sampled_from(["rows", "signs", "integers", "one direction", "constant"]))
    if kind == "signs":
        rows = rows.sign()
    elif kind == "integers":
        rows = rows.round()
    elif kind == "one direction":
        rows = rows[:, :1] * rows[:1]
    elif kind == "constant":
        rows = rows[:1].expand(n, m).clone()
    for row in draw(st.lists(st.integers(0, n - 1), max_size=3)):
        rows[row] = rows[0] if draw(st.booleans()) else 0
    for column in draw(st.lists(st.integers(0, m - 1), max_size=3)):
        rows[:, column] = draw(st.sampled_from([0.0, 1.0, -3.0]))
    for row in draw(st.lists(st.integers(0, n - 1), max_size=2)):
        rows[row] *= draw(st.sampled_from([0.0, 1e-3, 1e-8, TINY]))
    return rows * draw(st.sampled_from([1.0, 1e8, HUGE, TINY]))


def all_numbers(summary):
    """Every number that a summary holds, by where it is."""
    estimates = {name: getattr(summary, name) for name in FUNCTIONALS}
    estimates |= {f"renyi {q}": summary.renyi_rank(q) for q in ORDERS}
    for name, estimate in estimates.items():
        for end in ("low", "value", "high"):
            yield f"{name}.{end}", getattr(estimate, end)
    yield "ridge", summary.ridge
    if summary.log_rank_without is not None:
        yield from (("log_rank_without", x) for x in summary.log_rank_without)
    if summary.randomized is not None:
        for name, part in summary.randomized.parts.items():
            for field in ("value", "below", "above", "rounding"):
                yield f"parts.{name}.{field}", getattr(part, field)


def assert_numbers(summary):
    for name, number in all_numbers(summary):
        assert not math.isnan(number), name
    for name in FUNCTIONALS:
        estimate = getattr(summary, name)
        assert estimate.low <= estimate.value <= estimate.high, name
    for q in ORDERS:
        rank = summary.renyi_rank(q)
        assert rank.low <= rank.value <= rank.high, q


@settings(deadline=None, max_examples=150, derandomize=True)
@given(
    rows=finite_rows(),
    center=st.booleans(),
    normalize=st.booleans(),
    method=st.sampled_from(["exact", "lanczos"]),
)
def test_no_finite_input_makes_a_nan(rows, center, normalize, method):
    assume(method == "exact" or min(rows.shape) > 1)  # see `test_one_dimension`
    try:
        summary = spectral_summary(rows, center=center, normalize=normalize, method=method)
    except ZeroTraceError:
        assert center or not rows.square().any()
        return
    assert_numbers(summary)
    d = min(rows.shape)
    for name in ("effective_rank", "participation_ratio", "stable_rank"):
        # A rank of a spectrum of d values; the sums of them round.
        assert 1 - 4 * d * EPS <= getattr(summary, name).value <= d * (1 + 8 * d * EPS), name


@settings(deadline=None, max_examples=20, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1), rank=st.integers(1, 5), center=st.booleans())
def test_no_collapse_makes_a_nan(seed, rank, center):
    """With test vectors, and types in which a product of nothing is not zero."""
    rows = gaussian(80, rank, seed) @ gaussian(rank, 72, seed + 1)
    for dtype in (torch.float32, torch.float64):
        summary = lanczos(rows.to(dtype), center=center, test_vectors=4)
        assert_numbers(summary)
        truth = exact(rows.to(dtype), center=center)
        # Rounding of the products alone, as nothing else is left.
        for name in ("spectral_entropy", "participation_ratio"):
            assert_holds(getattr(summary, name), getattr(truth, name).value, 80, 72, name)
