"""Completions sampled by the training: how they are read, grouped and judged."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from sigma_monitor import Estimate, ProbeSet, spectral_summary
from sigma_monitor.channels.generation import GenerationWatch
from sigma_monitor.errors import InputError
from sigma_monitor.generation.completions import (
    Completion,
    CompletionProbe,
    group_diversity,
    grouped,
)
from sigma_monitor.probing.encoders import hashing_encoder
from sigma_monitor.snapshot import TEXT_RANK
from sigma_monitor.spectrum.uncertainty import jackknife_standard_error
from tests.integrations.models import Letters
from tests.probing.models import tiny, token_ids

SIZE, PROMPTS = 4, 5
PROBES = ProbeSet.from_tensors({"input_ids": token_ids(4)})


def sampled(prompts: int, *, seed: int = 0, words: int = 40) -> list[list[Completion]]:
    draw = np.random.default_rng(seed)
    return [
        [
            Completion(f"{seed}/{i}", tuple(draw.integers(0, words, 12).tolist()))
            for _ in range(SIZE)
        ]
        for i in range(prompts)
    ]


def probe(**options: Any) -> CompletionProbe:
    return CompletionProbe(**{"prompts": PROMPTS, "relative_ridge": 1e-3, **options})


def read(reader: CompletionProbe) -> Any:
    return reader.read(tiny("llama"), PROBES, Letters())


def readings(prompts: int, *seeds: int, words: int = 40) -> list[Any]:
    """One of each seed."""
    reader, found = probe(prompts=prompts), []
    for seed in seeds:
        reader.offer(sampled(prompts, seed=seed, words=words))
        found.append(read(reader))
    return found


def test_a_reading_has_the_newest_prompts_and_no_completion_twice() -> None:
    reader, groups = probe(), sampled(PROMPTS + 2)
    reader.offer(groups[:3])
    assert read(reader) is None  # too few
    reader.offer(groups[3:])
    newest = [Letters().decode(list(c.tokens)) for group in groups[2:] for c in group]
    assert read(reader).texts == tuple(newest)
    assert read(reader) is None
    reader.offer(sampled(PROMPTS - 1, seed=1))
    assert read(reader) is None


def test_only_the_first_tokens_of_a_completion_are_read() -> None:
    reader = probe(new_tokens=5)
    reader.offer(sampled(PROMPTS))
    assert {len(text) for text in read(reader).texts} == {5}


def test_the_spectrum_is_that_of_all_texts_and_its_error_deletes_whole_prompts() -> None:
    reader, groups = probe(), sampled(PROMPTS)
    reader.offer(groups)
    writing = read(reader)
    embeddings = hashing_encoder().embed(writing.texts)
    summary = spectral_summary(
        embeddings, center=True, method="exact", groups=torch.arange(PROMPTS * SIZE) // SIZE
    )
    assert writing.estimates[TEXT_RANK] == summary.effective_rank
    assert len(writing.log_rank_without) == PROMPTS
    assert writing.entropies is None
    assert "output_entropy" not in writing.estimates


def test_what_differs_within_a_prompt_is_averaged_over_prompts() -> None:
    alike, mixed, apart = [(1, 2, 3)] * 4, [(1, 2, 3)] * 3 + [(4, 5, 6)], []
    apart = [(i, i + 20, i + 40) for i in range(4)]
    rows = [torch.ones(4, 6), torch.eye(4, 6)[[0, 0, 0, 1]], torch.eye(4, 6)]
    found = group_diversity([alike, mixed, apart], [row.double() for row in rows])
    assert found["group_unique"].value == pytest.approx((0.25 + 0.5 + 1.0) / 3)
    assert found["group_distinct_2"].value == pytest.approx((2 / 8 + 4 / 8 + 8 / 8) / 3)
    shares = np.sqrt([3, 1]) / np.sqrt([3, 1]).sum()
    ranks = [1.0, math.exp(-(shares * np.log(shares)).sum()), 4.0]
    rank = found["group_effective_rank"]
    assert rank.value == pytest.approx(np.mean(ranks), rel=1e-9)
    # Student's t of three prompts.
    assert rank.high - rank.value == pytest.approx(
        4.302653 * np.std(ranks, ddof=1) / math.sqrt(3), rel=1e-6
    )
    assert rank.kind == "sampling"


def test_prompts_with_one_completion_have_no_diversity_of_a_group() -> None:
    assert group_diversity([[(1, 2)], [(3,)]], [torch.ones(1, 3), torch.ones(1, 3)]) == {}


def test_completions_without_a_word_are_one_and_the_same() -> None:
    found = group_diversity([[(), ()]], [torch.zeros(2, 3)])
    assert found["group_effective_rank"] == Estimate.exact(1.0)
    assert found["group_unique"] == Estimate.exact(0.5)


def test_texts_that_are_all_the_same_have_rank_one() -> None:
    reader = probe()
    reader.offer([[Completion("a", (1, 2, 3))] * SIZE] * PROMPTS)
    writing = read(reader)
    assert writing.estimates[TEXT_RANK] == Estimate.exact(1.0)
    assert writing.estimates["group_effective_rank"].value == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize(("size", "expected"), [(None, [6, 2]), (3, [3, 3, 2])])
def test_neighbours_with_one_prompt_are_a_group_of_the_known_size(
    size: int | None, expected: list[int]
) -> None:
    flat = [Completion(prompt, (1,)) for prompt in "aaaaaabb"]
    assert [len(group) for group in grouped(flat, size)] == expected


def test_a_prompt_that_comes_again_later_is_another_group() -> None:
    assert len(grouped([Completion(p, ()) for p in "aabaa"])) == 3


@pytest.mark.parametrize(
    "options", [{"prompts": 2}, {"prompts": 4.0}, {"new_tokens": 0}, {"every": 0}, {"encoder": 3}]
)
def test_options_that_cannot_be_used_are_named(options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(options))):
        probe(**options)


def watched(found: list[Any]) -> tuple[GenerationWatch, list[float]]:
    """A watch that has seen them, and the standard errors it told its detector."""
    watch = GenerationWatch(
        (TEXT_RANK,), baseline="start", expected_checks=None, warmup_steps=0, thresholds={}
    )
    told: list[float] = []
    update = watch.series[TEXT_RANK].update

    def told_of(step: int, value: float, stderr: float, estimate: Estimate) -> Any:
        told.append(stderr)
        return update(step, value, stderr, estimate)

    watch.series[TEXT_RANK].update = told_of  # type: ignore[method-assign]
    for step, writing in enumerate(found):
        watch.update(step, writing)
    return watch, told


def test_changes_are_judged_by_the_error_of_two_samples_of_prompts() -> None:
    found = readings(PROMPTS, 0, 1, 2)
    watch, told = watched(found)
    first, last = (jackknife_standard_error(found[i].log_rank_without) for i in (0, 2))
    assert told[0] == 0.0
    assert told[2] == pytest.approx(math.hypot(first, last))
    assert watch.diversity_lost is False
    assert watch.baselines()["baselines"].keys() == {TEXT_RANK}


def test_the_error_covers_what_other_prompts_do() -> None:
    """Readings of one source differ by about as much as the standard errors say."""
    found = readings(12, *range(40))
    errors = [jackknife_standard_error(writing.log_rank_without) for writing in found]
    ratio = float(np.mean(errors)) / float(np.std([w.log_rank for w in found], ddof=1))
    # The sd of 40 values is known to 11 %; to first order the jackknife is on the wide side.
    assert 0.7 < ratio < 3


def test_texts_that_narrow_are_told() -> None:
    watch, _ = watched([*readings(12, *range(4)), *readings(12, *range(9), words=2)])
    assert watch.diversity_lost is True


def test_a_watch_goes_on_from_its_state() -> None:
    found = readings(PROMPTS, *range(4))
    whole, _ = watched(found)
    half, _ = watched(found[:2])
    resumed, _ = watched([])
    resumed.load_state_dict(half.state_dict())
    for step in (2, 3):
        resumed.update(step, found[step])
    assert resumed.state_dict() == whole.state_dict()
