"""One probe set over several ranks: what each of them reads, for `test_split`.

Without transformers, which would cost every process seconds.
"""

from __future__ import annotations

import types

import torch
import torch.distributed as dist
from torch import nn

from sigma_monitor.probing import Probe, ProbeSet
from sigma_monitor.ranks import failed, rank_and_size

VOCABULARY, WIDTH, LENGTH = 50, 16, 9


class SmallCausalLM(nn.Module):
    """A body and a head; `fault(rank, hidden)` may do something in its forward pass."""

    def __init__(self, fault=lambda rank, hidden: hidden, *, draws=False):
        super().__init__()
        torch.manual_seed(0)
        self.base_model = nn.Sequential(
            nn.Embedding(VOCABULARY, WIDTH), nn.Linear(WIDTH, WIDTH), nn.Tanh()
        )
        self.head = nn.Linear(WIDTH, VOCABULARY)
        self.fault, self.draws, self.sizes = fault, draws, []
        self.base_model.register_forward_hook(self._interfere)

    def _interfere(self, _module, _inputs, hidden):
        self.sizes.append(len(hidden))
        if self.draws:
            hidden = hidden + torch.randn_like(hidden)
        return self.fault(rank_and_size()[0], hidden)

    def get_output_embeddings(self):
        return self.head

    def forward(self, input_ids):
        return types.SimpleNamespace(logits=self.head(self.base_model(input_ids)))


class RunningMean(nn.Module):
    """As DDP leaves the statistics of a BatchNorm: those of each rank's own batches."""

    def __init__(self, mean):
        super().__init__()
        self.register_buffer("mean", torch.tensor(float(mean)))

    def forward(self, hidden):
        return hidden + self.mean


class Neighbours(nn.Module):
    """Mixes features by a sparse matrix, as a graph network does its nodes."""

    def __init__(self):
        super().__init__()
        self.register_buffer("graph", torch.eye(WIDTH).roll(1, 0).to_sparse())

    def forward(self, hidden):
        return (self.graph @ hidden.flatten(0, -2).T).T.view(hidden.shape)


def probes_of(n, seed=0):
    """Of unequal lengths."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, VOCABULARY, (n, LENGTH), generator=generator)
    lengths = torch.randint(2, LENGTH + 1, (n, 1), generator=generator)
    mask = (torch.arange(LENGTH) < lengths).long()
    return ProbeSet.from_tensors({"input_ids": ids * mask, "attention_mask": mask})


def last_rank():
    return rank_and_size()[1] - 1


def raises_on_the_last(rank, hidden):
    if rank == last_rank():
        raise RuntimeError("cannot embed this time")
    return hidden


def nan_on_the_last(rank, hidden):
    return hidden * float("nan") if rank == last_rank() else hidden


def cramped_on_the_last(rank, hidden):
    if rank == last_rank() and len(hidden) > 8:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
    return hidden


def cramped_on_the_first(rank, hidden):
    if rank == 0:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
    return hidden


def read(model, probes, **options):
    """What a rank is told, or the error that all of them raise."""
    model.sizes.clear()
    try:
        reading = Probe(**options).read(model, probes)
    except Exception as error:
        told = failed(error)
        return {"error": str(told), "cause": type(told.__cause__).__name__}
    layers = {
        name: [rows.embeddings, rows.groups, rows.pooled, rows.finite]
        for name, rows in reading.layers.items()
    }
    losses = None if reading.losses is None else (reading.losses.sums, reading.losses.tokens)
    return {
        "layers": layers,
        "losses": losses,
        "finite": reading.finite,
        "sizes": list(model.sizes),
    }


def plain_report():
    """Models that every rank has a whole copy of."""
    rank, model = rank_and_size()[0], SmallCausalLM()
    several = {"layers": ["last", "base_model.1"]}
    found = {"whole": read(model, probes_of(128), **several)}
    found |= {f"unequal {p}": read(model, probes_of(50), pooling=p) for p in POOLINGS}
    found["few"] = read(model, probes_of(3))
    found["draws"] = read(SmallCausalLM(draws=True), probes_of(128))
    found["nan"] = read(SmallCausalLM(nan_on_the_last), probes_of(128))
    found["raises"] = read(SmallCausalLM(raises_on_the_last), probes_of(128))
    found["no layer"] = read(model, probes_of(8), layers="nowhere" if rank == 0 else "last")
    found["memory"] = read(SmallCausalLM(cramped_on_the_last), probes_of(128))
    found["no memory"] = read(SmallCausalLM(cramped_on_the_first), probes_of(8))
    diverged = SmallCausalLM()
    diverged.head.bias.data += rank
    found["diverged"] = read(diverged, probes_of(50))
    drifted = SmallCausalLM()
    drifted.base_model.add_module("norm", RunningMean(rank))
    found["other statistics"] = read(drifted, probes_of(50))
    sparse = SmallCausalLM()
    sparse.base_model.add_module("neighbours", Neighbours())
    found["sparse"] = read(sparse, probes_of(128))
    found["other probes"] = read(model, probes_of(50, seed=rank))
    found["whole again"] = read(model, probes_of(128), **several)
    return found


POOLINGS = ("tokens", "mean", "last")


def sharded_report():
    """A model in the shards of FSDP2, each of whose forward passes needs all ranks."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    def shard(model):
        mesh = init_device_mesh("cpu", (dist.get_world_size(),))
        fully_shard(model.base_model[1], mesh=mesh)
        return fully_shard(model, mesh=mesh)

    model, rank = shard(SmallCausalLM()), rank_and_size()[0]

    def before(model, batch):
        if rank == last_rank():
            raise RuntimeError("no inputs")
        return model(batch["input_ids"]).logits

    def after(model, batch):
        logits = model(batch["input_ids"]).logits
        return logits if rank != last_rank() else logits[0, 0]

    def cramped_after(model, batch):
        return cramped_on_the_last(rank, model(batch["input_ids"]).logits)

    found = {
        "sharded": read(model, probes_of(128)),
        "sharded few": read(model, probes_of(3)),
        "sharded before": read(model, probes_of(50), embed_fn=before),
        "sharded after": read(model, probes_of(50), embed_fn=after),
        "sharded memory": read(model, probes_of(50), embed_fn=cramped_after),
        "sharded other probes": read(model, probes_of(50, seed=rank)),
        "sharded again": read(model, probes_of(128)),
    }
    found["trains"] = model(probes_of(8).tensors["input_ids"]).logits.detach()
    return found


def work(rank, world, folder):
    torch.save(plain_report() | sharded_report(), folder / f"rank{rank}.pt")
