"""The index set: which documents are measured depends on seed and number alone."""

from __future__ import annotations

import hashlib
import re

import pytest

from sigma_monitor.errors import InputError
from sigma_monitor.lineage.sample import IndexSet, paired


def chosen(contents, prompts=None, *, size=10, seed=0, whole_prompts=True):
    index = IndexSet(size, seed, whole_prompts=whole_prompts)
    for content, prompt in paired(contents, prompts):
        index.offer(content, prompt)
    return index.sample("generation 0")


def smallest_hashes(n, size, seed=0):
    def rank(i):
        return hashlib.blake2b(str(i).encode(), digest_size=8, key=str(seed).encode()).digest()

    return sorted(sorted(range(n), key=rank)[:size])


def test_the_documents_of_smallest_hash_are_chosen_in_their_order():
    sample = chosen([f"document {i}" for i in range(200)])
    assert [one.index for one in sample.chosen] == smallest_hashes(200, 10)
    assert sample.contents == [f"document {i}" for i in smallest_hashes(200, 10)]
    assert (sample.documents, sample.groups, sample.examples) == (200, None, 10)


def test_another_seed_chooses_others():
    assert [one.index for one in chosen(range(200), seed=1).chosen] == smallest_hashes(200, 10, 1)
    assert smallest_hashes(200, 10, 1) != smallest_hashes(200, 10)


def test_all_are_chosen_where_there_are_fewer():
    assert chosen(range(7)).contents == list(range(7))


def test_chances_are_equal():
    counts = [0] * 20
    for seed in range(400):
        for one in chosen(range(20), size=5, seed=seed).chosen:
            counts[one.index] += 1
    # Binomial(400, 1/4): sd 8.7; the largest of 20 is within four of them but once in 800 tests.
    assert max(abs(count - 100) for count in counts) < 4 * 8.7


def test_a_prompt_is_in_with_all_its_documents_or_not_at_all():
    prompts = [f"prompt {i % 40}" for i in range(120)]  # three documents of each, far apart
    sample = chosen(range(120), prompts)
    kept = [one.prompt for one in sample.chosen]
    assert len(kept) == 12  # ten, and what completes the last prompt
    assert all(kept.count(prompt) == 3 for prompt in kept)
    assert sample.groups.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert sample.examples == 4


def test_prompts_that_do_not_repeat_make_no_groups():
    assert chosen(range(30), map(str, range(30))).groups is None


def test_what_is_not_chosen_is_not_kept():
    index = IndexSet(5, 0, whole_prompts=True)
    for i in range(1000):
        index.offer(i)
        assert sum(map(len, index._units.values())) <= 5


@pytest.mark.parametrize(("n", "said"), [(0, "no documents"), (1, "1 document:"), (2, "2 doc")])
def test_too_few_documents_are_refused(n, said):
    with pytest.raises(InputError, match=f"generation 0 has {said}"):
        chosen(range(n))


def test_too_few_prompts_are_refused():
    with pytest.raises(InputError, match=r"generation 0 has 2 prompts: .* or no prompts"):
        chosen(range(8), ["a", "b"] * 4)
    with pytest.raises(InputError, match=r"generation 0 has 1 prompt: "):
        chosen(range(8), ["a"] * 8)


def test_prompts_of_which_too_few_fit_are_said_to_be_chosen_and_not_to_be_all():
    said = r"the 12 documents chosen of generation 0 are of 2 prompts: .* Pass a larger sample"
    with pytest.raises(InputError, match=said):
        chosen(range(60), [f"prompt {i % 10}" for i in range(60)])


def test_documents_are_chosen_one_by_one_where_prompts_do_not_count():
    prompts = ["a", "b"] * 100
    sample = chosen(range(200), prompts, whole_prompts=False)
    assert [one.index for one in sample.chosen] == smallest_hashes(200, 10)
    assert [one.prompt for one in sample.chosen] == [prompts[i] for i in sample.contents]
    assert sample.groups is None
    with pytest.raises(InputError, match="one has other prompts than other"):
        chosen(range(200), prompts[::-1], whole_prompts=False).check_matches(sample, "one", "other")


def test_one_prompt_that_has_nearly_all_is_refused():
    with pytest.raises(InputError, match="'same' has more than the 10 documents"):
        chosen(range(50), ["same"] * 50)


@pytest.mark.parametrize(
    ("documents", "prompts", "said"),
    [(5, 4, "more documents than prompts"), (4, 5, "more prompts than documents")],
)
def test_documents_and_prompts_must_be_as_many(documents, prompts, said):
    with pytest.raises(InputError, match=said):
        chosen(range(documents), map(str, range(prompts)))


def test_generations_of_one_index_set_match():
    prompts = [f"p{i // 2}" for i in range(40)]
    chosen(range(40), prompts).check_matches(chosen("x" * 40, prompts), "one", "other")


@pytest.mark.parametrize(
    ("n", "prompts", "said"),
    [
        (41, [f"p{i}" for i in range(41)], "one has 41 documents and other 40"),
        (40, [f"q{i}" for i in range(40)], r"one has other prompts than other (such as 'q"),
        (40, None, "one has other prompts than other (such as None"),
        (40, [f"p{i}" for i in reversed(range(40))], "one has other prompts than other"),
    ],
)
def test_another_index_set_is_refused(n, prompts, said):
    other = chosen(range(40), [f"p{i}" for i in range(40)])
    with pytest.raises(InputError, match=re.escape(said)):
        chosen(range(n), prompts).check_matches(other, "one", "other")
