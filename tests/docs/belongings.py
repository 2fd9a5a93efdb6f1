"""What a reader has: a model, data, a loop, runs that were recorded, files of embeddings."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from safetensors.torch import save_file
from torch.utils.data import DataLoader
from transformers import TrainingArguments

from sigma_monitor import ProbeSet, SigmaMonitor
from tests.docs.commands import ROOT
from tests.integrations.accelerate_hosts import forget_accelerators
from tests.integrations.hosts import QUIET
from tests.integrations.lightning_hosts import Wrapped
from tests.integrations.models import tiny_llama, token_rows
from tests.integrations.trl_hosts import sentences, words_tokenizer

__all__ = [
    "SHORT",
    "a_history",
    "a_loop",
    "a_run",
    "a_trainer",
    "for_lightning",
    "some_embeddings",
    "some_generations",
]

SHORT = {**QUIET, "max_steps": 2}


class Brief(Wrapped):
    """A LightningModule whose training ends with its first batch."""

    def on_train_batch_end(self, *_: Any) -> None:
        self.trainer.should_stop = True


def a_run(folder: Path) -> None:
    """A healthy run, with its record."""
    model = tiny_llama()
    probes = ProbeSet.from_tensors({"input_ids": torch.stack(ids(16))})
    monitor = SigmaMonitor(
        probes, every=1, max_overhead=None, max_steps=20, baseline="start", output_dir=folder
    )
    for step in range(21):
        monitor.step(model, step)
    monitor.close()


def ids(n: int) -> list[torch.Tensor]:
    return [row["input_ids"] for row in token_rows(n)]


def a_history(path: Path) -> None:
    """The CSV that another logger kept."""
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["step", "effective_rank"])
        rows.writerows([step, 40 + 0.2 * (-1) ** step] for step in range(60))


def some_generations() -> None:
    """What the pipeline of docs/lineages.md writes."""
    page = (ROOT / "docs" / "lineages.md").read_text()
    exec(page.split("```python\n")[1].split("```")[0], {})


def some_embeddings() -> None:
    """Files of embeddings, before and after."""
    rows = torch.randn(200, 16, generator=torch.Generator().manual_seed(0))
    np.save("start.npy", rows.numpy())
    np.save("step-900.npy", (rows * torch.linspace(1, 0.3, 16)).numpy())
    save_file({"last": rows, "0": rows + 1}, "states.safetensors")


def a_loop() -> dict[str, Any]:
    """What a loop of one's own has."""
    forget_accelerators()
    model = tiny_llama()
    accelerator = Accelerator(cpu=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    model, optimizer, loader = accelerator.prepare(
        model, optimizer, DataLoader(token_rows(16), batch_size=4)
    )

    def train_step(model: Any, batch: Any) -> None:
        accelerator.backward(model(**batch).loss)
        optimizer.step()
        optimizer.zero_grad()

    return {
        "accelerator": accelerator,
        "model": model,
        "loader": loader,
        "train_step": train_step,
        "tokenizer": words_tokenizer(),
        "held_out": sentences(32),
    }


def a_trainer(folder: str) -> dict[str, Any]:
    """Arguments of a Trainer of transformers."""
    return {
        "args": TrainingArguments(folder, **SHORT),
        "train": token_rows(16),
        "test": token_rows(8, seed=1),
    }


def for_lightning() -> dict[str, Any]:
    return {
        "module": Brief(),
        "train_loader": DataLoader(token_rows(8), batch_size=4),
        "val_loader": DataLoader(token_rows(8, seed=1), batch_size=4),
    }
