"""From the lines of a record to what a page shows of it."""

import json
import math

import pytest

from sigma_monitor import Status
from sigma_monitor.errors import InputError
from sigma_monitor.report.reading import read_run
from sigma_monitor.report.run import LOSS
from sigma_monitor.report.track import Key
from sigma_monitor.sinks import JsonlSink, read_record
from sigma_monitor.snapshot import SCHEMA, WATCHED
from tests.report.records import BASELINE, check, collapsing, news, spectrum, written
from tests.snapshots import observation

RANK = Key("representation", "model.layers.0", WATCHED)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run" / "sigma" / "record.jsonl"


def test_everything_of_a_record_is_read(path):
    run = read_run(collapsing(path, layers=3))
    record = read_record(path)
    assert list(run.steps) == [s.step for s in record.snapshots]
    assert list(run.statuses) == [s.status for s in record.snapshots]
    assert run.layers == [f"model.layers.{n}" for n in range(3)]
    ranks = [s.layers["model.layers.0"][WATCHED] for s in record.snapshots]
    assert list(run.tracks[RANK].values) == [x.value for x in ranks]
    assert list(run.tracks[RANK].highs) == [x.high for x in ranks]
    assert list(run.tracks[LOSS].values) == [s.loss for s in record.snapshots]
    written_at = [s.step for s in record.snapshots if s.generation]
    assert list(run.tracks[Key("generation", "", "distinct_2")].steps) == written_at
    assert [alert.kind for alert in run.alerts][-2:] == ["WARNING", "COLLAPSED"]
    assert run.happened["failed"] == 1
    assert run.closed is not None
    assert run.status is Status.COLLAPSED
    assert run.ratio(RANK).values[0] == pytest.approx(1)
    then, now = run.spectra["model.layers.0"]
    assert (then.step, now.step) == (0, 240)
    assert then.counts == tuple(spectrum(BASELINE))


def test_a_resumed_run_replaces_what_it_repeats(path):
    sink = JsonlSink(path)
    for step in (0, 10, 20, 30):
        sink.check(check(step, 1, 1, loss=1.0))
        sink.alert(news("WARNING", "warn", step))
        sink.observe(observation(step))
    for step in (20, 40):
        sink.check(check(step, 1, 1, loss=2.0))
    sink.close()
    run, record = read_run(path), read_record(path)
    assert list(run.steps) == [s.step for s in record.snapshots] == [0, 10, 20, 40]
    assert list(run.tracks[LOSS].values) == [1, 1, 2, 2]
    assert [a.step for a in run.alerts] == [a["step"] for a in record.alerts] == [0, 10]
    assert len(run.tracks[Key("observed", "codebook", WATCHED)].steps) == 4


def test_observed_rows_resume_by_themselves(path):
    sink = JsonlSink(path)
    sink.check(check(30, 1, 1))
    for step in (0, 10, 20):
        sink.observe(observation(step))
        sink.alert(news("WARNING", "warn", step, channel="observed", layer="codebook"))
    sink.observe(observation(10))
    sink.close()
    run = read_run(path)
    assert list(run.tracks[Key("observed", "codebook", WATCHED)].steps) == [0, 10]
    assert [alert.step for alert in run.alerts] == [0]
    assert list(run.steps) == [30]


def test_a_baseline_of_another_run_holds_from_the_check_that_follows(path):
    sink = JsonlSink(path)
    body = {"layers": {"model.layers.0": {"baseline": {"log_value": math.log(100), "step": 900}}}}
    details = {"source": "old/record.jsonl", "fingerprint": "0123456789abcdef", "baselines": body}
    sink.note("baseline", details)
    sink.check(check(0, 1, 1))
    sink.close()
    run = read_run(path)
    assert run.ratio(RANK).values[0] == pytest.approx(0.5)
    assert run.borrowed == "old/record.jsonl"


def test_the_spectrum_to_compare_with_is_that_at_the_baseline(path):
    sink = JsonlSink(path)
    for step in (0, 10, 20, 30):
        sink.check(check(step, 1, 1))
        if step == 20:
            sink.alert(news("BASELINE", "info", step, layer="model.layers.0", baseline=BASELINE))
    sink.close()
    assert [s.step for s in read_run(path).spectra["model.layers.0"]] == [20, 30]


def test_a_check_that_measured_nothing_is_a_gap(path):
    sink = JsonlSink(path)
    sink.check(check(0, 1, 1))
    sink.check(check(10, 2, 1, layers={"model.layers.0": {}}, ratios={}, finite=0.5))
    sink.close()
    assert math.isnan(read_run(path).tracks[RANK].values[1])


def test_a_torn_line_is_counted_and_the_rest_is_read(path):
    written(path, (0, 10))
    path.write_bytes(path.read_bytes()[:-40])
    run = read_run(path)
    assert (list(run.steps), run.torn) == ([0], 1)


def refused(path, lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(lines)
    with pytest.raises(InputError) as caught:
        read_run(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_what_is_no_record_is_refused(path):
    assert "holds no line of a record" in refused(path, b"")
    assert "holds no line of a record" in refused(path, b"\x00\xff" * 1000)
    assert "type 'mood' is unknown" in refused(path, b'{"type": "mood"}\n')


@pytest.mark.parametrize("name", ["missing.jsonl", "."])
def test_a_path_without_a_file_is_refused(tmp_path, name):
    with pytest.raises(InputError, match=r"Pass the path of a record\.jsonl"):
        read_run(tmp_path / name)


@pytest.mark.parametrize("schema", [1, SCHEMA + 1, None, "<b>", [1]])
@pytest.mark.parametrize("kind", ["check", "observation", "alert", "event"])
def test_another_schema_is_refused_by_line(path, kind, schema):
    good = b'{"type": "event", "schema": %d, "event": "started"}\n' % SCHEMA
    text = refused(path, good + json.dumps({"type": kind, "schema": schema}).encode())
    assert "line 2" in text
    assert f"reads schema {SCHEMA}" in text


@pytest.mark.parametrize("step", ["Infinity", "NaN", "1e400", '"x"', "null", str(10**300)])
def test_a_step_that_is_none_is_refused_by_line(path, step):
    lines = written(path, (0, 10)).read_bytes()
    text = refused(path, lines.replace(b'"step": 10', b'"step": ' + step.encode()))
    assert "line 2" in text


def test_many_names_many_fingerprints_and_many_alerts_stay_few(path):
    sink = JsonlSink(path)
    for step in range(1200):
        body = check(step, 1, 1).layers["model.layers.0"]
        sink.check(check(step, 1, 1, layers={f"layer {step}": body}, fingerprint=str(step)))
        sink.alert(news("WARNING", "warn", step))
        sink.note(f"event {step}", {})
    sink.close()
    run = read_run(path)
    assert len(run.tracks) == 512
    assert run.unshown > 1000
    assert len(run.fingerprints) == 512
    assert (len(run.alerts), run.alerts.dropped) == (800, 400)
    assert [alert.step for alert in run.alerts][-1] == 1199
    assert len(run.happened) == 512
