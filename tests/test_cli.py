"""The command line: exit codes, JSON, and the demo from end to end."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from sigma_monitor import __version__
from sigma_monitor.cli import main
from sigma_monitor.monitor import RECORD
from sigma_monitor.sinks import read_record


def command(*arguments, cwd, timeout=280):
    return subprocess.run(
        [sys.executable, "-m", "sigma_monitor", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def test_version_is_printed(tmp_path):
    done = command("--version", cwd=tmp_path)
    assert done.stdout.strip() == f"sigma-monitor {__version__}"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["demo", "--text", "missing.txt"], "missing.txt"),
        (["demo", "--steps", "5"], "--steps 5"),
        (["demo", "--model", "missing"], "--model missing"),
    ],
)
def test_bad_input_exits_with_2_and_names_it(arguments, said, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "sigma-demo").exists()


def test_text_too_short_is_bad_input(tmp_path, capsys):
    text = tmp_path / "short.txt"
    text.write_text("too short " * 100)
    assert main(["demo", "--text", str(text), "--out", str(tmp_path / "out")]) == 2
    assert "blocks" in capsys.readouterr().err


def test_internal_error_exits_with_70(tmp_path, capsys, monkeypatch):
    def broken(**_):
        raise RuntimeError("broken on purpose")

    monkeypatch.setattr("sigma_monitor.demo.run_demo", broken)
    assert main(["demo", "--out", str(tmp_path)]) == 70
    assert "broken on purpose" in capsys.readouterr().err


@pytest.mark.timeout(900)
def test_demo_reaches_the_expected_verdicts(tmp_path):
    done = command("demo", "--json", "--out", "demo", cwd=tmp_path, timeout=880)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("{"), done.stdout[:500]
    result = json.loads(done.stdout)
    healthy, runaway, alignment, own_samples = result["arms"]
    assert healthy["verdict"] == "HEALTHY"
    assert healthy["alert_step"] is None
    assert runaway["verdict"] == "COLLAPSED"
    assert 60 < runaway["alert_step"] <= 60 + 5 * 5  # within five checks of the runaway
    assert runaway["stopped_at"] < 240
    assert alignment["verdict"] == "COLLAPSED"
    assert alignment["own_loss_at_end"] < 1e-3  # it looks perfect
    assert alignment["held_out_loss"] > 1.5 * healthy["held_out_loss"]
    assert own_samples["verdict"] == "COLLAPSED"
    assert own_samples["alert_channel"] == "generation"
    alerts = read_record(tmp_path / "demo" / "its-own-samples" / RECORD).alerts
    assert {a["channel"] for a in alerts if a["severity"] != "info"} == {"generation"}
    picture = tmp_path / result["picture"]
    assert picture.read_bytes().startswith(b"\x89PNG")
