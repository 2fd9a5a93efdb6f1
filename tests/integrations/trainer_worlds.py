"""A Trainer on several processes: `python -m tests.integrations.trainer_worlds FOLDER WORLD`.

It trains on one example over and over, without dropout: the mean of the gradients of all processes
is the gradient of each, so that the weights are, bit by bit, those of a training on one process.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from transformers import Trainer

from sigma_monitor import SigmaCallback
from tests.integrations.hosts import Flatten, Listener, StopAt, eager, make_trainer
from tests.integrations.models import tiny_llama, token_rows
from tests.processes import forked

STEPS, ONSET, SAVED = 24, 12, 10


def train(
    folder: Path,
    watcher: SigmaCallback | None = None,
    *,
    stop_at: int = STEPS,
    resume: bool = False,
) -> dict[str, Any]:
    """What one of the processes is left with.

    Args:
        folder: Of the run.
        watcher: None trains without.
        stop_at: The last step.
        resume: From the checkpoint of step 10.
    """
    listener = Listener()
    trainer: Trainer = make_trainer(
        folder,
        *[Flatten(ONSET), listener, StopAt(stop_at)],
        *([] if watcher is None else [watcher]),
        model=tiny_llama(attention_dropout=0.0),
        train=token_rows(1) * 128,
        ddp_backend="gloo" if "RANK" in os.environ else None,
        max_steps=STEPS,
        save_strategy="steps",
        save_steps=SAVED,
    )
    trainer.train(resume_from_checkpoint=str(folder / f"checkpoint-{SAVED}") if resume else None)
    weights = [p.detach().numpy().tobytes() for p in trainer.model.parameters()]
    generators = random.getstate(), np.random.get_state(), torch.get_rng_state().tolist()
    return {
        "world": trainer.args.world_size,
        "step": trainer.state.global_step,
        "failures": 0 if watcher is None else watcher.monitor.failures,
        "reason": None if watcher is None else watcher.monitor.stop_reason,
        "weights": hashlib.sha256(b"".join(weights)).hexdigest(),
        "generators": hashlib.sha256(repr(generators).encode()).hexdigest(),
        "heard": listener.sigma,
    }


def watching() -> SigmaCallback:
    return eager(every=2, baseline="start", stop_on_collapse=True)


def main(folder: Path) -> None:
    """Trains until the monitor stops it, so far without it, and with an interruption."""
    rank = int(os.environ["RANK"])
    whole = train(folder / "whole", watching())
    alone = train(folder / "alone", stop_at=whole["step"])
    train(folder / "resumed", watching(), stop_at=SAVED)
    if rank == 0:
        shutil.copytree(folder / "resumed", folder / "left")
    dist.barrier()
    resumed = train(folder / "resumed", watching(), resume=True)
    report = {"whole": whole, "alone": alone, "resumed": resumed}
    (folder / f"rank{rank}.json").write_text(json.dumps(report))


if __name__ == "__main__":
    torch.set_num_threads(1)
    forked(int(sys.argv[2]), main, Path(sys.argv[1]))
