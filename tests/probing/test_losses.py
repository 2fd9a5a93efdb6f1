"""Held-out loss is that of the model's own logits; where it cannot be had it is None."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sigma_monitor.probing import Probe, ProbeSet, losses
from tests.probing.models import VOCABULARY, Plain, padded, tiny, token_ids

IDS = token_ids(12)
# fp32, values near 1, reduced in another order.
ROUNDING = {"rtol": 0, "atol": 1e-5}


def probes_of(**tensors):
    return ProbeSet.from_tensors(tensors or {"input_ids": IDS})


@torch.no_grad()
def naive_loss(model, input_ids, attention_mask=None, labels=None):
    """Cross-entropy of the model's own logits over the tokens that count, one by one."""
    logits = model(input_ids=input_ids, attention_mask=attention_mask).logits
    labels = input_ids if labels is None else labels
    mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
    losses = [
        F.cross_entropy(logits[row, i], labels[row, i + 1]).item()
        for row in range(len(input_ids))
        for i in range(input_ids.shape[1] - 1)
        if mask[row, i] and mask[row, i + 1] and labels[row, i + 1] != -100
    ]
    return sum(losses) / len(losses)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("case", ["plain", "labels", "right_padding", "padding_and_labels"])
def test_loss_is_the_cross_entropy_of_the_models_own_logits(kind, case):
    tensors = {"input_ids": IDS}
    if "padding" in case:
        tensors = padded([9, 4, 1, 7, 2])
    if "labels" in case:
        labels = tensors["input_ids"].clone()
        labels[:, :3] = -100  # a prompt
        labels[1] = -100
        tensors["labels"] = labels
    model = tiny(kind)
    reading = Probe().read(model, probes_of(**tensors))
    assert reading.loss == pytest.approx(naive_loss(model, **tensors), rel=1e-5)


def test_loss_does_not_depend_on_the_side_of_the_padding():
    """Nothing is to be predicted from a padding token, which stands before the text on the left."""
    model, lengths = tiny("llama"), [9, 4, 3, 7]
    right, left = (
        Probe().read(model, probes_of(**padded(lengths, left=side))) for side in (False, True)
    )
    torch.testing.assert_close(
        left.layers["last"].embeddings, right.layers["last"].embeddings, **ROUNDING
    )
    assert left.loss == pytest.approx(right.loss, rel=1e-5)


@pytest.mark.parametrize("kind", ["granite", "cohere"])
def test_no_loss_is_better_than_one_of_unscaled_logits(kind):
    assert Probe().read(tiny(kind), probes_of()).loss is None


class Capped(nn.Module):
    """Changes the logits after the head, as soft-capping does."""

    def __init__(self):
        super().__init__()
        self.inner = tiny("llama")

    def get_base_model(self):
        return self.inner

    def get_output_embeddings(self):
        return self.inner.lm_head

    def forward(self, input_ids, logits_to_keep=0):
        output = self.inner(input_ids, logits_to_keep=logits_to_keep)
        output.logits = torch.tanh(output.logits)
        return output


def test_no_loss_where_the_head_alone_does_not_give_the_logits():
    model = Capped()
    assert Probe().read(model, probes_of()).loss is None
    assert Probe().read(model.inner, probes_of()).loss is not None


def test_no_loss_without_a_language_head():
    assert Probe().read(tiny("bert"), probes_of()).loss is None
    assert Probe(layers="block").read(Plain(), probes_of()).loss is None


@pytest.mark.parametrize("positions", [1, 7, 10_000])
def test_the_head_is_applied_in_blocks_and_the_loss_stays(monkeypatch, positions):
    model, applied = tiny("gpt2"), []
    expected = Probe().read(model, probes_of()).loss
    head = losses._apply_head

    def counted(linear, states):
        applied.append(len(states))
        return head(linear, states)

    monkeypatch.setattr(losses, "_LOGIT_BYTES", positions * VOCABULARY * 4)
    monkeypatch.setattr(losses, "_apply_head", counted)
    assert Probe().read(model, probes_of()).loss == pytest.approx(expected, rel=1e-6)
    predicted = IDS[:, 1:].numel()
    assert max(applied[1:]) == min(positions, predicted)  # the first is the look at the logits
    assert sum(applied[1:]) == predicted


def test_no_token_to_predict_gives_no_loss_rather_than_a_perfect_one():
    ids = token_ids()
    probes = ProbeSet.from_tensors({"input_ids": ids, "labels": torch.full_like(ids, -100)})
    assert Probe().read(tiny("llama"), probes).loss is None


class Packed(nn.Linear):
    """Stands for a quantised head, whose weight cannot be multiplied as it is."""

    def __init__(self, head: nn.Linear) -> None:
        super().__init__(head.in_features, head.out_features, bias=False)
        self.plain = head.weight
        self.weight = nn.Parameter(torch.zeros(head.weight.numel() // 2, dtype=torch.uint8), False)

    def forward(self, states):
        return nn.functional.linear(states, self.plain)


@pytest.mark.parametrize("packed", [False, True])
def test_a_head_that_cannot_be_applied_costs_only_the_loss(packed):
    model = tiny("llama")
    if packed:
        model.lm_head = Packed(model.lm_head)
    reading = Probe().read(model, ProbeSet.from_tensors(padded([9, 4, 7])))
    assert (reading.loss is None) == packed
    assert reading.finite == 1.0
    assert "last" in reading.layers
