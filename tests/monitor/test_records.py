"""One record for each run: begun anew, resumed, interrupted, side by side."""

import gc
import json

from sigma_monitor.monitor import RECORD
from sigma_monitor.sinks import MetricsSink, read_record
from sigma_monitor.snapshot import SCHEMA
from tests.monitor.test_monitor import Dial, run


def events(path):
    return [e["event"] for e in read_record(path).events if e["event"] not in ("baseline", "end")]


def recorded(model, tmp_path, **options):
    return model.monitor(output_dir=tmp_path, sinks=None, **options)


def test_a_run_begun_anew_puts_older_records_aside(tmp_path):
    model, path = Dial(), tmp_path / RECORD
    for last in (5, 4, 3):
        run(recorded(model, tmp_path), model, range(last + 1)).close()
    names = sorted(p.name for p in path.parent.iterdir())
    assert names == ["record-1.jsonl", "record-2.jsonl", "record.jsonl"]
    for name, last in [("record-1", 5), ("record-2", 4), ("record", 3)]:
        found = path.with_stem(name)
        assert [s.step for s in read_record(found).snapshots] == list(range(last + 1))
        assert events(found) == ["started", "closed"]


def test_a_run_that_goes_on_appends(tmp_path):
    """With its state, without it, and after it was closed."""
    model, path = Dial(), tmp_path / RECORD
    first = run(recorded(model, tmp_path), model, range(3))
    first.close()
    run(first, model, [3]).close()
    resumed = recorded(model, tmp_path)
    resumed.load_state_dict(json.loads(json.dumps(first.state_dict())))
    run(resumed, model, [4, 5]).close()
    run(recorded(model, tmp_path), model, [6, 7]).close()
    assert [p.name for p in path.parent.iterdir()] == ["record.jsonl"]
    assert [s.step for s in read_record(path).snapshots] == list(range(8))
    assert events(path) == [
        *("started", "closed", "closed"),
        *("resumed", "closed"),
        *("started", "closed"),
    ]


def with_schema(schema, path):
    """As a version that wrote another one leaves the record."""
    now, then = (f'"schema": {number}'.encode() for number in (SCHEMA, schema))
    path.write_bytes(path.read_bytes().replace(now, then))
    return path.read_bytes()


def test_a_run_that_goes_on_puts_a_record_of_another_schema_aside(tmp_path):
    """Together they would be a file that no version reads."""
    model, path = Dial(), tmp_path / RECORD
    first = run(recorded(model, tmp_path), model, range(3))
    first.close()
    older = with_schema(SCHEMA - 1, path)
    resumed = recorded(model, tmp_path)
    resumed.load_state_dict(json.loads(json.dumps(first.state_dict())))
    run(resumed, model, [3]).close()
    run(resumed, model, [4]).close()
    assert path.with_stem("record-1").read_bytes() == older
    assert [s.step for s in read_record(path).snapshots] == [3, 4]
    assert len(list(path.parent.iterdir())) == 2


def test_a_refused_call_opens_no_record(tmp_path):
    """It may come before the state of the run is loaded, which the record belongs to."""
    model, path = Dial(), tmp_path / RECORD
    first = run(recorded(model, tmp_path), model, range(3))
    first.close()
    kept = path.read_bytes()
    resumed = recorded(model, tmp_path)
    assert resumed.step(model, "a") is None
    assert resumed.observe("no name", model.rows, 3) is None
    assert (resumed.failures, resumed.observation_failures) == (1, 1)
    resumed.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert resumed.step(model, "b") is None
    assert path.read_bytes() == kept
    run(resumed, model, [3]).close()
    assert [p.name for p in path.parent.iterdir()] == ["record.jsonl"]
    assert events(path) == ["started", "closed", "resumed", "closed"]


def test_a_record_that_cannot_be_put_aside_is_appended_to(tmp_path, monkeypatch):
    model, path = Dial(), tmp_path / RECORD
    run(recorded(model, tmp_path), model, range(5)).close()

    def refuse(*_):
        raise OSError("in use")

    monkeypatch.setattr("pathlib.Path.rename", refuse)
    run(recorded(model, tmp_path), model, range(3)).close()
    assert [s.step for s in read_record(path).snapshots] == [0, 1, 2]
    assert events(path) == ["started", "closed", "started", "closed"]


def test_a_monitor_that_is_forgotten_or_begun_anew_says_that_it_was_interrupted(tmp_path):
    model, path = Dial(), tmp_path / RECORD
    forgotten = run(recorded(model, tmp_path), model, range(3))
    del forgotten
    gc.collect()
    again = run(recorded(model, tmp_path), model, range(4))
    again.reset()
    again.close()
    for found in (path.with_stem("record-1"), path):
        *_, last = read_record(found).events
        assert (last["event"], last.get("interrupted")) == ("closed", True)
        assert events(found) == ["started", "closed"]


def test_monitors_of_one_loop_keep_apart_by_name(tmp_path):
    model, heard = Dial(), []

    def log(values, step):
        heard.append((step, values))

    student, teacher = (
        model.monitor(name=name, output_dir=tmp_path, sinks=["default", MetricsSink(log)])
        for name in ("student", "teacher")
    )
    for step in range(3):
        student.step(model, step)
        teacher.step(model, step)
    for monitor in (student, teacher):
        monitor.close()
        path = tmp_path / monitor.name / "record.jsonl"
        found = [(s.step, s.metrics()) for s in read_record(path).snapshots]
        assert len(found) == 3
        assert found == [pair for pair in heard if f"{monitor.name}/status" in pair[1]]
        assert all(name.startswith(f"{monitor.name}/") for _, m in found for name in m)


def test_what_is_measured_after_the_end_goes_on_and_is_closed_anew(tmp_path):
    model, path = Dial(), tmp_path / RECORD
    monitor = run(recorded(model, tmp_path), model, range(3))
    monitor.close()
    monitor.step(model, 3)
    monitor.close()
    monitor.check(model, 4)
    monitor.close()
    monitor.observe("codebook", model.rows, 5)
    monitor.close()
    del monitor
    gc.collect()
    assert [s.step for s in read_record(path).snapshots] == [*range(5)]
    assert [o.step for o in read_record(path).observations] == [5]
    assert events(path) == ["started", *["closed"] * 3, "observing", "closed"]
    assert not any("interrupted" in event for event in read_record(path).events)


def test_nothing_but_a_measurement_opens_a_closed_record(tmp_path):
    model, path = Dial(), tmp_path / RECORD
    monitor = run(recorded(model, tmp_path, every=10), model, range(3))
    assert monitor.observe("codebook", model.rows, 2) is not None
    monitor.close()
    kept = path.read_bytes()
    monitor.note("later", by="a host")
    assert monitor.step(model, 3) is None  # none was due
    assert monitor.observe("no name", model.rows, 3) is None
    assert monitor.observe("codebook", model.rows, 2) is None  # it was seen
    monitor.note("later", by="a host")
    monitor.load_state_dict(json.loads(json.dumps(monitor.state_dict())))
    monitor.close()
    del monitor
    gc.collect()
    assert path.read_bytes() == kept


def test_a_monitor_closed_before_its_first_check_has_no_record(tmp_path):
    monitor = recorded(Dial(), tmp_path)
    monitor.close()
    monitor.note("later", by="a host")
    del monitor
    gc.collect()
    assert list(tmp_path.iterdir()) == []
