"""A fall that is not there yet, a rise, and when an excursion began."""

import pytest

from sigma_monitor.alert import Status
from sigma_monitor.detection import Detector
from sigma_monitor.detection.onset import onset
from tests.detection.series import LEVEL, feed, first_at, kinds, levels, statuses

ONSET = 60


def falling(checks, rate, *, spacing=1, onset=ONSET):
    """Steps and values without noise: level until `onset`, then `rate` nats a check."""
    return [(i * spacing, LEVEL + rate * max(0, i - onset)) for i in range(checks)]


def told(points, **options):
    """The alerts of the series but for its baseline."""
    detector = Detector(baseline="start", **options)
    alerts = []
    for step, value in points:
        detector.update(step, value)
        alerts += detector.alerts
    return [alert for alert in alerts if alert.kind != "BASELINE"]


each_side = pytest.mark.parametrize(("sign", "side"), [(1, "contraction"), (-1, "expansion")])


@each_side
@pytest.mark.parametrize("spacing", [1, 40])
def test_a_fall_is_told_before_its_level_by_the_line_through_it(sign, side, spacing):
    points = falling(ONSET + 60, sign * -0.01, spacing=spacing)
    first, by_level = told(points)[0], told(points, trend=False)[0]
    # The median of five is at 0.90 after 11 checks and two more, that of nine at 0.80 after 23 + 4.
    assert 13 <= first.step / spacing - ONSET < by_level.step / spacing - ONSET == 27
    assert (first.kind, first.side, first.severity) == ("WARNING", side, "warn")
    assert by_level.forecast is None


@each_side
@pytest.mark.parametrize("spacing", [1, 40])
def test_the_forecast_of_a_straight_line_is_exact(sign, side, spacing):
    first = told(falling(40, sign * -0.0065, spacing=spacing, onset=0))[0]
    assert first.step == 29 * spacing  # the window of thirty checks is full
    # log 0.65 is -0.4308: reached after 66.3 checks.
    target = {"contraction": "65%", "expansion": "154%"}[side]
    step = round(0.430783 / 0.0065 * spacing)
    assert first.forecast == f"at its present pace {target} of its baseline about step {step}"


@pytest.mark.parametrize(("horizon", "expected"), [(37, []), (38, ["WARNING"])])
def test_a_fall_that_ends_beyond_the_horizon_is_no_trend(horizon, expected):
    """After 29 checks it has 37.3 more to go."""
    alerts = told(falling(30, -0.0065, onset=0), trend_horizon=horizon)
    assert kinds(alerts) == expected


def test_a_trend_needs_the_whole_window_and_a_real_drop():
    assert told(falling(29, -0.0065, onset=0)) == []
    # 0.0036 nats a check are 0.104 after 29: the median of five is above 0.90.
    assert told(falling(31, -0.0036, onset=0), trend_horizon=500) == []
    assert kinds(told(falling(34, -0.0036, onset=0), trend_horizon=500)) == ["WARNING"]


def test_a_trend_without_steps_between_its_checks_is_none():
    assert told([(7, value) for _, value in falling(34, -0.0065, onset=0)]) == []


def test_a_trend_that_ends_recovers():
    detector = Detector(baseline="start")
    slide = [LEVEL - 0.0065 * min(i, 28) for i in range(29)]
    alerts = feed(detector, slide + [LEVEL - 0.19] * 3 + [LEVEL - 0.05] * 60)
    assert kinds(alerts) == ["BASELINE", "WARNING", "RECOVERED"]


@pytest.mark.parametrize(("ratio", "soonest"), [(1.26, 4), (1.45, 2)])
def test_a_rise_by_the_inverse_ratios_is_a_warning_worded_as_expansion(ratio, soonest):
    found = statuses(Detector(baseline="start"), levels((1.0, 20), (ratio, 20)))
    assert first_at(found, Status.WARNING, 20) == soonest
    alert = feed(Detector(baseline="start"), levels((1.0, 20), (ratio, 20)))[1]
    assert (alert.kind, alert.side, alert.onset_step) == ("WARNING", "expansion", 20)
    assert alert.ratio == pytest.approx(ratio)


def test_a_rise_is_never_a_collapse_and_can_be_switched_off():
    series = levels((1.0, 20), (100.0, 200))
    assert max(statuses(Detector(baseline="start"), series)) is Status.WARNING
    assert max(statuses(Detector(baseline="start", expansion=False), series)) is Status.HEALTHY


def test_a_rise_recovers_with_the_mirrored_hysteresis():
    detector = Detector(baseline="start")
    feed(detector, levels((1.0, 20), (1.5, 20)))
    assert kinds(feed(detector, levels((1.15, 60)))) == []  # above 1 / 0.88
    assert kinds(feed(detector, levels((1.13, 20)))) == ["RECOVERED"]


def test_a_rise_that_turns_into_a_fall_is_one_episode_of_the_other_side():
    detector = Detector(baseline="start")
    series = levels((1.0, 20), (1.5, 20), (0.6, 20), (0.3, 20))
    alerts = feed(detector, series)[1:]
    assert kinds(alerts) == ["WARNING", "WARNING", "COLLAPSED"]
    assert [alert.side for alert in alerts] == ["expansion", "contraction", "contraction"]
    assert [alert.onset_step for alert in alerts[1:]] == [40, 40]


def test_a_collapse_that_turns_into_a_rise_recovers_before_the_rise_is_told():
    detector = Detector(baseline="start")
    alerts = feed(detector, levels((1.0, 20), (0.3, 20), (1.4, 90)))[1:]
    # A fourth change within a hundred checks is held back until the first one is so long ago.
    assert kinds(alerts) == ["WARNING", "COLLAPSED", "RECOVERED", "FLAPPING", "WARNING"]
    assert alerts[-1].side == "expansion"
    # Five of the slow window's nine, and ten in a row.
    assert [alert.step for alert in alerts[2:4]] == [40 + 4 + 9, 40 + 4 + 10]


def test_the_onset_is_the_lowest_point_of_the_sum_by_hand():
    steps = [10, 20, 30, 40, 50]
    # Less a slack of 0.1 each: 0, -0.1, -0.12, 0.08, 0.28, 0.48 before and after the checks.
    assert onset(steps, [0.0, 0.08, 0.3, 0.3, 0.3], 0.3) == 30
    # A slack of 0.05 lets the small move before count: -0.05, -0.02, 0.23, ...
    assert onset(steps, [0.0, 0.08, 0.3, 0.3, 0.3], 0.1) == 20
    assert onset(steps, [0.3] * 5, 0.3) == 10  # it is older than what is known
    assert onset(steps, [0.0] * 4 + [9.0], 0.3) == 50
    assert onset(steps, [0.0, 9.0, 0.0, 0.0, 0.6], 0.6) == 50  # an outlier counts half a nat


@pytest.mark.parametrize("healthy", [0.0, 0.06, 0.1])
def test_a_healthy_drift_before_is_not_the_onset(healthy):
    series = [LEVEL] * 5 + [LEVEL - healthy] * 20 + [LEVEL - 0.5] * 20
    alert = feed(Detector(baseline="start"), series)[1]
    assert (alert.kind, alert.onset_step) == ("WARNING", 25)


def test_the_onset_of_an_episode_stays():
    detector = Detector(baseline="start")
    alerts = feed(detector, levels((1.0, 20), (0.6, 60), (0.3, 300)))
    assert {alert.onset_step for alert in alerts if alert.kind != "BASELINE"} == {20}
    assert kinds(feed(detector, levels((1.0, 50)), first=380)) == ["RECOVERED"]
    assert detector.onset_step is None
