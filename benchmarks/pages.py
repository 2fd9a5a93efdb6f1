"""Pages of docs/ whose tables a script writes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

__all__ = ["replaced", "table"]


def replaced(text: str, name: str, new: str) -> str:
    """The page with what stands between the two marks of `name` exchanged."""
    begin, end = f"<!-- begin {name} -->\n", f"\n<!-- end {name} -->"
    before, rest = text.split(begin)
    _, after = rest.split(end)
    return before + begin + "\n" + new + "\n" + end + after


def table(head: str, rows: Iterable[Iterable[Any]]) -> str:
    """A table in Markdown; bars part the columns of `head`."""
    lines = [f"| {' | '.join(map(str, row))} |" for row in rows]
    return "\n".join([f"| {head} |", "|---" * (head.count("|") + 1) + "|", *lines])
