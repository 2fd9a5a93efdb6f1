"""Thresholds: what is refused, how windows follow the length of the run, what the gate lets by."""

import math
from dataclasses import replace

import numpy as np
import pytest

from sigma_monitor.detection import Detector, Thresholds
from sigma_monitor.detection.rule import mean_variance
from sigma_monitor.errors import InputError

SERIES = 20_000
# Of a variance (or its root) estimated from that many series: four standard errors.
MONTE_CARLO = 4 * math.sqrt(2 / SERIES)


def ar1(checks, phi, seed=0):
    """(SERIES, checks) stationary series of unit variance."""
    rng = np.random.default_rng(seed)
    fresh = math.sqrt(1 - phi**2) * rng.standard_normal((SERIES, checks))
    series = np.empty_like(fresh)
    series[:, 0] = rng.standard_normal(SERIES)
    for i in range(1, checks):
        series[:, i] = phi * series[:, i - 1] + fresh[:, i]
    return series


@pytest.mark.parametrize("phi", [0.0, 0.5, 0.9, 0.98])
@pytest.mark.parametrize("n", [1, 5, 20])
def test_mean_variance_is_that_of_simulated_series(n, phi):
    simulated = ar1(n, phi).mean(axis=1).var()
    assert mean_variance(n, phi) == pytest.approx(simulated, rel=MONTE_CARLO)


@pytest.mark.parametrize("n", [1, 2, 9])
def test_mean_variance_of_independent_and_of_constant_series(n):
    assert mean_variance(n, 0.0) == pytest.approx(1 / n)
    assert mean_variance(n, 1.0) == pytest.approx(1.0)


@pytest.mark.parametrize("phi", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("window", [3, 5, 9])
def test_the_gate_is_as_many_noise_widths_as_it_says(window, phi):
    rule = Thresholds(noise_multiple=1.0)
    difference = np.median(ar1(window, phi, seed=1), axis=1) - np.median(ar1(20, phi), axis=1)
    width = rule.noise_gate(1.0, phi, window, 20)
    # π/2 is the factor of a long independent series; of short or correlated ones it is nearer 1.
    assert math.sqrt(2 / math.pi) * (1 - MONTE_CARLO) <= difference.std() / width
    assert difference.std() / width <= 1 + MONTE_CARLO


def test_the_gate_grows_with_noise_and_an_exact_baseline_adds_none():
    rule = Thresholds()
    assert rule.noise_gate(0.0, 0.8, 5, 20) == 0.0
    assert rule.noise_gate(0.02, 0.8, 5, 20) == pytest.approx(2 * rule.noise_gate(0.01, 0.8, 5, 20))
    assert rule.noise_gate(0.01, 0.8, 5, 0) == pytest.approx(
        5 * 0.01 * math.sqrt(1.57 * mean_variance(5, 0.8))
    )


@pytest.mark.parametrize("expected", [None, 350, 500, 10**6])
def test_long_runs_have_the_windows_of_the_table(expected):
    assert Thresholds.of(expected_checks=expected) == Thresholds()


def test_windows_shrink_with_the_run_and_ratios_do_not():
    rules = [Thresholds.of(expected_checks=n) for n in (20, 50, 100, 200)]
    windows = [
        "warmup_checks",
        "baseline_checks",
        "slow_window",
        "fast_window",
        "collapsed_patience",
        "recovered_patience",
        "floor_patience",
        "trend_window",
        "trend_spacing",
        "trend_horizon",
    ]
    for name in windows:
        lengths = [getattr(rule, name) for rule in rules]
        assert lengths == sorted(lengths)
        assert lengths[-1] == getattr(Thresholds(), name)
    for rule in rules:
        assert rule.fast_window <= rule.slow_window
        for name in ("warning_slow", "warning_fast", "collapsed", "recovered", "noise_multiple"):
            assert getattr(rule, name) == getattr(Thresholds(), name)


@pytest.mark.parametrize("expected", [20, 50, 100, 500])
def test_the_baseline_is_there_in_time_to_be_of_use(expected):
    rule = Thresholds.of(expected_checks=expected)
    soonest = rule.warmup_checks + rule.baseline_checks
    assert soonest <= 0.4 * expected
    assert soonest + rule.plateau_limit <= 0.65 * expected


WINDOWS = [
    "slow_window",
    "fast_window",
    "trend_window",
    "trend_spacing",
    "collapsed_patience",
    "recovered_patience",
]


@pytest.mark.parametrize("expected", [5, 20, 60, 200])
@pytest.mark.parametrize("name", WINDOWS)
@pytest.mark.parametrize("value", [3, 7, 9, 20])
def test_a_window_that_is_given_is_taken_as_it_is(expected, name, value):
    others = {"fast_window": 3} if (name, value) == ("slow_window", 3) else {}
    others |= {"trend_spacing": 2} if name == "trend_window" else {}
    others |= {"slow_window": 20} if (name, value) == ("fast_window", 20) else {}
    rule = Thresholds.of(expected_checks=expected, **{name: value}, **others)
    assert getattr(rule, name) == value


def test_a_scaled_window_makes_room_for_a_given_one():
    assert Thresholds.of(expected_checks=20, fast_window=7).slow_window == 7
    assert Thresholds.of(expected_checks=20, trend_spacing=20).trend_window == 20
    assert Thresholds.of(expected_checks=20).slow_window == 3


def test_the_windows_of_a_preset_follow_the_run_too():
    assert Thresholds.of("quiet").collapsed_patience == 8
    assert Thresholds.of("quiet", expected_checks=20).collapsed_patience == 2


RATIOS = [
    "warning_slow",
    "warning_fast",
    "warning_trend",
    "trend_target",
    "collapsed",
    "recovered",
]
COUNTS = [
    "collapsed_patience",
    "recovered_patience",
    "floor_patience",
    "slow_window",
    "fast_window",
    "baseline_checks",
    "trend_window",
    "trend_spacing",
    "trend_horizon",
    "no_data_after",
    "reminder_checks",
    "flapping_transitions",
    "flapping_checks",
]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, value) for name in RATIOS for value in (0, 1, -0.5, 1.5, math.nan)),
        *((name, value) for name in COUNTS for value in (0, -3)),
        ("collapsed", 0.75),  # above warning_fast
        ("warning_fast", 0.81),  # above warning_slow
        ("warning_slow", 0.88),  # at recovered: an alert would end as it begins
        ("recovered", 0.79),
        ("slow_window", 2.5),
        ("fast_window", 12),  # longer than the slow one, and so than what is kept
        ("trend_spacing", 31),  # longer than the window of the trend
        ("trend_target", 0.9),  # at warning_trend: a level, not a trend
        ("noise_multiple", math.nan),  # no drop would ever pass the gate
        ("floor", 0.0),  # has no logarithm
        ("floor", -2.0),
        ("floor", math.nan),
    ],
)
def test_a_bad_threshold_is_refused_and_named_with_its_value(name, value):
    with pytest.raises(InputError) as refused:
        Detector(**{name: value})
    assert name in str(refused.value)
    assert str(value) in str(refused.value)


def test_an_unknown_threshold_is_refused_and_the_known_ones_listed():
    with pytest.raises(InputError, match="colapsed") as refused:
        Detector(colapsed=0.4)
    assert all(name in str(refused.value) for name in Thresholds.__dataclass_fields__)


@pytest.mark.parametrize("baseline", ["begin", "", None, 3])
def test_an_unknown_baseline_is_refused(baseline):
    with pytest.raises(InputError, match=f"baseline={baseline!r}"):
        Detector(baseline=baseline)


@pytest.mark.parametrize("ratio", [0.01, 0.3, 0.5, 0.75, 0.87])
def test_collapsing_at_keeps_the_levels_in_order(ratio):
    rule = Thresholds().collapsing_at(ratio)
    assert rule.collapsed == ratio
    assert rule.warning_fast == max(ratio, 0.70)
    assert rule.warning_slow == max(ratio, 0.80)


@pytest.mark.parametrize("ratio", [0.0, -1.0, 0.88, 1.0, 40.0, math.nan])
def test_a_collapse_ratio_without_room_for_recovery_is_refused(ratio):
    with pytest.raises(InputError, match=f"collapse ratio {ratio!r}"):
        Thresholds().collapsing_at(ratio)


@pytest.mark.parametrize("preset", ["default", "sensitive", "quiet"])
def test_presets_are_whole_rules_that_own_thresholds_win_over(preset):
    rule = Thresholds.of(preset)
    assert Thresholds.of(preset, slow_window=11) == replace(rule, slow_window=11)
    assert Detector(preset=preset).thresholds == rule
    assert (rule == Thresholds()) is (preset == "default")


def test_presets_are_ordered_from_quiet_to_sensitive():
    quiet, default, sensitive = (Thresholds.of(p) for p in ("quiet", "default", "sensitive"))
    for name in ("warning_slow", "warning_fast", "collapsed", "recovered"):
        assert getattr(quiet, name) < getattr(default, name) < getattr(sensitive, name)
    assert quiet.noise_multiple > default.noise_multiple > sensitive.noise_multiple


@pytest.mark.parametrize("preset", ["loud", "", None])
def test_an_unknown_preset_is_refused(preset):
    with pytest.raises(InputError, match=f"preset={preset!r}.*default, sensitive, quiet"):
        Thresholds.of(preset)
