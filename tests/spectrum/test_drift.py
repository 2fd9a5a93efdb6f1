"""The change between two summaries: paired, refused where they do not compare, and followed."""

import math

import numpy as np
import pytest
import torch

from sigma_monitor.errors import InputError
from sigma_monitor.spectrum import spectral_drift, spectral_summary
from sigma_monitor.spectrum.drift import SpectralDrift
from sigma_monitor.spectrum.gram import Gram
from sigma_monitor.spectrum.operator import RowOperator
from sigma_monitor.spectrum.randomized import Effort, sound
from sigma_monitor.spectrum.summary import FUNCTIONALS
from sigma_monitor.spectrum.trace import (
    ENTROPY,
    ROOT,
    ROOT_ENTROPY,
    log_ridge,
)
from tests.spectrum.matrices import (
    EPS,
    SQRT_EPS,
    gaussian,
    generator,
    is_unbounded,
    rows_with,
    token_rows,
)

TRACES = (
    "log_det",
    "log_det_per_dim",
    "coding_rate",
    "effective_rank",
    "spectral_entropy",
    "participation_ratio",
)
SAMPLED = TRACES[:4]
SURE = 1 - 1e-5  # confidence at which no interval of this file fails by chance


def lanczos(rows, *, seed=0, **options):
    return spectral_summary(
        rows, method="lanczos", sampling=False, generator=generator(seed), **options
    )


def operator_of(rows):
    gram = Gram.from_embeddings(rows)
    return RowOperator([gram], center=False, traces=[gram.energy(center=False)])


def exact(rows, **options):
    return spectral_summary(rows, method="exact", **options)


def changed(rows, relative, seed=7):
    """The rows after a linear map that is so far from the identity, in each direction."""
    m = rows.shape[1]
    return rows + relative * rows @ gaussian(m, m, seed) / math.sqrt(m)


def power_law(n, m, decay=0.5):
    return rows_with(torch.arange(1, min(n, m) + 1).double() ** -decay, n, m)


def differences(before, after):
    return {name: getattr(after, name).value - getattr(before, name).value for name in FUNCTIONALS}


# By the exact way: the jackknife, example by example.


@pytest.mark.parametrize("center", [False, True])
def test_the_exact_change_is_the_difference_of_the_values(center):
    before, after = (
        exact(rows, center=center) for rows in (gaussian(60, 8), changed(gaussian(60, 8), 0.1))
    )
    drift = spectral_drift(before, after)
    assert isinstance(drift, SpectralDrift)
    assert drift.fingerprint == before.fingerprint == after.fingerprint
    for name, difference in differences(before, after).items():
        estimate = getattr(drift, name)
        assert estimate.value == pytest.approx(difference, rel=16 * EPS, abs=0), name
        if name in SAMPLED:
            assert estimate.kind == "sampling"
            assert estimate.low < estimate.value < estimate.high, name
        else:
            assert (estimate.low, estimate.high) == (estimate.value, estimate.value), name
            assert estimate.kind == "exact"


@pytest.mark.parametrize("tokens", [False, True])
def test_the_exact_interval_is_the_paired_jackknife(tokens):
    from scipy.stats import t as student_t

    rows, groups = token_rows([3, 1, 4, 2, 5, 2, 3, 4] * 3, 5)
    groups = groups if tokens else None
    summaries = [exact(r, groups=groups, ridge=0.05) for r in (rows, changed(rows, 0.05))]
    drift = spectral_drift(*summaries)
    old, new = (summary.leave_one_out for summary in summaries)
    pairs = {
        "log_det": (old.log_det, new.log_det),
        "log_det_per_dim": (old.log_det / 5, new.log_det / 5),
        "coding_rate": (old.log_det / 2, new.log_det / 2),
        "effective_rank": (np.exp(old.log_effective_rank), np.exp(new.log_effective_rank)),
    }
    for name, (a, b) in pairs.items():
        count = len(a)
        assert count == (24 if tokens else 72)
        half = student_t.ppf(0.975, count - 1) * math.sqrt((count - 1) * np.var(b - a))
        estimate = getattr(drift, name)
        assert estimate.high - estimate.value == pytest.approx(half, rel=SQRT_EPS), name
        assert estimate.value - estimate.low == pytest.approx(half, rel=SQRT_EPS), name


def test_the_exact_interval_holds_the_change_of_the_source_and_is_narrow():
    """Over probe sets of the same source the interval covers the mean change, 5 times narrower."""
    n, m, covered, ratios, sets = 120, 6, 0, [], 60
    pairs = []
    for seed in range(sets):
        rows = gaussian(n, m, seed=1000 + seed) * torch.arange(1, m + 1).double() ** -0.5
        pairs.append([exact(r, ridge=1e-3) for r in (rows, changed(rows, 0.02))])
    truth = np.mean([after.log_det.value - before.log_det.value for before, after in pairs])
    for before, after in pairs:
        change = spectral_drift(before, after).log_det
        covered += change.low <= truth <= change.high
        ratios.append((before.log_det.high - before.log_det.low) / (change.high - change.low))
    # 95 % of 60 is 57; three standard errors of a binomial below it.
    assert covered >= 0.95 * sets - 3 * math.sqrt(0.95 * 0.05 * sets)
    assert np.median(ratios) > 5


def test_without_leave_one_out_values_the_change_is_exact():
    pair = [exact(r, sampling=False) for r in (gaussian(20, 4), changed(gaussian(20, 4), 0.1))]
    assert {getattr(spectral_drift(*pair), name).kind for name in FUNCTIONALS} == {"exact"}


def test_too_few_examples_leave_the_change_unbounded():
    drift = spectral_drift(exact(gaussian(2, 4)), exact(changed(gaussian(2, 4), 0.1)))
    for name in SAMPLED:
        assert is_unbounded(getattr(drift, name)), name


# By the randomised way: vector by vector.


SHAPES = [(300, 96), (96, 300), (60, 20), (20, 60)]


@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("relative", [0.1, 1e-2, 1e-4])
@pytest.mark.parametrize(("n", "m"), SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_randomised_interval_holds_the_change(n, m, relative, center, dtype):
    rows = power_law(n, m) + 0.1
    pair = [r.to(dtype) for r in (rows, changed(rows, relative))]
    truth = differences(*(exact(r, center=center, sampling=False) for r in pair))
    for seed in range(2):
        options = {"center": center, "confidence": SURE, "seed": seed}
        before, after = (lanczos(r, **options) for r in pair)
        drift = spectral_drift(before, after)
        for name in TRACES:
            estimate = getattr(drift, name)
            assert estimate.kind == ("quadrature" if min(n, m) <= 64 else "test_vectors")
            # Two exact values, rounded by themselves.
            slack = 8 * (n + m) * EPS * max(1, abs(getattr(before, name).value))
            assert estimate.low <= estimate.value <= estimate.high
            assert estimate.low - slack <= truth[name] <= estimate.high + slack, name
        for name in ("trace", "mean_cosine"):
            estimate = getattr(drift, name)
            assert estimate.kind == "exact"
            assert estimate.value == pytest.approx(truth[name], rel=0, abs=SQRT_EPS), name
        for name in ("lambda_max", "stable_rank", "lambda_min"):
            estimate = getattr(drift, name)
            assert estimate.low - SQRT_EPS <= truth[name] <= estimate.high + SQRT_EPS, name
        assert math.isinf(drift.decay_exponent.high)


def test_the_randomised_change_pairs_the_vectors():
    from scipy.stats import t as student_t

    rows = power_law(300, 96)
    before, after = (lanczos(r, test_vectors=8) for r in (rows, changed(rows, 0.01)))
    drift = spectral_drift(before, after)
    for name in ("log_det", "spectral_entropy"):
        old, new = (summary.randomized.parts[name] for summary in (before, after))
        paired = new.per_vector - old.per_vector
        rounding = old.rounding + new.rounding
        half = student_t.ppf(0.975, 7) * paired.std(ddof=1) / math.sqrt(8) + rounding
        estimate = getattr(drift, name)
        assert estimate.value == pytest.approx(paired.mean(), rel=SQRT_EPS)
        for width, bracket in (
            (estimate.high - estimate.value, new.above + old.below),
            (estimate.value - estimate.low, new.below + old.above),
        ):
            assert width == pytest.approx(half + bracket, rel=SQRT_EPS), name


@pytest.mark.parametrize(("n", "m"), [(300, 96), (96, 300)])
@pytest.mark.parametrize("decay", [None, 0.5])
def test_common_vectors_are_a_hundred_times_better_than_fresh_ones(n, m, decay):
    rows = gaussian(n, m) if decay is None else power_law(n, m, decay)
    pair = rows, changed(rows, 1e-2)
    seeds = 20
    summaries = [[lanczos(r, seed=seed, test_vectors=8) for r in pair] for seed in range(seeds)]
    for name in ("log_det", "effective_rank", "spectral_entropy"):
        common = [getattr(spectral_drift(a, b), name).value for a, b in summaries]
        fresh = [
            getattr(summaries[seed][1], name).value
            - getattr(summaries[(seed + 1) % seeds][0], name).value
            for seed in range(seeds)
        ]
        assert np.var(fresh) > 100 * np.var(common), name


def test_the_interval_of_a_change_is_narrower_than_that_of_a_level():
    rows = power_law(300, 96)
    # Steps enough for brackets, which do not pair, to be no part of either width.
    before, after = (lanczos(r, lanczos_steps=24) for r in (rows, changed(rows, 1e-3)))
    drift = spectral_drift(before, after)
    for name in ("log_det", "effective_rank", "spectral_entropy"):
        level, change = getattr(after, name), getattr(drift, name)
        assert change.high - change.low < (level.high - level.low) / 10, name


# Refusals.


DIFFERENT = {
    "method": ({}, {"method": "exact"}, "'lanczos'", "'exact'"),
    "n": ({}, {"n": 90}, "80", "90"),
    "m": ({}, {"m": 71}, "70", "71"),
    "examples": ({}, {"groups": torch.arange(80) // 2}, "80", "40"),
    "center": ({}, {"center": True}, "False", "True"),
    "normalize": ({"normalize": True}, {}, "True", "False"),
    "relative_ridge": ({"relative_ridge": 0.01}, {"relative_ridge": 0.02}, "0.01", "0.02"),
    "ridge": ({"ridge": 0.25}, {"ridge": 0.5}, "0.25", "0.5"),
    "seed": ({"seed": 3}, {"seed": 4}, "3", "4"),
}


def summary_of(*, n=80, m=70, seed=0, method="lanczos", **options):
    return spectral_summary(
        power_law(n, m), method=method, generator=generator(seed), **{"lanczos_steps": 6} | options
    )


@pytest.mark.parametrize("name", DIFFERENT)
def test_summaries_that_do_not_compare_are_refused(name):
    first, second, *values = DIFFERENT[name]
    before, after = summary_of(**first), summary_of(**second)
    assert before.fingerprint != after.fingerprint
    expected = f"{name} is {values[0]} in the one and {values[1]} in the other"
    with pytest.raises(InputError, match="do not compare") as caught:
        spectral_drift(before, after)
    assert expected in str(caught.value)
    expected = f"{name} is {values[1]} in the one and {values[0]} in the other"
    with pytest.raises(InputError) as caught:
        spectral_drift(after, before)
    assert expected in str(caught.value)


def test_a_relative_and_an_absolute_ridge_do_not_compare():
    before = summary_of(relative_ridge=0.01)
    with pytest.raises(InputError, match=r"relative_ridge is 0\.01 in the one and None"):
        spectral_drift(before, summary_of(ridge=before.ridge))


def test_a_relative_ridge_may_follow_the_trace():
    rows = power_law(80, 70)
    before, after = (lanczos(r, relative_ridge=0.01) for r in (rows, 2 * rows))
    assert before.ridge != after.ridge
    assert before.fingerprint == after.fingerprint
    assert spectral_drift(before, after).log_det_per_dim.value == pytest.approx(
        math.log(4), rel=SQRT_EPS
    )


def test_confidence_is_the_lower_of_both_and_no_part_of_the_fingerprint():
    before, after = summary_of(confidence=0.9), summary_of(confidence=0.99)
    assert spectral_drift(before, after).confidence == 0.9
    assert spectral_drift(after, before).confidence == 0.9


@pytest.mark.parametrize("method", ["exact", "lanczos"])
@pytest.mark.parametrize(("n", "m"), [(80, 70), (30, 10), (10, 30), (90, 200)])
def test_nothing_has_changed_since_itself(method, n, m):
    summary = summary_of(n=n, m=m, method=method)
    drift = spectral_drift(summary, summary)
    for name in FUNCTIONALS:
        estimate = getattr(drift, name)
        assert estimate.value == 0, name
        assert estimate.low <= 0 <= estimate.high, name
        if method == "exact":
            assert estimate.low == estimate.high == 0, name
    again = spectral_drift(summary, summary_of(n=n, m=m, method=method))
    assert [getattr(again, name) for name in FUNCTIONALS] == [
        getattr(drift, name) for name in FUNCTIONALS
    ]


# Following.


def healthy(n=400, m=160):
    """A well conditioned spectrum: eigenvalues from 1 to 0.3."""
    return rows_with(torch.linspace(1, 0.3, min(n, m)).double().sqrt(), n, m)


@pytest.mark.parametrize(("n", "m"), [(400, 160), (160, 400)])
@pytest.mark.parametrize("center", [False, True])
def test_a_small_change_is_followed_with_a_third_of_the_products(n, m, center):
    rows = healthy(n, m)
    now = changed(rows, 1e-3)
    before = lanczos(rows, center=center)
    after = lanczos(now, center=center, previous=before)
    assert after.randomized.anchor is before
    assert after.matvecs * 3 <= before.matvecs
    assert after.randomized.sounding.measure.vectors < 32
    assert after.fingerprint == before.fingerprint
    options = {"center": center, "sampling": False}
    truth = spectral_drift(exact(rows, **options), exact(now, **options))
    found = spectral_drift(before, after)
    for name in TRACES:
        estimate = getattr(found, name)
        assert estimate.kind == getattr(after, name).kind == "test_vectors"
        assert estimate.low <= getattr(truth, name).value <= estimate.high, name


def test_followed_levels_hold_the_truth_as_often_as_they_say():
    rows = healthy()
    now = changed(rows, 1e-2)
    truth = exact(now, sampling=False)
    seeds = 40
    held = dict.fromkeys(TRACES, 0)
    for seed in range(seeds):
        before = lanczos(rows, seed=seed, test_vectors=16)
        after = lanczos(now, seed=seed, test_vectors=16, previous=before)
        for name in TRACES:
            estimate = getattr(after, name)
            held[name] += estimate.low <= getattr(truth, name).value <= estimate.high
    # Half-widths add up, which is conservative; three standard errors of a binomial below 95 %.
    least = 0.95 * seeds - 3 * math.sqrt(0.95 * 0.05 * seeds)
    assert all(count >= least for count in held.values()), held


SPECTRA = {  # eigenvalues of 160 features
    "healthy": torch.linspace(1, 0.3, 160).double(),
    "down to zero": torch.linspace(1, 0, 160).double() ** 2,
    "power law": torch.arange(1, 161).double() ** -1.5,
    "collapsed": torch.tensor([1.0] * 8 + [1e-6] * 152).double(),
}


@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("function", [log_ridge(1e-5), ENTROPY, ROOT, ROOT_ENTROPY])
def test_a_followed_bracket_holds_the_truth_for_its_vectors(spectrum, function):
    rows = rows_with(SPECTRA[spectrum].sqrt(), 400, 160)
    then, now = operator_of(rows), operator_of(changed(rows, 1e-2))
    options = {"ridges": [1e-5], "seed": 3, "confidence": 0.95}
    (before,) = sound(then, Effort.first(6, None), **options)
    (after,) = sound(now, Effort.following(before, None), before=before, **options)
    assert after.steps <= before.steps
    assert after.matvecs < before.matvecs
    found = after.trace(function)

    all_steps = Effort(6, 2, 160, 160, fixed=True)
    (whole,) = sound(now, all_steps, before=before, **options)
    slopes = before.measure.slopes(function)
    truth = whole.measure.corrected_trace(function, slopes)
    assert truth.below + truth.above < 1e-9 * abs(truth.value)
    rounding = 1e-9 * abs(truth.value)
    assert -found.below - rounding <= truth.value - found.value <= found.above + rounding

    # With the same vectors at both levels, the bracket is that of today's few steps.
    few = after.measure.corrected_trace(function, slopes)
    assert found.value - found.below == pytest.approx(few.value - few.below, rel=1e-9)
    assert found.value + found.above == pytest.approx(few.value + few.above, rel=1e-9)
    assert few.below + few.above > 0
    assert found.rounding >= few.rounding > 0


def test_a_followed_trace_is_the_level_and_the_change_since():
    rows = healthy()
    now = changed(rows, 1e-2)
    before, after = lanczos(rows), lanczos(now, previous=lanczos(rows))
    for name in ("log_det", "spectral_entropy"):
        level, found = (each.randomized.parts[name] for each in (before, after))
        assert len(found.change) == 6
        assert len(level.change) == 0
        assert found.value == pytest.approx(found.per_vector.mean() + found.change.mean())
        np.testing.assert_allclose(found.per_vector - level.per_vector, 0, atol=0.02)
        low, high = (getattr(after, name).low, getattr(after, name).high)
        assert (high - low) / 2 == pytest.approx(
            found.statistical_half(0.95) + found.rounding + (found.below + found.above) / 2
        )


@pytest.mark.parametrize("spike", [4.0, 1.1])
def test_renyi_ranks_of_a_followed_spectrum_whose_largest_eigenvalue_fell(spike):
    values = torch.linspace(1, 0.3, 160).double()
    falling = values.clone()
    falling[0] = spike
    before, now = (rows_with(each.sqrt(), 400, 160) for each in (falling, values))
    options = {"ridge": 1e-3, "confidence": 0.99}
    after = lanczos(now, previous=lanczos(before, **options), **options)
    assert after.randomized.anchor is not None
    truth = exact(now, sampling=False)
    for q in (0, 0.5, 1, 1.5, 2, 3, 8, 50, 1000, math.inf):
        found = after.renyi_rank(q)
        assert found.low <= truth.renyi_rank(q).value <= found.high, q


@pytest.mark.parametrize("jump", ["collapse", "spike"])
def test_a_jump_is_measured_anew_with_all_vectors(jump):
    rows = healthy()
    before = lanczos(rows)
    if jump == "collapse":
        now = rows_with(torch.tensor([1.0] * 10 + [0.1] * 150).double(), 400, 160)
    else:
        now = rows + 0.2 * gaussian(1, 160, 3)
    after = lanczos(now, previous=before, confidence=SURE)
    assert after.randomized.anchor is None
    assert after.randomized.sounding.measure.vectors == 32
    truth = exact(now, sampling=False)
    for name in TRACES:
        estimate = getattr(after, name)
        assert estimate.low <= getattr(truth, name).value <= estimate.high, name
    # A spectrum that has jumped is followed from there.
    calm = lanczos(changed(now, 1e-5), previous=after)
    assert calm.randomized.anchor in (None, after)


def test_a_large_change_is_measured_anew_however_well_it_is_known():
    rows = healthy()
    before = lanczos(rows)
    # A scale moves log det by the same for every vector.
    assert lanczos(1.01 * rows, previous=before).randomized.anchor is before
    assert lanczos(1.1 * rows, previous=before).randomized.anchor is None


def test_a_chain_of_small_steps_stays_true():
    # With few vectors an interval grows faster with its confidence: at more, none is followed.
    rows = healthy()
    first = summary = lanczos(rows, confidence=0.99)
    anchors = set()
    for step in range(20):
        rows = changed(rows, 3e-3, seed=100 + step)
        summary = lanczos(rows, confidence=0.99, previous=summary)
        anchors.add(None if summary.randomized.anchor is None else id(summary.randomized.anchor))
        if summary.randomized.anchor is not None:
            # An anchor stands for itself: chains do not hold all that came before in memory.
            assert summary.randomized.anchor.randomized.anchor is None
        truth = exact(rows, sampling=False)
        for name in TRACES:
            estimate = getattr(summary, name)
            assert estimate.low <= getattr(truth, name).value <= estimate.high, (step, name)
    assert id(first) in anchors
    drift = spectral_drift(first, summary)
    start = exact(healthy(), sampling=False)
    for name in TRACES:
        change = getattr(truth, name).value - getattr(start, name).value
        assert getattr(drift, name).low <= change <= getattr(drift, name).high, name


def test_a_slow_drift_does_not_stay_anchored_for_ever():
    """Each step is small; together they are more than a tenth, and the level is measured anew."""
    rows = healthy()
    summary, renewed, steps = lanczos(rows), 0, 12
    for _ in range(steps):
        rows = torch.cat([rows[:, :80], 0.98 * rows[:, 80:]], dim=1)
        summary = lanczos(rows, previous=summary)
        renewed += summary.randomized.anchor is None
        truth = exact(rows, sampling=False).log_det_per_dim.value
        assert summary.log_det_per_dim.value == pytest.approx(truth, abs=0.1)
    assert 1 <= renewed < steps


@pytest.mark.parametrize(("n", "m"), [(60, 20), (20, 60)])
def test_where_nothing_is_random_previous_changes_nothing(n, m):
    rows = gaussian(n, m)
    before = lanczos(rows)
    after, alone = lanczos(changed(rows, 1e-3), previous=before), lanczos(changed(rows, 1e-3))
    assert after.randomized.anchor is None
    assert [getattr(after, name) for name in FUNCTIONALS] == [
        getattr(alone, name) for name in FUNCTIONALS
    ]


def test_following_is_deterministic():
    rows = healthy()
    before = lanczos(rows)
    one, two = (lanczos(changed(rows, 1e-3), previous=before) for _ in range(2))
    assert [getattr(one, name) for name in FUNCTIONALS] == [
        getattr(two, name) for name in FUNCTIONALS
    ]


def test_the_exact_way_ignores_previous():
    rows = gaussian(30, 5)
    before = exact(rows)
    after = spectral_summary(changed(rows, 0.1), previous=before)
    assert after.method == "exact"
    assert spectral_drift(before, after).fingerprint == before.fingerprint
