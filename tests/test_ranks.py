"""Two processes: the clocks differ, the conclusions do not."""

from __future__ import annotations

import json
import time

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from sigma_monitor import ProbeSet, SigmaMonitor
from tests.compatibility import shows
from tests.processes import spawned

STEPS = 100


def train(rank, world, folder):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
    )
    model = LlamaForCausalLM(config)
    probes = ProbeSet.from_tensors({"input_ids": torch.randint(64, (80, 12))})
    monitor = SigmaMonitor(
        probes,
        every=1,
        max_overhead=1.0,
        max_steps=STEPS,
        baseline="start",
        stop_on_collapse=True,
        output_dir=folder / "run",
    )
    checks, stopped = [], None
    monitor.step(model, 0)
    for step in range(1, STEPS + 1):
        time.sleep(0.03 * (1 + 2 * rank))  # rank 1 alone would check more often
        if step == STEPS // 4:
            with torch.no_grad():
                model.model.norm.weight[1:] = 0.0  # one direction is left
        if monitor.step(model, step) is not None:
            checks.append(step)
        if monitor.should_stop:
            stopped = step
            break
    monitor.close()
    result = {"checks": checks, "stopped": stopped, "reason": monitor.stop_reason}
    (folder / f"rank{rank}.json").write_text(json.dumps(result))


@shows("plain PyTorch", "stopped", strategy="no wrapper, 2 processes")
def test_ranks_check_and_stop_at_the_same_steps_and_rank_0_alone_writes(tmp_path):
    spawned(2, train, tmp_path)
    first, second = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1))
    assert first == second
    assert first["stopped"] is not None
    lines = [json.loads(line) for line in (tmp_path / "run/sigma/record.jsonl").open()]
    steps = [line["step"] for line in lines if line["type"] == "check"]
    assert steps == [0, *first["checks"]]
    assert sum(line.get("event") == "closed" for line in lines) == 1
