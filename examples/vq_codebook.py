"""A vector-quantised autoencoder whose codebook collapses, which its loss does not tell.

The learning rate runs away, and ever fewer codes serve all examples.

Run: python examples/vq_codebook.py
"""

import torch
from torch import nn
from torch.nn.functional import mse_loss

from sigma_monitor import SigmaMonitor

STEPS, RUNS_AWAY = 300, 120

torch.manual_seed(0)
centres = torch.randn(32, 16)


def sample(n: int) -> torch.Tensor:
    return centres[torch.randint(len(centres), (n,))] + 0.1 * torch.randn(n, 16)


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(16, 64), nn.GELU(), nn.Linear(64, 16))


held_out, encoder, decoder = sample(256), network(), network()
codebook = nn.Parameter(encoder(sample(64)).detach())  # codes begin where the encoder maps to
optimizer = torch.optim.AdamW([*encoder.parameters(), *decoder.parameters(), codebook], lr=1e-3)


def quantised(encoded: torch.Tensor) -> torch.Tensor:
    return codebook[torch.cdist(encoded, codebook).argmin(1)]


def train_step() -> float:
    batch = sample(128)
    encoded = encoder(batch)
    codes = quantised(encoded)
    reconstructed = decoder(encoded + (codes - encoded).detach())
    commitment = mse_loss(codes, encoded.detach()) + mse_loss(encoded, codes.detach())
    loss = mse_loss(reconstructed, batch) + commitment
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return loss.item()


monitor = SigmaMonitor(max_steps=STEPS, stop_on_collapse=True, output_dir="runs/vq_codebook")
for step in range(1, STEPS + 1):
    if step == RUNS_AWAY:
        optimizer.param_groups[0]["lr"] *= 50
    loss = train_step()
    if step % 2 == 0:  # not the table itself: codes that nobody uses any more stay where they are
        monitor.observe("codebook", quantised(encoder(held_out)), step)
    if monitor.should_stop:
        break
monitor.close()
used = len(quantised(encoder(held_out)).unique(dim=0))
print(f"left after step {step}: {monitor.stop_reason}")
print(f"loss {loss:.4f}, {used} of {len(codebook)} codes in use")
