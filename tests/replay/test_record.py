"""Records of this package as a source of series."""

from __future__ import annotations

import math

import pytest

from sigma_monitor import Estimate
from sigma_monitor.cli import main
from sigma_monitor.errors import InputError
from sigma_monitor.replay import replay_file
from sigma_monitor.sinks import JsonlSink
from sigma_monitor.snapshot import WATCHED
from tests.replay.files import CHECKS, by_hand, rows_of, series, told, write_jsonl
from tests.snapshots import alert, snapshot


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
        sink.check(measured(10 * i, values[i], 30.0))
    for i in range(40, 55):  # the lost stretch, as it was before the kill
        sink.check(measured(10 * i, 1.0, 1.0))
    sink.close()
    path.write_bytes(path.read_bytes() + b'{"type": "check", "sch')
    sink.note("resumed", {"step": 400})
    sink.alert(alert())
    for i in range(40, CHECKS):
        sink.check(measured(10 * i, values[i], 30.0))
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
        sink.check(measured(i, rank, finite=0.5 if i == 10 else 1.0))
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
        sink.check(measured(i, 40.0, **more))
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
    assert f"sigma-monitor: {old}, line 1: snapshot schema 1" in capsys.readouterr().err
    odd = write_jsonl(tmp_path / "odd.jsonl", [{"type": "event", "schema": 2}, {"type": "x"}])
    with pytest.raises(InputError) as raised:
        replay_file(odd)
    assert str(raised.value).count(str(odd)) == 1


def test_a_file_of_another_logger_with_a_type_is_no_record(tmp_path):
    rows = [{"type": "check", **row} for row in rows_of(series(0.6))]
    path = write_jsonl(tmp_path / "run.jsonl", rows)
    assert told(replay_file(path, "rank")) == [("WARNING", 620)]
