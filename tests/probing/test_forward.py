"""The guarded pass: memory, micro-batches, chance, and the host left alone."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sigma_monitor.errors import ProbeError
from sigma_monitor.probing import Probe, ProbeSet, forward
from tests.probing.models import WIDTH, Plain, padded, tiny, token_ids

IDS = token_ids(12)
# fp32, values near 1, reduced in another order.
ROUNDING = {"rtol": 0, "atol": 1e-5}


def probes_of(**tensors):
    return ProbeSet.from_tensors(tensors or {"input_ids": IDS})


@pytest.mark.parametrize("kind", ["llama", "gpt2", "bert"])
@pytest.mark.parametrize("pooling", ["tokens", "mean", "last"])
@pytest.mark.parametrize("size", [1, 5, 12])
def test_the_size_of_the_micro_batches_does_not_matter(kind, pooling, size):
    tensors = padded([9, 4, 1, 7, 2, 9, 9, 3, 5, 8, 6, 2])
    whole, split = Probe(pooling=pooling), Probe(pooling=pooling)
    split.micro_batch = size
    a, b = (probe.read(tiny(kind), probes_of(**tensors)) for probe in (whole, split))
    rows_a, rows_b = a.layers["last"], b.layers["last"]
    torch.testing.assert_close(rows_b.embeddings, rows_a.embeddings, **ROUNDING)
    torch.testing.assert_close(rows_b.pooled, rows_a.pooled, **ROUNDING)
    assert rows_b.finite.tolist() == rows_a.finite.tolist()
    if pooling == "tokens":
        assert rows_b.groups.tolist() == rows_a.groups.tolist()
    assert b.loss == (None if a.loss is None else pytest.approx(a.loss, rel=1e-6))


class Cramped(Plain):
    """Has room for so many examples at a time."""

    def __init__(self, room, error):
        super().__init__()
        self.room, self.error, self.sizes = room, error, []

    def forward(self, input_ids):
        self.sizes.append(len(input_ids))
        if len(input_ids) > self.room:
            raise self.error
        return super().forward(input_ids)


OUT_OF_MEMORY = {
    "cuda": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    "cuda_async": torch.OutOfMemoryError(
        "Allocation on device 0 would exceed allowed memory. (out of memory)"
    ),
    "runtime": RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    "cpu": RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
}
out_of_memory = pytest.mark.parametrize("error", OUT_OF_MEMORY.values(), ids=OUT_OF_MEMORY)


@out_of_memory
def test_micro_batches_halve_until_they_fit_and_that_is_remembered(error):
    model, probe = Cramped(3, error), Probe(layers="block")
    roomy = Probe(layers="block").read(Plain(), probes_of())
    first = probe.read(model, probes_of())
    # From 32 to 16, 8, 4 and 2 of the 12 examples.
    assert model.sizes == [12, 12, 8, 4, 2, 2, 2, 2, 2, 2]
    model.sizes.clear()
    second = probe.read(model, probes_of())
    assert model.sizes == [2] * 6
    for reading in (first, second):
        rows = reading.layers["block"]
        torch.testing.assert_close(rows.embeddings, roomy.layers["block"].embeddings, **ROUNDING)
        assert torch.equal(rows.groups, roomy.layers["block"].groups)


@out_of_memory
def test_one_example_that_does_not_fit_is_an_error_with_a_remedy(error):
    model = Cramped(0, error).train()
    with pytest.raises(ProbeError, match="max_length") as raised:
        Probe(layers="block").read(model, probes_of())
    assert raised.value.__cause__ is error
    assert model.training


def test_another_runtime_error_is_not_taken_for_a_lack_of_memory():
    model = Cramped(0, RuntimeError("shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        Probe(layers="block").read(model, probes_of())
    assert model.sizes == [12]


@pytest.mark.parametrize("size", [1, 32])
def test_non_finite_embeddings_are_counted_by_example(size):
    def embed(model, batch):
        hidden = batch["input_ids"].float()
        return hidden.where(batch["bad"][:, None] == 0, float("nan"))

    probe = Probe(embed_fn=embed)
    probe.micro_batch = size
    bad = torch.tensor([0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 1])
    reading = probe.read(nn.Identity(), probes_of(input_ids=IDS, bad=bad))
    assert reading.finite == 0.75
    assert reading.layers["last"].finite.tolist() == (bad == 0).tolist()


def test_an_example_is_finite_when_it_is_so_at_every_layer():
    model = Plain()
    with torch.no_grad():
        model.block[0].weight.fill_(float("nan"))
    reading = Probe(layers=["embed", "block"]).read(model, probes_of())
    assert reading.layers["embed"].finite.all()
    assert reading.finite == 0.0


def test_a_model_of_nan_weights_gives_a_loss_of_nan_and_no_error():
    model = tiny("llama")
    with torch.no_grad():
        model.model.norm.weight.fill_(float("nan"))
    reading = Probe().read(model, probes_of())
    assert reading.finite == 0.0
    assert reading.loss != reading.loss


class Chancy(Plain):
    """Draws random numbers in evaluation mode too."""

    def forward(self, input_ids):
        return self.block(self.embed(input_ids) + torch.randn(WIDTH))


def test_a_model_that_draws_gives_the_same_reading_twice():
    model = Chancy()

    def rows(seed):
        torch.rand(1)
        return Probe(layers="block", seed=seed).read(model, probes_of()).layers["block"].embeddings

    assert torch.equal(rows(0), rows(0))
    assert not torch.equal(rows(0), rows(1))


def test_the_training_goes_on_bit_for_bit_beside_the_probe():
    def train(probed):
        torch.manual_seed(3)
        model = Plain().train()
        optimiser = torch.optim.Adam(model.parameters())
        probe = Probe(layers=["block", "norm"])
        for _ in range(3):
            if probed:
                probe.read(model, probes_of())
            loss = F.cross_entropy(model(IDS)[:, :-1].flatten(0, 1), IDS[:, 1:].flatten())
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        return {name: tensor.clone() for name, tensor in model.state_dict().items()}

    alone, beside = train(False), train(True)
    assert alone.keys() == beside.keys()
    assert all(torch.equal(alone[name], beside[name]) for name in alone)


def test_inside_an_autocast_region_training_still_gets_its_gradients():
    """Weights cast without gradients must not be left in the region's cache."""

    def gradients(probed):
        model = Plain().eval()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            if probed:
                Probe(layers="block").read(model, probes_of())
            assert torch.is_autocast_cache_enabled()
            loss = model(IDS).float().square().mean()
        loss.backward()
        return {name: parameter.grad for name, parameter in model.named_parameters()}

    alone, beside = gradients(False), gradients(True)
    for name, gradient in alone.items():
        assert beside[name] is not None, name
        assert torch.equal(beside[name], gradient), name
        assert gradient.count_nonzero() > 0, name


def test_the_probe_runs_in_the_precision_it_finds():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = Probe(layers="block").read(Plain(), probes_of()).layers["block"]
    outside = Probe(layers="block").read(Plain(), probes_of()).layers["block"]
    assert inside.embeddings.dtype is torch.bfloat16
    assert outside.embeddings.dtype is torch.float32


@pytest.mark.parametrize("by", ["layers", "embed_fn"])
def test_the_context_of_the_host_is_around_the_model_and_around_nothing_else(by, monkeypatch):
    model, inside, outside = Plain(), [], []
    model.embed.register_forward_hook(lambda *_: inside.append(torch.is_autocast_enabled("cpu")))
    pool = forward.pool

    def pooling(*arguments):
        outside.append(torch.is_autocast_enabled("cpu"))
        return pool(*arguments)

    monkeypatch.setattr(forward, "pool", pooling)
    embed_fn = None if by == "layers" else lambda model, batch: model.block(model.embed(IDS))
    probe = Probe(layers="block", embed_fn=embed_fn)
    probe.context = lambda: torch.autocast("cpu", dtype=torch.bfloat16)
    (rows,) = probe.read(model, probes_of()).layers.values()
    assert rows.embeddings.dtype is torch.bfloat16
    assert (inside, outside) == ([True], [False])


def test_a_model_that_writes_into_its_inputs_does_not_reach_the_probe_set():
    probes = probes_of(input_ids=IDS.clone())

    def embed(model, batch):
        batch["input_ids"].zero_()
        return torch.eye(len(batch["input_ids"]))

    Probe(embed_fn=embed).read(nn.Identity(), probes)
    assert torch.equal(probes.tensors["input_ids"], IDS)


def test_the_first_examples_of_a_reading_are_those_of_the_first_examples():
    tensors = padded([9, 4, 1, 7, 2])
    model, probes = tiny("llama"), probes_of(**tensors)
    part = Probe(layers=["last", 0]).read(model, probes).first(3)
    alone = Probe(layers=["last", 0]).read(model, probes.first(3))
    for layer in ("last", "0"):
        torch.testing.assert_close(
            part.layers[layer].embeddings, alone.layers[layer].embeddings, **ROUNDING
        )
        assert part.layers[layer].groups.tolist() == alone.layers[layer].groups.tolist()
    assert part.losses.tokens == alone.losses.tokens
    assert part.losses.sums == pytest.approx(alone.losses.sums, rel=1e-5)
