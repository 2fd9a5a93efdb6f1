"""What the detector says of a series, and the options that reach it."""

from __future__ import annotations

import math

import pytest

from sigma_monitor import Status
from sigma_monitor.cli import main
from sigma_monitor.errors import InputError
from sigma_monitor.replay import replay_file
from tests.replay.files import FALL, by_hand, rows_of, series, told, write_csv


def test_a_healthy_series_raises_nothing_but_its_baseline(write, capsys):
    path = write(rows_of(series()))
    replay = replay_file(path, "rank")
    assert told(replay, loud=False) == [("BASELINE", 0)]
    assert (replay.status, replay.worst, replay.skipped) == (Status.HEALTHY, Status.HEALTHY, 0)
    assert main(["replay", str(path), "--column", "rank", "--fail-on", "warning"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("[sigma: baseline frozen] BASELINE at step 0 (check 1). Rank: 40.4")
    assert lines[1] == (
        "rank: HEALTHY at the end, HEALTHY at worst; checks: 120; alerts above information: 0"
    )


def test_a_fall_to_60_percent_warns_at_the_third_low_check(write, capsys):
    path = write(rows_of(series(0.6)))
    replay = replay_file(path, "rank")
    # Checks 60, 61 and 62 are low: three of five, so their median is.
    assert told(replay) == [("WARNING", 620)]
    assert replay.alerts[-1].onset_step == 600
    assert replay.alerts[-1].functional == "rank"
    assert (replay.status, replay.worst) == (Status.WARNING, Status.WARNING)
    assert main(["replay", str(path), "--column", "rank"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith(
        "[sigma: representations are contracting] WARNING at step 620 (check 63). Rank: 24.2, "
        "median 60% of its baseline 40.4, low since step 600."
    )
    assert lines[2].startswith("rank: WARNING at the end, WARNING at worst; checks: 120; ")
    assert lines[2].endswith("alerts above information: 1")


def test_fail_on_warning_exits_with_3(write):
    path = write(rows_of(series(0.6)))
    assert main(["replay", str(path), "--column", "rank", "--fail-on", "warning"]) == 3


def test_a_collapse_exits_with_1(write):
    path = write(rows_of(series(0.3)))
    # The median of five is low from check 62 on, and for the fifth time at check 66.
    assert told(replay_file(path, "rank")) == [("WARNING", 620), ("COLLAPSED", 660)]
    for more in ([], ["--fail-on", "warning"], ["--json"]):
        assert main(["replay", str(path), "--column", "rank", *more]) == 1


def test_a_collapse_that_recovered_still_exits_with_1(write, capsys):
    path = write(rows_of(series(0.3, back=FALL + 15)))
    replay = replay_file(path, "rank")
    assert (replay.status, replay.worst) == (Status.HEALTHY, Status.COLLAPSED)
    assert main(["replay", str(path), "--column", "rank"]) == 1
    assert "HEALTHY at the end, COLLAPSED at worst" in capsys.readouterr().out


def test_the_alerts_are_those_of_a_detector_fed_by_hand(write):
    values = series(0.3, back=FALL + 15)
    points = [(10 * i, math.log(value)) for i, value in enumerate(values)]
    replay = replay_file(write(rows_of(values)), "rank")
    assert replay.alerts == by_hand(points, "rank")
    assert {a.kind for a in replay.alerts} == {"BASELINE", "WARNING", "COLLAPSED", "RECOVERED"}


def test_logs_too_large_for_a_number_are_bad_input(write, capsys):
    path = write(rows_of([1000.0] * 30))  # the log det of a thousand dimensions, not of one
    assert main(["replay", str(path), "--column", "rank", "--log"]) == 2
    assert "Divide logs by the dimension" in capsys.readouterr().err


def test_the_windows_suit_the_number_of_values_unless_long(tmp_path, capsys):
    path = write_csv(tmp_path / "run.csv", rows_of(series(0.6, checks=40, fall=20)))
    assert told(replay_file(path, "rank")) == [("WARNING", 210)]  # two of three
    assert told(replay_file(path, "rank", long=True)) == [("WARNING", 220)]  # three of five
    assert main(["replay", str(path), "--column", "rank", "--long"]) == 0
    assert "WARNING at step 220" in capsys.readouterr().out


@pytest.mark.parametrize("baseline", ["plateau", "auto"])
def test_the_baseline_can_be_a_plateau(baseline, tmp_path, capsys):
    path = write_csv(tmp_path / "run.csv", rows_of(series(0.6)))
    replay = replay_file(path, "rank", baseline=baseline)
    # A tenth of the values is dropped, and a tenth makes the plateau: 24 checks.
    assert told(replay, loud=False) == [("BASELINE", 230), ("WARNING", 620)]
    assert main(["replay", str(path), "--column", "rank", "--baseline", baseline]) == 0
    assert "BASELINE at step 230" in capsys.readouterr().out


def test_the_preset_reaches_the_detector(tmp_path, capsys):
    path = write_csv(tmp_path / "run.csv", rows_of(series(0.77)))
    assert told(replay_file(path, "rank", preset="sensitive")) == [("WARNING", 620)]
    assert told(replay_file(path, "rank", preset="quiet")) == []
    arguments = ["replay", str(path), "--column", "rank", "--fail-on", "warning", "--preset"]
    assert main([*arguments, "sensitive"]) == 3
    assert "WARNING at step 620" in capsys.readouterr().out
    assert main([*arguments, "quiet"]) == 0


def test_thresholds_reach_the_detector(tmp_path, capsys):
    path = write_csv(tmp_path / "run.csv", rows_of(series(0.6)))
    arguments = ["replay", str(path), "--column", "rank"]
    arguments += ["--threshold", "warning_fast=0.55", "--threshold", "trend=false"]
    assert main(arguments) == 0
    # The slow median alone is left: five of nine.
    assert "WARNING at step 640" in capsys.readouterr().out
    replay = replay_file(path, "rank", warning_fast=0.55, trend=False)
    assert told(replay) == [("WARNING", 640)]


def test_an_unknown_threshold_is_refused_in_python_too(tmp_path):
    path = write_csv(tmp_path / "run.csv", rows_of(series()))
    with pytest.raises(InputError, match="colour: no threshold of this name"):
        replay_file(path, "rank", colour=1)
