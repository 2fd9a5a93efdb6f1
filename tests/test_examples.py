"""Every example runs as its docstring says, on a CPU, in seconds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_example_runs(example, tmp_path):
    done = subprocess.run(
        [sys.executable, str(example)], cwd=tmp_path, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.glob("runs/*/sigma/record.jsonl"))


def test_plain_loop_is_left_on_collapse(tmp_path):
    example = next(path for path in EXAMPLES if path.stem == "plain_pytorch")
    done = subprocess.run(
        [sys.executable, str(example)], cwd=tmp_path, capture_output=True, text=True, timeout=240
    )
    step = int(done.stdout.split("left after step ")[1].split(":")[0])
    assert 60 < step < 120  # the learning rate runs away at step 60 of 120
    assert "COLLAPSED" in done.stdout


def test_there_are_examples():
    assert len(EXAMPLES) >= 2
