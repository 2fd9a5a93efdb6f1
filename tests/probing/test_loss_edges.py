"""Held-out loss is a guest: where it cannot be had it is None, and the spectrum goes on."""

import pytest
import torch
from torch import nn

from sigma_monitor.probing import Probe, ProbeSet
from tests.probing.models import padded, tiny, token_ids


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


def test_a_probe_set_made_before_cuda_begins_queues_no_seed(monkeypatch):
    queued = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", queued.append)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    ProbeSet.from_dataset([{"input_ids": [1, 2, 3]}] * 4)
    assert queued == []
