"""Griffe extension: the comment behind a field of a class becomes its description."""

from __future__ import annotations

import ast
from typing import Any

import griffe

__all__ = ["FieldComments"]

SECTION = "Attributes:"


class FieldComments(griffe.Extension):
    """Adds a section of attributes to the docstring of a class that has none."""

    def on_class_instance(self, *, node: Any, cls: griffe.Class, **_: Any) -> None:
        """Called for every class before its members are read."""
        if not isinstance(node, ast.ClassDef) or cls.docstring is None:
            return
        comments = fields(node, cls.lines_collection[cls.filepath])
        if comments and SECTION not in cls.docstring.value:
            listed = "\n".join(f"    {name}: {comment}" for name, comment in comments.items())
            cls.docstring.value = f"{cls.docstring.value}\n\n{SECTION}\n{listed}"


def fields(node: ast.ClassDef, lines: list[str]) -> dict[str, str]:
    """Public annotated names of a class body, with the comment on the line on which each ends."""
    found = {}
    for statement in node.body:
        if not isinstance(statement, ast.AnnAssign) or not isinstance(statement.target, ast.Name):
            continue
        assert statement.end_lineno is not None
        line = lines[statement.end_lineno - 1].encode()  # columns are counted in bytes
        rest = line[statement.end_col_offset :].decode().strip()
        if rest.startswith("#") and not statement.target.id.startswith("_"):
            found[statement.target.id] = rest.lstrip("# ")
    return found
