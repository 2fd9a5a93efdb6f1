"""The real model and text, and a W&B that stays on this machine."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.integrations.models import Rows, shakespeare_rows


@pytest.fixture(scope="session", autouse=True)
def _quick_collection() -> None:
    """accelerate collects garbage in every `train()`: half of the time without this."""
    gc.collect()
    gc.freeze()


@dataclass(frozen=True)
class Stories:
    """A pretrained model of 260 thousand parameters, and text that it was not trained on."""

    path: Path
    tokenizer: Any  # has no padding token
    train: Rows
    held_out: Rows

    def model(self, **config: Any) -> Any:
        return AutoModelForCausalLM.from_pretrained(self.path, **config)


@pytest.fixture(scope="session")
def stories(data: Path) -> Stories:
    path = data / "stories260k"
    tokenizer = AutoTokenizer.from_pretrained(path)
    rows = shakespeare_rows(data, tokenizer, n=864)
    return Stories(path, tokenizer, train=rows[64:], held_out=rows[:64])


@contextmanager
def offline_wandb(folder: Path) -> Iterator[None]:
    """Runs begun inside are written below `folder`; they are finished on leaving."""
    import wandb

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "offline")
        patch.setenv("WANDB_SILENT", "true")
        patch.setenv("WANDB_DIR", str(folder))
        wandb.teardown()  # it keeps the environment of its first use
        try:
            yield
        finally:
            wandb.finish()
            wandb.teardown()


@pytest.fixture
def wandb_folder(tmp_path: Path) -> Iterator[Path]:
    with offline_wandb(tmp_path):
        yield tmp_path
