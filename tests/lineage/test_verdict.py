"""Ratios in, a status and a sentence out."""

from __future__ import annotations

import numpy as np
import pytest

from sigma_monitor import Status
from sigma_monitor.errors import InputError
from sigma_monitor.lineage.measure import Measurement
from sigma_monitor.lineage.verdict import Limits, judge
from sigma_monitor.lineage.watched import Watched


def measured(spread=0.0, **values):
    """Values whose leave-one-out logarithms spread by so much."""
    noise = np.exp(spread * np.array([-1.0, 1.0, -1.0, 1.0]))
    watched = {name: Watched(value, value * noise) for name, value in values.items()}
    return Measurement(4, 3, None, None, watched)


def verdict(found, before=None, **limits):
    before = before or measured(**dict.fromkeys(found.watched, 10.0))
    return judge(3, found, before, "control", limits=Limits(**limits), confidence=0.95)


@pytest.mark.parametrize(
    ("name", "value", "status"),
    [
        ("effective_rank", 10, Status.HEALTHY),
        ("effective_rank", 8.1, Status.HEALTHY),
        ("effective_rank", 8.0, Status.WARNING),
        ("effective_rank", 5.1, Status.WARNING),
        ("effective_rank", 5.0, Status.COLLAPSED),
        ("effective_rank", 12.4, Status.HEALTHY),
        ("effective_rank", 12.5, Status.WARNING),
        ("effective_rank", 99, Status.WARNING),
        ("distinct_2", 5.0, Status.COLLAPSED),
        ("distinct_2", 0, Status.COLLAPSED),
        ("within_share", 5.0, Status.COLLAPSED),
        ("participation_ratio", 8.0, Status.WARNING),
        ("participation_ratio", 1.0, Status.WARNING),
    ],
)
def test_limits_are_two_sided_and_the_participation_ratio_warns_only(name, value, status):
    found = verdict(measured(**{name: value}))
    assert found.status is status
    assert [f.side for f in found.findings] == (
        [] if status is Status.HEALTHY else ["expansion" if value > 10 else "contraction"]
    )


def test_a_ratio_that_noise_could_explain_is_no_finding():
    assert verdict(measured(effective_rank=4)).status is Status.COLLAPSED
    assert verdict(measured(spread=0.5, effective_rank=4)).status is Status.HEALTHY
    assert verdict(measured(spread=0.5, effective_rank=20)).status is Status.HEALTHY


def test_the_worst_finding_is_the_status_and_all_are_told():
    found = verdict(measured(effective_rank=7, distinct_2=4, participation_ratio=14))
    assert found.status is Status.COLLAPSED
    assert {(f.measure, f.side, f.status.name) for f in found.findings} == {
        ("effective_rank", "contraction", "WARNING"),
        ("distinct_2", "contraction", "COLLAPSED"),
        ("participation_ratio", "expansion", "WARNING"),
    }
    assert found.text == (
        "Generation 3 is COLLAPSED: effective rank 0.70 [0.70, 0.70], "
        "distinct-2 0.40 [0.40, 0.40], participation ratio 1.40 [1.40, 1.40] times the control's."
    )


def test_limits_can_be_set():
    assert verdict(measured(effective_rank=8.5), warning=0.9).status is Status.WARNING
    assert verdict(measured(effective_rank=6), collapsed=0.6).status is Status.COLLAPSED


@pytest.mark.parametrize("limits", [{"warning": 1.0}, {"collapsed": 0}, {"collapsed": 0.9}])
def test_limits_that_are_none_are_refused(limits):
    with pytest.raises(InputError, match="0 < collapsed < warning < 1"):
        Limits(**limits)


def test_what_only_one_side_has_is_not_compared():
    found = verdict(measured(effective_rank=10), before=measured(distinct_2=10))
    assert (found.ratios, found.status) == ({}, Status.HEALTHY)
