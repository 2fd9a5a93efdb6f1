"""What the monitor adds to a training: time, and peak memory, in each host.

The same training of a small Llama on bytes runs with the monitor, at its defaults, and without, in
turns, each in a process of its own; seconds are those of the training, not of imports. Shares of
the time of the run with the monitor are given in four ways: what it took longer than the other, by
the wall clock and in processor time of its one thread; what passed inside the monitor's hooks,
which noise from run to run does not reach; and the monitor's own account, of its checks alone.
Medians over pairs, with the smallest and the largest.

What one check costs beside a bare forward of the same probe set is in check_cost.py.

Run: python benchmarks/overhead.py [--quick] [--out FILE]
"""

from __future__ import annotations

import argparse
import functools
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import chain, islice, repeat
from pathlib import Path
from pydoc_data.topics import topics
from statistics import median
from typing import Any

import torch
from environment import commit, environment
from torch.utils.data import DataLoader
from transformers import LlamaConfig, LlamaForCausalLM

RESULT = Path(__file__).parent / "results" / "overhead.json"
BATCH, LENGTH, HELD_OUT = 16, 32, 256  # examples of a step, their tokens, examples held out
STEPS, PAIRS = 2000, 3


def model_of() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=256,
            hidden_size=64,
            intermediate_size=256,
            num_hidden_layers=2,
            num_attention_heads=4,
        )
    )


def examples() -> list[dict[str, torch.Tensor]]:
    data = torch.tensor(list("\n".join(topics.values()).encode()))
    blocks = data[: len(data) // LENGTH * LENGTH].view(-1, LENGTH)
    return [{"input_ids": block, "labels": block} for block in blocks]


def batches(loader: Any, steps: int) -> Any:
    return islice(chain.from_iterable(repeat(loader)), steps)


def under_trainer(steps: int, folder: str, *, watched: bool) -> tuple[Callable[[], Any], Any]:
    from transformers import Trainer, TrainingArguments

    from sigma_monitor import SigmaCallback

    callback = SigmaCallback() if watched else None
    rows = examples()
    trainer = Trainer(
        model_of(),
        TrainingArguments(
            folder,
            max_steps=steps,
            per_device_train_batch_size=BATCH,
            logging_steps=50,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=rows[:-HELD_OUT],
        eval_dataset=rows[-HELD_OUT:],
        callbacks=[callback] if callback else [],
    )
    return trainer.train, callback


def under_lightning(steps: int, folder: str, *, watched: bool) -> tuple[Callable[[], Any], Any]:
    from lightning.pytorch import LightningModule, Trainer

    from sigma_monitor import SigmaLightningCallback

    class Module(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = model_of()

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return self.model(**batch).loss

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("val_loss", self.model(**batch).loss)

        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(self.parameters())

    callback = SigmaLightningCallback() if watched else None
    trainer = Trainer(
        default_root_dir=folder,
        max_steps=steps,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[callback] if callback else [],
    )
    rows = examples()
    train = DataLoader(rows[:-HELD_OUT], batch_size=BATCH, shuffle=True)
    held_out = DataLoader(rows[-HELD_OUT:], batch_size=BATCH)
    module = Module()
    return lambda: trainer.fit(module, train, held_out), callback


def monitor_of(steps: int, folder: str, *, watched: bool) -> Any:
    from sigma_monitor import ProbeSet, SigmaMonitor

    ids = torch.stack([row["input_ids"] for row in examples()[-HELD_OUT:][:128]])
    probes = ProbeSet.from_tensors({"input_ids": ids})
    return SigmaMonitor(probes, max_steps=steps, output_dir=folder, enabled=watched)


def under_accelerate(steps: int, folder: str, *, watched: bool) -> tuple[Callable[[], Any], Any]:
    from accelerate import Accelerator

    accelerator, model = Accelerator(), model_of()
    model, optimizer, loader = accelerator.prepare(
        model,
        torch.optim.AdamW(model.parameters()),
        DataLoader(examples()[:-HELD_OUT], batch_size=BATCH, shuffle=True),
    )
    monitor = monitor_of(steps, folder, watched=watched)

    def train() -> None:
        monitor.step(model, 0)
        for step, batch in enumerate(batches(loader, steps), start=1):
            accelerator.backward(model(**batch).loss)
            optimizer.step()
            optimizer.zero_grad()
            monitor.step(model, step)
        monitor.close()

    return train, monitor


def in_a_plain_loop(steps: int, folder: str, *, watched: bool) -> tuple[Callable[[], Any], Any]:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = model_of().to(device)
    optimizer = torch.optim.AdamW(model.parameters())
    loader = DataLoader(examples()[:-HELD_OUT], batch_size=BATCH, shuffle=True)
    monitor = monitor_of(steps, folder, watched=watched)

    def train() -> None:
        monitor.step(model, 0)
        for step, batch in enumerate(batches(loader, steps), start=1):
            model(**{name: rows.to(device) for name, rows in batch.items()}).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            monitor.step(model, step)
        monitor.close()

    return train, monitor


HOSTS = {
    "Trainer": under_trainer,
    "Lightning": under_lightning,
    "accelerate": under_accelerate,
    "plain PyTorch": in_a_plain_loop,
}


class Stopwatch:
    """Seconds inside the methods of an object whose names begin with one of `prefixes`."""

    def __init__(self, watched: Any, *prefixes: str) -> None:
        self.seconds, self._inside = 0.0, False
        for name in dir(watched):
            if name.startswith(prefixes) and callable(getattr(watched, name)):
                setattr(watched, name, self._timed(getattr(watched, name)))

    def _timed(self, method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def timed(*args: Any, **kwargs: Any) -> Any:
            if self._inside:
                return method(*args, **kwargs)
            self._inside, started = True, time.perf_counter()
            try:
                return method(*args, **kwargs)
            finally:
                self._inside = False
                self.seconds += time.perf_counter() - started

        return timed


def measure(host: str, steps: int, *, watched: bool) -> dict[str, Any]:
    """One training, in this process."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        train, watcher = HOSTS[host](steps, folder, watched=watched)
        stopwatch = Stopwatch(watcher, "on_", "setup", "teardown", "step", "close")
        wall, processor = time.perf_counter(), time.process_time()
        train()
        found = {
            "wall": time.perf_counter() - wall,
            "processor": time.process_time() - processor,
            "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }
    if torch.cuda.is_available():
        found["peak_mib"] = torch.cuda.max_memory_allocated() / 2**20
    if watched:
        monitor = getattr(watcher, "monitor", watcher)
        found |= {
            "hooks": stopwatch.seconds,
            "own_account": monitor.cadence.overhead_with(),
            "checks": monitor.checks,
            "examples": len(monitor.instrument.ready_probes),
        }
    return found


def measured_apart(host: str, steps: int, *, watched: bool) -> dict[str, Any]:
    """One training, in another process."""
    asked = [sys.executable, __file__, "--host", host, "--steps", str(steps)]
    asked += ["--watched"] if watched else []
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{host}: {done.stderr[-3000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def spread(values: list[float]) -> dict[str, float]:
    return {"median": median(values), "least": min(values), "most": max(values)}


def compare(hosts: list[str], steps: int, pairs: int) -> list[dict[str, Any]]:
    runs: dict[str, list[tuple[dict[str, Any], dict[str, Any]]]] = {host: [] for host in hosts}
    for pair in range(pairs):
        for host in hosts:
            found = {}
            for watched in (pair % 2 == 0, pair % 2 == 1):
                found[watched] = measured_apart(host, steps, watched=watched)
            runs[host].append((found[True], found[False]))
            print(host, found, flush=True)
    return [
        {
            "host": host,
            "steps": steps,
            "pairs": pairs,
            "seconds_without": median(without["wall"] for _, without in found),
            "share_of_wall_time": spread([1 - b["wall"] / w["wall"] for w, b in found]),
            "share_of_processor_time": spread(
                [1 - b["processor"] / w["processor"] for w, b in found]
            ),
            "share_in_hooks": spread([w["hooks"] / w["wall"] for w, _ in found]),
            "own_account": spread([w["own_account"] for w, _ in found]),
            "checks": spread([w["checks"] for w, _ in found]),
            "examples": sorted({w["examples"] for w, _ in found}),
            "peak_mib_without": median(without["peak_mib"] for _, without in found),
            "peak_mib_added": spread([w["peak_mib"] - b["peak_mib"] for w, b in found]),
        }
        for host, found in runs.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a self-check of one host")
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--host", choices=HOSTS, help="one training in this process, no file")
    parser.add_argument("--watched", action="store_true", help="of --host: with the monitor")
    parser.add_argument("--steps", type=int, default=STEPS)
    options = parser.parse_args()
    if options.host:
        print(json.dumps(measure(options.host, options.steps, watched=options.watched)))
        return
    if options.quick:
        rows = compare(["plain PyTorch"], 20, 1)
    else:
        rows = compare(list(HOSTS), options.steps, PAIRS)
    result = {"environment": environment(["lightning"]), "commit": commit(), "hosts": rows}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
