"""A compiled model: the same training, and no graph that the training would not have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

from tests.compatibility import shows
from tests.integrations.bitwise import differences, remains
from tests.integrations.hosts import eager, make_trainer
from tests.integrations.models import tiny_llama

COMPILED = {"torch_compile": True, "torch_compile_backend": "eager", "max_steps": 10}


def train(folder: Path, *callbacks: TrainerCallback) -> tuple[dict[str, Any], int]:
    """What is left of a training, and how many graphs it compiled."""
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()
    trainer = make_trainer(folder, *callbacks, model=tiny_llama(), **COMPILED)
    trainer.train()
    return remains(trainer), torch._dynamo.utils.counters["stats"]["unique_graphs"]


@shows("Trainer", "same weights", case="torch.compile, no new graphs")
@pytest.mark.filterwarnings("ignore")
def test_a_compiled_training_is_bitwise_its_own_and_has_no_graph_more(tmp_path: Path) -> None:
    alone, graphs = train(tmp_path / "alone")
    watcher = eager()
    beside, graphs_beside = train(tmp_path / "beside", watcher)
    assert differences(alone, beside) == []
    assert graphs_beside == graphs > 0
    assert watcher.monitor.checks >= 4
    assert watcher.monitor.failures == 0
