"""Three channels joined: what a move of the spectrum means beside loss and text."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch

from sigma_monitor import Estimate, Status
from sigma_monitor.channels import RunWatch, WatchOptions
from sigma_monitor.checking.measure import Measured, measure
from sigma_monitor.errors import InputError
from sigma_monitor.generation.writing import Writing
from sigma_monitor.probing import Rows, TokenLosses
from sigma_monitor.snapshot import ENTROPY, FLOORED, TEXT_RANK, WATCHED

CHANNELS = ("representation", "generation", "loss")
RANK = 40.0
LOSS = 2.0


def measured(ratio=1.0, pooled=20.0):
    """A layer whose effective rank is so much of its healthy value."""
    if not math.isfinite(ratio) or ratio == 0:
        return Measured({}, {}, 64, 32, unmeasured=-math.inf if ratio == 0 else math.nan)
    estimates = {WATCHED: Estimate.exact(RANK * ratio), FLOORED: Estimate.exact(pooled)}
    return Measured(estimates, {}, 64, 32)


def losses(factor):
    """All examples alike, so that a change is certain; None: not measured."""
    return None if factor is None else TokenLosses((LOSS * factor * 10,) * 16, (10,) * 16)


def writing(rank=1.0, entropy=1.0, encoder="hashing", signature=(1.0, 0.2, 0.2, 1.0)):
    """Texts whose spectrum and whose entropy are so much of their healthy values."""
    entropies = 3.0 * entropy * np.ones(8)
    estimates = {
        TEXT_RANK: Estimate.exact(6.0 * rank),
        ENTROPY: Estimate.exact(float(entropies.mean())),
    }
    without = np.full(8, math.log(6.0 * rank))
    return Writing(("text",) * 8, encoder, estimates, without, entropies, signature)


class Series:
    """A run of checks, and everything that was told."""

    def __init__(self, *layers, writes=False, **options):
        self.layers = layers or ("last",)
        self.options = WatchOptions(**options)
        self.writes = writes
        self.watch = self.fresh()
        self.step = 0
        self.told = []

    def fresh(self):
        return RunWatch(self.layers, self.options, writes=self.writes)

    def go(self, checks=1, *, ratio=1.0, loss=1.0, text=None, **layers):
        """Some checks alike; `layers` maps a layer to its own ratio."""
        told = []
        for _ in range(checks):
            values = {n: _measured(layers.get(n, ratio)) for n in self.layers}
            told += self.watch.update(self.step, values, losses(loss), text)
            self.step += 1
        self.told += told
        return told

    def kinds(self, channel=None):
        return [a.kind for a in self.told if channel in (None, a.channel)]


def _measured(value):
    return value if isinstance(value, Measured) else measured(value)


def briefly(alerts):
    return [(a.channel, a.kind, a.severity) for a in alerts]


# --- the verdict ---------------------------------------------------------------------------------

BETTER, FLAT, WORSE, UNMEASURED = 0.9, 1.0, 1.03, None
# Less than 5 % above the best, so that the loss itself says nothing.
QUIET_LOSSES = [BETTER, FLAT, WORSE, UNMEASURED]


@pytest.mark.parametrize("loss", QUIET_LOSSES)
@pytest.mark.parametrize(
    ("ratio", "kind", "side", "words"),
    [
        (0.6, "WARNING", "contraction", "contracting"),
        (0.3, "COLLAPSED", "contraction", "contracting"),
        (1.6, "WARNING", "expansion", "expanding"),
    ],
)
def test_what_a_move_means_is_decided_by_the_loss(ratio, kind, side, words, loss):
    series = Series()
    series.go(5, loss=None if loss is None else 1.0)
    series.go(20, ratio=ratio, loss=loss)
    status = Status[kind]
    alert = next(a for a in series.told if a.kind == kind)
    loud = "error" if kind == "COLLAPSED" else "warn"
    assert alert.severity == ("info" if loss == BETTER else loud)
    assert alert.side == side
    assert words in alert.verdict
    phrase = {
        BETTER: "improves: no sign of harm",
        FLAT: "stays as it is",
        WORSE: "gets worse",
        UNMEASURED: "is not measured, the spectrum alone decides",
    }[loss]
    assert phrase in alert.verdict
    assert series.watch.status is status
    assert series.watch.collapsed is (status is Status.COLLAPSED and loss != BETTER)
    assert "loss" not in {a.channel for a in series.told}


@pytest.mark.parametrize("loss", QUIET_LOSSES)
def test_no_loss_excuses_the_floor(loss):
    series = Series()
    series.go(5, loss=None if loss is None else 1.0)
    series.go(20, ratio=measured(1.0, pooled=1.5), loss=loss)
    (alert,) = series.told[1:]
    assert (alert.kind, alert.severity, alert.floor) == ("COLLAPSED", "error", 2.0)
    assert "no loss can excuse that" in alert.verdict
    assert series.watch.collapsed


def test_an_excused_collapse_counts_once_the_loss_has_lost_its_gain():
    series = Series()
    series.go(5)
    series.go(10, ratio=0.3, loss=BETTER)
    assert series.watch.status is Status.COLLAPSED
    assert not series.watch.collapsed
    told = series.go(1, ratio=0.3, loss=FLAT)
    assert briefly(told) == [("representation", "COLLAPSED", "error")]
    assert series.watch.collapsed
    series.go(1, ratio=0.3, loss=BETTER)
    assert not series.watch.collapsed


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ({"rank": 0.6}, True),
        ({"entropy": 0.6}, True),
        ({"rank": 1.6}, False),
        ({}, False),
        (None, False),
    ],
)
def test_lost_diversity_is_named_beside_a_move_of_the_spectrum(text, said):
    series = Series(writes=True)
    steady = None if text is None else writing()
    series.go(5, text=steady)
    series.go(10, text=None if text is None else writing(**text))
    series.go(10, ratio=0.6)
    alert = next(a for a in series.told if a.kind == "WARNING" and a.channel == "representation")
    assert ("text the model writes loses diversity" in alert.verdict) is said


@pytest.mark.parametrize("loss", QUIET_LOSSES)
@pytest.mark.parametrize(
    ("text", "kind", "key", "words"),
    [
        ({"rank": 0.6}, "WARNING", TEXT_RANK, "loses diversity"),
        ({"entropy": 0.3}, "COLLAPSED", ENTROPY, "loses diversity"),
        ({"rank": 1.6}, "WARNING", TEXT_RANK, "grows more varied"),
    ],
)
def test_text_that_moves_is_judged_by_the_same_loss(text, kind, key, words, loss):
    series = Series(writes=True)
    series.go(5, text=writing(), loss=None if loss is None else 1.0)
    series.go(20, text=writing(**text), loss=loss)
    (alert,) = (a for a in series.told if a.kind == kind)
    assert (alert.channel, alert.functional) == ("generation", key)
    loud = "error" if kind == "COLLAPSED" else "warn"
    assert alert.severity == ("info" if loss == BETTER else loud)
    assert alert.verdict.startswith(f"the text the model writes {words}")
    assert series.watch.status is Status[kind]
    assert series.watch.collapsed is (kind == "COLLAPSED" and loss != BETTER)


def test_text_is_judged_by_the_loss_since_its_own_baseline():
    """Another encoder, hence another baseline, at which the loss had improved already."""
    series = Series(writes=True)
    series.go(5, text=writing())
    series.go(5, text=writing(encoder="start-0"), loss=0.8)
    series.go(10, text=writing(rank=0.6, encoder="start-0"), loss=0.8, ratio=0.6)
    severities = {a.channel: a.severity for a in series.told if a.kind == "WARNING"}
    assert severities == {"representation": "info", "generation": "warn"}


def test_a_check_without_writing_leaves_the_generation_channel_as_it_is():
    series = Series(writes=True)
    series.go(5, text=writing())
    series.go(5, text=writing(rank=0.3))
    before = series.watch.state_dict()
    assert series.watch.status > Status.HEALTHY
    series.go(10)
    after = series.watch.state_dict()
    assert after["generation"] == before["generation"]
    assert after["channels"]["generation"] == before["channels"]["generation"]
    assert series.watch.status > Status.HEALTHY


# --- held-out loss -------------------------------------------------------------------------------


def test_a_loss_that_rises_by_itself_is_told():
    series = Series()
    series.go(10)
    series.go(10, loss=1.2)
    assert briefly(series.told[1:]) == [("loss", "WARNING", "warn")]
    assert series.watch.status is Status.WARNING
    assert not series.watch.collapsed
    series.go(40, loss=1.0)
    assert series.kinds("loss") == ["WARNING", "RECOVERED"]
    assert series.watch.status is Status.HEALTHY


def test_a_loss_is_silent_where_the_representation_told_of_it():
    series = Series()
    series.go(10)
    series.go(20, ratio=0.6, loss=1.2)
    assert series.kinds("loss") == []
    (alert,) = (a for a in series.told if a.kind == "WARNING")
    assert alert.channel == "representation"
    assert "held-out loss gets worse" in alert.verdict
    told = series.go(40, loss=1.2)  # the spectrum is well again, the loss is not
    assert briefly(told) == [("representation", "RECOVERED", "info"), ("loss", "WARNING", "warn")]


def test_a_loss_that_rises_after_the_representation_was_told_is_told_too():
    series = Series()
    series.go(10)
    series.go(10, ratio=0.6)
    assert "stays as it is" in series.told[-1].verdict
    assert briefly(series.go(30, ratio=0.6, loss=1.2)) == [("loss", "WARNING", "warn")]


def test_a_loss_is_silent_where_the_text_told_of_it():
    series = Series(writes=True)
    series.go(10, text=writing())
    series.go(10, loss=1.2, text=writing(rank=0.6))
    assert series.kinds("loss") == []
    assert series.kinds("generation").count("WARNING") == 1


def test_a_loss_that_rises_after_the_text_was_told_is_told_too():
    """And where there is no text any more: its status stays what it was."""
    series = Series(writes=True)
    series.go(10, text=writing())
    series.go(10, text=writing(rank=0.6))
    assert briefly(series.go(30, loss=1.2)) == [("loss", "WARNING", "warn")]


def test_a_loss_of_nan_within_an_episode_is_no_other_episode():
    series = Series()
    series.go(10)
    series.go(10, loss=1.2)
    told = series.go(3, loss=math.nan) + series.go(5, loss=1.2) + series.go(3, loss=math.nan)
    assert [a.kind for a in told] == ["NONFINITE", "NONFINITE"]


def test_flapping_of_several_layers_is_told_once():
    series = Series("0", "1", "last")
    series.go(5)
    for _ in range(6):
        series.go(1, ratio=math.nan)
        series.go(1)
    assert series.kinds().count("FLAPPING") == 1


def test_a_loss_speaks_beside_a_move_that_it_excused_before():
    """The loss fell, which excused the contraction, and rises from its best."""
    series = Series()
    series.go(10)
    series.go(10, ratio=0.6, loss=0.7)
    assert briefly(series.told[1:]) == [("representation", "WARNING", "info")]
    told = series.go(10, ratio=0.6, loss=0.8)
    # Still better than at baseline, but worse than at its best: no excuse any more.
    assert briefly(told) == [("representation", "WARNING", "warn")]
    assert series.watch.loss.judgement("last") == "worse"


def test_a_loss_that_is_not_measured_tells_nothing():
    series = Series()
    series.go(10)
    series.go(10, loss=1.2)
    before = series.watch.state_dict()["channels"]["loss"]
    series.go(150, loss=None)
    assert series.watch.state_dict()["channels"]["loss"] == before


def test_the_baseline_of_the_loss_is_at_that_of_the_representation():
    options = {"warmup_checks": 2, "baseline_checks": 4}
    series = Series(baseline="plateau", representation=options)
    series.go(5, loss=2.0)
    assert series.watch.status is Status.WARMUP
    series.go(1, loss=1.0)
    assert series.kinds() == ["BASELINE"]
    assert series.watch.loss.baseline("last") == losses(1.0)
    series.go(1, loss=1.0)
    assert series.watch.loss.judgement("last") == "flat"


def test_a_loss_of_nan_at_the_baseline_is_passed_over():
    """The embeddings are finite where the logits overflow."""
    series = Series()
    series.watch.update(0, {"last": measured()}, TokenLosses((math.nan, 20.0), (10, 10)))
    for step in range(1, 10):
        series.watch.update(step, {"last": measured()}, TokenLosses((20.0, 20.0), (10, 10)))
    assert series.watch.loss.judgement("last") == "flat"
    json.dumps(series.watch.baselines(), allow_nan=False)


def test_a_loss_that_is_missing_once_does_not_end_an_excuse():
    series = Series()
    series.go(5)
    series.go(15, ratio=0.3, loss=BETTER)
    for missing in (None, math.nan):
        told = series.go(1, ratio=0.3, loss=missing)
        assert "COLLAPSED" not in [a.kind for a in told]
        assert not series.watch.collapsed
    series.go(1, ratio=0.3, loss=BETTER)
    told = series.go(3, ratio=0.3, loss=None)
    assert briefly(told) == [("representation", "COLLAPSED", "error")]


def test_a_loss_that_is_no_number_is_told_beside_finite_embeddings():
    series = Series()
    series.go(5)
    assert briefly(series.go(5, loss=math.nan)) == [("loss", "NONFINITE", "error")]
    series = Series()
    series.go(5)
    told = series.go(5, ratio=math.nan, loss=math.nan)
    assert briefly(told) == [("representation", "NONFINITE", "error")]


def test_a_loss_speaks_while_the_representation_is_muted():
    series = Series(representation={"flapping_transitions": 1, "recovered_patience": 1})
    series.go(5)
    for ratio in (0.6, 1.0, 0.6):
        series.go(9, ratio=ratio)
    assert series.kinds()[-1] == "FLAPPING"
    told = series.go(10, ratio=0.6, loss=1.2)
    assert briefly(told) == [("loss", "WARNING", "warn")]


def test_what_was_low_from_the_start_has_not_collapsed(caplog):
    low, high = measured(1.0, pooled=1.4), measured(1.0, pooled=2.4)
    series = Series()
    series.go(10, ratio=low)
    assert series.kinds() == ["BASELINE"]
    (message,) = (record.getMessage() for record in caplog.records)
    assert "point one way from the start (layer last, effective rank 1.4" in message
    series.go(2, ratio=high)
    state = through_json(series.watch.state_dict())
    series.watch = series.fresh()
    series.watch.load_state_dict(state)
    told = series.go(5, ratio=low)
    assert [(a.kind, a.floor) for a in told] == [("COLLAPSED", 2.0)]


def test_a_recovery_is_told_of_the_rule_that_the_alarm_was_about():
    series = Series()
    series.go(5)
    series.go(6, ratio=measured(1.0, pooled=1.4))
    state = through_json(series.watch.state_dict())
    series.watch = series.fresh()
    series.watch.load_state_dict(state)
    (recovered,) = series.go(30)
    assert (recovered.kind, recovered.functional) == ("RECOVERED", FLOORED)
    assert recovered.value == pytest.approx(20.0)


@pytest.mark.parametrize("baseline", ["start", "plateau"])
def test_a_model_without_a_token_loss_is_watched_on_uncentred_rows_too(baseline):
    narrow = measured(1.0, pooled=8.0)  # of 20, far above the floor
    for has_loss, expected in ((True, []), (False, ["WARNING", "COLLAPSED", "RECOVERED"])):
        series = Series(baseline=baseline, expected_checks=60, has_loss=has_loss)
        series.go(20, loss=None)
        told = series.go(20, ratio=narrow, loss=None) + series.go(30, loss=None)
        assert [a.kind for a in told] == expected
    warning = told[0]
    assert (warning.functional, warning.convention) == (FLOORED, "uncentred mean-pooled rows")
    assert (warning.value, warning.baseline) == (pytest.approx(8.0), pytest.approx(20.0))
    assert warning.onset_step == 20
    assert warning.floor is None


def test_another_run_without_a_token_loss_is_compared_on_uncentred_rows_too():
    one = Series(has_loss=False)
    one.go(5, loss=None)
    for reference in (one.watch.baselines(), one.watch.latest_as_baselines()):
        other = Series(has_loss=False)
        other.watch.adopt(through_json(reference))
        told = other.go(5, ratio=measured(1.0, pooled=12.0), loss=None)
        assert [(a.kind, a.baseline) for a in told] == [("WARNING", pytest.approx(20.0))]


def test_windows_for_another_length_reach_every_series():
    series = Series("0", "last", writes=True, has_loss=False)
    series.go(5, loss=None, text=writing())
    series.watch.expect(20, 10)
    state = series.watch.state_dict()
    lengths = [
        *(d["expected_checks"] for layer in state["layers"].values() for d in _detectors(layer)),
        state["loss"]["detector"]["expected_checks"],
    ]
    assert lengths == [20] * 7
    text = [d["expected_checks"] for d in state["generation"]["series"].values()]
    assert text == [10, 10]
    assert series.go(5, loss=None, text=writing()) == []


def _detectors(layer):
    return [layer[name] for name in ("level", "uncentred", "floor")]


# --- several layers ------------------------------------------------------------------------------

LAYERS = ("0", "1", "2", "3", "4", "5", "6", "last")


@pytest.mark.parametrize(
    ("value", "kind"), [(math.nan, "NONFINITE"), (0.0, "VANISHED")], ids=["nan", "zero"]
)
def test_what_several_layers_have_in_common_is_told_once(value, kind):
    series = Series(*LAYERS)
    series.go(5)
    told = series.go(1, ratio=value)
    assert briefly(told) == [("representation", kind, "error")]
    assert told[0].layer == "0"
    assert series.go(2, ratio=value) == []
    assert series.watch.unmeasured_in_a_row == 3
    assert series.watch.status is Status.HEALTHY
    series.go(1, ratio=1.0)
    assert series.watch.unmeasured_in_a_row == 0


def test_two_different_things_are_both_told():
    series = Series(*LAYERS)
    series.go(5)
    told = series.go(1, **{"0": math.nan, "1": 0.0, "2": math.nan, "3": 0.0})
    assert [(a.layer, a.kind) for a in told] == [("0", "NONFINITE"), ("1", "VANISHED")]


def test_missed_checks_are_told_once_for_all_layers():
    series = Series(*LAYERS)
    series.go(5)
    told = [series.watch.missed(step) for step in range(5, 12)]
    assert [[a.kind for a in alerts] for alerts in told] == [[], [], ["NO_DATA"], [], [], [], []]


def test_each_layer_has_a_baseline_of_its_own():
    series = Series(*LAYERS)
    told = series.go(1)
    assert [(a.kind, a.layer) for a in told] == [("BASELINE", layer) for layer in LAYERS]


def test_one_layer_of_eight_is_a_warning_and_two_are_a_collapse():
    series = Series(*LAYERS)
    series.go(5)
    series.go(10, **{"3": 0.3})
    assert series.watch.status is Status.WARNING
    assert not series.watch.collapsed
    series.go(10, **{"3": 0.3, "5": 0.3})
    assert series.watch.collapsed
    collapsed = next(a for a in series.told if a.kind == "COLLAPSED")
    assert (collapsed.layer, collapsed.affected, collapsed.onset_step) == ("3", ("3", "5"), 5)


@pytest.mark.parametrize(
    ("layers", "deciding"), [(LAYERS, "last"), (LAYERS[:5], "4"), (("last", *LAYERS[:4]), "last")]
)
def test_the_last_layer_decides_alone(layers, deciding):
    for layer in layers:
        series = Series(*layers)
        series.go(5)
        series.go(10, **{layer: 0.3})
        assert series.watch.collapsed is (layer == deciding)


def test_an_excursion_asks_for_a_confirmation():
    series = Series("0", "last")
    assert not series.watch.excursion
    series.go(5)
    assert not series.watch.excursion
    for ratio, expected in ((0.95, False), (0.85, True), (1.05, False), (1.2, True)):
        series.go(1, **{"0": ratio})
        assert series.watch.excursion is expected
        assert series.watch.ratios == pytest.approx({"0": ratio, "last": 1.0})
    series.go(10, ratio=0.3)
    assert not series.watch.excursion  # everything has been told


# --- rebaseline, and other runs ------------------------------------------------------------------


def test_rebaseline_ends_every_episode_untold():
    series = Series(writes=True)
    series.go(5, text=writing())
    series.go(10, ratio=0.6, loss=1.03, text=writing(rank=0.3))
    assert series.watch.status is Status.COLLAPSED
    series.watch.rebaseline()
    assert series.watch.status is Status.WARMUP
    assert not series.watch.collapsed
    told = series.go(20, ratio=0.6, loss=1.03, text=writing(rank=0.3))
    assert [a.kind for a in told] == ["BASELINE"] * 3  # of the layer, of the text, of its entropy
    assert series.watch.status is Status.HEALTHY
    assert series.watch.ratios == pytest.approx({"last": 1.0})
    assert series.watch.loss.judgement("last") == "flat"
    told = series.go(10, ratio=0.6, loss=1.2, text=writing(rank=0.3))
    assert briefly(told) == [("loss", "WARNING", "warn")]


def through_json(value):
    return json.loads(json.dumps(value, allow_nan=False))


def test_another_run_is_compared_with_the_baseline_of_this_one():
    one = Series(writes=True)
    one.go(5, text=writing())
    one.go(5, ratio=0.9, loss=0.5, text=writing(rank=0.9))
    reference = through_json(one.watch.baselines())
    other = Series(writes=True)
    other.watch.adopt(reference)
    told = other.go(10, ratio=0.6, loss=1.03, text=writing(rank=0.3))
    assert "BASELINE" not in [a.kind for a in told]
    assert other.watch.ratios == pytest.approx({"last": 0.6})
    assert other.watch.loss.judgement("last") == "worse"
    assert sorted(set(briefly(told))) == [
        ("generation", "COLLAPSED", "error"),
        ("generation", "WARNING", "warn"),
        ("representation", "WARNING", "warn"),
    ]
    assert through_json(other.watch.baselines()) == reference


def test_another_run_is_compared_with_the_end_of_this_one():
    one = Series(writes=True)
    one.go(5, text=writing())
    one.go(1, ratio=0.5, loss=0.5, text=writing(rank=0.5, entropy=0.5))
    other = Series(writes=True)
    other.watch.adopt(through_json(one.watch.latest_as_baselines()))
    same = {"ratio": 0.5, "loss": 0.5, "text": writing(rank=0.5, entropy=0.5)}
    assert other.go(20, **same) == []
    assert other.watch.status is Status.HEALTHY
    assert other.watch.ratios == pytest.approx({"last": 1.0})
    assert other.watch.loss.judgement("last") == "flat"
    told = other.go(10, ratio=1.0, loss=0.5, text=writing())
    assert {a.side for a in told} == {"expansion"}
    assert {a.channel for a in told} == {"representation", "generation"}


def test_before_a_baseline_there_is_nothing_to_compare_with():
    series = Series(writes=True, baseline="plateau")
    empty = {"layers": {}, "limits": {}, "loss": {}, "generation": None}
    assert series.watch.baselines() == series.watch.latest_as_baselines() == empty
    series.go(3, text=writing())
    assert series.watch.baselines()["layers"] == {}
    assert series.watch.baselines()["generation"] is None
    present = series.watch.latest_as_baselines()
    assert present["layers"]["last"]["baseline"]["log_value"] == pytest.approx(math.log(RANK))
    assert present["generation"]["baselines"].keys() == {TEXT_RANK, ENTROPY}


def test_a_check_without_measurements_has_no_present():
    series = Series("0", "last")
    series.go(3)
    series.go(1, loss=None, last=math.nan)
    assert series.watch.latest_as_baselines()["layers"].keys() == {"0"}
    assert series.watch.latest_as_baselines()["loss"] == {}
    assert series.watch.baselines()["layers"].keys() == {"0", "last"}


def test_a_layer_is_judged_by_the_loss_at_its_own_baseline():
    """The second layer takes its baseline later, when loss is lower."""
    options = {"warmup_checks": 2, "baseline_checks": 4, "plateau_tolerance": 0.05}
    series = Series("0", "last", baseline="plateau", representation=options)
    rising = [0.1 * 1.3**i for i in range(8)]
    for ratio in rising:
        series.go(1, last=ratio, loss=2.0)
    series.go(8, last=1.0, loss=1.0)
    assert [(a.kind, a.layer) for a in series.told] == [("BASELINE", "0"), ("BASELINE", "last")]
    series.go(10, last=0.6, loss=1.0)
    assert series.told[-1].severity == "warn"  # flat since its own baseline
    series.watch.rebaseline()
    other = Series("0", "last", baseline="plateau", representation=options)
    for ratio in rising:
        other.go(1, last=ratio, loss=2.0)
    other.go(8, last=1.0, loss=1.0)
    other.go(10, **{"0": 0.6}, loss=1.0)
    assert other.told[-1].severity == "info"  # better than at its own


def test_the_last_layer_decides_after_a_resume_too():
    """A checkpoint is written with sorted keys."""
    layers = ("z", "m", "a", "b", "c", "d", "e", "k")
    series = Series(*layers)
    series.go(5)
    state = json.loads(json.dumps(series.watch.state_dict(), sort_keys=True))
    resumed = Series(*state["order"])
    resumed.watch.load_state_dict(state)
    resumed.step = series.step
    for each in (series, resumed):
        each.go(10, k=0.3)
        assert each.watch.status is Status.COLLAPSED


def test_a_reference_without_a_layer_of_ours_is_an_error():
    one, other = Series("0"), Series("0", "last")
    one.go(1)
    with pytest.raises(KeyError, match="last"):
        other.watch.adopt(one.watch.baselines())


def test_a_reference_without_text_leaves_the_text_its_own_baseline():
    one, other = Series(), Series(writes=True)
    one.go(1)
    other.watch.adopt(through_json(one.watch.baselines()))
    told = other.go(1, text=writing(rank=0.3))
    assert briefly(told) == [("generation", "BASELINE", "info")] * 2


def test_text_of_another_encoder_begins_anew_with_a_warning(caplog):
    series = Series(writes=True)
    series.go(5, text=writing())
    told = series.go(10, text=writing(rank=0.2, encoder="start-0123"))
    assert briefly(told) == [("generation", "BASELINE", "info")] * 2
    (message,) = (record.getMessage() for record in caplog.records)
    assert "another encoder before (hashing, now start-0123)" in message
    told = series.go(10, text=writing(rank=0.1, encoder="start-0123"))
    assert "WARNING" in [a.kind for a in told]


def test_the_floor_has_thresholds_of_its_own():
    series = Series(representation={"floor": 5.0, "floor_patience": 2})
    series.go(5, ratio=measured(0.1))  # of 40: an effective rank of 4
    assert series.kinds() == ["BASELINE"]  # the centred rank has no floor
    told = series.go(2, ratio=measured(0.1, pooled=4.9))
    assert [(a.kind, a.floor, a.functional) for a in told] == [("COLLAPSED", 5.0, FLOORED)]
    none = Series(representation={"floor": None})
    none.go(20, ratio=measured(1.0, pooled=1.2))
    assert none.kinds() == ["BASELINE"]


@pytest.mark.parametrize("channel", CHANNELS)
def test_reminders_are_those_of_each_channel(channel):
    series = Series(writes=True, **{channel: {"reminder_checks": 4}})
    series.go(5, text=writing())
    moved = {
        "representation": {"ratio": 0.6, "text": writing()},
        "generation": {"text": writing(rank=0.6)},
        "loss": {"loss": 1.2, "text": writing()},
    }
    told = series.go(13, **moved[channel])
    assert {a.channel for a in told} == {channel}
    assert [a.reminder for a in told] == [False, True, True]


def test_thresholds_are_those_of_each_channel():
    series = Series(
        writes=True,
        representation={"warning_slow": 0.4, "warning_fast": 0.4, "collapsed": 0.1, "trend": False},
        generation={"preset": "sensitive"},
        loss={"warning_fast": 0.5, "warning_slow": 0.5, "recovered": 0.6},
    )
    series.go(10, text=writing())
    series.go(20, ratio=0.6, loss=1.5, text=writing(rank=0.84))
    assert {a.channel for a in series.told if a.kind != "BASELINE"} == {"generation"}
    with pytest.raises(InputError):
        Series(loss={"unknown": 1})


@pytest.mark.parametrize(
    ("signature", "same"),
    [
        ((1.0, 0.2, 0.2, 1.0), True),
        ((1.005, 0.2, 0.195, 1.0), True),  # another device rounds otherwise
        ((1.0, 0.3, 0.3, 1.0), False),
        ((1.0,), False),
        ((), False),
    ],
)
def test_an_encoder_of_the_same_name_is_known_by_what_it_does(signature, same):
    series = Series(writes=True)
    series.go(5, text=writing())
    told = series.go(1, text=writing(signature=signature))
    assert briefly(told) == ([] if same else [("generation", "BASELINE", "info")] * 2)


def test_another_encoder_within_an_episode_is_no_recovery():
    series = Series(writes=True)
    series.go(5, text=writing())
    series.go(5, text=writing(rank=0.6))
    assert series.watch.status is Status.WARNING
    told = series.go(30, text=writing(rank=0.6, encoder="start-0123"))
    assert {a.kind for a in told} == {"BASELINE"}
    assert series.watch.status is Status.HEALTHY


# --- state ---------------------------------------------------------------------------------------


def rows(rank, shift=0.0, seed=0):
    """16 examples, two rows each, that spread over so many of twelve directions."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(32, 12, generator=generator) * (torch.arange(12) < rank) + shift
    pooled = rows.view(16, 2, 12).mean(1)
    return Rows(rows, torch.arange(16).repeat_interleave(2), pooled, torch.isfinite(pooled).all(1))


def spectrum(rank, shift=0.0, seed=0):
    return measure(rows(rank, shift, seed), functionals=(WATCHED,), relative_ridge=1e-3, methods={})


def noisy(factor, seed=0):
    rng = np.random.default_rng(seed)
    sums = LOSS * factor * 10 * (1 + 0.01 * rng.standard_normal(16))
    return TokenLosses(tuple(sums.tolist()), (10,) * 16)


def a_life():
    """(spectra of two layers, loss, text) of each check: everything that can happen happens."""
    healthy, contracted = spectrum(12), spectrum(5)
    turned, floored = spectrum(12, seed=1), spectrum(12, shift=100.0)
    gone, zero = measured(math.nan), measured(0.0)
    nan_loss = TokenLosses((math.nan,) * 16, (10,) * 16)
    stretches = [
        (8, (healthy, healthy), noisy(1.0), writing()),
        (6, (contracted, healthy), noisy(0.9), writing(rank=0.6)),
        (4, (contracted, contracted), noisy(0.9), None),
        (3, (contracted, contracted), noisy(1.0), writing(rank=0.3)),
        (2, (gone, contracted), nan_loss, None),
        (2, (gone, zero), None, writing(entropy=0.5)),
        (14, (healthy, turned), noisy(0.5), writing()),
        (8, (floored, healthy), noisy(0.7), writing(encoder="start-0")),
        (2, (gone, healthy), noisy(0.7), None),
        (14, (healthy, healthy), noisy(0.7), writing(rank=0.5, encoder="start-0")),
        (14, (turned, healthy), noisy(0.5), None),
    ]
    for checks, (first, last), loss, text in stretches:
        for _ in range(checks):
            yield {"0": first, "last": last}, loss, text


def seen_of(watch):
    """All that the monitor asks for after a check."""
    names = ("status", "collapsed", "unmeasured_in_a_row", "excursion", "ratios")
    return {
        **{name: getattr(watch, name) for name in names},
        "drifts": {name: layer.drift for name, layer in watch.layers.items()},
        "judgements": [watch.loss.judgement(c) for c in CHANNELS],
        "mean": watch.loss.mean,
        "reference": watch.baselines(),
        "state": watch.state_dict(),
    }


OPTIONS = {
    "start": {"baseline": "start", "expected_checks": 60},
    "plateau": {
        "baseline": "plateau",
        "expected_checks": 30,
        "expected_writings": 20,
        "generation": {"preset": "sensitive"},
    },
    "reminders": {
        "representation": {"reminder_checks": 3, "flapping_transitions": 20},
        "generation": {"reminder_checks": 2},
        "loss": {"reminder_checks": 2},
    },
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_a_state_kept_as_json_changes_nothing_at_any_check(options):
    unbroken, resumed = (Series("0", "last", writes=True, **options) for _ in range(2))
    told, statuses = [], set()
    for step, (layers, loss, text) in enumerate(a_life()):
        state = through_json(resumed.watch.state_dict())
        resumed.watch = resumed.fresh()
        resumed.watch.load_state_dict(state)
        assert resumed.watch.state_dict() == state
        alerts = unbroken.watch.update(step, layers, loss, text)
        again = resumed.watch.update(step, layers, loss, text)
        assert [dataclasses.asdict(a) for a in again] == [dataclasses.asdict(a) for a in alerts]
        assert seen_of(resumed.watch) == seen_of(unbroken.watch)
        told += alerts
        statuses.add(unbroken.watch.status)
    assert {Status.HEALTHY, Status.WARNING, Status.COLLAPSED} <= statuses
    assert {a.channel for a in told} >= {"representation", "generation"}
    assert {"BASELINE", "WARNING", "COLLAPSED", "RECOVERED", "NONFINITE"} <= {a.kind for a in told}


def test_a_floor_that_was_reached_is_still_so_after_a_resume_without_measurements():
    unbroken, resumed = Series(), Series()
    for series in (unbroken, resumed):
        series.go(5)
        series.go(10, ratio=measured(1.0, pooled=1.5), loss=BETTER)
    state = through_json(resumed.watch.state_dict())
    resumed.watch = resumed.fresh()
    resumed.watch.load_state_dict(state)
    for series in (unbroken, resumed):
        series.go(1, ratio=math.nan, loss=BETTER)
    assert unbroken.watch.collapsed
    assert resumed.watch.collapsed


def test_a_state_shares_nothing_with_its_watch():
    series = Series(writes=True)
    series.go(10, text=writing())
    state = series.watch.state_dict()
    written = json.dumps(state)
    series.go(20, ratio=0.3, loss=1.5, text=writing(rank=0.3))
    assert json.dumps(state) == written


def test_what_is_asked_for_now_wins_over_a_saved_rule():
    one = Series()
    one.go(10)
    strict = {"warning_slow": 0.97, "warning_fast": 0.97, "recovered": 0.98, "noise_multiple": 0.0}
    other = Series(representation=strict)
    other.watch.load_state_dict(one.watch.state_dict())
    other.step = one.step
    assert one.go(10, ratio=0.9) == []
    assert [a.kind for a in other.go(10, ratio=0.9)] == ["WARNING"]


def test_a_relative_collapse_that_loss_excuses_does_not_hide_the_floor():
    series = Series()
    series.go(5)
    excused = series.go(15, ratio=0.3, loss=BETTER)
    assert {a.severity for a in excused} == {"info"}
    assert not series.watch.collapsed
    told = series.go(20, ratio=measured(0.3, pooled=1.2), loss=BETTER)
    assert [(a.kind, a.severity, a.floor) for a in told] == [("COLLAPSED", "error", 2.0)]
    assert series.watch.collapsed
