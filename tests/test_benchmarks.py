"""Self-check: every benchmark runs in its quick form and writes what it promises."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.mark.parametrize(
    ("script", "parts"),
    [
        ("false_alarms", ("false_alarms", "delays", "confirmation")),
        ("check_cost", ("checks",)),
        ("coverage", ("coverage", "rounding_needed")),
        ("spectrum", ("sizes",)),
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
    alarmed = {row["scenario"]: row["alarmed"] for row in result["scenarios"]}
    assert set(alarmed) == {"H5", "H8", "C5"}
    assert [alarmed[name]["sigma_monitor"] for name in ("H5", "H8", "C5")] == [1, 1, 0]
    assert {row["method"] for row in result["methods"]} >= {
        "sigma_monitor, representation alone",
        "sigma_monitor, generation alone",
    }
    assert all(a["always firing"] == 1 and a["always quiet"] == 0 for a in alarmed.values())


@pytest.mark.parametrize(
    "result", sorted((FOLDER / "results").glob("*.json")), ids=lambda p: p.stem
)
def test_committed_result_names_its_environment(result):
    environment = json.loads(result.read_text())["environment"]
    assert {"date", "python", "machine", "cores", "packages"} <= set(environment)
