"""Callbacks of a transformers Trainer, each spared the failures of the others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

__all__ = ["sparing"]


@contextmanager
def sparing(callbacks: Iterable[Any], refused: Callable[[Any, Exception], None]) -> Iterator[None]:
    """Inside, the `on_log` of these callbacks raises nothing, so that those behind it get theirs.

    Each is shadowed in its own object: the Trainer's list of callbacks, which one of them may
    change, stays what it is.

    Args:
        callbacks: Of the Trainer.
        refused: Called with a callback and what it raised.
    """
    with ExitStack() as stack:
        for callback in callbacks:
            own = vars(callback)
            before = {name: own[name] for name in ("on_log",) if name in own}
            own["on_log"] = _spared(callback, callback.on_log, refused)
            stack.callback(own.update, before)
            stack.callback(own.pop, "on_log", None)
        yield


def _spared(
    callback: Any, on_log: Callable[..., Any], refused: Callable[[Any, Exception], None]
) -> Callable[..., Any]:
    def tried(*arguments: Any, **options: Any) -> Any:
        try:
            return on_log(*arguments, **options)
        except Exception as error:
            refused(callback, error)
            return None

    return tried
