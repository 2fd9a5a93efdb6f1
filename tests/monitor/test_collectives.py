"""Every rank calls the same collectives in the same order: none of them is under a rank guard."""

from __future__ import annotations

import json

import pytest

from tests.monitor.collective_ranks import NAN_AT, ONSET, RAISES_AT, STEPS, work
from tests.processes import spawned


@pytest.mark.parametrize("world", [2, pytest.param(4, marks=pytest.mark.long)])
def test_checks_failures_a_resume_and_a_stop_are_the_same_meetings_on_all_ranks(world, tmp_path):
    spawned(world, work, tmp_path)
    first, *others = (
        json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(world)
    )
    for other in others:
        assert other == first
    places = {call.split(":")[0] for call in first["calls"]}
    assert {f"step {RAISES_AT}", f"step {NAN_AT}", f"step {ONSET}"} <= places
    assert first["failures"] == 1
    assert ONSET < first["stopped"] < STEPS
    assert first["reason"] is not None
    record = [json.loads(line) for line in (tmp_path / "run/sigma/record.jsonl").open()]
    events = [line["event"] for line in record if line["type"] == "event"]
    assert [events.count(name) for name in ("failed", "resumed", "closed")] == [1, 1, 2]
    (nan,) = [line for line in record if line["type"] == "check" and line["step"] == NAN_AT]
    assert nan["finite"] == 1 - 1 / world


def test_steps_without_a_check_are_without_collectives(tmp_path):
    """But for what was observed there, which is measured whenever it is given."""
    spawned(2, work, tmp_path)
    calls = json.loads((tmp_path / "rank0.json").read_text())["calls"]
    odd = {name for place, name in (call.split(": ") for call in calls) if place == "step 3"}
    assert odd == {"all_gather_object", "all_gather"}
