"""What ranks must find alike, for `test_agreement`. Without transformers: processes start anew."""

from __future__ import annotations

import json

import torch
from torch import nn

from sigma_monitor import ProbeSet, SigmaMonitor
from sigma_monitor.checking import instrument
from sigma_monitor.spectrum import cost

STEPS = 3


class Rows(nn.Module):
    """A model whose embeddings are given; it fails when it is told to."""

    def __init__(self):
        super().__init__()
        self.rows = torch.randn(48, 12, generator=torch.Generator().manual_seed(0))
        self.calls = []  # examples of each

    def embed(self, _model, batch):
        self.calls.append(len(batch["index"]))
        return self.rows[batch["index"]]

    def monitor(self, **options):
        probes = ProbeSet.from_tensors({"index": torch.arange(len(self.rows))})
        options = {"every": 1, "max_overhead": None, "sinks": [], **options}
        return SigmaMonitor(probes, embed_fn=self.embed, baseline="start", **options)


def methods_found(rank):
    """On devices of which the first is good at the exact way, and the second at the other."""
    fast, slow = (1e15, 1e3) if rank == 0 else (1e3, 1e15)
    cost.EXACT_UP_TO = 4
    cost._measured_rates = lambda device: cost.Rates(
        device, fast, fast, fast, {torch.float32: slow, torch.float64: slow}
    )
    model = Rows()
    monitor, found = model.monitor(), []
    for step in range(STEPS):
        snapshot = monitor.step(model, step)
        found.append(None if snapshot is None else snapshot.conventions["method"]["last"])
    cost.EXACT_UP_TO = 1024
    return found


def failed_warm_up(rank):
    """On an accelerator, where the second rank cannot measure the one example to warm up with."""
    instrument._accelerator_of = lambda model: torch.device("cpu")
    torch.cuda.synchronize = lambda device: None
    measure = instrument.measure

    def failing(rows, **options):
        if rank == 1 and len(rows.embeddings) == 1 and not told:
            told.append(True)
            raise RuntimeError("cannot warm up")
        return measure(rows, **options)

    told, model = [], Rows()
    instrument.measure = failing
    monitor = model.monitor()
    steps = [step for step in range(STEPS) if monitor.step(model, step) is not None]
    return {"checked": steps, "failures": monitor.failures, "calls": model.calls}


def agree(rank, world, folder):
    report = {"warm up": failed_warm_up(rank), "methods": methods_found(rank)}
    (folder / f"rank{rank}.json").write_text(json.dumps(report))
