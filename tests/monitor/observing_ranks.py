"""One of two processes that observe rows of their own. It imports little: processes start anew."""

import json

import torch

from sigma_monitor import SigmaMonitor

WIDTH = 16


def spread(rank=WIDTH, shift=0.0, n=64):
    """Rows over `rank` directions, and all of them along one more."""
    rows = torch.randn(n, WIDTH, generator=torch.Generator().manual_seed(0))
    return torch.cat([rows * (torch.arange(WIDTH) < rank), torch.full((n, 1), shift)], dim=1)


def observe_on(rank, world, folder):
    """Rank 0's rows collapse from step 20 on; rank 1's are well, and fail from step 15 on."""
    monitor = SigmaMonitor(
        baseline="start", output_dir=folder / "run", max_steps=60, stop_on_collapse=True
    )
    measured, stopped = [], None
    for step in range(60):
        rows = spread(rank=2 if rank == 0 and step >= 20 else WIDTH, shift=1.0)
        if rank == 1 and step >= 15:
            rows = None
        observation = monitor.observe("codebook", rows, step)
        if observation is not None:
            measured.append(step)
        if monitor.should_stop:
            stopped = step
            break
    monitor.close()
    result = {
        "measured": measured,
        "last": observation.to_dict(),
        "stopped": stopped,
        "reason": monitor.stop_reason,
    }
    (folder / f"rank{rank}.json").write_text(json.dumps(result))
