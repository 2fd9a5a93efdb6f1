"""Where a model runs, and whether there is no room left."""

from __future__ import annotations

import torch
from torch import nn

__all__ = ["device_of", "out_of_memory"]


def device_of(model: nn.Module) -> torch.device:
    """Where a model wants its inputs."""
    parameter = next(model.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device


def out_of_memory(error: RuntimeError) -> bool:
    """Whether smaller batches may help."""
    from accelerate.utils.memory import should_reduce_batch_size

    # The list of messages in accelerate lacks that of the asynchronous CUDA allocator.
    return isinstance(error, torch.cuda.OutOfMemoryError) or should_reduce_batch_size(error)
