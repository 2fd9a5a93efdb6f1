"""What every test shares: one thread per operation, the real data where a machine has it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

# Before wandb or transformers are imported: nothing may look for a network.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("WANDB_SILENT", "true")

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real text and the small pretrained model."""
    folder = os.environ.get("SIGMA_MONITOR_DATA")
    if not folder:
        pytest.skip("SIGMA_MONITOR_DATA is not set: no real text and model on this machine")
    return Path(folder)
