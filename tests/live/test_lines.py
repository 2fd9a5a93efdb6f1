"""A line for each thing that a record gets, for people and for programs."""

from __future__ import annotations

import io
import json

import pytest

from sigma_monitor import Estimate
from sigma_monitor.errors import RecordError
from sigma_monitor.live.lines import JsonLines, Lines, interval, number
from sigma_monitor.live.seen import Seen
from sigma_monitor.snapshot import SCHEMA
from tests.live.records import CLEAR, check
from tests.snapshots import alert, observation


def printed(kind, held, lines=Lines):
    out = io.StringIO()
    lines(out).take(kind, held)
    return out.getvalue()


def test_a_check_is_one_line():
    assert printed("check", check(1200, 0.9)) == (
        "step 1,200  check 2  HEALTHY  last: rank 36 [32.4, 39.6]  ratio 0.9  held-out loss 2.5  "
        "overhead 0.75%\n"
    )


def test_a_check_without_ratio_loss_and_overhead_is_shorter():
    line = printed("check", check(0, None, loss=None, overhead=None, finite=0.5))
    assert line == "step 0  check 2  WARMUP  last: rank 40 [36, 44]  finite 0.5\n"


def test_what_the_model_writes_is_in_the_line():
    line = printed("check", check(0, generation={"effective_rank": Estimate.exact(7.25)}))
    assert "  generation: rank 7.25  " in line


def test_an_observation_is_one_line():
    line = printed("observation", observation(10))
    assert line == "step 10  observation 2  HEALTHY  codebook: rank 40 [35, 46]  ratio 0.97\n"


def test_an_alert_has_its_advice_below():
    assert printed("alert", alert().to_dict()) == (
        "[sigma: representations are contracting] WARNING at step 10 (check 2).\n"
        "    Look at the learning rate.\n"
    )


def test_an_event_is_its_name_and_what_is_short():
    event = {"schema": SCHEMA, "event": "resumed", "step": 1500, "lost": {"x": 1}, "why": None}
    assert printed("event", event) == "resumed: step 1,500\n"
    assert printed("event", {"schema": SCHEMA, "event": "baseline", "baselines": {}}) == ""


@pytest.mark.parametrize(
    ("kind", "held"),
    [
        ("check", check(0, layers={CLEAR: {"effective_rank": Estimate.exact(1.0)}})),
        ("alert", alert(title=CLEAR, text=CLEAR, advice=CLEAR).to_dict()),
        ("event", {"event": CLEAR, "error": CLEAR}),
        ("event", {"event": "failed", CLEAR: CLEAR}),
    ],
)
@pytest.mark.parametrize("lines", [Lines, JsonLines])
def test_nothing_of_the_data_moves_the_cursor(kind, held, lines):
    text = printed(kind, held, lines)
    assert "second line" in text
    assert [c for c in text.replace("\n", "") if not c.isprintable()] == []
    assert text.count("\n") <= (2 if kind == "alert" else 1)


def test_json_is_what_the_record_holds():
    snapshot = check(10)
    body = json.loads(printed("check", snapshot, JsonLines))
    assert body == {"type": "check", **json.loads(json.dumps(snapshot.to_dict()))}
    assert json.loads(printed("event", {"event": "closed"}, JsonLines)) == {
        "type": "event",
        "event": "closed",
    }


def test_json_says_when_it_waits_and_begins_anew(tmp_path):
    out = io.StringIO()
    seen = Seen(tmp_path / "record.jsonl")
    JsonLines(out).waiting(seen)
    JsonLines(out).anew(seen)
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [(line["type"], line["event"]) for line in lines] == [
        ("watch", "waiting"),
        ("watch", "anew"),
    ]
    assert {line["record"] for line in lines} == {str(tmp_path / "record.jsonl")}


def test_a_number_that_json_does_not_know_is_refused():
    with pytest.raises(RecordError, match="a line of type event has a number that JSON does not"):
        printed("event", {"event": "failed", "value": float("nan")}, JsonLines)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (1e300, "1e+300"),
        (10**20, "100,000,000,000,000,000,000"),
        (float("-inf"), "-inf"),
        (1234.5, "1,234"),
        (0.12345, "0.123"),
        (-2, "-2"),
        (True, "True"),
        ("a\x1b", "a "),
        (None, "None"),
    ],
)
def test_numbers_are_short_and_others_as_they_are(value, shown):
    assert number(value) == shown


def test_an_exact_value_has_no_interval():
    assert interval(Estimate.exact(3.0)) == ""
    assert interval(Estimate(3.0, 2.0, 4.5, "sampling")) == "[2, 4.5]"
