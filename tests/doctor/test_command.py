"""`sigma-monitor doctor` from its arguments to its exit code."""

from __future__ import annotations

import json

import pytest

from sigma_monitor import __version__
from sigma_monitor.cli import main
from sigma_monitor.doctor import Examination, Finding, examine
from sigma_monitor.spectrum import functionals


@pytest.fixture(scope="module")
def examination():
    return examine()


def test_here_all_is_as_expected(examination):
    assert [f for f in examination.findings if f.state == "failed"] == []
    sections = list(dict.fromkeys(f.section for f in examination.findings))
    assert sections == [
        "packages",
        "device",
        "engine",
        "W&B",
    ]


def test_the_cpu_is_there_and_multiplies(examination):
    cpu = next(f for f in examination.findings if f.name == "cpu")
    assert "multiplies fp64, fp32, bf16" in cpu.text


def test_it_exits_with_0_and_prints_json(capsys):
    assert main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found) == ["version", "as_expected", "findings"]
    assert (found["version"], found["as_expected"]) == (__version__, True)
    assert list(found["findings"][0]) == ["section", "name", "state", "text", "remedy"]


def test_a_broken_engine_exits_with_70_and_says_what_to_do(capsys, monkeypatch):
    right = functionals.effective_rank
    monkeypatch.setattr(functionals, "effective_rank", lambda values: 1.01 * right(values))
    assert main(["doctor"]) == 70
    lines = capsys.readouterr().out.splitlines()
    line = next(line for line in lines if "orthonormal rows" in line)
    assert line.startswith("  failed  orthonormal rows")
    assert "effective_rank is 12.12, outside [11.9999998" in line
    assert "reinstall torch" in lines[lines.index(line) + 1]
    assert lines[-1].startswith("3 of ")

    assert main(["doctor", "--json"]) == 70
    found = json.loads(capsys.readouterr().out)
    assert found["as_expected"] is False
    failed = [f for f in found["findings"] if f["state"] == "failed"]
    assert len(failed) == 3
    assert all(f["remedy"] for f in failed)


def test_a_note_is_no_failure():
    noted = Finding("packages", "trl", "note", "missing", "pip install it")
    assert Examination("1.0", (noted,)).as_expected
    assert Examination("1.0", (noted,)).text() == (
        "sigma-monitor 1.0\n\npackages\n  note    trl  missing\n               pip install it\n\n"
        "all as expected"
    )
