"""Pages of docs/ whose tables a script writes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

__all__ = ["Row", "filled", "grouped", "replaced", "results", "table"]

_RESULTS = Path(__file__).parent / "results"

Row = dict[str, Any]  # of a result file


def results(name: str) -> dict[str, Any]:
    """A committed result file."""
    found: dict[str, Any] = json.loads((_RESULTS / f"{name}.json").read_text())
    return found


def filled(text: str, parts: Mapping[str, str]) -> str:
    """The page with what stands between the two marks of each name exchanged."""
    for name, new in parts.items():
        text = replaced(text, name, new)
    return text


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


def grouped(
    rows: Iterable[Row], *names: str | Callable[[Row], str]
) -> dict[tuple[Any, ...], list[Row]]:
    """Rows that are alike in `names`, each a field or a function of a row; in order."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        key = tuple(row[name] if isinstance(name, str) else name(row) for name in names)
        groups.setdefault(key, []).append(row)
    return groups
