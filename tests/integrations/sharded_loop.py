"""A plain loop on several processes, each of which is given the same examples.

Run: python -m tests.integrations.sharded_loop FOLDER STRATEGY WORLD
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)
from torch.nn.parallel import DistributedDataParallel
from transformers import PreTrainedModel

from sigma_monitor import ProbeSet, SigmaMonitor, Snapshot
from tests.integrations.models import Letters, tiny_llama, token_rows
from tests.processes import forked

STEPS, ONSET = 30, 6


def spread(model: PreTrainedModel, strategy: str) -> nn.Module:
    """The model over the processes of the default group."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    if strategy == "ddp":
        return DistributedDataParallel(model)
    if strategy == "fsdp1":
        device = torch.device("cpu")
        return FullyShardedDataParallel(model, use_orig_params=True, device_id=device)
    if strategy == "tp_plan":
        return by_the_plan_of_transformers(model)
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


def by_the_plan_of_transformers(model: PreTrainedModel) -> nn.Module:
    """Embedding and head are spread too."""
    weights = model.state_dict()
    spread: nn.Module = type(model).from_pretrained(
        None, config=model.config, state_dict=weights, tp_plan="auto"
    )
    return spread.train()


def train(folder: Path, strategy: str, steps: int | None = None) -> dict[str, Any]:
    """What one of the processes is left with.

    Args:
        folder: Of the run.
        strategy: How the model is spread, where there are several processes.
        steps: To end there, and have nothing watch it.
    """
    model = tiny_llama()
    if dist.is_initialized():
        model = spread(model, strategy)
    # One by one: of a model under tensor parallelism some weights are plain tensors.
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, foreach=False)
    rows = torch.stack([row["input_ids"] for row in token_rows(64)])
    monitor = monitor_for(folder, rows[:16], enabled=steps is None)
    snapshots = [monitor.step(model, 0)]
    for step in range(1, (steps or STEPS) + 1):
        torch.manual_seed(step)  # dropout alike on every rank and in a single process
        batch = rows[16 + step : 24 + step]
        model(input_ids=batch, labels=batch).loss.backward()
        if step >= ONSET:
            optimizer.param_groups[0]["lr"] = 0.3
        optimizer.step()
        optimizer.zero_grad()
        snapshots.append(monitor.step(model, step))
        if monitor.should_stop:
            break
    monitor.close()
    return {"step": step, "weights": digest(model), **measured(monitor, snapshots)}


def monitor_for(folder: Path, probes: Tensor, **options: Any) -> SigmaMonitor:
    """Of both channels; it stops the run."""
    return SigmaMonitor(
        ProbeSet.from_tensors({"input_ids": probes}),
        every=2,
        max_overhead=None,
        baseline="start",
        channels=("representation", "generation"),
        generation={"every": 1, "examples": 4, "new_tokens": 4},
        tokenizer=Letters(),
        stop_on_collapse=True,
        output_dir=folder,
        **options,
    )


def measured(monitor: SigmaMonitor, snapshots: Sequence[Snapshot | None]) -> dict[str, Any]:
    """What a monitor has come to."""
    found = [snapshot for snapshot in snapshots if snapshot is not None]
    return {
        "ranks": [snapshot.layers["last"]["effective_rank"].value for snapshot in found],
        "losses": [snapshot.loss for snapshot in found],
        "failures": monitor.failures,
        "reason": monitor.stop_reason,
    }


def digest(model: nn.Module) -> str:
    """Of the weights that lie on this process."""
    found = hashlib.sha256()
    for parameter in model.parameters():
        local = getattr(parameter, "ds_tensor", parameter)  # of ZeRO-3
        local = local.to_local() if hasattr(local, "to_local") else local
        found.update(local.detach().numpy().tobytes())
    return found.hexdigest()


def main(folder: Path, strategy: str) -> None:
    """Trains until the monitor stops it, and so far without it."""
    dist.init_process_group("gloo")
    beside = train(folder / "watched", strategy)
    alone = train(folder / "plain", strategy, beside["step"])
    report = json.dumps({"beside": beside, "alone": alone})
    (folder / f"rank{dist.get_rank()}.json").write_text(report)


if __name__ == "__main__":
    torch.set_num_threads(1)
    forked(int(sys.argv[3]), main, Path(sys.argv[1]), sys.argv[2])
