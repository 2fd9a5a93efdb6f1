"""A plain loop under FSDP2: `python -m tests.integrations.sharded_loop FOLDER watched|plain`."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from sigma_monitor import ProbeSet, SigmaMonitor
from tests.integrations.models import Letters, tiny_llama, token_rows
from tests.processes import leave

STEPS, ONSET = 30, 6
STOPPED = 24  # where the monitor stops it


def main(folder: Path, *, watched: bool) -> None:
    sharded = "RANK" in os.environ
    rank = int(os.environ.get("RANK", 0))
    model = tiny_llama()
    if sharded:
        dist.init_process_group("gloo")
        mesh = init_device_mesh("cpu", (dist.get_world_size(),))
        for layer in model.model.layers:
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
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
        enabled=watched,
    )
    monitor.step(model, 0)
    ranks = []
    for step in range(1, STEPS + 1):
        torch.manual_seed(step)  # dropout alike on every rank and in a single process
        batch = rows[16 + step : 24 + step]
        model(input_ids=batch, labels=batch).loss.backward()
        if step >= ONSET:
            optimizer.param_groups[0]["lr"] = 0.3
        optimizer.step()
        optimizer.zero_grad()
        snapshot = monitor.step(model, step)
        if snapshot is not None:
            ranks.append(snapshot.layers["last"]["effective_rank"].value)
        if monitor.should_stop or (not watched and step == STOPPED):
            break
    monitor.close()
    digest = hashlib.sha256()
    for parameter in model.parameters():
        local = parameter.to_local() if sharded else parameter
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
    main(Path(sys.argv[1]), watched=sys.argv[2] == "watched")
