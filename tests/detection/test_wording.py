"""An alert as a person reads it."""

from dataclasses import replace
from typing import get_args

import pytest

from sigma_monitor.alert import Alert, AlertKind
from sigma_monitor.detection import worded

KINDS = get_args(AlertKind)
SEVERITIES = {"WARNING": "warn", "COLLAPSED": "error", "NONFINITE": "error", "VANISHED": "error"}


def alert(kind, **fields):
    return Alert(
        kind,
        SEVERITIES.get(kind, "info"),
        **{
            "step": 120,
            "check": 13,
            "layer": "last",
            "functional": "effective_rank",
            "convention": "centred token rows",
            "value": 24.0,
            "low": 23.0,
            "high": 25.0,
            "baseline": 40.0,
            "ratio": 0.6,
            "onset_step": 110,
            **fields,
        },
    )


@pytest.mark.parametrize("kind", KINDS)
def test_titles_are_short_and_the_same_for_every_alert_of_a_kind(kind):
    first = worded(alert(kind), loss=2.0, start_loss=1.0)
    second = worded(alert(kind, step=999, check=99, layer="3", value=1.0, ratio=0.02))
    assert first.title == second.title
    assert 0 < len(first.title) <= 64


@pytest.mark.parametrize("channel", ["representation", "observed"])
def test_every_kind_has_its_own_title(channel):
    titles = {worded(alert(kind, channel=channel)).title for kind in KINDS}
    assert len(titles) == len(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_titles_tell_monitors_and_rows_apart(kind):
    """W&B drops a second alert of one title within a minute."""
    told = [alert(kind, channel="observed", layer=rows) for rows in ("codebook", "projector")]
    titles = [worded(one, monitor=name).title for one in told for name in ("sigma", "student")]
    assert len({*titles}) == 4
    assert titles[0].startswith("sigma: ")
    assert titles[1].startswith("student: ")


@pytest.mark.parametrize("kind", KINDS)
def test_titles_of_long_names_keep_the_limit_and_what_happened(kind):
    told = alert(kind, channel="observed", layer="r" * 100)
    before, after = worded(replace(told, layer="Q")).title.split("Q")
    title = worded(told).title
    assert len(title) == 64
    assert title.startswith(f"{before}rrr")
    assert title.endswith(f"r…{after}")
    assert 0 < len(worded(told, monitor="m" * 100).title) <= 64


@pytest.mark.parametrize("kind", KINDS)
def test_the_text_says_what_and_when_and_the_numbers_stay(kind):
    before = alert(kind)
    after = worded(before)
    assert after.text.startswith(f"{kind} at step 120 (check 13). ")
    assert replace(after, title="", text="", advice="") == before


@pytest.mark.parametrize("kind", ["WARNING", "COLLAPSED", "NONFINITE", "VANISHED"])
def test_what_is_wrong_comes_with_advice(kind):
    assert worded(alert(kind)).advice


def test_a_warning_names_functional_layer_value_interval_baseline_ratio_and_onset():
    text = worded(alert("WARNING")).text
    for part in (
        "Effective rank of centred token rows",
        "layer last",
        "24 [23, 25]",
        "60%",
        "baseline 40",
        "since step 110",
    ):
        assert part in text


def test_the_floor_is_named_instead_of_a_baseline():
    floored = alert("COLLAPSED", value=1.2, baseline=None, ratio=None, floor=2.0)
    text = worded(floored).text
    assert "floor of 2" in text
    assert "baseline" not in text


def test_held_out_loss_is_told_beside_what_it_was():
    text = worded(alert("WARNING"), loss=4.25, start_loss=2.5).text
    assert "4.25 nats" in text
    assert "2.5 at its baseline" in text
    assert "loss" not in worded(alert("WARNING"), loss=4.25).text


@pytest.mark.parametrize("kind", ["NONFINITE", "VANISHED"])
def test_what_has_no_value_is_worded_without_one(kind):
    text = worded(alert(kind, value=None, low=None, high=None, ratio=None, onset_step=None)).text
    assert "layer last" in text
    assert "None" not in text
