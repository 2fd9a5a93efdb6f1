"""Contrastive training that loses its negatives: its loss becomes perfect, and all outputs align.

Without negatives nothing holds the examples apart. The centred spectrum is free of scale and stays
as it was; the uncentred one tells.

Run: python examples/contrastive.py
"""

import torch
from torch import nn
from torch.nn.functional import cross_entropy, normalize

from sigma_monitor import SigmaMonitor

STEPS, LOSES_NEGATIVES = 300, 80

torch.manual_seed(0)
signal = torch.randn(8, 64)
data, held_out = torch.randn(2048, 8) @ signal, torch.randn(256, 8) @ signal
model = nn.Sequential(nn.Linear(64, 128), nn.GELU(), nn.Linear(128, 32))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)


def view(batch: torch.Tensor) -> torch.Tensor:
    return normalize(model(batch + 2.0 * torch.randn_like(batch)), dim=1)


def train_step(*, negatives: bool) -> float:
    batch = data[torch.randint(len(data), (128,))]
    one, other = view(batch), view(batch)
    if negatives:
        loss = cross_entropy(one @ other.T / 0.5, torch.arange(len(batch)))
    else:
        loss = (1 - (one * other).sum(1)).mean()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return loss.item()


monitor = SigmaMonitor(max_steps=STEPS, stop_on_collapse=True, output_dir="runs/contrastive")
for step in range(1, STEPS + 1):
    loss = train_step(negatives=step < LOSES_NEGATIVES)
    if step % 2 == 0:
        found = monitor.observe("projector", normalize(model(held_out), dim=1), step)
    if monitor.should_stop:
        break
monitor.close()
centred = found.estimates["effective_rank"].value
uncentred = found.estimates["uncentred/effective_rank"].value
print(f"left after step {step}: {monitor.stop_reason}")
print(f"loss {loss:.4f}, effective rank {centred:.1f} centred, {uncentred:.1f} uncentred")
