"""The durable record: whole lines, whatever happens to disk and process."""

import contextlib
import json
import math
import os
import resource
import signal

import pytest

from sigma_monitor import Status
from sigma_monitor.errors import RecordError
from sigma_monitor.sinks import JsonlSink, read_lines, read_record
from sigma_monitor.snapshot import SCHEMA, Observation
from tests.snapshots import alert, snapshot


@pytest.fixture
def path(tmp_path):
    return tmp_path / "sigma" / "record.jsonl"


def written(path, *steps):
    """A record of one check per step."""
    sink = JsonlSink(path)
    for step in steps:
        sink.check(snapshot(step))
    sink.close()
    return path.read_bytes()


def steps_of(record):
    return [snapshot.step for snapshot in record.snapshots]


def test_nothing_is_created_before_the_first_line(path):
    sink = JsonlSink(path)
    assert not path.parent.exists()
    sink.check(snapshot())
    assert path.exists()


def test_checks_alerts_and_events_are_read_back_as_written(path):
    checks = [snapshot(0, loss=math.nan), snapshot(10)]
    sink = JsonlSink(path)
    sink.note("started", {"step": 0})
    sink.check(checks[0])
    sink.alert(alert())
    sink.check(checks[1])
    sink.close()
    record = read_record(path)
    assert repr(record.snapshots) == repr(checks)  # by repr: NaN differs from itself
    assert record.alerts == [{"schema": SCHEMA, **alert().to_dict()}]
    assert record.events == [{"schema": SCHEMA, "event": "started", "step": 0}]
    assert record.torn_lines == []


def test_every_line_is_strict_json_with_type_and_schema(path):
    sink = JsonlSink(path)
    sink.note("started", {})
    sink.check(snapshot(loss=math.inf))
    sink.alert(alert())

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    bodies = [json.loads(line, parse_constant=refuse) for line in path.read_text().splitlines()]
    assert [body["type"] for body in bodies] == ["event", "check", "alert"]
    assert {body["schema"] for body in bodies} == {SCHEMA}


def test_an_alert_with_an_unbounded_interval_is_recorded(path):
    """Two probe examples are too few for an interval: its ends are then infinite."""
    JsonlSink(path).alert(alert(low=0.0, high=math.inf))
    assert float(read_record(path).alerts[0]["high"]) == math.inf


def test_lines_are_in_the_file_at_once(path):
    sink = JsonlSink(path)
    for count in range(1, 4):
        sink.check(snapshot(count))
        assert path.read_bytes().count(b"\n") == count


def test_a_record_is_continued_not_replaced(path):
    written(path, 0, 10)
    written(path, 20)
    assert steps_of(read_record(path)) == [0, 10, 20]


def test_closing_twice_and_writing_again_are_fine(path):
    sink = JsonlSink(path)
    sink.close()
    sink.check(snapshot(0))
    sink.close()
    sink.close()
    sink.check(snapshot(10))
    assert steps_of(read_record(path)) == [0, 10]


def test_a_handle_that_has_gone_stale_costs_one_line(path):
    sink = JsonlSink(path)
    sink.check(snapshot(0))
    os.close(sink._file.fileno())
    with pytest.raises(OSError, match="Bad file descriptor"):
        sink.check(snapshot(10))
    sink.check(snapshot(20))
    assert steps_of(read_record(path)) == [0, 20]


def test_a_kill_at_any_byte_leaves_whole_lines_and_the_record_goes_on(path):
    whole = written(path, 0, 10)
    first = whole.index(b"\n")
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        record = read_record(path)
        # A line is whole once its last brace is there; only its end may be missing.
        kept = [step for step, end in ((0, first), (10, len(whole) - 1)) if cut >= end]
        torn = cut not in (0, first, first + 1, len(whole) - 1, len(whole))
        assert steps_of(record) == kept
        assert record.torn_lines == ([1 + (cut > first)] if torn else [])
        written(path, 20)
        record = read_record(path)
        assert steps_of(record) == [*kept, 20]
        assert record.torn_lines == ([1 + (cut > first)] if torn else [])


@pytest.mark.parametrize(
    ("resumed", "expected"),
    [((20, 30), [0, 10, 20, 30]), ((10, 20), [0, 10, 20]), ((5, 15), [0, 5, 15]), ((0,), [0])],
)
def test_checks_after_a_resume_supersede_those_it_repeats(path, resumed, expected):
    written(path, 0, 10, 20)
    sink = JsonlSink(path)
    for step in resumed:
        sink.check(snapshot(step, check=99))
    record = read_record(path)
    assert steps_of(record) == expected
    assert {s.step for s in record.snapshots if s.check == 99} == set(resumed)


def test_alerts_of_superseded_checks_go_with_them(path):
    sink = JsonlSink(path)
    for step in (0, 10, 20, 10, 20):
        sink.check(snapshot(step))
        sink.alert(alert(step=step))
    assert [kept["step"] for kept in read_record(path).alerts] == [0, 10, 20]


@pytest.mark.parametrize("line", ['{"type": "mood", "schema": 1}', '{"schema": 1}', "[1]", "3"])
def test_a_line_of_unknown_type_is_refused_by_number(path, line):
    written(path, 0)
    path.write_bytes(path.read_bytes() + line.encode() + b"\n")
    with pytest.raises(RecordError, match="line 2"):
        read_record(path)


def test_an_alert_without_a_usable_step_is_kept(path):
    written(path, 0, 10)
    odd = [{"step": step} for step in ("ten", None, [1])] + [{}]
    lines = [json.dumps({"type": "alert", "schema": SCHEMA, **fields}) for fields in odd]
    path.write_bytes(path.read_bytes() + "".join(f"{line}\n" for line in lines).encode())
    sink = JsonlSink(path)
    sink.check(snapshot(5))
    sink.close()
    record = read_record(path)
    assert [a.get("step") for a in record.alerts] == ["ten", None, [1], None]
    assert steps_of(record) == [0, 5]


@pytest.mark.parametrize("number", ["Infinity", "-Infinity", "1e400"])
def test_a_step_without_end_is_refused_by_number(path, number):
    lines = written(path, 0, 10)
    path.write_bytes(lines.replace(b'"step": 10', b'"step": ' + number.encode()))
    with pytest.raises(RecordError, match="line 2"):
        read_record(path)


def test_a_number_too_large_for_a_float_is_refused_by_number(path):
    lines = written(path, 0, 10)
    path.write_bytes(lines.replace(b'"loss": 2.5', b'"loss": 1' + b"0" * 400))
    with pytest.raises(RecordError, match="line 1"):
        read_record(path)


def test_lines_come_one_by_one_with_what_a_resumed_run_repeats(path):
    sink = JsonlSink(path)
    sink.note("started", {})
    for step in (0, 10, 10):
        sink.check(snapshot(step))
    sink.close()
    path.write_bytes(path.read_bytes() + b'{"torn')
    lines = list(read_lines(path))
    assert [line.number for line in lines] == [1, 2, 3, 4, 5]
    assert [line.kind for line in lines] == ["event", "check", "check", "check", "torn"]
    assert [line.body.step for line in lines[1:4]] == [0, 10, 10]


@pytest.mark.skipif(not os.path.exists("/dev/zero"), reason="no device without end")
def test_a_file_without_lines_is_refused_before_memory_is_full(monkeypatch):
    monkeypatch.setattr("sigma_monitor.sinks.jsonl._LONGEST_LINE", 1 << 16)
    with pytest.raises(RecordError, match=r"/dev/zero, line 1: it is longer than 65536 bytes"):
        read_record("/dev/zero")


def of_schema(schema, lines):
    return lines.replace(f'"schema": {SCHEMA}'.encode(), f'"schema": {schema}'.encode())


def test_a_check_of_another_schema_is_refused_by_number(path):
    lines = written(path, 0)
    path.write_bytes(lines + of_schema(1, lines))
    with pytest.raises(RecordError, match=r"record\.jsonl, line 2: .*schema 1"):
        read_record(path)


def test_an_observation_of_another_schema_is_refused_by_number(path):
    sink = JsonlSink(path)
    sink.check(snapshot())
    sink.observe(
        Observation("codebook", 10, 1, 1.7e9, Status.HEALTHY, {}, None, False, 8, 4, 0.1, 0.0)
    )
    sink.close()
    first, second = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + of_schema(2, second))
    with pytest.raises(RecordError, match=r"record\.jsonl, line 2: .*schema 2"):
        read_record(path)


@pytest.mark.parametrize(
    "lines", [b"", b"\n", b'{"type": "ev', b"[1]\n", b"\xff\n", b"[" * 100_000]
)
def test_a_record_without_a_first_line_of_ours_is_continued(path, lines):
    path.parent.mkdir()
    path.write_bytes(lines)
    written(path, 0)
    assert path.read_bytes().startswith(lines)
    assert [p.name for p in path.parent.iterdir()] == ["record.jsonl"]


def test_a_missing_file_is_refused_with_its_path(path):
    with pytest.raises(RecordError, match=r"record\.jsonl"):
        read_record(path)


def test_an_empty_file_is_an_empty_record(tmp_path):
    (tmp_path / "record.jsonl").touch()
    record = read_record(tmp_path / "record.jsonl")
    assert (record.snapshots, record.alerts, record.events, record.torn_lines) == ([], [], [], [])


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is always full")
def test_a_line_of_brackets_without_end_is_torn(path):
    JsonlSink(path).check(snapshot())
    with path.open("a") as file:
        file.write("[" * 100_000 + "\n")
    record = read_record(path)
    assert (steps_of(record), record.torn_lines) == ([10], [2])


def test_a_full_disk_raises_each_time_and_close_does_not():
    sink = JsonlSink("/dev/full")
    for _ in range(3):
        with pytest.raises(OSError, match="No space left"):
            sink.check(snapshot())
    sink.close()


@contextlib.contextmanager
def room_for(size):
    """No file of this process may grow beyond `size` bytes."""
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("room", [0, 1, 100])
@pytest.mark.parametrize("failures", [1, 2])
def test_a_line_after_the_disk_had_room_again_is_whole(path, room, failures):
    sink = JsonlSink(path)
    sink.check(snapshot(0))
    with room_for(path.stat().st_size + room):
        for _ in range(failures):
            with pytest.raises(OSError, match=r"File too large|bytes were written"):
                sink.check(snapshot(10))
    sink.check(snapshot(20))
    sink.check(snapshot(30))
    record = read_record(path)
    assert steps_of(record) == [0, 20, 30]
    assert record.torn_lines == ([2] if room else [])


def test_a_folder_that_cannot_be_made_raises_and_works_once_it_can(tmp_path):
    blocked = tmp_path / "run"
    blocked.write_text("a file where the folder should be")
    sink = JsonlSink(blocked / "record.jsonl")
    with pytest.raises(OSError, match="run"):
        sink.check(snapshot(0))
    blocked.unlink()
    sink.check(snapshot(10))
    assert steps_of(read_record(blocked / "record.jsonl")) == [10]
