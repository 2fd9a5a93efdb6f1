"""ZeRO on two processes: `python -m tests.integrations.deepspeed_ranks FOLDER STAGE`.

A plain loop and a Trainer, each until the monitor stops it and as far without it.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any

import deepspeed
import numpy as np
import torch
import torch.distributed as dist
from deepspeed.comm.torch import build_shm_op

from tests.integrations.hosts import LearningRateJump, Listener, StopAt, eager, make_trainer
from tests.integrations.models import tiny_llama, token_rows
from tests.integrations.sharded_loop import ONSET, STEPS, digest, measured, monitor_for
from tests.processes import forked

COLLAPSING = 0.3  # a learning rate
WORLD, SAVED = 2, 4


def zero(stage: int) -> dict[str, Any]:
    """ZeRO-3 spreads small weights too here, and keeps none whole because it is needed soon."""
    at_once = ("param_persistence_threshold", "max_reuse_distance", "max_live_parameters")
    return {
        "train_micro_batch_size_per_gpu": 8,
        "zero_optimization": {"stage": stage, **{f"stage3_{name}": 0 for name in at_once}},
        "zero_allow_untested_optimizer": True,
    }


def loop(folder: Path, stage: int, steps: int | None = None) -> dict[str, Any]:
    """As `sharded_loop.train`."""
    model = tiny_llama()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=zero(stage))
    rows = torch.stack([row["input_ids"] for row in token_rows(64)])
    monitor = monitor_for(folder, rows[:16], enabled=steps is None)
    snapshots = [monitor.step(engine, 0)]
    for step in range(1, (steps or STEPS) + 1):
        torch.manual_seed(step)
        batch = rows[16 + step : 24 + step]
        engine.backward(engine(input_ids=batch, labels=batch).loss)
        if step >= ONSET:
            optimizer.param_groups[0]["lr"] = COLLAPSING
        engine.step()
        snapshots.append(monitor.step(engine, step))
        if monitor.should_stop:
            break
    monitor.close()
    return {"step": step, "weights": digest(model), **measured(monitor, snapshots)}


def trainer(
    folder: Path,
    stage: int | None,
    *,
    watched: bool = True,
    stop_at: int = STEPS,
    resume: bool = False,
) -> dict[str, Any]:
    """On one example over and over, as in `worlds`; with no stage, without DeepSpeed."""
    several = {} if stage is None else {"deepspeed": zero(stage), "use_cpu": False}
    listener, watcher = Listener(), eager(every=2, baseline="start", stop_on_collapse=True)
    host = make_trainer(
        folder,
        *[LearningRateJump(ONSET, COLLAPSING / 1e-3), listener, StopAt(stop_at)],
        *[watcher] * watched,
        model=tiny_llama(attention_dropout=0.0),
        train=token_rows(1) * 512,
        per_device_train_batch_size=8,
        max_steps=STEPS,
        save_strategy="steps",
        save_steps=SAVED,
        **several,
    )
    host.train(resume_from_checkpoint=str(folder / f"checkpoint-{SAVED}") if resume else None)
    generators = random.getstate(), np.random.get_state(), torch.get_rng_state().tolist()
    return {
        "kind": str(host.accelerator.distributed_type),
        "step": host.state.global_step,
        "weights": digest(host.model),
        "generators": repr(generators),
        "failures": watcher.monitor.failures,
        "reason": watcher.monitor.stop_reason,
        "heard": listener.sigma,
    }


def main(folder: Path, stage: int) -> None:
    deepspeed.init_distributed(dist_backend="gloo")
    report: dict[str, Any] = {"loop": loop(folder / "loop", stage)}
    report["loop alone"] = loop(folder / "loop alone", stage, report["loop"]["step"])
    report["trainer"] = trainer(folder / "trainer", stage)
    stopped = report["trainer"]["step"]
    report["alone"] = trainer(folder / "alone", stage, watched=False, stop_at=stopped)
    trainer(folder / "resumed", stage, stop_at=SAVED)
    dist.barrier()  # rank 0 has written the last of the checkpoint
    report["resumed"] = trainer(folder / "resumed", stage, resume=True)
    (folder / f"rank{dist.get_rank()}.json").write_text(json.dumps(report))


if __name__ == "__main__":
    torch.set_num_threads(1)
    build_shm_op()  # compiles for minutes, the first time
    forked(WORLD, main, Path(sys.argv[1]), int(sys.argv[2]))
