"""Rows, cells and columns of CSV and JSONL files, as loggers leave them and as they break."""

from __future__ import annotations

import json
import math

import pytest

from sigma_monitor import Status
from sigma_monitor.cli import main
from sigma_monitor.errors import InputError
from sigma_monitor.replay import STEP_COLUMNS, replay_file
from tests.replay.files import (
    CHECKS,
    WRITERS,
    by_hand,
    rows_of,
    series,
    told,
    write_csv,
    write_jsonl,
)

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
