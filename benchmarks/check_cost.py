"""What a check costs beside a bare forward pass of the same probe set, and what a run pays for it.

Both give hidden states of the last layer and the held-out loss of 128 examples of 128 tokens, in
the same micro-batches; the check adds guard, pooling, spectra and jackknife. A writing is what the
generation channel adds at some checks; a training step is one of AdamW on 16 examples. Interleaved,
medians. The share of a run's time follows from these seconds and the default cadence: no run of
that length was made.

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
from clock import checks_of, stopped_clock
from environment import environment
from transformers import LlamaConfig, LlamaForCausalLM

from sigma_monitor import ProbeSet, SigmaMonitor
from sigma_monitor.monitor.cadence import Cadence
from sigma_monitor.monitor.options import CHANNELS

VOCABULARY = 4096
MICRO_BATCH = 32
BATCH = 16
RUNS = (1_000, 10_000, 100_000)  # steps
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


class Signs:
    """One sign for each token: the cost of a real tokenizer is not measured."""

    eos_token_id = None

    def decode(self, ids: list[int], *, skip_special_tokens: bool = False) -> str:
        return "".join(chr(0x4E00 + token) for token in ids)


def train_step(model: LlamaForCausalLM, optimizer: torch.optim.Optimizer, ids: Any) -> None:
    model(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()
    optimizer.zero_grad()


def compare(width: int, layers: int, repeats: int) -> dict[str, Any]:
    model = model_of(width, layers).train()
    ids = torch.randint(VOCABULARY, (128, 128), generator=torch.Generator().manual_seed(0))
    probes = ProbeSet.from_tensors({"input_ids": ids})
    monitor = SigmaMonitor(probes, max_overhead=None, sinks=[])
    writer = SigmaMonitor(probes, channels=CHANNELS).instrument.writing_probe
    assert writer is not None
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)
    parts = {
        "forward": lambda: bare_forward(model, ids),
        "check": lambda: monitor.check(model, monitor.checks),
        "writing": lambda: writer.read(model, probes, Signs()),
        "step": lambda: train_step(model, optimizer, ids[:BATCH]),
    }
    seconds: dict[str, list[float]] = {name: [] for name in parts}
    for repeat in range(repeats + 1):
        for name, part in parts.items():
            started = time.perf_counter()
            part()
            if repeat:  # the first time makes what is used again
                seconds[name].append(time.perf_counter() - started)
    found = {name: median(values) for name, values in seconds.items()}
    return {
        "width": width,
        "layers": layers,
        "parameters": sum(p.numel() for p in model.parameters()),
        "repeats": repeats,
        **{f"{name}_seconds": value for name, value in found.items()},
        "ratio": median(c / f for c, f in zip(seconds["check"], seconds["forward"], strict=True)),
        "writing_ratio": median(
            w / f for w, f in zip(seconds["writing"], seconds["forward"], strict=True)
        ),
        "runs": [share(steps, found, writer.every) for steps in RUNS],
    }


def share(steps: int, seconds: dict[str, float], every: int) -> dict[str, Any]:
    """What checks and writings take of a run at the default cadence and budget."""
    checks = writings = 0
    with stopped_clock() as advance:
        cadence = Cadence()
        for step in checks_of(cadence, steps, seconds["step"], advance):
            writes = checks % every == 0
            extra = seconds["writing"] if writes else 0.0
            advance(seconds["check"] + extra)
            cadence.finish(step, seconds["check"], extra=extra, extra_every=every)
            checks, writings = checks + 1, writings + writes
    return {
        "steps": steps,
        "checks": checks,
        "writings": writings,
        "share_of_time": round(cadence.overhead_with() or 0.0, 5),
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
