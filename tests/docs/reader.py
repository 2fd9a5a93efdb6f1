"""A reader who runs every code block of a page, in the order in which they stand."""

from __future__ import annotations

import contextlib
import io
import json
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from sybil import Document, Example, Sybil
from sybil.evaluators.python import PythonEvaluator
from sybil.parsers.markdown import CodeBlockParser

from sigma_monitor import Alert
from tests.docs import commands
from tests.docs.likeness import alike

__all__ = ["LANGUAGES", "Reader", "blocks"]

LANGUAGES = ("python", "sh", "text", "json", "yaml")


class Reader:
    """Runs the blocks of one page; they share a namespace.

    What a `python` or `sh` block prints is what a `text` block after it shows. A text that nothing
    before it printed, such as an alert, is one of `said`.

    Args:
        namespace: What the page takes for granted.
        said: Texts that are shown without being printed, as the package words them now.
        exits: By command of ours, the exit code that the page tells of where it is not 0.
        exact: Whether commands print the very numbers of the page, its data being there too.
    """

    def __init__(
        self,
        namespace: dict[str, Any],
        said: Iterable[str] = (),
        *,
        exits: Mapping[str, int] | None = None,
        exact: bool = False,
    ) -> None:
        self.namespace = namespace
        self.said = list(said)
        self.exits = exits or {}
        self._exact_commands = exact
        self._python = PythonEvaluator()
        self._printed: str | None = None
        self._exact = True

    def read(self, page: Path) -> None:
        """Run all of it; an `AssertionError` names the line that is not as it says."""
        document = self._parsed(page)
        document.namespace.update(self.namespace)
        for example in document.examples():
            try:
                example.evaluate()
            except Exception as error:
                error.add_note(f"in the block of {page.name} at line {example.line}")
                raise
        self.namespace = document.namespace

    def _parsed(self, page: Path) -> Document:
        return Sybil(
            [CodeBlockParser(language, getattr(self, language)) for language in LANGUAGES]
        ).parse(page)

    def python(self, example: Example) -> None:
        """Run it, with the line numbers of the page in a traceback."""
        with _printing() as printed:
            self._python(example)
        self._printed, self._exact = printed.getvalue(), True

    def sh(self, example: Example) -> None:
        """Run each command, or check what is too dear to be run."""
        with _printing() as printed:
            for command in commands.split(example.parsed):
                commands.run(command, self.exits)
        self._printed, self._exact = printed.getvalue(), self._exact_commands

    def text(self, example: Example) -> None:
        """Compare with what was printed, or with what the package says."""
        shown = textwrap.dedent(example.parsed)
        printed, self._printed = self._printed, None
        if printed:
            assert alike(shown, printed, exact=self._exact), f"what is printed is\n{printed}"
            return
        said = [" ".join(text.split()) for text in self.said]
        assert " ".join(shown.split()) in said, "nothing says that; the texts of the page are\n" + (
            "\n".join(self.said) or "none"
        )

    def json(self, example: Example) -> None:
        """It is JSON, or a line of JSON each; what looks like an alert has the fields of one."""
        try:
            found = [json.loads(example.parsed)]
        except json.JSONDecodeError:
            found = [json.loads(line) for line in example.parsed.splitlines()]
        alerts = [each for each in found if "kind" in each]
        assert all(each.keys() <= Alert.__dataclass_fields__.keys() for each in alerts)

    def yaml(self, example: Example) -> None:
        """It is YAML, and goes to what the page has for it: `configured(mapping)`."""
        self.namespace["configured"](yaml.safe_load(example.parsed))


@contextlib.contextmanager
def _printing() -> Iterator[io.StringIO]:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        yield printed


def blocks(page: Path) -> list[tuple[int, str]]:
    """Line and language of every fenced block, the empty string where none is named."""
    found, fence = [], ""
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
        stripped = line.strip()
        if fence and stripped == fence:
            fence = ""
        elif not fence and stripped.startswith("```"):
            fence = "```"
            found.append((number, stripped.removeprefix(fence)))
    return found
