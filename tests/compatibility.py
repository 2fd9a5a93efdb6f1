"""What a test shows about a host, and the file of what the tests that ran have shown.

`@shows("Trainer", "same weights", strategy="DDP, 2 processes")` marks a test;
`pytest --compatibility=FILE` writes the outcomes of the marked tests that ran, which
`benchmarks/compatibility_page.py` makes `docs/compatibility.md` of.
"""

from __future__ import annotations

import ast
import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.scripts import script

__all__ = ["DEMANDS", "Outcomes", "shows", "still_there"]

ROOT = Path(__file__).parents[1]
DEMANDS = ("same weights", "same numbers", "resumed", "stopped")
ONE_PROCESS = "one process"
PACKAGES = ("lightning", "pytorch-lightning", "trl", "peft", "sentence-transformers", "deepspeed")
WORST_FIRST = ("failed", "skipped", "passed")


def shows(
    host: str, *demands: str, strategy: str = ONE_PROCESS, case: str = ""
) -> pytest.MarkDecorator:
    """Marks a test, or a `pytest.param`, as showing `demands` for a host.

    Args:
        host: The training loop.
        demands: Of `DEMANDS`.
        strategy: How its processes share the work.
        case: The model or the setting, where the test is of one in particular.

    Raises:
        ValueError: On an unknown demand, or none.
    """
    unknown = set(demands) - set(DEMANDS)
    if unknown or not demands:
        raise ValueError(f"demands={demands}: name at least one of {', '.join(DEMANDS)}.")
    return pytest.mark.shows(host, *demands, strategy=strategy, case=case)


class Outcomes:
    """A plugin that keeps the outcome of every marked test and writes them when all have run.

    What the file holds already of tests that did not run now is kept if it was found with the same
    versions, so that the tests of one host can be run again by themselves.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.found: dict[tuple[str, ...], dict[str, str]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        for key, claim in report.user_properties:
            if key == "shows":
                self._add(report, json.loads(str(claim)))

    def _add(self, report: pytest.TestReport, claim: dict[str, str]) -> None:
        row = {"test": report.nodeid, **claim, "outcome": report.outcome}
        if report.outcome == "skipped" and isinstance(report.longrepr, tuple):
            row["reason"] = report.longrepr[2].removeprefix("Skipped: ")
        known = self.found.get(_key(row))
        if known is None or _rank(row) < _rank(known):
            self.found[_key(row)] = row

    def pytest_sessionfinish(self) -> None:
        environment = _environment()
        rows = {_key(row): row for row in self._kept(environment["packages"])} | self.found
        shown = "\n  ".join(
            json.dumps(rows[key]) + ("" if key == max(rows) else ",") for key in sorted(rows)
        )
        head = json.dumps({"environment": environment}, indent=1)[1:-2]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(f'{{{head},\n "shown": [\n  {shown}\n ]\n}}\n')

    def _kept(self, packages: dict[str, Any]) -> list[dict[str, str]]:
        if not self.path.exists():
            return []
        before = json.loads(self.path.read_text())
        if before["environment"]["packages"] != packages:
            return []
        ran = {row["test"] for row in self.found.values()}
        return [r for r in before["shown"] if r["test"] not in ran and still_there(r["test"])]


def claims_of(item: pytest.Item) -> list[dict[str, str]]:
    """What the marks on a test say, demand by demand."""
    return [
        {"host": mark.args[0], "demand": demand, **mark.kwargs}
        for mark in item.iter_markers("shows")
        for demand in mark.args[1:]
    ]


def still_there(nodeid: str) -> bool:
    """Whether the function of a test exists; its parameters are not looked at."""
    path, function = nodeid.split("[")[0].rsplit("::", 1)
    return function in _functions(ROOT / path)


@cache
def _functions(path: Path) -> set[str]:
    if not path.exists():
        return set()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def _key(row: dict[str, str]) -> tuple[str, ...]:
    return tuple(row[name] for name in ("host", "strategy", "case", "demand", "test"))


def _rank(row: dict[str, str]) -> int:
    return WORST_FIRST.index(row["outcome"])


def _environment() -> dict[str, Any]:
    found: dict[str, Any] = script("environment").environment(PACKAGES)
    return found
