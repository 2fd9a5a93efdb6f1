"""Held-out loss: judged against its baseline by a paired interval, and watched for a rise."""

import json
import math

import numpy as np
import pytest

from sigma_monitor.alert import Status
from sigma_monitor.channels.loss import LossWatch, judged, paired_change
from sigma_monitor.errors import InputError
from sigma_monitor.probing import TokenLosses

CHANNELS = ("representation", "generation", "loss")
CHANNEL = "representation"

TOKENS = tuple(8 + i % 5 for i in range(64))
# Nats per token of each example, which differ and move together.
LEVELS = tuple(2.0 + 0.1 * (i % 7) for i in range(64))


def losses(factor=1.0, levels=LEVELS, tokens=TOKENS):
    return TokenLosses(tuple(factor * x * t for x, t in zip(levels, tokens, strict=True)), tokens)


def moved(changes, tokens=(10, 10, 10, 10)):
    """Of 2 nats per token, each example moved by so many."""
    return TokenLosses(tuple((2 + d) * t for d, t in zip(changes, tokens, strict=True)), tokens)


def even(mean):
    """All examples alike, so that a change is certain."""
    return losses(mean, levels=(1.0,) * len(TOKENS))


def watch(**thresholds):
    return LossWatch(CHANNELS, expected_checks=None, thresholds=thresholds)


def fed(series, watch=None):
    """The watch after a series of losses, and its status at each."""
    loss = LossWatch(CHANNELS, expected_checks=None, thresholds={}) if watch is None else watch
    found = []
    for step, value in enumerate(series):
        loss.update(step, value)
        found.append(loss.status)
    return loss, found


# --- the paired interval -------------------------------------------------------------------------


def test_paired_change_by_hand():
    """Four examples of 10 tokens: -1.6, -0.4, -1.6, -0.4 nats in sum, -0.1 per token on average.

    Residuals of ±0.6: sqrt(4/3 · 4 · 0.36) / 40.
    """
    change, stderr = paired_change((18.4, 19.6, 18.4, 19.6), (20.0,) * 4, (10,) * 4)
    assert change == pytest.approx(-0.1, rel=1e-12)
    assert stderr == pytest.approx(math.sqrt(1.92) / 40, rel=1e-12)


def test_paired_change_of_unequal_examples_is_that_of_a_ratio():
    """Against the linearised ratio of means of survey sampling, by numpy."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(1, 40, 50)
    before = rng.gamma(2.0, tokens)
    now = before * rng.normal(0.95, 0.1, 50)
    change, stderr = paired_change(now.tolist(), before.tolist(), tokens.tolist())
    difference = now - before
    ratio = difference.mean() / tokens.mean()
    error = np.std(difference - ratio * tokens, ddof=1) / math.sqrt(50) / tokens.mean()
    assert change == pytest.approx(ratio, rel=1e-12)
    # The residuals have mean zero, so both take the same sum of squares.
    assert stderr == pytest.approx(error, rel=1e-12)


def test_paired_interval_covers_the_change_19_times_in_20():
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(1000):
        tokens = rng.integers(5, 40, 64)
        before = rng.gamma(2.0, tokens)
        now = before - 0.1 * tokens + rng.normal(0, 0.5, 64) * np.sqrt(tokens)
        change, stderr = paired_change(now.tolist(), before.tolist(), tokens.tolist())
        hits += abs(change + 0.1) <= 1.96 * stderr
    # 950 of a binomial with deviation 6.9; a normal interval of 64 examples covers a little less.
    assert 920 <= hits <= 975


def test_one_example_has_no_interval():
    change, stderr = paired_change((3.0,), (2.0,), (4,))
    assert (change, stderr) == (0.25, math.inf)
    assert judged(change, stderr, 0.5) == "flat"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        # Means -0.1, half-widths 1.96 sqrt(4/3 Σ residual²) / 4: 0.068, and 0.113.
        ((-0.16, -0.04, -0.16, -0.04), "better"),
        ((-0.2, 0.0, -0.2, 0.0), "flat"),
        ((0.16, 0.04, 0.16, 0.04), "worse"),
        ((0.2, 0.0, 0.2, 0.0), "flat"),
        # 1.96 sqrt(4/3 · 4 r²) / 4 is 1.1316 r: 0.1 is reached at r = 0.08837.
        ((-0.1883, -0.0117, -0.1883, -0.0117), "better"),
        ((-0.1885, -0.0115, -0.1885, -0.0115), "flat"),
    ],
)
def test_a_change_within_its_interval_is_flat(changes, expected):
    loss, _ = fed([moved((0, 0, 0, 0)), moved(changes)])
    assert loss.judgement(CHANNEL) == expected


@pytest.mark.parametrize(
    ("factor", "expected"),
    [
        (0.5, "better"),
        (0.9899, "better"),
        (0.9901, "flat"),
        (1.0, "flat"),
        (1.0099, "flat"),
        (1.0101, "worse"),
        (1.04, "worse"),
    ],
)
def test_less_than_a_hundredth_is_flat_however_certain(factor, expected):
    loss, _ = fed([even(2.0), even(2.0 * factor)])
    assert loss.judgement(CHANNEL) == expected


@pytest.mark.parametrize(
    ("change", "expected"),
    [(-0.011, "better"), (0.011, "worse"), (-0.009, "flat"), (0.009, "flat"), (0.0, "flat")],
)
def test_the_boundary_is_of_the_loss_before(change, expected):
    assert judged(change, 0.001, 1.0) == expected
    assert judged(change, 0.0111 / 1.96, 1.0) == "flat"  # within its interval
    assert judged(change * 3, 0.001, 3.0) == expected
    assert judged(change, 0.001, 3.0) == "flat"


def test_a_judgement_needs_a_loss():
    loss = watch()
    assert (loss.judgement(CHANNEL), loss.mean) == (None, None)
    loss.update(0, None)
    assert (loss.judgement(CHANNEL), loss.mean) == (None, None)
    loss.update(1, even(2.0))
    assert (loss.judgement(CHANNEL), loss.mean) == ("flat", 2.0)
    loss.update(2, None)
    assert (loss.judgement(CHANNEL), loss.mean) == ("flat", None)
    loss.update(3, even(1.0))
    assert (loss.judgement(CHANNEL), loss.mean) == ("better", 1.0)


# --- a rise from the best ------------------------------------------------------------------------


def test_a_rise_of_six_percent_warns():
    loss, found = fed([losses()] * 10 + [losses(1.06)] * 10)
    assert found[:10] == [Status.HEALTHY] * 10
    # The median of five is one of the new ones from the third of them on.
    assert found.index(Status.WARNING) == 12
    assert found[-1] is Status.WARNING
    assert loss.onset_step == 10


def test_a_rise_of_three_percent_does_not():
    _, found = fed([losses()] * 10 + [losses(1.03)] * 60)
    assert set(found) == {Status.HEALTHY}


def test_a_rise_is_never_a_collapse_and_a_fall_no_alert():
    _, found = fed([even(2.0)] * 10 + [even(2000.0)] * 30)
    assert set(found) == {Status.HEALTHY, Status.WARNING}
    _, found = fed([losses(0.9**i) for i in range(60)])
    assert set(found) == {Status.HEALTHY}


@pytest.mark.parametrize(
    ("examples", "factor"),
    [
        (64, 1.1),
        (64, 3.0),
        (64, 100.0),
        (16, 2.0),
        (16, 6.0),
    ],
)
def test_a_larger_rise_warns_too(examples, factor):
    """Per-example losses from 0.5 to 3.5 nats per token, each of them multiplied."""
    levels = tuple(0.5 + 3 * (i % 8) / 7 for i in range(examples))
    series = [losses(f, levels, TOKENS[:examples]) for f in [1.0] * 10 + [factor] * 20]
    _, found = fed(series)
    assert found[-1] is Status.WARNING


def test_a_rise_after_a_long_fall_warns_although_below_the_start():
    fall = [losses(1 - 0.01 * i) for i in range(51)]  # to a half
    loss, found = fed(fall + [losses(0.55)] * 10)
    assert set(found[:51]) == {Status.HEALTHY}
    assert found[-1] is Status.WARNING
    assert loss.judgement(CHANNEL) == "worse"  # although the loss is 45 % below its baseline
    alert = loss.describe("WARNING", 60)
    assert alert.value == pytest.approx(losses(0.55).mean)
    # The best is the lowest median of five: that of the last five of the fall.
    assert alert.baseline == pytest.approx(losses(0.52).mean)
    assert alert.ratio == pytest.approx(0.55 / 0.52)
    assert alert.low <= alert.value <= alert.high
    assert (alert.side, alert.functional) == ("expansion", "loss")
    assert 48 <= alert.onset_step <= 52


def test_one_high_loss_is_not_a_rise():
    _, found = fed(([losses()] * 9 + [losses(3.0)]) * 4)
    assert set(found) == {Status.HEALTHY}


def test_one_low_loss_is_not_the_best():
    """A median has to go down there."""
    _, found = fed([losses()] * 10 + [losses(0.5)] + [losses()] * 20)
    assert set(found) == {Status.HEALTHY}


def test_an_uncertain_rise_does_not_warn():
    """One example of four carries it all: the standard error is as large as the rise."""
    start, after = moved((0, 0, 0, 0)), moved((0.5, 0, 0, 0))  # 6.25 %
    _, found = fed([start] * 10 + [after] * 20)
    assert set(found) == {Status.HEALTHY}
    certain = moved((0.125,) * 4)
    assert certain.mean == pytest.approx(after.mean)
    _, found = fed([start] * 10 + [certain] * 20)
    assert found[-1] is Status.WARNING


def test_a_rise_that_ends_is_over():
    loss, found = fed([losses()] * 10 + [losses(1.2)] * 10 + [losses(1.01)] * 30)
    assert Status.WARNING in found
    assert found[-1] is Status.HEALTHY
    assert loss.judgement(CHANNEL) == "worse"  # by 1 %, certain


def test_thresholds_of_ones_own_win():
    series = [losses()] * 10 + [losses(1.2)] * 20
    quiet = watch(warning_fast=0.7, warning_slow=0.7, recovered=0.75)
    assert set(fed(series, quiet)[1]) == {Status.HEALTHY}
    with pytest.raises(InputError, match="warning_fast"):
        watch(warning_fast=2.0)


@pytest.mark.parametrize("bad", [math.nan, math.inf, 0.0])
def test_a_loss_that_is_no_number_is_passed_over(bad):
    odd = TokenLosses((bad,) * len(TOKENS), TOKENS)
    series = [losses()] * 6 + [losses(1.06)] * 10
    _, found = fed(series)
    loss = watch()
    for step, value in enumerate(series):
        loss.update(2 * step, value)
        known = loss.judgement(CHANNEL)
        loss.update(2 * step + 1, odd)
        assert (loss.judgement(CHANNEL), loss.mean) == (known, None)
        assert loss.status is found[step]
        assert loss.detector.ratio == pytest.approx(losses().mean / value.mean)
    first = watch()
    first.update(0, odd)
    assert first.baseline(CHANNEL) is None


@pytest.mark.parametrize("bad", [None, math.nan])
def test_a_judgement_outlasts_two_checks_without_a_loss_and_no_more(bad):
    odd = None if bad is None else TokenLosses((bad,) * len(TOKENS), TOKENS)
    loss, _ = fed([losses(), losses(0.8)])
    found = []
    for step in range(2, 7):
        loss.update(step, odd)
        found.append(loss.judgement(CHANNEL))
    assert found == ["better", "better", None, None, None]
    loss.freeze(CHANNEL)
    assert loss.baseline(CHANNEL) == losses()
    loss.update(7, losses(0.8))
    assert loss.judgement(CHANNEL) == "better"


def test_a_loss_that_is_no_number_is_told_once():
    loss, _ = fed([losses()] * 3)
    odd = TokenLosses((math.nan,) * len(TOKENS), TOKENS)
    told = [[(e.kind, e.channel) for e in loss.update(step, odd)] for step in range(3, 6)]
    assert told == [[("NONFINITE", "loss")], [], []]
    assert loss.update(6, None) == []


@pytest.mark.parametrize("bad", [math.nan, math.inf, 0.0])
def test_a_loss_that_is_no_number_is_not_taken_as_a_baseline(bad):
    """It comes at the check at which a channel takes its own."""
    loss, odd = watch(), TokenLosses((bad,) * len(TOKENS), TOKENS)
    for first in (odd, losses()):
        loss.update(0, first)
        loss.update(1, odd)
        for channel in CHANNELS:
            loss.freeze(channel)
        loss.update(2, losses())
        assert [loss.judgement(channel) for channel in CHANNELS] == ["flat"] * 3
        json.dumps(loss.state_dict(), allow_nan=False)


def test_another_probe_set_begins_anew():
    loss, _ = fed([losses()] * 5)
    fewer = losses(3.0, levels=LEVELS[:32], tokens=TOKENS[:32])
    loss.update(5, fewer)
    assert loss.baseline(CHANNEL) == fewer
    assert loss.judgement(CHANNEL) == "flat"
    for step in range(6, 20):
        loss.update(step, fewer)
    assert loss.status is Status.HEALTHY


def test_each_channel_is_judged_against_the_loss_at_its_own_baseline():
    loss, _ = fed([losses()])
    assert [loss.baseline(channel) for channel in CHANNELS] == [losses()] * 3
    loss.update(1, losses(0.8))
    loss.freeze("generation")
    loss.update(2, losses(0.8))
    assert [loss.judgement(channel) for channel in CHANNELS] == ["better", "flat", "better"]
    loss.update(3, None)
    loss.freeze("representation")  # nothing was measured: the check before counts
    loss.update(4, losses(0.78))
    assert [loss.judgement(channel) for channel in CHANNELS] == ["better"] * 3
    assert loss.baseline("representation") == losses(0.8)
    for channel in CHANNELS:
        loss.freeze(channel)
    assert loss.baseline("representation") == losses(0.78)
    assert loss.baselines() == loss.latest_as_baselines()


def test_a_baseline_that_is_taken_does_not_lift_the_best():
    """A rise is harm, whenever a channel has taken its baseline."""
    loss, _ = fed([losses()] * 3 + [losses(0.5)] * 5)
    for step in range(8, 20):
        loss.update(step, losses(0.6))
        loss.freeze(CHANNEL)
    assert loss.status is Status.WARNING
    assert loss.judgement(CHANNEL) == "worse"


def test_rebaseline_takes_what_comes_next():
    loss, _ = fed([losses()] * 10 + [losses(1.5)] * 10)
    assert loss.status is Status.WARNING
    loss.rebaseline()
    for step in range(20, 40):
        loss.update(step, losses(1.5))
        assert loss.judgement(CHANNEL) == "flat"
    assert loss.status is Status.HEALTHY
    assert loss.describe("WARNING", 40).baseline == pytest.approx(losses(1.5).mean)


# --- state ---------------------------------------------------------------------------------------

SERIES = (
    [losses()] * 2
    + [losses(1.03)] * 4
    + [losses(1 - 0.02 * i) for i in range(20)]
    + [None, TokenLosses((math.nan,) * len(TOKENS), TOKENS), None]
    + [losses(0.7)] * 8
    + [moved((0.1, 0.0, 0.2, 0.1))] * 2  # another number of tokens
    + [moved((0.0, 0.0, 0.0, 0.0))] * 8
    + [moved((0.4, 0.4, 0.5, 0.4))] * 8
)


def test_a_state_kept_as_json_changes_nothing_at_any_check():
    unbroken, resumed = watch(), watch()
    seen = set()
    for step, value in enumerate(SERIES):
        state = resumed.state_dict()
        resumed = watch()
        resumed.load_state_dict(json.loads(json.dumps(state, allow_nan=False)))
        assert resumed.state_dict() == state
        for loss in (unbroken, resumed):
            loss.update(step, value)
        assert resumed.state_dict() == unbroken.state_dict()
        assert resumed.describe("WARNING", step) == unbroken.describe("WARNING", step)
        for name in ("status", "mean", "onset_step"):
            assert getattr(resumed, name) == getattr(unbroken, name)
        for channel in CHANNELS:
            assert resumed.judgement(channel) == unbroken.judgement(channel)
        seen.add((unbroken.judgement(CHANNEL), unbroken.status))
    assert len(seen) >= 5


def test_a_state_shares_nothing_with_its_watch():
    loss, _ = fed([losses()] * 5)
    state = loss.state_dict()
    written = json.dumps(state)
    fed([losses(2.0)] * 5, loss)
    assert json.dumps(state) == written


def test_another_run_is_compared_with_the_baseline_or_the_end_of_this_one():
    loss, _ = fed([losses()] * 3 + [losses(0.5)] * 3)
    for reference, expected in (
        (loss.baselines(), "better"),
        (loss.latest_as_baselines(), "worse"),
    ):
        other = watch()
        other.adopt(json.loads(json.dumps(reference)))
        other.update(0, losses(0.7))
        assert other.judgement(CHANNEL) == expected
    fresh = watch()
    assert (fresh.baselines(), fresh.latest_as_baselines()) == ({}, {})
    fresh.adopt({})
    fresh.update(0, losses())
    assert fresh.judgement(CHANNEL) == "flat"


def test_a_rise_is_from_ones_own_best_whatever_another_run_reached():
    """A generation begins where the model was before: not where the last one ended."""
    end, _ = fed([losses(0.5)] * 3)
    other = watch()
    other.adopt(end.latest_as_baselines())
    _, found = fed([losses(0.55)] * 10, other)
    assert set(found) == {Status.HEALTHY}
    assert other.judgement(CHANNEL) == "worse"
    for step in range(10, 20):
        other.update(step, losses(0.6))
    assert other.status is Status.WARNING
