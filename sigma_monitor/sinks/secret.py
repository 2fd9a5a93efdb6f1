"""Addresses hold secrets: tokens and passwords, which no message may show."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import unquote

__all__ = ["unlogged"]

# Which name addresses in warnings, such as urllib3 where it cannot read the headers of an answer.
_LOGGERS = ("apprise", "urllib3.connection", "urllib3.connectionpool")
_SHORTEST = 4  # characters; what is shorter stands in too many lines that tell nothing


class _Inside(threading.local):
    parts: frozenset[str] = frozenset()  # of addresses that are secret in this thread


_inside = _Inside()


@contextmanager
def unlogged(*urls: str) -> Iterator[None]:
    """Inside, drop lines of this thread that hold any part of `urls` from the logs of libraries."""
    for logger in map(logging.getLogger, _LOGGERS):
        logger.addFilter(_is_shown)  # for good: while one is taken out, a line may miss another
    before = _inside.parts
    _inside.parts = before.union(*map(_parts, urls))
    try:
        yield
    finally:
        _inside.parts = before


def _is_shown(record: logging.LogRecord) -> bool:
    if not _inside.parts:
        return True
    text = logging.Formatter().format(record)  # its traceback too
    return not any(part in text for part in _inside.parts)


def _parts(url: str) -> Iterator[str]:
    for part in re.split(r"[/?&=:@#,\s]+", url.partition("://")[2] or url):
        yield from (form for form in (part, unquote(part)) if len(form) >= _SHORTEST)
