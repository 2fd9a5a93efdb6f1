"""Every example runs as its docstring says, on a CPU, in seconds; long ones in their quick form."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sigma_monitor.sinks import read_record

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))
OPTIONS = {"recursive_training": ("--generations", "2", "--quick")}
# What an example leaves, below `runs`: the record of a training, or the text of generations.
LEFT = {"recursive_training": "recursive/*/gen2.jsonl"}


def started(example, folder):
    """Of one thread, as the tests are: two that wait for each other are slow on busy cores."""
    return subprocess.run(
        [sys.executable, str(example), *OPTIONS.get(example.stem, ())],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Run an example once, whatever number of tests look at it."""

    @cache
    def once(example):
        folder = tmp_path_factory.mktemp(example.stem)
        return started(example, folder), folder

    return once


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_example_runs(example, run):
    if example.stem == "trl_grpo":
        pytest.importorskip("trl", reason="the extra trl is not installed")
    done, folder = run(example)
    assert done.returncode == 0, done.stderr
    assert list((folder / "runs").glob(LEFT.get(example.stem, "*/sigma/record.jsonl")))


def test_plain_loop_is_left_on_collapse(run):
    done, _ = run(next(path for path in EXAMPLES if path.stem == "plain_pytorch"))
    step = int(done.stdout.split("left after step ")[1].split(":")[0])
    assert 60 < step < 120  # the learning rate runs away at step 60 of 120
    assert "COLLAPSED" in done.stdout


def test_alignment_is_caught_while_the_loss_is_perfect(run):
    done, folder = run(next(path for path in EXAMPLES if path.stem == "contrastive"))
    assert "observed projector: COLLAPSED" in done.stdout
    assert float(done.stdout.split("loss ")[1].split(",")[0]) < 0.01
    record = read_record(folder / "runs/contrastive/sigma/record.jsonl")
    collapsed = next(a for a in record.alerts if a["kind"] == "COLLAPSED")
    assert collapsed["step"] > 80  # the negatives are lost there
    assert collapsed["functional"] == "uncentred/effective_rank"
    baseline = next(a for a in record.alerts if a["kind"] == "BASELINE")
    assert record.observations[-1].estimates["effective_rank"].value > 0.9 * baseline["value"]


def test_a_codebook_is_caught_that_is_used_no_longer(run):
    done, folder = run(next(path for path in EXAMPLES if path.stem == "vq_codebook"))
    assert "observed codebook: COLLAPSED" in done.stdout
    assert int(done.stdout.split(", ")[1].split(" of 64 codes")[0]) < 10
    record = read_record(folder / "runs/vq_codebook/sigma/record.jsonl")
    collapsed = next(a for a in record.alerts if a["kind"] == "COLLAPSED")
    assert collapsed["step"] > 120  # the learning rate runs away there


@pytest.mark.long
def test_the_loop_under_accelerate_goes_on_from_its_checkpoint(run):
    example = next(path for path in EXAMPLES if path.stem == "accelerate_loop")
    _, folder = run(example)
    again = started(example, folder)
    assert again.returncode == 0, again.stderr
    record = read_record(folder / "runs/accelerate/sigma/record.jsonl")
    assert [e["step"] for e in record.events if e["event"] in ("started", "resumed")] == [0, 50]
    assert [s.step for s in record.snapshots] == [*range(0, 101, 5)]
    logged = [logged_at(path) for path in sorted((folder / "runs/accelerate/logs").iterdir())]
    assert logged == [[*range(0, 101, 5)], [*range(55, 101, 5)]]


def logged_at(event_file):
    events = EventAccumulator(str(event_file), size_guidance={"scalars": 0}).Reload()
    return [event.step for event in events.Scalars("sigma/last/effective_rank")]


def test_what_grpo_samples_is_seen_to_narrow(run):
    pytest.importorskip("trl", reason="the extra trl is not installed")
    done, _ = run(next(path for path in EXAMPLES if path.stem == "trl_grpo"))
    assert done.stdout.splitlines()[-1] == "status: COLLAPSED"


def test_a_recursion_ends_in_the_verdict_on_each_arm(run):
    done, folder = run(next(path for path in EXAMPLES if path.stem == "recursive_training"))
    texts = {
        (path.parent.name, path.stem): [json.loads(line) for line in path.open(encoding="utf-8")]
        for path in folder.glob("runs/recursive/*/gen*.jsonl")
    }
    arms = ("control", "base-reset", "carry-forward", "accumulate")
    assert set(texts) == {(arm, f"gen{k}") for arm in arms for k in range(3)}
    prompts = [[row["prompt"] for row in rows] for rows in texts.values()]
    assert all(each == prompts[0] for each in prompts)
    assert len({texts[arm, "gen0"][0]["text"] for arm in arms}) == 1  # all begin alike
    assert len({texts[arm, "gen1"][0]["text"] for arm in ("control", "carry-forward")}) == 2
    # One generation of one parent on one text is the same in both recursions.
    assert texts["base-reset", "gen1"] == texts["carry-forward", "gen1"]
    assert texts["base-reset", "gen2"] != texts["carry-forward", "gen2"]
    for arm in arms[1:]:
        found = json.loads((folder / f"runs/recursive/{arm}.json").read_text(encoding="utf-8"))
        assert found["reference"] == "control"
        assert [verdict["generation"] for verdict in found["verdicts"]] == [0, 1, 2]
        assert found["verdicts"][0]["status"] == "HEALTHY"  # all have that one in common
        assert found["verdicts"][2]["text"] in done.stdout
        page = (folder / f"runs/recursive/{arm}.html").read_text(encoding="utf-8")
        assert page.rstrip().endswith("</html>")


def test_there_are_examples():
    assert len(EXAMPLES) >= 7
