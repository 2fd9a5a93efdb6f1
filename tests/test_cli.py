"""The command line: exit codes, JSON, thresholds, and the demo from end to end."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from sigma_monitor import __version__
from sigma_monitor.cli import main
from sigma_monitor.cli.replay import threshold
from sigma_monitor.demo.arms import ARMS
from sigma_monitor.demo.run import ArmResult, DemoResult
from sigma_monitor.detection import Thresholds
from sigma_monitor.monitor import RECORD
from sigma_monitor.sinks import Record, read_record
from tests.snapshots import snapshot


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


@pytest.mark.parametrize("arguments", [["--help"], ["replay", "--help"]])
def test_help_is_said_at_once(arguments):
    """Nothing is imported that only the work of a command needs."""
    code = (
        "import sys; from sigma_monitor.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit as leaving: code = leaving.code\n"
        "libraries = {'jinja2', 'matplotlib', 'numpy', 'rich', 'scipy', 'torch', 'wandb'}\n"
        "print(*libraries & set(sys.modules), file=sys.stderr); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert (done.returncode, done.stderr.strip()) == (0, "")
    assert done.stdout.startswith("usage: ")


def test_a_reader_that_has_seen_enough_is_no_error(tmp_path):
    """More than a pipe holds is printed to one that nobody reads."""
    code = (
        "import sys; from sigma_monitor.cli import doctor, main\n"
        "doctor._run = lambda options: print('x' * 2**20) or 0\n"
        "sys.exit(main(['doctor']))"
    )
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, "-c", code], stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")


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


def test_the_json_of_a_demo_whose_loss_is_no_number_is_json(tmp_path, capsys, monkeypatch):
    record = Record([snapshot(0, loss=math.nan)], [], [], [])
    arm = ArmResult(ARMS[1], record, "COLLAPSED", 60, True, [(60, math.inf)])
    result = DemoResult((arm,), tmp_path / "collapse.png", 1.0)
    monkeypatch.setattr("sigma_monitor.demo.run_demo", lambda **_: result)
    assert main(["demo", "--json"]) == 0
    (shown,) = json.loads(capsys.readouterr().out, parse_constant=str.upper)["arms"]
    assert (shown["held_out_loss"], shown["own_loss_at_end"]) == ("nan", "inf")


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("trend=false", False),
        ("expansion=True", True),
        ("fast_window=4", 4),
        ("collapsed=0.4", 0.4),
        (" collapsed = 4e-1 ", 0.4),
        ("floor=none", None),
        ("floor=2", 2.0),
    ],
)
def test_a_threshold_has_the_type_of_its_field(argument, value):
    name, found = threshold(argument)
    assert name == argument.partition("=")[0].strip()
    assert found == value
    assert type(found) is type(value)


def test_every_field_of_the_thresholds_can_be_written():
    for field in fields(Thresholds):
        assert threshold(f"{field.name}={field.default}") == (field.name, field.default)


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("colour=1", "--threshold colour=1: pass NAME=VALUE, where NAME is one of warning_slow"),
        ("preset=quiet", "--threshold preset=quiet: pass NAME=VALUE"),
        ("baseline=start", "--threshold baseline=start: pass NAME=VALUE"),
        ("expected_checks=9", "--threshold expected_checks=9: pass NAME=VALUE"),
        ("collapsed", "--threshold collapsed: pass NAME=VALUE"),
        ("collapsed=half", "--threshold collapsed=half: 'half' is not a number"),
        ("collapsed=none", "'none' is not a number"),
        ("fast_window=2.5", "'2.5' is not a whole number"),
        ("trend=1", "'1' is not true or false"),
        ("collapsed=2", "collapsed=2.0: a ratio to the baseline lies between 0 and 1"),
        ("collapsed=nan", "collapsed=nan: a ratio"),
    ],
)
def test_a_bad_threshold_exits_with_2_and_is_named(argument, said, tmp_path, capsys):
    path = tmp_path / "run.csv"
    path.write_text("step,rank\n0,40\n1,40\n")
    assert main(["replay", str(path), "--column", "rank", "--threshold", argument]) == 2
    printed = capsys.readouterr()
    assert said in printed.err
    assert printed.out == ""


def test_a_short_demo_has_all_that_the_whole_one_has(tmp_path, monkeypatch, capsys):
    for name, few in (("_PRETRAINING_STEPS", 20), ("_CHECKS", 3)):
        monkeypatch.setattr(f"sigma_monitor.demo.arms.{name}", few)
    arms = ARMS[:3]  # that which learns what it wrote takes longest
    monkeypatch.setattr("sigma_monitor.demo.run.ARMS", arms)
    code = main(["demo", "--json", "--steps", "60", "--out", str(tmp_path)])
    result = json.loads(capsys.readouterr().out)
    assert code == (0 if result["as_expected"] else 70)  # so few steps need not end as expected
    assert [arm["arm"] for arm in result["arms"]] == [arm.name for arm in arms]
    for arm in arms:
        record = read_record(tmp_path / arm.name.replace(" ", "-") / RECORD)
        assert record.snapshots[0].step == 0
        assert record.events[-1]["event"] == "closed"
    assert Path(result["picture"]).read_bytes().startswith(b"\x89PNG")


@pytest.mark.long
@pytest.mark.timeout(900)
def test_demo_reaches_the_expected_verdicts(tmp_path):
    done = command("demo", "--json", "--out", "demo", cwd=tmp_path, timeout=880)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("{"), done.stdout[:500]
    result = json.loads(done.stdout)
    healthy, runaway, alignment, own_samples = result["arms"]
    assert healthy["worst"] == "HEALTHY"
    assert healthy["alert_step"] is None
    assert runaway["worst"] == "COLLAPSED"
    assert 60 < runaway["alert_step"] <= 60 + 5 * 5  # within five checks of the runaway
    assert runaway["stopped_at"] < 240
    assert alignment["worst"] == "COLLAPSED"
    assert alignment["own_loss_at_end"] < 1e-3  # it looks perfect
    assert alignment["held_out_loss"] > 1.5 * healthy["held_out_loss"]
    assert own_samples["worst"] == "COLLAPSED"
    assert own_samples["alert_channel"] == "generation"
    alerts = read_record(tmp_path / "demo" / "its-own-samples" / RECORD).alerts
    assert {a["channel"] for a in alerts if a["severity"] != "info"} == {"generation"}
    picture = tmp_path / result["picture"]
    assert picture.read_bytes().startswith(b"\x89PNG")
