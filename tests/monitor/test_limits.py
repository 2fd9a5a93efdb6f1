"""Stops at limits of single functionals, in loops without any framework."""

import json
import math
from dataclasses import replace

import pytest

from sigma_monitor import SigmaMonitor, Status
from sigma_monitor.errors import InputError
from sigma_monitor.monitor import RECORD
from sigma_monitor.probing import TokenLosses
from tests.clock import stop_the_clock
from tests.monitor.test_monitor import WIDTH, Dial, Listener, run

ONSET = 10
STOPPED = ONSET + 2 + 4  # the median of 5 checks is down, on 5 in a row

# The rank of the dial's rows falls to 8 of 16: spectra of Gaussian rows, so about by half, and
# log det per dimension by half of log(ridge) for the half that is lost.
HALF = WIDTH // 2


def saved(monitor):
    return json.loads(json.dumps(monitor.state_dict(), allow_nan=False))


@pytest.mark.parametrize(
    ("limits", "stops"),
    [
        ({"participation_ratio": 0.7}, True),
        ({"participation_ratio": 0.3}, False),
        ({"effective_rank": 0.95}, True),
        ({"trace": 0.6}, True),
        ({"trace": 0.4}, False),
        ({"log_det_per_dim": -1.0}, True),
        ({"log_det_per_dim": -5.0}, False),
        ({"log_det": -20}, True),
        ({"log_det": -2000}, False),
        ({"spectral_entropy": -0.5}, True),
        ({"coding_rate": -5.0}, True),
        ({"uncentred/effective_rank": 0.7}, True),
        ({"uncentred/log_det": -20}, True),
        ({"stable_rank": 0.2, "participation_ratio": 0.7}, True),
    ],
    ids=str,
)
def test_a_limit_stops_the_run_when_its_functional_has_fallen_so_far(limits, stops):
    model, listener = Dial(), Listener()
    monitor = model.monitor(stop_on_collapse=limits, sinks=[listener])
    run(monitor, model, range(30), rank={ONSET: HALF})
    assert monitor.should_stop is stops
    assert listener.alerts().count("STOPPED") == stops
    assert set(limits) <= set(monitor.last_snapshot.layers["last"])


def test_the_reason_names_functional_layer_value_limit_and_step():
    model, listener = Dial(), Listener()
    monitor = model.monitor(stop_on_collapse={"trace": 0.6}, sinks=[listener])
    run(monitor, model, range(30), rank={ONSET: HALF})
    values = [s.layers["last"]["trace"].value for s in listener.snapshots()]
    ratio = values[STOPPED] / values[0]
    assert monitor.stop_reason == (
        f"trace at layer last {ratio:.3g} of its baseline (stops at 0.6) at step {STOPPED}"
    )
    assert monitor.stop_reason in listener.first("STOPPED").text


def test_the_reason_of_a_logarithm_is_in_nats():
    model, listener = Dial(), Listener()
    monitor = model.monitor(stop_on_collapse={"log_det": -20}, sinks=[listener])
    run(monitor, model, range(30), rank={ONSET: HALF})
    values = [s.layers["last"]["log_det"].value for s in listener.snapshots()]
    assert monitor.stop_reason == (
        f"log_det at layer last {values[STOPPED] - values[0]:+.3g} nats from its baseline "
        f"(stops at -20) at step {STOPPED}"
    )


def test_limits_take_the_place_of_collapsed():
    model, listener = Dial(), Listener()
    monitor = model.monitor(stop_on_collapse={"trace": 0.01}, sinks=[listener])
    run(monitor, model, range(30), rank={ONSET: 4})
    assert monitor.status is Status.COLLAPSED
    assert not monitor.should_stop


def test_a_run_at_its_limit_need_not_have_collapsed():
    model, listener = Dial(), Listener()
    monitor = model.monitor(stop_on_collapse={"trace": 0.6}, sinks=[listener])
    run(monitor, model, range(30), rows={ONSET: model.rows / 2})
    assert monitor.status is Status.HEALTHY
    assert monitor.should_stop
    assert listener.alerts() == ["BASELINE", "STOPPED"]


def test_embeddings_that_stay_not_finite_stop_a_run_with_limits_too():
    model = Dial()
    monitor = model.monitor(stop_on_collapse={"trace": 0.5})
    run(monitor, model, range(13), shift={10: math.nan})
    assert monitor.should_stop
    assert "nothing could be measured" in monitor.stop_reason


@pytest.mark.parametrize(("loss", "stops"), [(0.9, False), (1.0, True), (None, True)])
def test_held_out_loss_that_is_better_excuses_a_limit(loss, stops):
    """As it excuses COLLAPSED."""
    model = Dial()
    monitor = model.monitor(stop_on_collapse={"trace": 0.6})

    def with_loss(check):
        def measured(*args, **kwargs):
            found, _ = check(*args, **kwargs)
            if loss is None:
                return found, None
            factor = loss if monitor.checks >= ONSET else 1.0
            return replace(found, losses=TokenLosses((20.0 * factor,) * 32, (10,) * 32)), None

        return measured

    monitor.instrument.check = with_loss(monitor.instrument.check)
    run(monitor, model, range(30), rank={ONSET: HALF})
    assert monitor.should_stop is stops


@pytest.mark.parametrize("cut", [5, ONSET + 2, STOPPED - 1])
@pytest.mark.parametrize("baseline", ["start", "plateau"])
def test_a_resumed_run_stops_where_the_unbroken_one_does(baseline, cut):
    model = Dial()
    options = {
        "stop_on_collapse": {"log_det": -20, "trace": 0.6},
        "baseline": baseline,
        "detector": {"warmup_checks": 2, "baseline_checks": 4},
    }
    first = run(model.monitor(**options), model, range(cut + 1), rank={ONSET: HALF})
    resumed = model.monitor(**options)
    resumed.load_state_dict(saved(first))
    assert resumed.state_dict() == first.state_dict()
    run(resumed, model, range(cut + 1, STOPPED), rank={ONSET: HALF})
    assert not resumed.should_stop
    run(resumed, model, [STOPPED])
    assert resumed.should_stop


@pytest.mark.parametrize(
    ("policy", "stops"), [("continue", False), ("rearm", True), ("stop", True)]
)
def test_a_run_stopped_at_a_limit_is_resumed_as_it_was_told_to(policy, stops):
    model = Dial()
    limits = {"trace": 0.6}
    first = run(model.monitor(stop_on_collapse=limits), model, range(30), rank={ONSET: HALF})
    resumed = model.monitor(stop_on_collapse=limits, on_resume=policy)
    resumed.load_state_dict(saved(first))
    run(resumed, model, [30])
    assert resumed.should_stop is stops
    if policy == "continue":  # until it has been well, and falls again
        run(resumed, model, range(31, 70), rank={31: WIDTH, 60: HALF})
        assert resumed.should_stop


def test_a_limit_that_is_another_or_new_at_the_resume():
    model = Dial()
    first = run(model.monitor(stop_on_collapse={"trace": 0.1}), model, range(5))
    resumed = model.monitor(stop_on_collapse={"trace": 0.6, "stable_rank": 0.1})
    resumed.load_state_dict(saved(first))
    run(resumed, model, range(5, 30), rank={5: HALF})  # the baseline is that of before
    assert resumed.should_stop
    assert resumed.stop_reason.startswith("trace at layer last")


def test_rebaseline_takes_the_next_check_as_the_reference_of_limits_too():
    model = Dial()
    monitor = run(model.monitor(stop_on_collapse={"trace": 0.6}), model, range(5))
    monitor.rebaseline()
    run(monitor, model, range(5, 30), rank={5: HALF})
    assert not monitor.should_stop


def test_limits_go_on_with_the_smaller_probe_set(monkeypatch):
    clock = stop_the_clock(monkeypatch)
    model, listener = Dial(128, clock=clock, cost=1.2 / 128), Listener()
    monitor = model.monitor(
        every="auto",
        max_overhead=0.01,
        max_steps=1000,
        sinks=[listener],
        stop_on_collapse={"trace": 0.6},
    )
    for step in range(1001):
        clock.advance(1.0)
        run(monitor, model, [step], rank={300: HALF})
    sizes = [s.examples for s in listener.snapshots()]
    assert (sizes[0], sizes[-1]) == (128, 64)
    assert monitor.should_stop
    first = listener.snapshots()[1].layers["last"]["trace"].value
    last = listener.snapshots()[-1].layers["last"]["trace"].value
    assert f"{last / first:.2g}" in monitor.stop_reason


def test_another_runs_baseline_is_that_of_limits_too(tmp_path):
    """The run to compare with had twice the spread."""
    model, limits = Dial(), {"trace": 0.6, "log_det": -20}
    options = {"stop_on_collapse": limits, "output_dir": tmp_path, "sinks": None}
    run(model.monitor(**options), model, range(3)).close()
    monitor = model.monitor(stop_on_collapse=limits, baseline=tmp_path / RECORD)
    run(monitor, model, range(10), rank={0: HALF})
    assert monitor.should_stop


def test_another_run_without_these_limits_is_no_baseline_of_theirs(tmp_path, caplog):
    model = Dial()
    run(model.monitor(output_dir=tmp_path, sinks=None), model, range(3)).close()
    monitor = model.monitor(stop_on_collapse={"trace": 0.6}, baseline=tmp_path / RECORD)
    run(monitor, model, range(10), rank={0: HALF})
    assert not monitor.should_stop
    assert [r.getMessage() for r in caplog.records if "has no baseline of trace" in r.getMessage()]


def test_the_last_layer_decides_or_a_quarter_of_them():
    names = [f"block{i}" for i in range(8)]
    model = Dial()
    instrument = model.monitor(stop_on_collapse={"trace": 0.6}).instrument
    whole, _ = instrument.check(model, 0)
    model.rank = HALF
    half, _ = instrument.check(model, 0)

    def stopped(fallen):
        monitor = model.monitor(stop_on_collapse={"trace": 0.6})

        def check(*_, **__):
            low = fallen if monitor.checks >= ONSET else []
            layers = {n: (half if n in low else whole).measured["last"] for n in names}
            return replace(whole, measured=layers), None

        monitor.instrument.check = check
        return run(monitor, model, range(STOPPED + 1)).stop_reason

    assert stopped(["block2"]) is None
    assert stopped(["block7"]).startswith("trace at layer block7")
    assert stopped(["block2", "block4"]).startswith("trace at layer block2")


@pytest.mark.parametrize(
    ("limits", "named"),
    [
        ({}, "name a functional"),
        ({"condition_number": 0.5}, "'condition_number'.*effective_rank.*log_det"),
        ({"mean_cosine": 0.5}, "'mean_cosine'"),
        ({"lambda_min": 0.5}, "'lambda_min'"),
        ({"pooled/uncentred/effective_rank": 0.5}, "pooled"),
        ({3: 0.5}, "no limit can be put on 3"),
        ({"trace": 1.0}, "trace takes a ratio"),
        ({"trace": 0.0}, "trace takes a ratio"),
        ({"trace": -1.0}, "trace takes a ratio"),
        ({"trace": True}, "trace takes a ratio"),
        ({"trace": "low"}, "trace takes a ratio"),
        ({"trace": math.nan}, "trace takes a ratio"),
        ({"log_det": 0.5}, "log_det takes a difference"),
        ({"log_det": 0}, "log_det takes a difference"),
        ({"log_det": -math.inf}, "log_det takes a difference"),
        ({"uncentred/log_det": 0.5}, "uncentred/log_det takes a difference"),
    ],
    ids=str,
)
def test_a_limit_that_cannot_be_used_is_refused_at_once(limits, named):
    with pytest.raises(InputError, match=named):
        SigmaMonitor(stop_on_collapse=limits)
