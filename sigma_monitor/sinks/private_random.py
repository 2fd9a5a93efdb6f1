"""Libraries that draw from the global `random`, from which a training may draw too."""

from __future__ import annotations

import random
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["private_random"]


class _Inside(threading.local):
    generator: random.Random | None = None


_inside = _Inside()


class _Random:
    """The module `random`, with a generator of its own in a thread inside `private_random`."""

    def __getattr__(self, name: str) -> Any:
        own = _inside.generator
        return getattr(own if hasattr(own, name) else random, name)


_random: Any = _Random()


@contextmanager
def private_random(*modules: str) -> Iterator[None]:
    """Inside, what these modules draw in this thread is not drawn from the global generator.

    Saving its state and setting it again would undo what another thread has drawn meanwhile. So
    the name `random` in these modules is bound, for good, to what is the real module everywhere
    but in a thread that is inside here.

    Args:
        *modules: Names of those that `import random`; what is not loaded draws nothing.
    """
    for name in modules:
        module: Any = sys.modules.get(name)
        if getattr(module, "random", None) is random:
            module.random = _random
    before, _inside.generator = _inside.generator, random.Random()
    try:
        yield
    finally:
        _inside.generator = before
