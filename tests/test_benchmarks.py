"""Self-check: every benchmark runs in its quick form and writes what it promises."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest

from tests.scripts import BENCHMARKS as FOLDER
from tests.scripts import script


@pytest.mark.parametrize(
    ("script", "parts"),
    [
        ("false_alarms", ("false_alarms", "delays", "confirmation")),
        pytest.param("check_cost", ("checks",), marks=pytest.mark.long),
        ("coverage", ("coverage", "rounding_needed")),
        pytest.param("overhead", ("hosts",), marks=pytest.mark.long),
        pytest.param("spectrum", ("sizes",), marks=pytest.mark.long),
        pytest.param(
            "paper_claims",
            ("bounds", "theorem_3", "exact_bias", "track_two", "monotone"),
            marks=pytest.mark.long,
        ),
        pytest.param("blind_spots", ("changes",), marks=pytest.mark.long),
        pytest.param("chain", ("generations",), marks=pytest.mark.long),
    ],
)
def test_benchmark_runs_in_its_quick_form(script, parts, tmp_path):
    out = tmp_path / "result.json"
    done = subprocess.run(
        [sys.executable, str(FOLDER / f"{script}.py"), "--quick", "--out", str(out)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(out.read_text())
    assert result["environment"]["packages"]["torch"]
    assert all(result[part] for part in parts)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_the_collapse_bench_tells_harm_from_health_in_its_quick_form(tmp_path):
    out = tmp_path / "result.json"
    done = subprocess.run(
        [sys.executable, str(FOLDER / "collapse"), "--quick", "--out", str(out)],
        capture_output=True,
        text=True,
        timeout=880,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(out.read_text())
    runs = [json.loads(path.read_text()) for path in (tmp_path / "sigma-bench").glob("*.json")]
    assert result["commits"] == sorted({run["commit"] or "unknown" for run in runs})
    alarmed = {row["scenario"]: row["alarmed"] for row in result["scenarios"]}
    assert set(alarmed) == {"H5", "H8", "C5"}
    assert [alarmed[name]["sigma_monitor"] for name in ("H5", "H8", "C5")] == [1, 1, 0]
    assert {row["method"] for row in result["methods"]} >= {
        "sigma_monitor, representation alone",
        "sigma_monitor, generation alone",
    }
    assert all(a["always firing"] == 1 and a["always quiet"] == 0 for a in alarmed.values())


@pytest.mark.long
@pytest.mark.timeout(900)
def test_the_recursion_bench_goes_on_where_it_was(tmp_path):
    def once():
        done = subprocess.run(
            [sys.executable, str(FOLDER / "recursion.py"), "--quick", "--out", "result.json"],
            capture_output=True,
            text=True,
            timeout=420,
            cwd=tmp_path,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads((tmp_path / "result.json").read_text())["lineages"]

    lineages = once()
    arms = {"control", "base-reset", "carry-forward", "accumulate"}
    assert {(row["seed"], row["arm"]) for row in lineages} == {(s, a) for s in (0, 1) for a in arms}
    assert all(len(row["generations"]) == 3 for row in lineages)
    texts = tmp_path / "sigma-recursion" / "0.7-0" / "accumulate" / "gen2.jsonl"
    written = texts.stat().st_mtime_ns
    assert once() == lineages
    assert texts.stat().st_mtime_ns == written


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_a_run_names_its_commit_and_whether_the_code_differs(tmp_path):
    folder = tmp_path / "benchmarks"
    (folder / "results").mkdir(parents=True)
    script = folder / "environment.py"
    shutil.copy(FOLDER / "environment.py", script)
    # Neither the checkout nor the settings of whoever runs the tests.
    outside = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    outside |= {"GIT_CEILING_DIRECTORIES": str(tmp_path.parent), "GIT_CONFIG_GLOBAL": os.devnull}

    def git(*words):
        who = ("-c", "user.name=a", "-c", "user.email=a@b")
        done = subprocess.run(
            ["git", *who, *words], cwd=tmp_path, env=outside, check=True, capture_output=True
        )
        return done.stdout.decode().strip()

    def commit():
        # -B: bytecode would be an untracked file.
        asked = [sys.executable, "-B", "-c", "import environment; print(environment.commit())"]
        done = subprocess.run(asked, cwd=folder, env=outside, check=True, capture_output=True)
        return done.stdout.decode().strip()

    assert commit() == "None"
    git("init")
    git("add", ".")
    git("commit", "-m", "a")
    assert commit() == git("rev-parse", "--short", "HEAD")
    (folder / "results" / "new.json").touch()
    assert not commit().endswith("+")
    script.write_text(script.read_text() + "\n")
    assert commit() == git("rev-parse", "--short", "HEAD") + "+"


@pytest.mark.parametrize(
    "result", sorted((FOLDER / "results").glob("*.json")), ids=lambda p: p.stem
)
def test_committed_result_names_its_environment(result):
    environment = json.loads(result.read_text())["environment"]
    assert {"date", "python", "machine", "cores", "packages"} <= set(environment)


def test_the_page_on_detection_is_that_of_the_committed_results():
    writer = script("detection_page")
    text = writer.PAGE.read_text(encoding="utf-8")
    assert writer.page(text) == text


def test_the_page_on_the_paper_is_that_of_the_committed_results():
    writer = script("paper_page")
    text = writer.PAGE.read_text(encoding="utf-8")
    assert writer.page(text) == text


@pytest.mark.parametrize(
    ("warned", "moved", "timely"),
    [
        (1, (2, 3), True),
        (2, (2, None), True),
        (3, (4, 2), False),
        (None, (4, None), False),
        (3, (None, None), None),
        (None, (None, None), None),
        (0, (0, 1), True),
    ],
)
def test_in_time_is_not_after_the_first_witness(warned, moved, timely):
    row = dict(zip(("perplexity_moved", "distinct_2_moved"), moved, strict=True), warned=warned)
    assert script("paper_page").in_time(row) is timely


def test_what_stands_out_of_the_noise_is_bold():
    calm = {"track_two": {"mean": 0.1, "sd": 2.0, "noises": 0.0}, "change": "none"}
    moved = {"track_two": {"mean": -6.1, "sd": 1.0, "noises": -3.1}, "change": "all"}
    slightly = {"track_two": {"mean": -5.7, "sd": 1.0, "noises": -2.9}, "change": "some"}
    page = script("paper_page")
    lines = page.seen([calm, moved, slightly], {"ΔU": ("track_two", "+.1f")}).splitlines()[2:]
    assert lines == [
        "| sd of no change | 2.0 |",
        "| none | +0.1 |",
        "| all | **-6.1** |",
        "| some | -5.7 |",
    ]
