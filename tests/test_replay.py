"""`sigma-monitor replay`: from files as loggers leave them to the alerts of the detector."""

from __future__ import annotations

import csv
import json
import math
import subprocess
import sys
from dataclasses import replace

import pytest

from sigma_monitor import Estimate, Status
from sigma_monitor.cli import main
from sigma_monitor.detection import Detector, worded
from sigma_monitor.errors import InputError
from sigma_monitor.measure import WATCHED
from sigma_monitor.replay import STEP_COLUMNS, replay_file
from sigma_monitor.sinks import JsonlSink
from tests.snapshots import alert, snapshot

CHECKS, FALL = 120, 60  # long enough for a fast median of five checks


def series(ratio=1.0, *, checks=CHECKS, fall=FALL, back=None):
    """Values that wobble by 1 % about 40, and about `ratio` of it from `fall` until `back`."""
    low = range(fall, checks if back is None else back)
    return [40 * (1 + 0.01 * (-1) ** i) * (ratio if i in low else 1) for i in range(checks)]


def rows_of(values, *, column="rank", step="step"):
    return [{step: 10 * i, column: value} for i, value in enumerate(values)]


def write_csv(path, rows):
    columns = dict.fromkeys(name for row in rows for name in row)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


WRITERS = {"run.csv": write_csv, "run.jsonl": write_jsonl}


@pytest.fixture(params=WRITERS)
def write(request, tmp_path):
    """Rows into a file of either format."""
    return lambda rows: WRITERS[request.param](tmp_path / request.param, rows)


@pytest.fixture
def write_text(tmp_path):
    def written(text, name="run.csv"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return written


def by_hand(points, functional, **options):
    """The worded alerts of a detector fed with steps and log values."""
    detector = Detector(**{"baseline": "start", "expected_checks": len(points), **options})
    alerts = []
    for step, log_value in points:
        detector.update(step, log_value)
        alerts += [worded(replace(a, functional=functional)) for a in detector.alerts]
    return tuple(alerts)


def told(replay, *, loud=True):
    return [(a.kind, a.step) for a in replay.alerts if not loud or a.severity != "info"]


# What the detector says


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


# Rows and cells


def test_sparse_rows_of_a_logger_are_left_out(write):
    values = series(0.6)
    rows = []
    for i, value in enumerate(values):
        rows.append({"train/loss": 2.5, "train/global_step": 10 * i, "_step": 2 * i})
        rows.append({"train/global_step": 10 * i, "_step": 2 * i + 1, "sigma/rank": value})
    replay = replay_file(write(rows), "sigma/rank")
    assert (replay.checks, replay.skipped) == (CHECKS, 0)
    assert told(replay) == [("WARNING", 620)]


def test_empty_cells_and_null_are_no_values(write_text):
    for name, text in (
        ("run.csv", "step,rank\n1,40\n2,\n3, \n4,40\n5\n"),
        (
            "run.jsonl",
            '{"step": 1, "rank": 40}\n{"step": 2, "rank": null}\n\n{"step": 3, "rank": " "}\n'
            '{"step": 4, "rank": "40"}\n{"step": 5}\n',
        ),
    ):
        replay = replay_file(write_text(text, name), "rank")
        assert (replay.checks, replay.skipped) == (2, 0)


@pytest.mark.parametrize("at", range(len(STEP_COLUMNS)))
def test_the_step_is_the_first_known_column(at, write):
    present = STEP_COLUMNS[at:]
    rows = [
        {"rank": value, **{name: (k + 2) * i for k, name in enumerate(present)}}
        for i, value in enumerate(series(0.6))
    ]
    assert told(replay_file(write(rows), "rank")) == [("WARNING", 2 * 62)]


def test_a_step_column_that_no_value_has_is_passed_over(write):
    rows = [{"step": 7, "loss": 2.0, "_step": -1, "rank": ""}]
    rows += [{"step": "", "loss": "", "_step": 10 * i, "rank": v} for i, v in enumerate(series())]
    replay = replay_file(write(rows), "rank")
    assert (replay.checks, replay.skipped) == (CHECKS, 0)


def test_without_a_step_column_the_step_is_the_number_of_the_row(write):
    rows = [{"note": "x"}, *({"rank": value} for value in series(0.6))]
    assert told(replay_file(write(rows), "rank")) == [("WARNING", 64)]  # rows count from 1


def test_the_step_column_can_be_chosen(write, capsys):
    rows = [{"step": 0, "seen": f"{100.0 * i}", "rank": v} for i, v in enumerate(series(0.6))]
    path = write(rows)
    assert told(replay_file(path, "rank", step_column="seen")) == [("WARNING", 6200)]
    assert main(["replay", str(path), "--column", "rank", "--step-column", "seen"]) == 0
    assert "WARNING at step 6200" in capsys.readouterr().out


def test_steps_that_do_not_rise_are_skipped_and_said(write, capsys):
    values = series(0.6)
    rows = rows_of(values)
    # What a resumed run repeats, at another value, and a value that nobody gave a step.
    again = [{"step": step, "rank": 1.0} for step in (380, 390, 390)]
    path = write([*rows[:40], *again, {"step": None, "rank": 1.0}, *rows[40:]])
    replay = replay_file(path, "rank")
    assert (replay.checks, replay.skipped) == (CHECKS, 4)
    assert told(replay) == [("WARNING", 620)]
    assert main(["replay", str(path), "--column", "rank"]) == 0
    assert "; rows skipped: 4 (no step above the one before" in capsys.readouterr().out


def test_log_passes_the_column_as_it_is(write, capsys):
    values = [math.log(value) - 9 for value in series(0.6)]
    assert max(values) < 0
    path = write(rows_of(values, column="log_det"))
    replay = replay_file(path, "log_det", log=True)
    assert replay.alerts == by_hand([(10 * i, x) for i, x in enumerate(values)], "log_det")
    assert told(replay) == [("WARNING", 620)]
    assert main(["replay", str(path), "--column", "log_det", "--log", "--fail-on", "warning"]) == 3


@pytest.mark.parametrize(
    ("cell", "kind"),
    [
        ("NaN", "NONFINITE"),
        ("nan", "NONFINITE"),
        ("inf", "NONFINITE"),
        ("Infinity", "NONFINITE"),
        (math.nan, "NONFINITE"),
        (math.inf, "NONFINITE"),
        (10**400, "NONFINITE"),
        ("0", "VANISHED"),
        (0.0, "VANISHED"),
        ("-0.0", "VANISHED"),
    ],
)
def test_values_without_a_finite_log_are_told_and_measure_nothing(cell, kind, write):
    values = series()
    values[30] = cell
    replay = replay_file(write(rows_of(values)), "rank")
    assert told(replay) == [(kind, 300)]
    assert (replay.checks, replay.status) == (CHECKS, Status.HEALTHY)


def test_a_log_of_minus_infinity_has_vanished(write):
    values = [math.log(value) for value in series()]
    values[30] = "-inf"
    assert told(replay_file(write(rows_of(values)), "rank", log=True)) == [("VANISHED", 300)]


@pytest.mark.parametrize("cell", [-0.5, "-inf"])
def test_a_negative_value_without_log_is_refused(cell, write):
    path = write([{"step": 1, "log_det": 0.5}, {"step": 2, "log_det": cell}])
    line = 3 if path.suffix == ".csv" else 2
    with pytest.raises(InputError, match=rf"{path.name}, line {line}: 'log_det' is {cell}.*--log"):
        replay_file(path, "log_det")


@pytest.mark.parametrize("cell", ["high", "1,5", "0x10", "4 0"])
def test_text_that_is_no_number_is_refused(cell, write):
    path = write([{"step": 1, "rank": 40}, {"step": 2}, {"step": 3, "rank": cell}])
    line = 4 if path.suffix == ".csv" else 3
    with pytest.raises(InputError, match=rf"line {line}: 'rank' is '{cell}', which is no number"):
        replay_file(path, "rank")


@pytest.mark.parametrize("cell", [True, [40.0], {"_type": "histogram", "values": [1] * 1000}])
def test_json_that_is_no_number_is_refused(cell, tmp_path):
    path = write_jsonl(tmp_path / "run.jsonl", [{"step": 1, "rank": cell}])
    with pytest.raises(InputError, match=r"line 1: 'rank' is .* no number") as raised:
        replay_file(path, "rank")
    assert len(str(raised.value)) < 300 + len(str(path))


@pytest.mark.parametrize("step", [0.5, "nan", "first"])
def test_a_step_that_is_no_whole_number_is_refused(step, write):
    path = write([{"step": step, "rank": 40.0}])
    with pytest.raises(InputError, match=rf"line \d: .*'step' is '?{step}"):
        replay_file(path, "rank")


def test_logs_too_large_for_a_number_are_bad_input(write, capsys):
    path = write(rows_of([1000.0] * 30))  # the log det of a thousand dimensions, not of one
    assert main(["replay", str(path), "--column", "rank", "--log"]) == 2
    assert "Divide logs by the dimension" in capsys.readouterr().err


# Options


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


# Records


def measured(step, *ranks, finite=1.0, **more):
    """A check of the layers "last" and "0" with these effective ranks; None: not measured."""
    layers = {
        name: {}
        if rank is None
        else {"effective_rank": Estimate(rank, rank - 1, rank + 1, "sampling"), **more}
        for name, rank in zip(("last", "0"), ranks, strict=False)
    }
    return snapshot(step, layers=layers, finite=finite)


@pytest.fixture
def record(tmp_path):
    """Of a run that was killed in the middle of a line and resumed: last falls at check 60."""
    path = tmp_path / "record.jsonl"
    sink = JsonlSink(path)
    sink.note("started", {"step": 0})
    values = series(0.6)
    for i in range(50):
        sink.log(measured(10 * i, values[i], 30.0))
    for i in range(40, 55):  # the lost stretch, as it was before the kill
        sink.log(measured(10 * i, 1.0, 1.0))
    sink.close()
    path.write_bytes(path.read_bytes() + b'{"type": "check", "sch')
    sink.note("resumed", {"step": 400})
    sink.alert(alert())
    for i in range(40, CHECKS):
        sink.log(measured(10 * i, values[i], 30.0))
    sink.close()
    return path


def test_a_record_is_replayed_as_its_values_are_by_hand(record):
    points = [(10 * i, math.log(value)) for i, value in enumerate(series(0.6))]
    replay = replay_file(record)
    assert replay.alerts == by_hand(points, "last/effective_rank")
    assert told(replay) == [("WARNING", 620)]
    assert (replay.checks, replay.skipped) == (CHECKS, 1)  # the torn line
    assert replay.column == "last/effective_rank"


def test_the_default_of_a_record_is_the_series_that_the_monitor_watches(record):
    assert replay_file(record) == replay_file(record, WATCHED)
    assert replay_file(record) == replay_file(record, f"last/{WATCHED}")


def test_another_layer_of_a_record_can_be_named(record, capsys):
    assert told(replay_file(record, "0/effective_rank")) == []
    assert main(["replay", str(record), "--column", "0/effective_rank"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("0/effective_rank: HEALTHY")


def test_a_record_is_known_by_its_lines_and_not_by_its_name(record, tmp_path):
    copy = tmp_path / "old-run.txt"
    copy.write_bytes(b'e": 1, "torn\n' + record.read_bytes())
    assert told(replay_file(copy.rename(tmp_path / "old.jsonl"))) == [("WARNING", 620)]


def test_checks_of_a_record_that_measured_nothing_are_told(tmp_path):
    path = tmp_path / "record.jsonl"
    sink = JsonlSink(path)
    for i in range(40):
        rank = None if i in (10, 20) else 40.0
        sink.log(measured(i, rank, finite=0.5 if i == 10 else 1.0))
    sink.close()
    for log in (False, True):
        replay = replay_file(path, log=log)
        assert told(replay) == [("NONFINITE", 10), ("VANISHED", 20)]
        assert replay.checks == 40


def test_a_key_that_some_checks_lack_is_of_the_others(tmp_path):
    path = tmp_path / "record.jsonl"
    sink = JsonlSink(path)
    for i in range(40):
        more = {"subspace_drift": Estimate.exact(0.1)} if i >= 10 else {}
        sink.log(measured(i, 40.0, **more))
    sink.close()
    assert replay_file(path, "subspace_drift").checks == 30


def test_bad_requests_of_a_record_are_refused(record, tmp_path, capsys):
    assert main(["replay", str(record), "--column", "rank"]) == 2
    said = "no column 'rank'. It has: last/effective_rank, 0/effective_rank."
    assert said in capsys.readouterr().err
    with pytest.raises(InputError, match="--step-column time"):
        replay_file(record, step_column="time")
    started = tmp_path / "started.jsonl"
    JsonlSink(started).note("started", {"step": 0})
    with pytest.raises(InputError, match=r"started\.jsonl: the record has no checks"):
        replay_file(started)
    old = write_jsonl(tmp_path / "old.jsonl", [{"type": "check", "schema": 1}])
    assert main(["replay", str(old)]) == 2
    assert f"sigma-monitor: {old}: snapshot schema 1" in capsys.readouterr().err
    odd = write_jsonl(tmp_path / "odd.jsonl", [{"type": "event", "schema": 2}, {"type": "x"}])
    with pytest.raises(InputError) as raised:
        replay_file(odd)
    assert str(raised.value).count(str(odd)) == 1


def test_a_file_of_another_logger_with_a_type_is_no_record(tmp_path):
    rows = [{"type": "check", **row} for row in rows_of(series(0.6))]
    path = write_jsonl(tmp_path / "run.jsonl", rows)
    assert told(replay_file(path, "rank")) == [("WARNING", 620)]


# Files


def test_without_a_column_the_columns_are_listed(write, capsys):
    path = write(rows_of(series()))
    assert main(["replay", str(path)]) == 2
    assert "Pass --column with one of: step, rank." in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--column", "--step-column"])
def test_a_missing_column_lists_those_that_there_are(option, write, capsys):
    path = write([{"step": 0, "rank": 40.0}, {"step": 1, "loss": 2.0}])
    assert main(["replay", str(path), "--column", "rank", option, "colour"]) == 2
    assert "no column 'colour'. It has: step, rank, loss." in capsys.readouterr().err


def test_a_missing_file_exits_with_2(tmp_path, capsys):
    assert main(["replay", str(tmp_path / "missing.csv"), "--column", "rank"]) == 2
    assert "missing.csv: No such file or directory." in capsys.readouterr().err
    assert main(["replay", str(tmp_path), "--column", "rank"]) == 2
    assert "Is a directory" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["run.csv", "run.jsonl"])
@pytest.mark.parametrize("content", ["", "\n \n", "\ufeff"])
def test_an_empty_file_is_refused(name, content, write_text, capsys):
    assert main(["replay", str(write_text(content, name)), "--column", "rank"]) == 2
    assert f"{name}: it is empty." in capsys.readouterr().err


@pytest.mark.parametrize("text", ["step,rank\n", "step,rank\n1,\n2\n", "step,rank\n,40\n"])
def test_a_column_without_a_value_is_refused(text, write_text):
    path = write_text(text)
    if ",40" in text:
        with pytest.raises(InputError, match="no row has a value of 'rank' and a step"):
            replay_file(path, "rank", step_column="step")
    else:
        with pytest.raises(InputError, match="no row has a value of 'rank'"):
            replay_file(path, "rank")


def test_a_byte_order_mark_and_windows_lines_are_no_part_of_the_content(tmp_path):
    for name, writer in WRITERS.items():
        path = writer(tmp_path / name, rows_of(series(0.6)))
        text = path.read_bytes().replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
        path.write_bytes(b"\xef\xbb\xbf" + text)
        assert told(replay_file(path, "rank")) == [("WARNING", 620)]


def test_quoted_commas_quotes_and_lines_are_text(tmp_path):
    name = 'rank, of "last"'
    rows = [
        {"note": 'a, "b"\nand c', "step": 10 * i, name: f" {v} "} for i, v in enumerate(series(0.6))
    ]
    replay = replay_file(write_csv(tmp_path / "run.csv", rows), name)
    assert told(replay) == [("WARNING", 620)]
    assert replay.column == name


def test_spaces_around_names_are_no_part_of_them(write_text):
    replay = replay_file(write_text('step , rank , note\n7, 40, "x, y"\n'), "rank")
    assert told(replay, loud=False) == [("BASELINE", 7)]


def test_carriage_returns_alone_end_the_lines_of_a_csv(write_text):
    assert replay_file(write_text("step,rank\r1,40\r2,40\r"), "rank").checks == 2


def test_unusual_line_ends_inside_json_text_are_text(write_text):
    text = '{"note": "a\u2028b\x0bc\x85", "step": 1, "rank": 40}\n'
    with pytest.raises(InputError, match=r"line 1: .* is no JSON object"):
        replay_file(write_text(text, "run.jsonl"), "rank")  # JSON has no raw \x0b
    assert replay_file(write_text(text.replace("\x0b", ""), "run.jsonl"), "rank").checks == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("step,rank\n1,40\n2,39,5\n", "line 3: 3 cells under a header of 2"),
        ('step,rank\n1,"40\n2,39\n', "unexpected end of data"),
        ("step,rank,rank\n1,40,39\n", "'rank' more than once"),
        ("step,step,rank\n1,2,39\n", "'step' more than once"),
        ("step;rank\n1;40\n", "It has: step;rank."),
        (b"step,rank\n1,4\xff\n", "not text in UTF-8"),
        ("step,rank\n1,40\n".encode("utf-16"), "not text in UTF-8"),
        ("step,rank\n1,4\x000\n", "line 2: 'rank' is '4\\x000', which is no number"),
        ("note,step,rank\n" + "x" * 200_000 + ",1,40\n", "field larger than field limit"),
    ],
)
def test_a_broken_csv_is_refused(text, said, write_text, capsys):
    assert main(["replay", str(write_text(text)), "--column", "rank"]) == 2
    assert said in capsys.readouterr().err


def test_commas_at_the_end_of_lines_are_no_cells(write_text):
    assert replay_file(write_text("step,rank\n1,40,,\n2,40, \n"), "rank").checks == 2
    assert replay_file(write_text("step,rank,,\n1,40,,\n"), "rank").checks == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"step": 1, "rank": 40}\n{"step": 2, "ra\n{"step": 3}\n', 'line 2: \'{"step": 2, "ra\''),
        ('{"step": 1, "rank": 40}\n[1, 2]\n', "line 2: '[1, 2]' is no JSON object"),
        ('[{"step": 1, "rank": 40}]', "line 1: "),
        ('{\n  "step": 1\n}', "line 1: '{' is no JSON object"),
        ("[" * 100_000, "line 1: '[[["),
    ],
)
def test_a_broken_jsonl_is_refused(text, said, write_text, capsys):
    assert main(["replay", str(write_text(text, "run.jsonl")), "--column", "rank"]) == 2
    assert said in capsys.readouterr().err


def test_a_last_line_cut_by_a_kill_is_skipped_and_said(write_text):
    text = "".join(json.dumps(row) + "\n" for row in rows_of(series(0.6))) + '{"step": 1200, "ra'
    replay = replay_file(write_text(text, "run.jsonl"), "rank")
    assert (replay.checks, replay.skipped) == (CHECKS, 1)
    assert "or a line that was cut" in replay.text()


def test_json_lines_are_known_under_any_name(tmp_path):
    path = write_jsonl(tmp_path / "metrics.json", rows_of(series(0.6)))
    assert told(replay_file(path, "rank")) == [("WARNING", 620)]


# Output


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
    assert list(found) == ["file", "column", "checks", "skipped", "status", "alerts"]
    assert (found["file"], found["column"]) == (str(path), "rank")
    assert (found["checks"], found["skipped"], found["status"]) == (CHECKS, 1, "COLLAPSED")
    kinds = ["BASELINE", "NONFINITE", "WARNING", "COLLAPSED"]
    assert [a["kind"] for a in found["alerts"]] == kinds
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
