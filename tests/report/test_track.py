"""Series over their baselines, and thinned."""

import numpy as np
import pytest

from sigma_monitor import Estimate
from sigma_monitor.report.track import Baseline, Track, over_baseline, thinned


def track(steps, values, half=0.0):
    made = Track()
    for step, value in zip(steps, values, strict=True):
        made.add(step, Estimate(value, value - half, value + half, "sampling"))
    return made


def test_a_resumed_run_cuts_what_it_repeats():
    made = track([0, 10, 20, 30], [1, 2, 3, 4])
    made.cut(20)
    assert (list(made.steps), list(made.values), len(made.lows)) == ([0, 10], [1, 2], 2)


def test_ratio_and_interval_are_in_units_of_the_baseline():
    found = over_baseline(track([0, 10], [50, 25], half=5), [Baseline(0, 50, "a")], [(0, "a")])
    assert list(found.values) == [1, 0.5]
    assert list(found.lows) == [0.9, 0.4]
    assert list(found.highs) == [1.1, 0.6]


def test_the_baseline_that_holds_is_the_latest_before():
    baselines = [Baseline(10, 10, "a"), Baseline(30, 20, "a")]
    found = over_baseline(track([0, 10, 20, 30, 40], [10] * 5), baselines, [(0, "a")])
    assert list(found.values) == [1, 1, 1, 0.5, 0.5]


def test_another_probe_set_is_never_compared():
    series = track([0, 10, 20, 30], [10] * 4)
    epochs = [(0, "a"), (10, "b"), (20, "c")]
    found = over_baseline(series, [Baseline(10, 5, "b"), Baseline(20, 10, "c")], epochs)
    assert list(found.steps) == [10, 20, 30]
    assert list(found.values) == [2, 1, 1]


def test_without_a_baseline_there_is_nothing():
    assert not over_baseline(track([0], [1]), [], [(0, "a")]).steps
    assert not over_baseline(Track(), [Baseline(0, 1, "a")], [(0, "a")]).steps


def test_a_short_series_is_drawn_as_it_is():
    curve = thinned(track([0, 1, 2], [1.0, np.nan, 3.0], half=1), 4)
    np.testing.assert_array_equal(curve.values, [1, np.nan, 3])
    np.testing.assert_array_equal(curve.lows, [0, np.nan, 2])
    assert list(curve.lost) == [1]
    assert not curve.thin


@pytest.mark.parametrize("place", [0, 17, 4_321, 9_999])
def test_a_dip_of_one_check_stays_when_thinned(place):
    values = np.full(10_000, 100.0)
    values[place] = 3.0
    curve = thinned(track(range(10_000), values, half=2), 50)
    assert curve.thin
    assert len(curve.steps) <= 100
    assert (np.diff(curve.steps) > 0).all()
    assert curve.values.min() == 3.0
    assert curve.steps[curve.values.argmin()] == place
    assert curve.lows.min() == 1.0
    assert curve.highs.max() == 102.0


def test_every_bucket_shows_its_lowest_and_highest():
    values = np.random.default_rng(0).normal(size=5_000)
    curve = thinned(track(range(5_000), values), 10)
    bounds = np.searchsorted(np.arange(5_000), np.linspace(0, 4_999, 11)[1:-1])
    expected = [x for part in np.split(values, bounds) for x in (part.min(), part.max())]
    assert sorted(curve.values) == sorted(expected)


def test_stretches_without_a_finite_reading_break_the_line():
    values = np.ones(1_000)
    values[300:500] = np.inf
    values[800] = np.nan
    curve = thinned(track(range(1_000), values), 20)
    assert np.isnan(curve.values).sum() >= 3
    assert curve.shown.max() == 1
    assert curve.lost.min() == 300
    assert curve.lost.max() == 800
    assert len(curve.lost) <= 20


def test_all_steps_far_apart_or_the_same_bucket():
    steps = [0, *range(10**9, 10**9 + 999)]
    curve = thinned(track(steps, [1.0] * 1_000), 10)
    assert list(curve.steps) == [0, 10**9]
