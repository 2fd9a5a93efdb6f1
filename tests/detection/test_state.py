"""A detector goes on from its state as if nothing had happened."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sigma_monitor.detection import Detector
from sigma_monitor.errors import RecordError
from tests.detection.series import LEVEL, feed, healthy, levels

# Stretches at a level with noise, long enough that every status is reached, and missing values.
CHECKS = st.tuples(st.sampled_from([1.0, 0.95, 0.75, 0.6, 0.3, 0.03]), st.floats(-0.05, 0.05))
VALUES = st.one_of(
    CHECKS.map(lambda check: LEVEL + math.log(check[0]) + check[1]),
    st.sampled_from([math.nan, math.inf, -math.inf]),
)
STRETCHES = st.lists(st.tuples(VALUES, st.integers(1, 15)), min_size=1, max_size=12)
OPTIONS = st.sampled_from(
    [
        {"baseline": "plateau", "warmup_checks": 3, "baseline_checks": 6},
        {"baseline": "plateau", "warmup_steps": 9, "warmup_checks": 3, "baseline_checks": 6},
        {"baseline": "start"},
        {"baseline": "start", "expected_checks": 20, "floor": 5.0},
        {"baseline": "start", "preset": "quiet", "expected_checks": 20, "fast_window": 7},
        {"baseline": "none", "floor": 2.0},
    ]
)


@given(
    stretches=STRETCHES,
    options=OPTIONS,
    cut=st.floats(0, 1),
    stderr=st.none() | st.floats(0, 0.05),
)
def test_a_state_kept_as_json_changes_nothing_afterwards(stretches, options, cut, stderr):
    series = [value for value, checks in stretches for _ in range(checks)]
    unbroken = Detector(**options)
    resumed = Detector()  # the state brings its own kind and thresholds
    cut = round(cut * len(series))
    for step, value in enumerate(series):
        if step == cut:
            state = unbroken.state_dict()
            resumed.load_state_dict(json.loads(json.dumps(state, allow_nan=False)))
            assert resumed.state_dict() == state
        unbroken.update(step, value, stderr)
        if step >= cut:
            resumed.update(step, value, stderr)
            assert resumed.alerts == unbroken.alerts
            assert resumed.ratio == unbroken.ratio
            assert resumed.state_dict() == unbroken.state_dict()


@pytest.fixture
def alarmed():
    detector = Detector(baseline="start")
    feed(detector, healthy(20) + levels((0.6, 20)) + [math.nan])
    return detector


def test_a_state_shares_nothing_with_its_detector(alarmed):
    state = alarmed.state_dict()
    written = json.dumps(state)
    feed(alarmed, levels((0.1, 20)))
    assert json.dumps(state) == written
    other = Detector(baseline="plateau")
    feed(other, levels((1.0, 10)))
    state = other.state_dict()
    written = json.dumps(state)
    resumed = Detector()
    resumed.load_state_dict(state)
    feed(resumed, levels((1.0, 10)))
    assert json.dumps(state) == written


def test_loading_clears_the_alerts_of_the_last_update(alarmed):
    assert alarmed.alerts != []
    alarmed.load_state_dict(alarmed.state_dict())
    assert alarmed.alerts == []


STATE = Detector(baseline="start").state_dict()


@pytest.mark.parametrize("name", sorted(STATE))
def test_a_missing_field_is_refused_and_nothing_changed(alarmed, name):
    before = alarmed.state_dict()
    with pytest.raises(RecordError, match=name):
        alarmed.load_state_dict({key: value for key, value in STATE.items() if key != name})
    assert alarmed.state_dict() == before


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rule", {**STATE["rule"], "status": "ASLEEP"}),
        ("rule", {**STATE["rule"], "onset_step": "early"}),
        ("rule", {**STATE["rule"], "finding": {"status": "ASLEEP"}}),
        ("rule", {"status": "HEALTHY"}),
        ("asked", {"colour": 1}),
        ("asked", {"collapsed": 1.5}),
        ("expected_checks", "many"),
        ("expected_checks", math.inf),
        ("last_step", "late"),
        ("checks", math.inf),
        ("baseline", {"kind": "start"}),
        ("points", ["low"]),
        ("points", None),
        ("unmeasured_in_a_row", "none"),
        ("checks", "many"),
        ("kind", "middle"),
        ("episode", {"told": "HEALTHY"}),
        ("gaps", {"changes": ["x"], "muted": False}),
    ],
)
def test_a_malformed_field_is_refused_and_nothing_changed(alarmed, name, value):
    before = alarmed.state_dict()
    with pytest.raises(RecordError, match="not a state of Detector"):
        alarmed.load_state_dict({**STATE, name: value})
    assert alarmed.state_dict() == before


def test_the_thresholds_of_now_win_on_a_resume_in_the_windows_of_the_run():
    saved = Detector(baseline="start", expected_checks=20, collapsed=0.4, preset="quiet")
    feed(saved, healthy(5))
    resumed = Detector(collapsed=0.6, warning_fast=0.75, fast_window=4)
    resumed.resume(json.loads(json.dumps(saved.state_dict())))
    expected = Detector(expected_checks=20, collapsed=0.6, warning_fast=0.75, fast_window=4)
    assert resumed.thresholds == expected.thresholds
    assert resumed.baseline == saved.baseline
