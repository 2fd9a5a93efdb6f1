"""Which hidden states become rows."""

import pytest
import torch

from sigma_monitor.errors import InputError
from sigma_monitor.probing import Probe
from sigma_monitor.probing.pooling import pool

WIDTH = 3
LENGTHS = [5, 3, 1, 2]

sides = pytest.mark.parametrize("left", [False, True], ids=["right_padding", "left_padding"])


def hidden_and_mask(lengths, *, left=False, fill=float("nan")):
    """Hidden states whose padding holds `fill`, their mask, and the used tokens of each example."""
    width = max(lengths)
    hidden = torch.full((len(lengths), width, WIDTH), fill)
    mask = torch.zeros(len(lengths), width, dtype=torch.long)
    texts = []
    for row, length in enumerate(lengths):
        place = slice(width - length, width) if left else slice(length)
        text = torch.randn(length, WIDTH, generator=torch.Generator().manual_seed(row))
        hidden[row, place], mask[row, place] = text, 1
        texts.append(text[1:] if length > 1 else text)  # without the first, unless it is alone
    return hidden, mask, texts


@sides
def test_tokens_are_all_but_padding_and_the_first(left):
    hidden, mask, texts = hidden_and_mask(LENGTHS, left=left)
    rows = pool(hidden, mask, "tokens")
    assert torch.equal(rows.embeddings, torch.cat(texts))
    assert rows.groups.tolist() == [0] * 4 + [1] * 2 + [2] + [3]


@sides
def test_mean_is_over_the_same_tokens(left):
    hidden, mask, texts = hidden_and_mask(LENGTHS, left=left)
    rows = pool(hidden, mask, "mean")
    # Zeros of the padding are summed too, in another order: a rounding of values near 1.
    torch.testing.assert_close(rows.embeddings, torch.stack([text.mean(0) for text in texts]))
    assert rows.groups is None
    assert rows.pooled is rows.embeddings


@sides
def test_last_is_the_last_token_that_is_not_padding(left):
    hidden, mask, texts = hidden_and_mask(LENGTHS, left=left)
    rows = pool(hidden, mask, "last")
    assert torch.equal(rows.embeddings, torch.stack([text[-1] for text in texts]))
    assert rows.groups is None


@sides
@pytest.mark.parametrize("pooling", ["tokens", "mean", "last"])
def test_every_pooling_has_the_means_beside_it_for_the_floor(left, pooling):
    hidden, mask, texts = hidden_and_mask(LENGTHS, left=left)
    pooled = pool(hidden, mask, pooling).pooled
    torch.testing.assert_close(pooled, torch.stack([text.mean(0) for text in texts]))


@pytest.mark.parametrize("mask", [None, torch.ones(2, 4), torch.ones(2, 9)])
def test_without_a_mask_of_its_shape_every_token_counts(mask):
    hidden = torch.randn(2, 4, WIDTH, generator=torch.Generator().manual_seed(0))
    rows = pool(hidden, mask, "tokens")
    assert torch.equal(rows.embeddings, hidden[:, 1:].flatten(0, 1))


@pytest.mark.parametrize("pooling", ["tokens", "mean", "last"])
def test_one_row_per_example_stays_as_it_is(pooling):
    hidden = torch.randn(4, WIDTH, generator=torch.Generator().manual_seed(0))
    hidden[2, 0] = float("inf")
    rows = pool(hidden, torch.ones(4, 7), pooling)
    assert rows.embeddings is rows.pooled is hidden
    assert rows.groups is None
    assert rows.finite.tolist() == [True, True, False, True]


@pytest.mark.parametrize("pooling", ["tokens", "mean", "last"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_counted_by_example_and_padding_is_not(pooling, bad):
    hidden, mask, _ = hidden_and_mask(LENGTHS)
    assert pool(hidden, mask, pooling).finite.tolist() == [True] * 4
    hidden[1, 1, 0] = bad
    assert pool(hidden, mask, pooling).finite.tolist() == [True, False, True, True]


def test_an_example_of_nothing_but_padding_is_not_called_finite():
    """It has no mean: a check would otherwise trip over the NaN instead of counting it."""
    hidden, mask, _ = hidden_and_mask([4, 2], fill=0.0)
    mask[1] = 0
    rows = pool(hidden, mask, "mean")
    assert rows.finite.tolist() == torch.isfinite(rows.pooled).all(1).tolist()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_means_are_taken_at_single_precision_or_better(dtype):
    hidden = torch.randn(2, 2000, WIDTH, generator=torch.Generator().manual_seed(0)).to(dtype)
    rows = pool(hidden, None, "mean")
    assert rows.embeddings.dtype is torch.promote_types(dtype, torch.float32)
    expected = hidden[:, 1:].double().mean(1)
    # fp32 rounding of a mean of values near 1; a 16-bit sum of 2,000 would be off by 1e-2.
    torch.testing.assert_close(rows.embeddings.double(), expected, rtol=0, atol=1e-6)
    assert pool(hidden, None, "tokens").embeddings.dtype is dtype


def test_the_first_examples_are_taken_out_of_rows():
    hidden, mask, texts = hidden_and_mask(LENGTHS)
    tokens = pool(hidden, mask, "tokens").first(2)
    assert torch.equal(tokens.embeddings, torch.cat(texts[:2]))
    assert tokens.groups.tolist() == [0] * 4 + [1] * 2
    assert (len(tokens.pooled), len(tokens.finite)) == (2, 2)
    means = pool(hidden, mask, "mean").first(2)
    assert (len(means.embeddings), means.groups) == (2, None)


@pytest.mark.parametrize("pooling", ["max", "", None])
def test_an_unknown_pooling_is_refused_at_once(pooling):
    with pytest.raises(InputError, match=f"pooling={pooling!r}"):
        Probe(pooling=pooling)
