"""Every example runs as its docstring says, on a CPU, in seconds."""

from __future__ import annotations

import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Run an example once, whatever number of tests look at it."""

    @cache
    def once(example):
        folder = tmp_path_factory.mktemp(example.stem)
        done = subprocess.run(
            [sys.executable, str(example)], cwd=folder, capture_output=True, text=True, timeout=240
        )
        return done, folder

    return once


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_example_runs(example, run):
    done, folder = run(example)
    assert done.returncode == 0, done.stderr
    assert list(folder.glob("runs/*/sigma/record.jsonl"))


def test_plain_loop_is_left_on_collapse(run):
    done, _ = run(next(path for path in EXAMPLES if path.stem == "plain_pytorch"))
    step = int(done.stdout.split("left after step ")[1].split(":")[0])
    assert 60 < step < 120  # the learning rate runs away at step 60 of 120
    assert "COLLAPSED" in done.stdout


def test_there_are_examples():
    assert len(EXAMPLES) >= 2
