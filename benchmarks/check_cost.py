"""What a check costs beside a bare forward pass of the same probe set.

Both give hidden states of the last layer and the held-out loss of 128 examples of 128 tokens, in
the same micro-batches; the check adds guard, pooling, spectra and jackknife. Interleaved, medians.

Run: python benchmarks/check_cost.py [--quick] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from environment import environment
from transformers import LlamaConfig, LlamaForCausalLM

from sigma_monitor import ProbeSet, SigmaMonitor

VOCABULARY = 4096
MICRO_BATCH = 32
RESULT = Path(__file__).parent / "results" / "check_cost.json"


def model_of(width: int, layers: int) -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=width,
            intermediate_size=4 * width,
            num_hidden_layers=layers,
            num_attention_heads=max(4, width // 64),
        )
    )


@torch.no_grad()
def bare_forward(model: LlamaForCausalLM, ids: torch.Tensor) -> None:
    model.eval()
    for batch in ids.split(MICRO_BATCH):
        model(input_ids=batch, labels=batch, use_cache=False)
    model.train()


def compare(width: int, layers: int, repeats: int) -> dict[str, Any]:
    model = model_of(width, layers).train()
    ids = torch.randint(VOCABULARY, (128, 128), generator=torch.Generator().manual_seed(0))
    monitor = SigmaMonitor(ProbeSet.from_tensors({"input_ids": ids}), max_overhead=None, sinks=[])
    forward, check = [], []
    bare_forward(model, ids)
    monitor.check(model, 0)
    for repeat in range(1, repeats + 1):
        started = time.perf_counter()
        bare_forward(model, ids)
        between = time.perf_counter()
        monitor.check(model, repeat)
        forward.append(between - started)
        check.append(time.perf_counter() - between)
    return {
        "width": width,
        "layers": layers,
        "parameters": sum(p.numel() for p in model.parameters()),
        "repeats": repeats,
        "forward_seconds": median(forward),
        "check_seconds": median(check),
        "ratio": median(c / f for c, f in zip(check, forward, strict=True)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a self-check of a few seconds")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    torch.set_num_threads(2)
    sizes = [(64, 2)] if options.quick else [(64, 5), (128, 6), (256, 6)]
    rows = [compare(width, layers, 1 if options.quick else 5) for width, layers in sizes]
    result = {"environment": environment(), "threads": 2, "checks": rows}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    for row in rows:
        print(row)


if __name__ == "__main__":
    main()
