"""A plain loop on several processes, each of which is given the same examples.

Run: python -m tests.integrations.sharded_loop FOLDER STRATEGY [STEPS]
With STEPS it ends there, and nothing watches it.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)
from torch.nn.parallel import DistributedDataParallel

from sigma_monitor import ProbeSet, SigmaMonitor, Snapshot
from tests.integrations.models import Letters, tiny_llama, token_rows
from tests.processes import leave

STEPS, ONSET = 30, 6


def spread(model: nn.Module, strategy: str) -> nn.Module:
    """The model over the processes of the default group."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    if strategy == "ddp":
        return DistributedDataParallel(model)
    if strategy == "fsdp1":
        device = torch.device("cpu")
        return FullyShardedDataParallel(model, use_orig_params=True, device_id=device)
    if strategy == "tp":
        columns = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
        plan = dict.fromkeys((*columns, "mlp.gate_proj", "mlp.up_proj"), ColwiseParallel())
        plan |= dict.fromkeys(("self_attn.o_proj", "mlp.down_proj"), RowwiseParallel())
        for layer in model.model.layers:
            parallelize_module(layer, mesh, plan)
        return model
    for layer in model.model.layers:
        fully_shard(layer, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def effective_rank(snapshot: Snapshot) -> float:
    return snapshot.layers["last"]["effective_rank"].value


def main(folder: Path, strategy: str, steps: int | None) -> None:
    sharded = "RANK" in os.environ
    rank = int(os.environ.get("RANK", 0))
    model = tiny_llama()
    if sharded:
        dist.init_process_group("gloo")
        model = spread(model, strategy)
    # One by one: of a model under tensor parallelism some weights are plain tensors.
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, foreach=False)
    rows = torch.stack([row["input_ids"] for row in token_rows(64)])
    monitor = SigmaMonitor(
        ProbeSet.from_tensors({"input_ids": rows[:16]}),
        every=2,
        max_overhead=None,
        baseline="start",
        channels=("representation", "generation"),
        generation={"every": 1, "examples": 4, "new_tokens": 4},
        tokenizer=Letters(),
        stop_on_collapse=True,
        output_dir=folder,
        enabled=steps is None,
    )
    before = monitor.step(model, 0)
    ranks = [] if before is None else [effective_rank(before)]
    for step in range(1, (steps or STEPS) + 1):
        torch.manual_seed(step)  # dropout alike on every rank and in a single process
        batch = rows[16 + step : 24 + step]
        model(input_ids=batch, labels=batch).loss.backward()
        if step >= ONSET:
            optimizer.param_groups[0]["lr"] = 0.3
        optimizer.step()
        optimizer.zero_grad()
        snapshot = monitor.step(model, step)
        if snapshot is not None:
            ranks.append(effective_rank(snapshot))
        if monitor.should_stop:
            break
    monitor.close()
    digest = hashlib.sha256()
    for parameter in model.parameters():
        local = parameter.to_local() if hasattr(parameter, "to_local") else parameter
        digest.update(local.detach().numpy().tobytes())
    report = {
        "ranks": ranks,
        "step": step,
        "failures": monitor.failures,
        "reason": monitor.stop_reason,
        "weights": digest.hexdigest(),
    }
    (folder / f"rank{rank}.json").write_text(json.dumps(report))
    if sharded:
        leave()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else None)
