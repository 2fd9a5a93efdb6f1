"""Whatever our own code could change in the host's process is put back, also after an exception."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["frozen_generators", "seed_generators", "untouched"]

# Elements. Rotary tables and running statistics are far below; quantised weights, which some
# libraries keep as buffers and no forward changes, are far above.
_LARGEST_COPIED_BUFFER = 2**20

_SCALARS = (bool, int, float, str, type(None))


def seed_generators(seed: int) -> None:
    """Seed the generators of python, numpy and torch (all devices)."""
    # Not torch.manual_seed: on an uninitialised CUDA that would queue a seed for later.
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.manual_seed_all(seed)
    random.seed(seed)
    numpy_random = getattr(sys.modules.get("numpy"), "random", None)
    if numpy_random is not None:
        numpy_random.seed(seed % 2**32)


@contextmanager
def frozen_generators(seed: int) -> Iterator[None]:
    """Seed the generators of python, numpy and torch (all devices), and restore them on leaving."""
    numpy_random = getattr(sys.modules.get("numpy"), "random", None)
    python_state = random.getstate()
    numpy_state = None if numpy_random is None else numpy_random.get_state()
    with ExitStack() as stack:
        # One fork per device type: each of them also saves the CPU generator.
        # An uninitialised CUDA stays so: asking for its state would create a context.
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            stack.enter_context(torch.random.fork_rng(range(torch.cuda.device_count())))
        elif torch.backends.mps.is_available():
            stack.enter_context(torch.random.fork_rng(range(1), device_type="mps"))
        else:
            stack.enter_context(torch.random.fork_rng(()))
        seed_generators(seed)
        try:
            yield
        finally:
            random.setstate(python_state)
            if numpy_random is not None:
                numpy_random.set_state(numpy_state)


@contextmanager
def untouched(model: nn.Module, *, seed: int = 0) -> Iterator[None]:
    """Evaluation mode without gradients inside; the model and the process as found outside.

    Restored: the training flag of every module by itself (a BatchNorm that was frozen stays so),
    buffers (binding and value) and the plain attributes of the modules that own them (a dynamic
    rotary embedding rewrites both), all generators, grad mode, and autocast's weight cache, which
    would otherwise serve weights cast without gradients to the training forward. Parameters that
    FSDP2 had sharded are so again: its root leaves them gathered until a backward comes.
    """
    modes = [(module, module.training) for module in model.modules()]
    owners = [_Owner(module) for module in model.modules() if module._buffers]
    sharded = [module for module in model.modules() if _is_sharded(module)]
    # Each of the callbacks runs, the last one first, whatever the others raise.
    with frozen_generators(seed), torch.no_grad(), ExitStack() as stack:
        for module in sharded:
            stack.callback(module.reshard)  # type: ignore[arg-type]
        for owner in owners:
            stack.callback(owner.restore)
        for module, training in modes:
            stack.callback(setattr, module, "training", training)
        stack.callback(torch.set_autocast_cache_enabled, torch.is_autocast_cache_enabled())
        torch.set_autocast_cache_enabled(False)
        for module, _ in modes:
            module.training = False
        yield


def _is_sharded(module: nn.Module) -> bool:
    """Whether `fully_shard` was called on it, and its parameters are in shards now."""
    if not callable(getattr(module, "reshard", None)):
        return False
    parameter = next(module.parameters(), None)
    return parameter is not None and hasattr(parameter, "to_local")


class _Owner:
    """The buffers of one module, and its plain attributes."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.buffers = dict(module._buffers)
        self.copies: list[tuple[Tensor, Tensor]] = [
            (buffer, buffer.detach().clone())
            for buffer in module._buffers.values()
            if buffer is not None and _has_values(buffer)
        ]
        self.scalars: dict[str, Any] = {
            name: value for name, value in vars(module).items() if isinstance(value, _SCALARS)
        }

    def restore(self) -> None:
        self.module._buffers.clear()
        self.module._buffers.update(self.buffers)
        vars(self.module).update(self.scalars)
        with ExitStack() as stack:
            for buffer, copy in self.copies:
                stack.callback(_write_back, buffer, copy)


def _has_values(buffer: Tensor) -> bool:
    """Whether it is small, and can be copied and compared."""
    small = buffer.numel() <= _LARGEST_COPIED_BUFFER
    return small and not buffer.is_meta and not buffer.is_nested


def _write_back(buffer: Tensor, copy: Tensor) -> None:
    # By value: writes through `.data` leave no trace in the version counter.
    if not torch.equal(_dense(buffer), _dense(copy)):
        buffer.copy_(copy)  # not of `detach()`, which of a sparse one is another tensor


def _dense(buffer: Tensor) -> Tensor:
    """Sparse ones have no comparison of their own."""
    return buffer if buffer.layout is torch.strided else buffer.to_dense()
