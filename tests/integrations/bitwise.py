"""Everything a training leaves behind, and where two of them differ by as little as one bit."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from transformers import Trainer

from tests.integrations.hosts import loss_entries


def remains(trainer: Trainer) -> dict[str, Any]:
    """Model, optimiser, scheduler, generators and the Trainer's own logs after `train()`."""
    model = trainer.model
    return {
        "parameters": dict(model.named_parameters()),
        "buffers": dict(model.named_buffers()),
        "modes": {name: module.training for name, module in model.named_modules()},
        "hooks": {
            name: len(module._forward_hooks) + len(module._forward_pre_hooks)
            for name, module in model.named_modules()
        },
        "optimizer": trainer.optimizer.state_dict(),
        "scheduler": trainer.lr_scheduler.state_dict(),
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "torch": torch.get_rng_state(),
        "losses": loss_entries(trainer.state.log_history),
        "evaluations": [
            (entry["step"], entry["eval_loss"])
            for entry in trainer.state.log_history
            if "eval_loss" in entry
        ],
        "grad_enabled": torch.is_grad_enabled(),
        "autocast_cache": torch.is_autocast_cache_enabled(),
    }


def differences(one: Any, other: Any, path: str = "") -> list[str]:
    """Paths at which two nested structures are not bitwise equal; NaN equals the same NaN."""
    if type(one) is not type(other):
        return [f"{path}: {type(one).__name__} and {type(other).__name__}"]
    if isinstance(one, Mapping):
        if one.keys() != other.keys():
            return [f"{path}: keys {sorted(map(str, one.keys() ^ other.keys()))}"]
        return [d for key in one for d in differences(one[key], other[key], f"{path}/{key}")]
    if isinstance(one, torch.Tensor):
        same = (
            one.dtype == other.dtype and one.shape == other.shape and _bytes(one) == _bytes(other)
        )
        return [] if same else [path]
    if isinstance(one, np.ndarray):
        same = one.dtype == other.dtype and one.tobytes() == other.tobytes()
        return [] if same else [path]
    if isinstance(one, Sequence) and not isinstance(one, str):
        if len(one) != len(other):
            return [f"{path}: {len(one)} and {len(other)} items"]
        pairs = enumerate(zip(one, other, strict=True))
        return [d for index, pair in pairs for d in differences(*pair, f"{path}/{index}")]
    if isinstance(one, float):
        return [] if np.float64(one).tobytes() == np.float64(other).tobytes() else [path]
    return [] if one == other else [path]


def _bytes(tensor: torch.Tensor) -> bytes:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
