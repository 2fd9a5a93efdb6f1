"""One alert per episode and severity: rising, recovering, flapping, floors, missing values."""

import math

import pytest

from sigma_monitor.alert import Status
from sigma_monitor.detection import Detector, Episode, Thresholds
from sigma_monitor.errors import InputError
from tests.detection.series import LEVEL, feed, kinds, levels, noise, statuses


def started(**thresholds):
    """A detector with its baseline, ten healthy checks behind it."""
    detector = Detector(baseline="start", **thresholds)
    assert kinds(feed(detector, levels((1.0, 10)))) == ["BASELINE"]
    return detector


def test_warning_rising_to_collapsed_tells_both_and_recovery_ends_the_episode():
    detector = started()
    alerts = feed(detector, levels((0.6, 50), (0.3, 50), (1.0, 50), (0.6, 50)), first=10)
    assert kinds(alerts) == ["WARNING", "COLLAPSED", "RECOVERED", "WARNING"]
    assert [alert.severity for alert in alerts] == ["warn", "error", "info", "warn"]
    # Three of five low; as many again and five in a row; five of nine and ten in a row.
    assert [alert.step for alert in alerts] == [12, 60 + 2 + 4, 110 + 4 + 9, 160 + 2]
    assert [alert.check for alert in alerts] == [alert.step + 1 for alert in alerts]
    assert [alert.onset_step for alert in alerts] == [10, 10, None, 160]


def test_a_sudden_collapse_tells_warning_and_collapsed_once_each():
    detector = started()
    assert kinds(feed(detector, levels((0.1, 500)))) == ["WARNING", "COLLAPSED"]
    assert detector.status is Status.COLLAPSED


def test_collapsed_falls_back_by_recovery_only():
    detector = started()
    feed(detector, levels((0.3, 20)))
    assert kinds(feed(detector, levels((0.6, 50), (0.3, 50), (0.87, 200)))) == []
    assert detector.status is Status.COLLAPSED
    assert kinds(feed(detector, levels((0.89, 20)))) == ["RECOVERED"]
    assert detector.status is Status.HEALTHY


@pytest.mark.parametrize("ratio", [0.81, 0.87])
def test_between_warning_and_recovery_nothing_changes(ratio):
    healthy, warned = started(trend=False), started()
    feed(warned, levels((0.6, 10)))
    for detector in (healthy, warned):
        before = detector.status
        assert kinds(feed(detector, levels((ratio, 300)))) == []
        assert detector.status is before


def test_recovery_wants_ten_checks_in_a_row():
    detector = started()
    feed(detector, levels((0.6, 20)))
    # Five of nine up are enough for one check; a relapse of five begins the count anew.
    for _ in range(20):
        assert kinds(feed(detector, levels((1.0, 9), (0.6, 5)))) == []
    assert detector.status is Status.WARNING
    assert kinds(feed(detector, levels((1.0, 14)))) == ["RECOVERED"]


@pytest.mark.parametrize("threshold", [0.70, 0.80])
def test_flapping_around_a_warning_level_is_told_once(threshold):
    detector = started()
    flapping = levels(*[(threshold - 0.01, 7), (threshold + 0.01, 7)] * 50)
    assert kinds(feed(detector, flapping)) == ["WARNING"]


def test_noise_around_the_warning_level_is_told_once():
    for seed in range(20):
        detector = started()
        series = [LEVEL + math.log(0.78) + x for x in noise(500, sigma=0.05, seed=seed)]
        assert kinds(feed(detector, series)) == ["WARNING"]


def test_flapping_around_the_collapse_level_is_told_once():
    detector = started()
    alerts = feed(detector, levels(*[(0.49, 12), (0.55, 12)] * 20))
    assert kinds(alerts) == ["WARNING", "COLLAPSED"]


def test_an_alert_carries_value_baseline_ratio_and_place():
    detector = started()
    alert = feed(detector, levels((0.6, 5)), first=100)[0]
    assert (alert.kind, alert.step, alert.check, alert.onset_step) == ("WARNING", 102, 13, 100)
    assert alert.value == pytest.approx(24.0)
    assert alert.baseline == pytest.approx(40.0)
    assert alert.ratio == pytest.approx(0.6)


def test_alerts_are_those_of_the_last_update():
    detector = started()
    assert detector.alerts == []
    detector.update(10, math.nan)
    assert kinds(detector.alerts) == ["NONFINITE"]
    detector.update(11, LEVEL)
    assert detector.alerts == []


MISSING = [("NONFINITE", math.nan), ("NONFINITE", math.inf), ("VANISHED", -math.inf)]
each_missing = pytest.mark.parametrize(("kind", "value"), MISSING)


@each_missing
def test_a_missing_value_is_told_at_once_and_once_per_episode(kind, value):
    detector = started()
    alerts = feed(detector, [value] * 30 + levels((1.0, 5)) + [value] * 30, first=10)
    assert [(alert.kind, alert.step) for alert in alerts] == [(kind, 10), (kind, 45)]
    assert {alert.severity for alert in alerts} == {"error"}


@each_missing
@pytest.mark.parametrize("baseline", ["start", "plateau", "none"])
def test_missing_values_never_enter_the_series(kind, value, baseline):
    series = levels((1.0, 60), (0.6, 6), (0.3, 20), (1.0, 30))
    plain, broken = (Detector(baseline=baseline) for _ in range(2))
    for step, x in enumerate(series):
        plain.update(4 * step, x)
        for gap in range(step % 4):
            broken.update(4 * step - 3 + gap, value)
        broken.update(4 * step, x)
        assert broken.status is plain.status
        assert broken.ratio == plain.ratio
    states = plain.state_dict(), broken.state_dict()
    assert states[0].pop("checks") < states[1].pop("checks")
    assert states[0].pop("gaps") != states[1].pop("gaps")
    assert states[0] == states[1]


@each_missing
def test_missing_values_in_a_row_are_counted(kind, value):
    detector = Detector(baseline="start")
    counts = []
    for step, x in enumerate([value, value, LEVEL, value, value, value]):
        detector.update(step, x)
        counts.append(detector.unmeasured_in_a_row)
    assert counts == [1, 2, 0, 1, 2, 3]


def test_another_kind_of_missing_value_is_told_too():
    detector = started()
    assert kinds(feed(detector, [-math.inf] * 3 + [math.nan, math.inf] + [-math.inf] * 2)) == [
        "VANISHED",
        "NONFINITE",
        "VANISHED",
    ]


def test_a_step_that_was_seen_changes_nothing():
    detector = started()
    feed(detector, levels((0.6, 5)))
    before = detector.state_dict()
    for step in (14, 3, 14):
        assert detector.update(step, math.nan) is Status.WARNING
        assert detector.alerts == []
    assert detector.state_dict() == before


def test_other_windows_keep_what_was_seen_and_found():
    detector, fresh = Detector(baseline="start"), Detector(baseline="start", expected_checks=20)
    series = levels((1.0, 5), (0.6, 4))
    feed(detector, series)
    detector.expect(20)
    assert detector.thresholds == fresh.thresholds
    assert detector.status is Status.WARNING
    feed(fresh, series)
    # Of three checks now: two low ones of them, twice in a row.
    for each in (detector, fresh):
        assert kinds(feed(each, levels((0.3, 3)))) == ["COLLAPSED"]


def test_the_baseline_of_another_run_replaces_ones_own():
    detector = started()
    feed(detector, levels((0.6, 20)))
    other = Detector(baseline="start")
    feed(other, levels((0.6, 1)))
    detector.adopt(other.baseline)
    assert detector.status is Status.HEALTHY
    assert kinds(feed(detector, levels((0.6, 20)))) == []
    assert detector.ratio == pytest.approx(1.0)


def test_a_missing_value_comes_without_number():
    detector = started()
    alert = feed(detector, [math.nan])[0]
    assert (alert.value, alert.ratio, alert.onset_step) == (None, None, None)
    assert detector.status is Status.HEALTHY  # an event, never a status


def floors(*values):
    return [math.log(value) for value in values]


@pytest.fixture
def floor():
    return Detector(baseline="none", floor=2.0)


def test_the_floor_is_collapse_after_five_in_a_row(floor):
    assert floor.status is Status.HEALTHY
    found = statuses(floor, floors(*[8.0] * 3, *[1.3] * 5))
    assert found == [Status.HEALTHY] * 7 + [Status.COLLAPSED]
    assert kinds(floor.alerts) == ["COLLAPSED"]
    alert = floor.alerts[0]
    assert (alert.severity, alert.baseline, alert.ratio) == ("error", None, None)
    assert alert.onset_step == 3
    assert alert.value == pytest.approx(1.3)


def test_the_floor_itself_is_too_low_and_four_in_a_row_are_not(floor):
    assert kinds(feed(floor, floors(*[1.3, 1.3, 1.3, 1.3, 2.01] * 40))) == []
    assert kinds(feed(floor, floors(*[2.0] * 5))) == ["COLLAPSED"]


def test_above_the_floor_no_drop_is_told(floor):
    assert kinds(feed(floor, floors(*[100.0] * 50, *[2.01] * 50))) == []


def test_a_short_run_has_less_patience_with_the_floor():
    floor = Detector(baseline="none", floor=2.0, expected_checks=20)
    assert kinds(feed(floor, floors(1.3, 1.3))) == []
    assert kinds(feed(floor, floors(1.3))) == ["COLLAPSED"]


def test_the_floor_recovers_with_hysteresis_and_alerts_again(floor):
    feed(floor, floors(*[1.3] * 5))
    # As far above the floor as the relative rule wants it: 2.0 / 0.88 = 2.27.
    assert kinds(feed(floor, floors(*[2.2] * 100))) == []
    assert kinds(feed(floor, floors(*[2.3] * 9, 2.2))) == []
    assert kinds(feed(floor, floors(*[2.3] * 10))) == ["RECOVERED"]
    assert kinds(feed(floor, floors(*[1.3] * 50))) == ["COLLAPSED"]


def test_a_floor_beside_a_baseline_holds_until_both_have_recovered():
    detector = Detector(baseline="start", floor=30.0)
    feed(detector, levels((1.0, 10)))
    assert kinds(feed(detector, levels((0.74, 20)))) == ["COLLAPSED"]  # 29.6
    assert kinds(feed(detector, levels((0.84, 50)))) == []  # 33.6: above neither 34.1 nor 0.88
    assert kinds(feed(detector, levels((0.90, 50)))) == ["RECOVERED"]


def test_a_lasting_episode_is_told_again_every_hundred_checks():
    detector = started()
    alerts = feed(detector, levels((0.6, 350)), first=10)
    assert [(alert.step, alert.reminder) for alert in alerts] == [
        (12, False),
        (112, True),
        (212, True),
        (312, True),
    ]
    assert {alert.kind for alert in alerts} == {"WARNING"}


def swinging(checks):
    """Between collapse and health, as fast as both patiences allow."""
    return levels(*[(0.3, 12), (1.0, 25)] * (checks // 37))


def test_flapping_is_told_once_and_mutes_all_but_a_collapse_in_a_hundred_checks():
    detector = started()
    alerts = feed(detector, swinging(1000))
    told = kinds(alerts)
    # WARNING, COLLAPSED, recovered: three changes; the fourth within a hundred checks is flapping.
    assert told[:4] == ["WARNING", "COLLAPSED", "RECOVERED", "FLAPPING"]
    assert told.count("FLAPPING") == 1
    assert set(told[4:]) == {"COLLAPSED"}
    assert len(told[4:]) <= 1000 / 100
    after = feed(detector, levels((1.0, 200)))
    assert kinds(after) == (["RECOVERED"] if "COLLAPSED" in told[4:] else [])
    assert kinds(feed(detector, levels((0.6, 10)))) == ["WARNING"]


def test_what_was_held_back_is_told_when_it_is_calmer():
    detector = started(flapping_checks=60)
    feed(detector, swinging(300))
    alerts = feed(detector, levels((1.0, 70), (0.6, 130)))
    assert kinds(alerts)[-1] == "WARNING"
    assert detector.status is Status.WARNING


def test_an_episode_tells_a_higher_severity_of_the_same_status():
    episode = Episode(Thresholds())

    def told(status, severity):
        return [(n.kind, n.severity) for n in episode.update(status, severity)]

    assert told(Status.HEALTHY, "info") == []
    assert told(Status.WARNING, "info") == [("WARNING", "info")]
    assert told(Status.WARNING, "info") == []
    assert told(Status.WARNING, "warn") == [("WARNING", "warn")]
    assert told(Status.WARNING, "info") == []
    assert told(Status.WARNING, "warn") == []
    assert told(Status.COLLAPSED, "info") == [("COLLAPSED", "info")]
    assert told(Status.COLLAPSED, "error") == [("COLLAPSED", "error")]
    assert told(Status.HEALTHY, "info") == [("RECOVERED", "info")]
    assert told(Status.WARNING, "info") == [("FLAPPING", "info")]


def test_information_is_never_reminded_of():
    episode = Episode(Thresholds())
    told = [episode.update(Status.WARNING, "info") for _ in range(500)]
    assert [news.kind for found in told for news in found] == ["WARNING"]


def test_alternating_gaps_are_told_a_few_times_and_leave_alerts_alone():
    detector = started()
    series = [x for value in levels((1.0, 40), (0.6, 40)) for x in (value, math.nan)]
    told = kinds(feed(detector, series))
    assert told.count("NONFINITE") == 3
    assert told.count("FLAPPING") == 1
    assert told[-1] == "WARNING"


def test_missed_checks_are_told_at_the_third_and_change_nothing():
    detector = started()
    feed(detector, levels((0.6, 5)))
    before = detector.state_dict()
    told = []
    for step in range(20):
        assert detector.missed(step) is Status.WARNING
        told += [(alert.kind, alert.step, alert.severity) for alert in detector.alerts]
    assert told == [("NO_DATA", 2, "warn")]
    assert {**detector.state_dict(), "missed_in_a_row": 0} == before
    detector.update(20, LEVEL)
    assert detector.missed_in_a_row == 0


def test_rebaseline_takes_the_next_check_as_reference():
    detector = started()
    feed(detector, levels((0.6, 20)))
    detector.rebaseline()
    assert detector.status is Status.WARMUP
    assert kinds(feed(detector, levels((0.6, 100)))) == ["BASELINE"]
    assert detector.status is Status.HEALTHY
    assert detector.ratio == pytest.approx(1.0)


@pytest.mark.parametrize("baseline", ["start", "plateau"])
@pytest.mark.parametrize("at", [5, 70])
def test_bridge_moves_the_past_with_the_baseline(baseline, at):
    plain, bridged = Detector(baseline=baseline), Detector(baseline=baseline)
    series = levels((1.0, 60), (0.6, 30))
    for step, value in enumerate(series):
        if step == at:
            bridged.bridge(1.5)
        plain.update(step, value)
        bridged.update(step, value + 1.5 * (step >= at))
        assert bridged.status is plain.status
        assert kinds(bridged.alerts) == kinds(plain.alerts)
    assert bridged.ratio == pytest.approx(plain.ratio)


@pytest.mark.parametrize("offset", [math.nan, math.inf])
def test_a_bridge_without_length_is_refused(offset):
    with pytest.raises(InputError, match=str(offset)):
        started().bridge(offset)


def test_a_baseline_of_another_run_is_watched_from_the_first_check():
    other = started().baseline
    detector = Detector(baseline=other)
    assert detector.status is Status.HEALTHY
    assert kinds(feed(detector, levels((0.6, 3)))) == ["WARNING"]
    assert detector.ratio == pytest.approx(0.6)


def test_a_collapse_that_turns_serious_is_told_while_others_are_held_back():
    episode = Episode(Thresholds())
    wandering = [(Status.WARNING, "info"), (Status.HEALTHY, "info")] * 2
    for status, severity in [*wandering, *[(Status.COLLAPSED, "info")] * 3]:
        episode.update(status, severity)
    news = episode.update(Status.COLLAPSED, "error")
    assert [(n.kind, n.severity) for n in news] == [("COLLAPSED", "error")]
    assert episode.update(Status.COLLAPSED, "error") == []


def told_of(episode, *stretches):
    """News of stretches of (status, side, checks), by check."""
    news = [
        [(n.kind, n.reminder) for n in episode.update(status, "error", side)]
        for status, side, checks in stretches
        for _ in range(checks)
    ]
    return [(check, *n) for check, found in enumerate(news, start=1) for n in found]


def test_a_change_of_side_is_told_and_counts_as_flapping():
    sides = ("contraction", "expansion")
    told = told_of(Episode(Thresholds()), *[(Status.WARNING, side, 10) for side in sides * 3])
    assert told == [
        (1, "WARNING", False),
        (11, "WARNING", False),
        (21, "WARNING", False),
        (31, "FLAPPING", False),
    ]


def test_a_collapse_after_a_recovery_that_was_held_back_is_told():
    episode = Episode(Thresholds())
    fall, side = Status.COLLAPSED, "contraction"
    told_of(episode, *[(fall, side, 20), (Status.HEALTHY, side, 20)] * 2)
    # Muted from check 61 on, with a collapse told at check 41.
    told = told_of(episode, *[(fall, side, 20), (Status.HEALTHY, side, 20)] * 10)
    assert [kind for _, kind, _ in told] == ["COLLAPSED"] * 3
    assert all(not reminder for _, _, reminder in told)
    checks = [check + 80 for check, _, _ in told]
    assert checks == [161, 281, 401]


def test_flapping_of_information_does_not_hold_back_a_warning_of_harm():
    episode = Episode(Thresholds())
    side = "contraction"
    wandering = [(Status.WARNING, 3), (Status.HEALTHY, 3)] * 2
    for status, checks in wandering:
        for _ in range(checks):
            episode.update(status, "info", side)
    assert episode.muted
    news = [episode.update(Status.WARNING, "warn", side) for _ in range(20)]
    assert [(n.kind, n.severity) for found in news for n in found] == [("WARNING", "warn")]


def test_a_gap_that_goes_on_is_told_once_gaps_are_rare_again():
    detector = started()
    told = kinds(feed(detector, [math.nan, LEVEL] * 4 + [math.nan] * 300))
    assert told == ["NONFINITE"] * 3 + ["FLAPPING", "NONFINITE"]
