"""`sigma-monitor replay` from its arguments to what it prints."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from sigma_monitor.cli import main
from sigma_monitor.replay import replay_file
from tests.replay.files import CHECKS, rows_of, series, write_csv


def refuse(constant):
    raise AssertionError(f"{constant} is no JSON")


def test_json_is_the_result_of_python(write, capsys):
    values = series(0.3)
    values[5] = "nan"
    path = write([*rows_of(values), {"step": 3, "rank": 1.0}])
    assert main(["replay", str(path), "--column", "rank", "--json"]) == 1
    printed = capsys.readouterr()
    assert printed.err == ""
    found = json.loads(printed.out, parse_constant=refuse)
    replay = replay_file(path, "rank")
    assert found == json.loads(json.dumps(replay.to_dict()))
    assert list(found) == ["file", "column", "checks", "skipped", "status", "worst", "alerts"]
    assert (found["file"], found["column"]) == (str(path), "rank")
    assert (found["checks"], found["skipped"]) == (CHECKS, 1)
    assert (found["status"], found["worst"]) == ("COLLAPSED", "COLLAPSED")
    kinds = ["BASELINE", "NONFINITE", "WARNING", "COLLAPSED"]
    assert [a["kind"] for a in found["alerts"]] == kinds
    assert "rank is NaN or infinite." in found["alerts"][1]["text"]
    assert found["alerts"][2]["title"] == "sigma: representations are contracting"


def test_the_ends_of_the_range_of_numbers(tmp_path, capsys):
    fall = [1e308] * 30 + [1e-308] * 30  # its ratio is below the smallest number, and 0
    path = write_csv(tmp_path / "run.csv", rows_of(fall))
    assert main(["replay", str(path), "--column", "rank", "--json"]) == 1
    json.loads(capsys.readouterr().out, parse_constant=refuse)
    path = write_csv(tmp_path / "run.csv", rows_of(fall[::-1]))  # its ratio has no number
    assert main(["replay", str(path), "--column", "rank"]) == 2
    assert "too large for a number" in capsys.readouterr().err


def test_the_command_runs_as_a_module_and_loads_no_torch(tmp_path):
    path = write_csv(tmp_path / "run.csv", rows_of(series(0.3)))
    code = (
        "import sys; from sigma_monitor.cli import main\n"
        f"code = main(['replay', {str(path)!r}, '--column', 'rank'])\n"
        "print('torch' in sys.modules, file=sys.stderr); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (1, "False\n")
    module = [sys.executable, "-m", "sigma_monitor", "replay", str(path), "--column", "rank"]
    again = subprocess.run(module, capture_output=True, text=True, timeout=60)
    assert (again.returncode, again.stderr, again.stdout) == (1, "", done.stdout)


def test_an_internal_error_exits_with_70(tmp_path, capsys, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("broken on purpose")

    monkeypatch.setattr("sigma_monitor.replay.replay_file", broken)
    assert main(["replay", str(tmp_path / "run.csv")]) == 70
    assert "broken on purpose" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [[], ["run.csv", "--baseline", "none"], ["run.csv", "--fail-on", "never"]]
)
def test_bad_usage_exits_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["replay", *arguments])
    assert stopped.value.code == 2
    assert "usage:" in capsys.readouterr().err
