"""The page on compatibility says what the tests that ran have shown, and no more."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.compatibility import DEMANDS, Outcomes, shows, still_there
from tests.scripts import script

HERE = "tests/test_compatibility.py::test_the_page_is_that_of_the_committed_results"
CLAIM = {"host": "Trainer", "demand": "resumed", "strategy": "one process", "case": ""}


@pytest.fixture(scope="module")
def writer() -> Any:
    return script("compatibility_page")


def test_the_page_is_that_of_the_committed_results(writer: Any) -> None:
    text = writer.PAGE.read_text(encoding="utf-8")
    assert writer.page(text, writer.results()) == text
    assert writer.DEMANDS == DEMANDS


def test_every_test_on_the_page_still_exists(writer: Any) -> None:
    shown = {row["test"] for row in writer.results()}
    assert shown
    assert [test for test in shown if not still_there(test)] == []
    assert not still_there("tests/test_compatibility.py::test_that_is_gone")


def row(outcome: str = "passed", version: str = "5.0", **other: str) -> dict[str, Any]:
    packages = {"transformers": version, "accelerate": "1.0"}
    return {**CLAIM, "outcome": outcome, "packages": packages, **other}


def test_a_cell_tells_what_passed_what_failed_and_what_was_not_run(writer: Any) -> None:
    rows = [row(), row(), row("failed"), row("skipped", reason="no GPU")]
    assert writer.cell(rows) == "yes (2); **no: 1 failed**; not run (1): no GPU"
    assert writer.cell([]) == "no test"


def test_versions_are_lines_of_their_own_the_newest_first(writer: Any) -> None:
    rows = [row(version="4.9"), row("failed", "4.10"), row(strategy="DDP", demand="stopped")]
    newer, older = (["one process", f"transformers {v}, accelerate 1.0"] for v in ("4.10", "4.9"))
    untested = ["no test"] * 2
    assert [line.strip("| ").split(" | ")[1:] for line in writer.hosts(rows).splitlines()[2:]] == [
        [*newer, *untested, "**no: 1 failed**", "no test"],
        [*older, *untested, "yes (1)", "no test"],
        ["DDP", "transformers 5.0, accelerate 1.0", *untested, "no test", "yes (1)"],
    ]


def report(outcome: str, test: str = HERE, **other: Any) -> pytest.TestReport:
    properties = [("shows", json.dumps(CLAIM))]
    fields = {"keywords": {}, "when": "call", "longrepr": None, **other}
    return pytest.TestReport(
        test, ("", 0, ""), outcome=outcome, user_properties=properties, **fields
    )


def written(path: Path, *reports: pytest.TestReport) -> list[tuple[str, ...]]:
    outcomes = Outcomes(path)
    for one in reports:
        outcomes.pytest_runtest_logreport(one)
    outcomes.pytest_sessionfinish()
    found = json.loads(path.read_text())
    assert found["environment"]["packages"]["torch"]
    return [(row["test"], row["outcome"], row.get("reason", "")) for row in found["shown"]]


def test_the_worst_phase_of_a_test_is_its_outcome(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    assert written(path, report("passed"), report("failed"), report("passed")) == [
        (HERE, "failed", "")
    ]
    skipped = report("skipped", longrepr=("file", 1, "Skipped: no GPU"))
    assert written(path, report("passed"), skipped) == [(HERE, "skipped", "no GPU")]


def test_what_did_not_run_again_is_kept_while_versions_and_test_are_the_same(
    tmp_path: Path,
) -> None:
    path = tmp_path / "a.json"
    gone, other = HERE + "_gone", HERE + "[1]"
    assert written(path, report("passed"), report("passed", gone)) != []
    assert written(path, report("failed", other)) == [(HERE, "passed", ""), (other, "failed", "")]
    path.write_text(path.read_text().replace('"torch": "', '"torch": "1'))
    assert written(path, report("failed", other)) == [(other, "failed", "")]


def test_a_mark_names_what_it_shows() -> None:
    mark = shows("TRL", "resumed", strategy="DDP").mark
    assert (mark.args, mark.kwargs) == (("TRL", "resumed"), {"strategy": "DDP", "case": ""})
    for demands in ([], ["resumes"]):
        with pytest.raises(ValueError, match="name at least one of same weights"):
            shows("TRL", *demands)
