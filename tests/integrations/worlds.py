"""Hosts on several processes: `python -m tests.integrations.worlds FOLDER HOST PROCESSES`.

They train on one example over and over, without dropout: the mean of the gradients of all processes
is the gradient of each, so that the weights are, bit by bit, those of a training on one process.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import transformers

from sigma_monitor import SigmaMonitor
from tests.integrations.models import tiny_llama, token_rows
from tests.processes import forked

STEPS, ONSET, SAVED = 24, 12, 10
WATCHED = {"every": 2, "max_overhead": None, "baseline": "start", "stop_on_collapse": True}

# `train(folder, watched=True, stop_at=STEPS, resume=False)`: what one of the processes is left
# with. Not watched, there is no monitor; `resume`: from the checkpoint of step 10.
Train = Callable[..., dict[str, Any]]


def train_by_trainer(
    folder: Path, *, watched: bool = True, stop_at: int = STEPS, resume: bool = False
) -> dict[str, Any]:
    from sigma_monitor import SigmaCallback
    from tests.integrations.hosts import Flatten, Listener, StopAt, make_trainer

    listener, watcher = Listener(), SigmaCallback(**WATCHED)
    trainer = make_trainer(
        folder,
        *[Flatten(ONSET), listener, StopAt(stop_at), *[watcher] * watched],
        model=tiny_llama(attention_dropout=0.0),
        train=token_rows(1) * 128,
        ddp_backend="gloo" if "RANK" in os.environ else None,
        max_steps=STEPS,
        save_strategy="steps",
        save_steps=SAVED,
    )
    trainer.train(resume_from_checkpoint=str(folder / f"checkpoint-{SAVED}") if resume else None)
    step, world = trainer.state.global_step, trainer.args.world_size
    return left(trainer.model, watcher.monitor, step=step, world=world, heard=listener.sigma)


def train_by_lightning(
    folder: Path, *, watched: bool = True, stop_at: int = STEPS, resume: bool = False
) -> dict[str, Any]:
    from lightning.pytorch.callbacks import ModelCheckpoint

    from sigma_monitor import SigmaLightningCallback
    from tests.integrations.lightning_hosts import (
        From,
        Kept,
        StopAt,
        Wrapped,
        fit,
        flatten,
        loader,
        make_trainer,
    )

    logger, watcher = Kept(), SigmaLightningCallback(**WATCHED)
    # Lightning takes the variable away at the end of its first training.
    several = dist.is_initialized()
    world = dist.get_world_size() if several else int(os.environ.get("WORLD_SIZE", 1))
    saver = ModelCheckpoint(folder, "{step}", save_top_k=-1, every_n_train_steps=SAVED)
    trainer = make_trainer(
        folder,
        *[From(ONSET, flatten), StopAt(stop_at), *[watcher] * watched, saver],
        devices=world,
        strategy="ddp" if world > 1 else "auto",
        max_steps=STEPS,
        enable_checkpointing=True,
        logger=[logger],
        log_every_n_steps=1,
    )
    module = Wrapped(tiny_llama(attention_dropout=0.0))
    path = str(folder / f"step={SAVED}.ckpt") if resume else None
    fit(trainer, module, train=loader(token_rows(1) * 128), ckpt_path=path)
    step, world = trainer.global_step, trainer.world_size
    return left(module, watcher.monitor, step=step, world=world, heard=logger.sigma)


def resumes(host: str) -> bool:
    """Whether it can at all on several CPUs.

    The Trainer of transformers 4 asks for the optimiser's state on "cpu:0", which torch 2.13 does
    not know.
    """
    return host != "Trainer" or int(transformers.__version__.split(".")[0]) > 4


HOSTS: dict[str, Train] = {"Trainer": train_by_trainer, "Lightning": train_by_lightning}


def left(model: torch.nn.Module, monitor: SigmaMonitor, **others: Any) -> dict[str, Any]:
    """What a process is left with, as JSON can carry it."""
    weights = [p.detach().numpy().tobytes() for p in model.parameters()]
    generators = random.getstate(), np.random.get_state(), torch.get_rng_state().tolist()
    return {
        "failures": monitor.failures,
        "reason": monitor.stop_reason,
        "weights": hashlib.sha256(b"".join(weights)).hexdigest(),
        "generators": hashlib.sha256(repr(generators).encode()).hexdigest(),
        **others,
    }


def main(folder: Path, host: str) -> None:
    """Trains until the monitor stops it, so far without it, and with an interruption."""
    rank, train = int(os.environ["RANK"]), HOSTS[host]
    whole = train(folder / "whole")
    alone = train(folder / "alone", watched=False, stop_at=whole["step"])
    train(folder / "resumed", stop_at=SAVED)
    if rank == 0:
        shutil.copytree(folder / "resumed", folder / "left")
    dist.barrier()
    resumed = train(folder / "resumed", resume=True) if resumes(host) else None
    report = {"whole": whole, "alone": alone, "resumed": resumed}
    (folder / f"rank{rank}.json").write_text(json.dumps(report))


if __name__ == "__main__":
    torch.set_num_threads(1)
    host = sys.argv[2]
    if host == "Lightning":  # once, and not in each of the processes
        import tests.integrations.lightning_hosts
    else:
        import tests.integrations.hosts  # noqa: F401
    forked(int(sys.argv[3]), main, Path(sys.argv[1]), host)
