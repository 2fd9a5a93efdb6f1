"""What a series is compared with, and when that is decided."""

import math
from statistics import median

import pytest

from sigma_monitor.alert import Status
from sigma_monitor.detection import Detector
from tests.detection.series import LEVEL, feed, healthy, kinds, levels, noise, statuses

STILL = 40  # checks until the baseline of a level series: 20 dropped, 20 taken


def frozen(series):
    """The detector after the series, and the number of checks until its baseline was frozen."""
    detector = Detector(baseline="plateau")
    alerts = feed(detector, series)
    assert kinds(alerts)[:1] in ([], ["BASELINE"])
    return detector, alerts[0].check if alerts else None


@pytest.mark.parametrize("kind", ["auto", "plateau"])
def test_a_level_series_is_frozen_after_warm_up_and_baseline(kind):
    detector = Detector(baseline=kind)
    found = statuses(detector, levels((1.0, STILL)))
    assert found == [Status.WARMUP] * (STILL - 1) + [Status.HEALTHY]
    baseline = detector.baseline
    assert (baseline.kind, baseline.checks, baseline.stable) == ("plateau", 20, True)
    assert (baseline.log_value, baseline.sigma, baseline.step) == (LEVEL, 0.0, STILL - 1)


def test_the_warm_up_is_dropped():
    detector, _ = frozen(levels((3.0, 20), (1.0, 20)))
    assert detector.baseline.log_value == LEVEL


@pytest.mark.parametrize(("warmup_steps", "expected"), [(0, 40), (200, 40), (210, 41), (505, 71)])
def test_a_longer_warm_up_of_the_learning_rate_is_dropped_too(warmup_steps, expected):
    """Checks at steps 0, 10, 20, ...: those before the warm-up's end do not count."""
    detector = Detector(baseline="plateau", warmup_steps=warmup_steps)
    for check in range(100):
        detector.update(10 * check, LEVEL if check >= expected - 20 else LEVEL + 2)
    assert detector.baseline.step == 10 * (expected - 1)
    assert detector.baseline.log_value == LEVEL


@pytest.mark.parametrize(
    ("falling", "expected"),
    # By 0.01 nats per check. The window of checks 20 to 39 has the medians of 24.5 and 34.5 in its
    # halves, so it is level if the fall ended by 29 (0.045 nats), and likewise every five later.
    [(0, 40), (20, 40), (29, 40), (30, 45), (34, 45), (35, 50), (80, 95)],
)
def test_the_window_slides_by_fives_until_it_is_level(falling, expected):
    series = [LEVEL - 0.01 * min(i, falling) for i in range(200)]
    detector, checks = frozen(series)
    assert checks == expected
    assert detector.baseline.stable


@pytest.mark.parametrize(("slope", "stable"), [(0.0049, True), (0.0051, False), (-0.0051, False)])
def test_level_means_medians_of_the_halves_within_a_twentieth_of_a_nat(slope, stable):
    detector, checks = frozen([LEVEL + slope * i for i in range(150)])
    assert detector.baseline.stable is stable
    assert checks == (STILL if stable else STILL + 100)  # frozen anyway after 100 more


def test_noise_of_the_plateau_is_its_scaled_median_deviation():
    series = [LEVEL + x for x in noise(STILL, sigma=0.03, seed=4)]
    detector, _ = frozen(series)
    taken = series[20:]
    centre = median(taken)
    mad = median(abs(x - centre) for x in taken)
    assert detector.baseline.log_value == centre
    assert detector.baseline.sigma == pytest.approx(1.4826 * mad * (1 + 0.8 / 19))


def test_the_noise_is_at_least_the_paired_standard_error():
    detector = Detector(baseline="plateau")
    for step, value in enumerate(levels((1.0, STILL))):
        detector.update(step, value, stderr=0.01 + 0.001 * step)
    assert detector.baseline.sigma == pytest.approx(0.01 + 0.001 * 29.5)  # median of 20 ... 39


@pytest.mark.parametrize("phi", [-0.5, 0.0, 0.5, 0.9, 0.999])
def test_autocorrelation_stays_between_its_bounds(phi):
    for seed in range(50):
        detector, _ = frozen([LEVEL + x for x in noise(STILL, sigma=0.01, phi=phi, seed=seed)])
        assert 0.8 <= detector.baseline.phi <= 0.98


def test_autocorrelation_is_corrected_for_its_bias():
    """The plain estimate from 20 checks at φ = 0.95 is 0.68 on average, below the lower bound."""
    found = [
        frozen([LEVEL + x for x in noise(STILL, sigma=0.01, phi=0.95, seed=seed)])[0].baseline.phi
        for seed in range(200)
    ]
    assert sum(phi > 0.8 for phi in found) > 80


def test_a_start_is_its_own_baseline_at_once():
    detector = Detector(baseline="start")
    detector.update(7, LEVEL, stderr=0.5)
    assert detector.status is Status.HEALTHY
    baseline = detector.baseline
    assert (baseline.kind, baseline.log_value, baseline.step) == ("start", LEVEL, 7)
    assert (baseline.sigma, baseline.phi, baseline.checks) == (0.01, 0.8, 0)


@pytest.mark.parametrize("kind", ["start", "plateau"])
def test_the_baseline_is_told_once_and_never_moves(kind):
    detector = Detector(baseline=kind)
    alerts = feed(detector, healthy(STILL))
    kept = detector.baseline
    alerts += feed(detector, levels((0.3, 300), (3.0, 300)))
    assert kinds(alerts).count("BASELINE") == 1
    assert alerts[0].severity == "info"
    assert alerts[0].value == alerts[0].baseline == pytest.approx(math.exp(kept.log_value))
    assert detector.baseline == kept


def test_no_baseline_means_no_ratio():
    detector = Detector(baseline="plateau")
    assert detector.ratio is None
    statuses(detector, levels((1.0, STILL - 1)))
    assert detector.ratio is None
    detector.update(STILL, LEVEL)
    detector.update(STILL + 1, LEVEL + math.log(0.75))
    assert detector.ratio == pytest.approx(0.75)
