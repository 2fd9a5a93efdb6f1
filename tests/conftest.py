"""What every test shares: one thread per operation, the real data where a machine has it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

from tests.compatibility import Outcomes, claims_of

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


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--compatibility", type=Path, metavar="FILE", help="write what the tests show to FILE"
    )


def pytest_configure(config: pytest.Config) -> None:
    path = config.getoption("--compatibility")
    if path is not None and not hasattr(config, "workerinput"):  # pytest-xdist: the main process
        config.pluginmanager.register(Outcomes(path))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        item.user_properties += [("shows", json.dumps(claim)) for claim in claims_of(item)]
