"""What is measured of one generation, against plain computations and deletions done by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from sigma_monitor.generation.diversity import distinct
from sigma_monitor.lineage.measure import measure_rows, measure_stream, with_diversity
from sigma_monitor.lineage.watched import Watched, ratio
from sigma_monitor.spectrum import GramStream, spectral_summary
from sigma_monitor.spectrum.uncertainty import half_width, jackknife_standard_error
from tests.lineage.documents import documents
from tests.spectrum.matrices import gaussian

N, M = 24, 5
GROUPS = torch.arange(N) // 3  # three documents a prompt


def rows(seed=0):
    return gaussian(N, M, seed) * torch.tensor([3.0, 2.0, 1.0, 0.5, 0.2]) + 1


def values_of(kept, groups=None):
    """The watched values of these rows, from numpy alone."""
    prompts = [] if groups is None else [kept[groups == group] for group in set(groups)]
    centred = kept - kept.mean(0)
    roots = np.linalg.svd(centred, compute_uv=False)
    p = roots / roots.sum()
    found = {
        "effective_rank": np.exp(-(p * np.log(p)).sum()),
        "participation_ratio": (roots**2).sum() ** 2 / (roots**4).sum(),
    }
    if prompts:
        inside = np.concatenate([own - own.mean(0) for own in prompts])
        found["within_share"] = (inside**2).sum() / (centred**2).sum()
    return found


@pytest.mark.parametrize("groups", [None, GROUPS], ids=["documents", "prompts"])
def test_values_and_deletions_are_those_computed_by_hand(groups):
    found = measure_rows(rows(), groups, confidence=0.95).watched
    own = None if groups is None else groups.numpy()
    assert {name: one.value for name, one in found.items()} == pytest.approx(
        values_of(rows().numpy(), own), rel=1e-10
    )
    numbers = np.arange(N) if own is None else own
    others = [numbers != number for number in sorted(set(numbers))]
    by_hand = [
        values_of(rows().numpy()[other], None if own is None else own[other]) for other in others
    ]
    for name, one in found.items():
        # Of whole prompts the effective rank is left out to first order (spectrum/uncertainty.py).
        rough = own is not None and name == "effective_rank"
        expected = [values[name] for values in by_hand]
        np.testing.assert_allclose(one.without, expected, rtol=0.02 if rough else 1e-8)


def test_spectra_within_and_between_prompts_are_those_of_residuals_and_means():
    found = measure_rows(rows(), GROUPS, confidence=0.95)
    means = torch.stack([rows()[g == GROUPS].mean(0) for g in range(N // 3)])
    residuals = rows() - means[GROUPS]
    within = spectral_summary(residuals, center=False, groups=GROUPS)
    between = spectral_summary(means, center=True)
    for one, other in ((found.within, within), (found.between, between)):
        assert one.effective_rank.value == pytest.approx(other.effective_rank.value, rel=1e-12)
        assert one.effective_rank.low == pytest.approx(other.effective_rank.low, rel=1e-9)
        assert (one.n, one.center) == (other.n, other.center)


def test_prompts_whose_documents_agree_have_nothing_within():
    same = rows()[GROUPS * 3]
    found = measure_rows(same, GROUPS, confidence=0.95)
    assert found.within is None
    assert found.watched["within_share"].value == pytest.approx(0, abs=1e-30)
    assert found.between is not None


def test_rows_that_all_agree_are_of_rank_one():
    found = measure_rows(torch.ones(N, M), None, confidence=0.95)
    assert found.centred is None
    assert found.watched["effective_rank"].value == 1
    assert found.uncentred.effective_rank.value == pytest.approx(1)
    assert found.to_dict()["spectrum"] == []


def test_a_stream_has_the_same_values_without_intervals():
    stream = GramStream(M)
    for chunk in rows().split(7):
        stream.update(chunk)
    streamed = measure_stream(stream, confidence=0.95)
    kept = measure_rows(rows(), None, confidence=0.95)
    for name, one in streamed.watched.items():
        assert one.value == pytest.approx(kept.watched[name].value, rel=1e-10)
        assert one.without is None
    assert streamed.centred.log_det.kind == "exact"
    angle = torch.linalg.svdvals(streamed.directions @ kept.directions.T)
    assert angle.min() == pytest.approx(1, abs=1e-8)


def test_diversity_is_of_words_and_its_interval_of_documents():
    texts = documents(30, vocabulary=60)
    found = with_diversity(measure_rows(rows(), None, confidence=0.95), texts, None)
    words = [text.split() for text in texts]
    assert found.diversity["distinct_2"] == distinct(words, 2)
    assert found.diversity["words"] == 12
    without = [distinct(words[:i] + words[i + 1 :], 2) for i in range(30)]
    np.testing.assert_allclose(found.watched["distinct_2"].without, without, rtol=1e-12)


def test_length_is_not_variety():
    once = " ".join(map(str, range(128)))
    base = measure_rows(rows(), None, confidence=0.95)
    short = with_diversity(base, [once] * 3, None)
    long = with_diversity(base, [f"{once} {once}"] * 3, None)
    assert short.diversity["distinct_2"] == long.diversity["distinct_2"]
    assert (short.diversity["words"], long.diversity["words"]) == (128, 256)


@pytest.mark.parametrize("spread", [1e-3, 0.1, 0.4])
def test_at_the_ends_of_a_ratio_the_difference_is_its_error_from_zero(spread):
    before = Watched(4.0, 4 + spread * np.array([-1.0, 1.0, 0.0, 2.0]))
    after = Watched(2.0, 2 + spread * np.array([-1.0, 1.5, 0.0, 0.5]))
    found = ratio(before, after, 0.9)
    assert (found.value, found.kind) == (0.5, "sampling")
    assert found.low < 0.5 < found.high
    for end in (found.low, found.high):
        error = jackknife_standard_error(after.without - end * before.without)
        assert abs(2 - end * 4) == pytest.approx(half_width(error, 4, 0.9), rel=1e-9)


def test_a_generation_and_itself_have_a_ratio_without_error():
    some = Watched(4.0, 4 + rows()[:, 0].numpy() / N)
    found = ratio(some, some, 0.95)
    assert found.value == 1
    # The root of a determinant that is 0 to rounding.
    assert (found.low, found.high) == pytest.approx((1, 1), abs=1e-7)


def test_a_ratio_where_there_is_no_interval():
    some, none = Watched(4.0, np.array([3.9, 4.1, 4.0])), Watched(2.0)
    assert ratio(some, none, 0.95).kind == "exact"
    assert ratio(some, Watched(0.0, np.zeros(3)), 0.95).value == 0
    assert ratio(Watched(0.0, np.zeros(3)), some, 0.95) is None
    unbounded = ratio(Watched(1.0, np.array([0.0, 1.0, 1.0])), some, 0.95)
    assert (unbounded.low, unbounded.high) == (0, np.inf)


def varied(generator, share, prompts=30):
    """The share within prompts of which so many vary at all, whatever they are about."""
    within = generator.exponential(size=prompts) * (generator.random(prompts) < share)
    energy = within + generator.exponential(size=prompts) + 0.5
    left = (within.sum() - within) / (energy.sum() - energy)
    return Watched(within.sum() / energy.sum(), left)


@pytest.mark.parametrize("weak", [1e-7, 3e-8, 1e-8, 0.0])
@pytest.mark.parametrize("seed", range(5))
def test_a_prompt_that_holds_everything_makes_no_share_above_one(weak, seed):
    """Without it the traces are differences of nearly equal numbers."""
    prompts, each = 20, 5
    groups = torch.arange(prompts).repeat_interleave(each)
    generator = torch.Generator().manual_seed(seed)
    healthy = torch.randn(prompts * each, 6, generator=generator, dtype=torch.float64)
    strength = torch.where(groups == 0, 1.0, weak)
    before, after = (
        measure_rows(rows, groups, confidence=0.95).watched["within_share"]
        for rows in (healthy, strength[:, None].double() * healthy)
    )
    assert after.without.min() >= 0
    assert after.without.max() <= 1
    found = ratio(before, after, 0.95)
    assert found.low <= found.value <= found.high < 10


@pytest.mark.parametrize("share", [0.1, 0.3, 1.0])
def test_healthy_pairs_are_far_apart_no_more_often_than_the_confidence_says(share):
    generator = np.random.default_rng(0)
    ratios = [ratio(varied(generator, share), varied(generator, share), 0.95) for _ in range(400)]
    ratios = [one for one in ratios if one is not None and one.value > 0]
    apart = sum(one.high < 1 or one.low > 1 for one in ratios)
    # Binomial(400, 0.05): sd 4.4. The jackknife of the quotient itself has 50 at a share of 0.1.
    assert apart < 20 + 3 * 4.4
    bounded = sum(math.isfinite(one.high) for one in ratios)
    assert bounded > {0.1: 20, 0.3: 300, 1.0: 390}[share]  # or nothing would ever be told
