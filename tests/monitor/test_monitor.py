"""The place where probe, spectrum, detection and sinks meet, in loops without any framework."""

import contextlib
import json
import logging
import math
from collections import Counter

import numpy as np
import pytest
import torch
from torch import nn

from sigma_monitor import ProbeSet, SigmaMonitor, Status
from sigma_monitor.checking import instrument
from sigma_monitor.errors import InputError, ProbeError, RecordError
from sigma_monitor.monitor import RECORD
from sigma_monitor.monitor.options import CHANNELS
from sigma_monitor.sinks import read_record
from tests.clock import stop_the_clock
from tests.compatibility import shows
from tests.probing.models import Plain, tiny, token_ids

WIDTH = 16


class Dial(nn.Module):
    """A model whose embeddings spread over as many directions as it is told."""

    def __init__(self, examples=32, *, clock=None, cost=0.0):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.rows = torch.randn(examples, WIDTH, generator=generator)
        self.rank = WIDTH  # directions with any spread
        self.shift = 0.0  # of all rows along one more: blinds the uncentred spectrum
        self.fails = False
        self.calls = 0
        self.clock, self.cost = clock, cost  # seconds per example

    def embed(self, _model, batch):
        self.calls += 1
        if self.clock is not None:
            self.clock.advance(self.cost * len(batch["index"]))
        if self.fails:
            raise RuntimeError("no embeddings today")
        rows = self.rows[batch["index"]] * (torch.arange(WIDTH) < self.rank)
        return torch.cat([rows, torch.full((len(rows), 1), self.shift)], dim=1)

    def monitor(self, **options):
        defaults = {
            "every": 1,
            "max_overhead": None,
            "embed_fn": self.embed,
            "baseline": "start",
            "sinks": [],
        }
        probes = ProbeSet.from_tensors({"index": torch.arange(len(self.rows))})
        return SigmaMonitor(probes, **{**defaults, **options})


class Listener:
    """A sink that keeps everything, in order."""

    def __init__(self):
        self.heard = []

    inline = True
    baselines = True

    def log(self, metrics, step):
        raise AssertionError("check() is there")

    def check(self, snapshot):
        self.heard.append(snapshot)

    def alert(self, alert):
        self.heard.append(alert)

    def close(self):
        self.heard.append("closed")

    def alerts(self, layer=None):
        alerts = [a for a in self.heard if hasattr(a, "kind")]
        return [a.kind for a in alerts if layer in (None, a.layer)]

    def snapshots(self):
        return [s for s in self.heard if hasattr(s, "layers")]

    def first(self, kind):
        return next(a for a in self.heard if getattr(a, "kind", "") == kind)


@pytest.fixture
def messages(caplog):
    caplog.set_level(logging.INFO, "sigma_monitor")
    return lambda: [record.getMessage() for record in caplog.records]


def run(monitor, model, steps, **changes):
    """Step through `steps`; `changes` maps an attribute of the model to {step: value}."""
    for step in steps:
        for name, values in changes.items():
            if step in values:
                setattr(model, name, values[step])
        monitor.step(model, step)
    return monitor


# A plain loop


def train(steps, monitor=None):
    """Ten lines of plain PyTorch, as a user has them."""
    torch.manual_seed(0)
    model = tiny("llama", attention_dropout=0.1).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for step in range(steps + 1):
        if step:
            ids = torch.randint(1, 50, (4, 9))
            optimiser.zero_grad()
            model(input_ids=ids, labels=ids).loss.backward()
            optimiser.step()
        if monitor is not None:
            monitor.step(model, step)
    return model


@shows("plain PyTorch", "same numbers")
def test_a_plain_loop_is_watched_from_the_first_step_to_the_last(tmp_path):
    monitor = SigmaMonitor(
        ProbeSet.from_tensors({"input_ids": token_ids(8)}),
        every=5,
        max_overhead=None,
        max_steps=12,
        output_dir=tmp_path,
    )
    train(12, monitor)
    monitor.close()
    record = read_record(tmp_path / RECORD)
    assert [s.step for s in record.snapshots] == [0, 5, 10, 12]
    assert [s.check for s in record.snapshots] == [1, 2, 3, 4]
    assert monitor.failures == 0
    assert repr(record.snapshots[-1]) == repr(monitor.last_snapshot)
    for snapshot in record.snapshots:
        metrics = snapshot.metrics()
        assert 1 < metrics["sigma/last/effective_rank"] <= 16
        assert metrics["sigma/finite"] == 1.0
        assert abs(metrics["sigma/loss"] - math.log(50)) < 1  # drawn weights know nothing
        assert (snapshot.rows, snapshot.examples) == (8 * 8, 8)


@shows("plain PyTorch", "same weights")
def test_the_training_is_bit_for_bit_the_one_without_a_monitor():
    monitor = SigmaMonitor(
        ProbeSet.from_tensors({"input_ids": token_ids(8)}), every=1, max_overhead=None, sinks=[]
    )
    alone, beside = train(6), train(6, monitor)
    assert monitor.checks == 7
    assert all(
        torch.equal(a, b) for a, b in zip(alone.parameters(), beside.parameters(), strict=True)
    )


@pytest.mark.parametrize("wrap", [lambda model: model, nn.DataParallel], ids=["bare", "wrapped"])
@pytest.mark.parametrize(("name", "kind"), [("", "plateau"), ("some/model", "start")])
def test_auto_takes_loaded_weights_as_their_own_baseline(tmp_path, name, kind, wrap):
    model = Dial()
    model.name_or_path = name
    monitor = model.monitor(baseline="auto", output_dir=tmp_path, sinks=None)
    run(monitor, wrap(model), [0])
    assert monitor.status is (Status.HEALTHY if kind == "start" else Status.WARMUP)
    started = read_record(tmp_path / RECORD).events[0]
    assert (started["baseline"], started["baseline_asked"]) == (kind, "auto")


# What is written


def test_thresholds_of_other_libraries_are_numbers_in_the_record(tmp_path):
    model = Dial()
    thresholds = {"warning_slow": np.float32(0.75), "generation": {"trend": np.bool_(False)}}
    run(model.monitor(output_dir=tmp_path, sinks=None, detector=thresholds), model, [0])
    started = read_record(tmp_path / RECORD).events[0]
    assert started["thresholds"]["representation"] == {"warning_slow": 0.75}
    assert started["thresholds"]["generation"] == {"trend": False}


def test_the_record_tells_the_run_from_start_to_close(tmp_path, capsys):
    model = Dial()
    monitor = model.monitor(output_dir=tmp_path, sinks=None, max_steps=40, detector={})
    run(monitor, model, range(41), rank={20: 4})
    monitor.close()
    lines = [json.loads(line) for line in (tmp_path / RECORD).read_text().splitlines()]
    assert Counter(line["type"] for line in lines) == {"event": 4, "check": 41, "alert": 3}
    events = [line for line in lines if line["type"] == "event"]
    assert [e["event"] for e in events] == ["started", "baseline", "end", "closed"]
    started, closed = lines[0], lines[-1]
    assert started["event"] == "started"
    assert {key: started[key] for key in ("step", "baseline", "examples", "held_out")} == {
        "step": 0,
        "baseline": "start",
        "examples": 32,
        "held_out": True,
    }
    assert (started["every"], started["max_overhead"], started["max_steps"]) == (1, None, 40)
    assert started["thresholds"] == {"representation": {}, "generation": {}, "loss": {}}
    assert {key: closed[key] for key in ("event", "checks", "failures", "lost")} == {
        "event": "closed",
        "checks": 41,
        "failures": 0,
        "lost": {},
    }
    alerts = [line for line in lines if line["type"] == "alert"]
    assert [alert["kind"] for alert in alerts] == ["BASELINE", "WARNING", "COLLAPSED"]
    assert {line["fingerprint"] for line in lines if line["type"] != "event"} == {
        started["fingerprint"]
    }
    # The console has the alerts, a line each, and nothing of the checks.
    shown = capsys.readouterr().err.splitlines()
    assert [line for line in shown if not line.startswith("    ")] == [
        f"[{alert['title']}] {alert['text']}" for alert in alerts
    ]


def test_a_snapshot_comes_before_its_alerts_and_says_that_there_are_some():
    model, listener = Dial(), Listener()
    run(model.monitor(sinks=[listener]), model, range(40), rank={20: 4})
    heard = listener.heard
    for place, thing in enumerate(heard):
        if hasattr(thing, "kind"):
            snapshot = next(s for s in reversed(heard[:place]) if hasattr(s, "layers"))
            assert (thing.step, thing.check) == (snapshot.step, snapshot.check)
            assert snapshot.alerted is (thing.severity != "info")
    assert sum(s.alerted for s in listener.snapshots()) == 2


def test_an_alert_names_its_place_and_carries_the_paired_interval():
    model, listener = Dial(), Listener()
    monitor = run(model.monitor(sinks=[listener]), model, range(30), rank={20: 10})
    alert = listener.first("WARNING")
    assert (alert.layer, alert.functional) == ("last", "effective_rank")
    assert alert.convention == "centred token rows"
    assert alert.onset_step == 20
    assert alert.low < alert.value < alert.high < alert.baseline
    assert alert.ratio == pytest.approx(monitor.last_snapshot.ratios["last"])
    assert alert.fingerprint == monitor.last_snapshot.fingerprint
    assert alert.title
    assert alert.advice


@pytest.mark.parametrize("examples", [1, 2, 3, 4])
def test_very_few_examples_are_measured_and_not_called_collapsed(tmp_path, examples):
    """One or two rows per check cannot spread over more than the floor of two directions."""
    model = Dial(examples)
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randn(examples, 9, WIDTH, generator=generator)
    monitor = model.monitor(embed_fn=lambda *_: tokens, output_dir=tmp_path, sinks=None)
    run(monitor, model, range(20))
    monitor.close()
    record = read_record(tmp_path / RECORD)
    assert (monitor.failures, len(record.snapshots)) == (0, 20)
    assert record.events[-1]["lost"] == {}
    assert [alert["kind"] for alert in record.alerts] == ["BASELINE"]


def test_a_failing_sink_costs_the_others_nothing(messages):
    class Broken(Listener):
        def check(self, snapshot):
            raise ConnectionResetError("service is gone")

    model, listener = Dial(), Listener()
    monitor = run(model.monitor(sinks=[Broken(), listener]), model, range(5))
    monitor.close()
    assert monitor.failures == 0
    assert [s.step for s in listener.snapshots()] == [0, 1, 2, 3, 4]
    assert sum("service is gone" in message for message in messages()) == 1


@pytest.mark.parametrize("others_first", [False, True])
def test_a_sink_may_stand_beside_the_default_ones(tmp_path, capsys, others_first):
    model, listener = Dial(), Listener()
    sinks = ["default", listener][:: -1 if others_first else 1]
    run(model.monitor(sinks=sinks, output_dir=tmp_path), model, range(3)).close()
    record = read_record(tmp_path / RECORD)
    assert [s.step for s in record.snapshots] == [s.step for s in listener.snapshots()] == [0, 1, 2]
    assert [alert["kind"] for alert in record.alerts] == listener.alerts() == ["BASELINE"]
    assert capsys.readouterr().err.count("BASELINE at step 0") == 1


def test_closing_twice_or_before_the_first_check_is_fine(tmp_path):
    model, listener = Dial(), Listener()
    monitor = model.monitor(sinks=[listener])
    monitor.close()
    run(monitor, model, range(2))
    monitor.close()
    monitor.close()
    assert listener.heard.count("closed") == 1


# Failures


def test_a_failure_is_counted_reported_once_and_recorded(tmp_path, messages):
    model = Dial()
    monitor = model.monitor(output_dir=tmp_path, sinks=None)
    run(monitor, model, range(10), fails={2: True, 4: False, 6: True, 8: False})
    assert (monitor.failures, monitor.checks, monitor.disabled) == (4, 6, False)
    assert len(messages()) == 1
    assert "step 2" in messages()[0]
    assert "RuntimeError: no embeddings today" in messages()[0]
    failed = [e for e in read_record(tmp_path / RECORD).events if e["event"] == "failed"]
    assert [event["step"] for event in failed] == [2, 3, 6, 7]
    assert failed[0]["error"] == "RuntimeError: no embeddings today"


def test_no_address_in_an_error_of_the_model_is_told(tmp_path, messages):
    def embed(_model, _batch):
        raise OSError("no answer from https://user:S3CRETpass@example.org/T0KENabcdef")

    model = Dial()
    monitor = model.monitor(output_dir=tmp_path, sinks=None, embed_fn=embed)
    run(monitor, model, [0])
    monitor.observe("codebook", torch.ones(1, 4), 0)
    monitor.close()
    told = "".join(messages()) + (tmp_path / RECORD).read_text()
    assert "no answer from https://…" in told
    assert "in embed" in messages()[0]  # its traceback
    assert "S3CRET" not in told
    assert "T0KEN" not in told


def test_three_failures_in_a_row_switch_the_monitor_off(messages):
    model = Dial()
    monitor = run(model.monitor(), model, range(20), fails={5: True, 9: False})
    assert monitor.disabled
    assert (monitor.failures, monitor.checks, model.calls) == (3, 5, 5 + 3)
    assert ["switched off" in message for message in messages()] == [False, True]


def test_missing_checks_are_an_alert_and_change_no_status():
    model, listener = Dial(), Listener()
    monitor = run(model.monitor(sinks=[listener]), model, range(20), fails={5: True})
    assert listener.alerts() == ["BASELINE", "NO_DATA"]
    missing = listener.first("NO_DATA")
    assert (missing.severity, missing.step) == ("warn", 7)
    assert missing.title == "sigma: no measurements"
    assert monitor.status is Status.HEALTHY


def test_a_failed_check_is_not_tried_again_before_the_next_is_due():
    model = Dial()
    model.fails = True
    monitor = run(model.monitor(every=10), model, range(10))
    assert model.calls == 1
    assert monitor.failures == 1


def test_check_raises_where_step_does_not():
    model = Dial()
    model.fails = True
    with pytest.raises(RuntimeError, match="no embeddings today"):
        model.monitor().check(model, 0)
    with pytest.raises(InputError, match="no probe set"):
        SigmaMonitor(sinks=[]).check(model, 0)
    with pytest.raises(ProbeError):
        model.monitor(embed_fn=lambda model, batch: None).check(model, 0)


class Unshowable:
    def __repr__(self):
        raise RuntimeError("no repr")


NO_STEPS = {
    "None": None,
    "1.5": 1.5,
    "'3'": "3",
    "<list>": [3],
    "<Tensor>": torch.tensor([1, 2]),
    "<Parameter>": nn.Parameter(torch.tensor(1.5)),
    "<Unshowable>": Unshowable(),
}  # by what stands for them in a message
no_steps = pytest.mark.parametrize(("shown", "step"), NO_STEPS.items(), ids=NO_STEPS)


@no_steps
def test_a_step_that_is_none_is_told_once_and_counted(shown, step, tmp_path, messages):
    model = Dial()
    monitor = model.monitor(output_dir=tmp_path, sinks=None)
    monitor.step(model, 0)
    told = len(messages())
    assert [monitor.step(model, step) for _ in range(5)] == [None] * 5
    assert (monitor.failures, monitor.checks, monitor.disabled) == (5, 1, False)
    (message,) = messages()[told:]
    assert f"step={shown}:" in message
    failed = [e for e in read_record(tmp_path / RECORD).events if e["event"] == "failed"]
    assert [event["step"] for event in failed] == [shown]
    with pytest.raises(InputError, match="step="):
        monitor.check(model, step)
    run(monitor, model, [1], fails={1: True})
    assert "no embeddings today" in messages()[-1]


def test_a_step_may_be_an_integer_of_another_library():
    model = Dial()
    snapshot = model.monitor().step(model, torch.tensor(0))
    assert type(snapshot.step) is int


def test_step_without_a_probe_set_fails_and_does_not_raise():
    monitor = SigmaMonitor(sinks=[])
    assert monitor.step(Plain(), 0) is None
    assert monitor.failures == 1


def test_step_does_not_raise_on_what_is_no_model():
    monitor = Dial().monitor()
    for step in range(2):
        assert monitor.step(None, step) is None
    assert monitor.failures == 2
    assert monitor.cadence.state_dict()["check_seconds"] >= 0


def test_an_accelerator_is_warmed_up_once_also_where_that_fails(monkeypatch):
    monkeypatch.setattr(instrument, "_accelerator_of", lambda model: torch.device("cpu"))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    model = Dial()
    monitor = run(model.monitor(), model, range(3), fails={0: True, 1: False})
    assert (monitor.failures, monitor.checks, model.calls) == (1, 2, 3)
    assert model.monitor().step(model, 0) is not None
    assert model.calls == 3 + 2


def test_an_interrupt_is_not_swallowed():
    def interrupt(model, batch):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Dial().monitor(embed_fn=interrupt).step(nn.Identity(), 0)


@pytest.mark.parametrize("call", ["step", "check", "note"])
def test_a_monitor_that_is_not_enabled_costs_nothing(tmp_path, call):
    model = Dial()
    monitor = model.monitor(enabled=False, output_dir=tmp_path, sinks=None)
    with contextlib.suppress(InputError):  # `check` has nothing to return
        getattr(monitor, call)(*(("event",) if call == "note" else (model, 0)))
    monitor.close()
    assert model.calls == 0
    assert list(tmp_path.iterdir()) == []


# Status, stop, layers


def test_check_measures_now_whether_due_or_not():
    model = Dial()
    monitor = model.monitor(every=100)
    assert [monitor.check(model, step).check for step in (3, 3, 4)] == [1, 2, 3]
    assert monitor.step(model, 5) is None


def test_status_follows_the_dial():
    model, listener = Dial(), Listener()
    monitor = model.monitor(sinks=[listener])
    run(monitor, model, range(70), rank={10: 10, 30: 4, 50: WIDTH})
    assert listener.alerts() == ["BASELINE", "WARNING", "COLLAPSED", "RECOVERED"]
    assert monitor.status is Status.HEALTHY
    statuses = [s.status for s in listener.snapshots()]
    assert (statuses[0], statuses[29], statuses[49]) == (1, 2, 3)
    assert monitor.last_snapshot.ratios["last"] == pytest.approx(1.0)


@shows("plain PyTorch", "stopped")
@pytest.mark.parametrize(
    ("stop", "rank", "stops"),
    [(True, 4, True), (True, 10, False), (0.7, 10, True), (0.3, 6, False), (False, 4, False)],
)
def test_a_stop_comes_on_collapse_where_it_was_asked_for(stop, rank, stops):
    model, listener = Dial(), Listener()
    monitor = model.monitor(stop_on_collapse=stop, sinks=[listener])
    run(monitor, model, range(30), rank={10: rank})
    assert monitor.should_stop is stops
    assert listener.alerts().count("STOPPED") == stops
    if stops:
        stopped = listener.first("STOPPED")
        assert monitor.stop_reason == f"COLLAPSED at step {stopped.step}"
        assert monitor.stop_reason in stopped.text
        assert stopped.step == 10 + 2 + 4
    else:
        assert monitor.stop_reason is None


def test_a_stop_that_was_carried_out_is_not_repeated_until_it_is_armed_anew():
    model = Dial()
    monitor = model.monitor(stop_on_collapse=True)
    run(monitor, model, range(30), rank={10: 4})
    assert monitor.should_stop
    resumed = model.monitor(stop_on_collapse=True)
    resumed.load_state_dict(json.loads(json.dumps(monitor.state_dict())))
    assert resumed.status is Status.COLLAPSED
    run(resumed, model, range(30, 60))
    assert not resumed.should_stop  # it was resumed on purpose
    run(resumed, model, range(60, 100), rank={60: WIDTH, 90: 4})
    assert resumed.should_stop
    assert resumed.stop_reason == f"COLLAPSED at step {90 + 2 + 4}"


def test_a_run_that_goes_on_after_its_stop_is_no_longer_a_stopped_one():
    model = Dial()
    monitor = model.monitor(stop_on_collapse=True)
    run(monitor, model, range(30), rank={10: 4})
    gone_on = model.monitor(stop_on_collapse=True, on_resume="continue")
    gone_on.load_state_dict(monitor.state_dict())
    assert gone_on.stop_reason is None
    run(gone_on, model, range(30, 60), rank={30: WIDTH})
    for stopped in (monitor, gone_on):
        resumed = model.monitor(stop_on_collapse=True, on_resume="stop")
        resumed.load_state_dict(stopped.state_dict())
        assert resumed.should_stop == (stopped is monitor)
        assert resumed.stop_reason == stopped.stop_reason


def test_only_a_stop_that_was_asked_for_is_used_up():
    model = Dial()
    monitor = run(model.monitor(), model, range(30), rank={10: 4})
    assert monitor.status is Status.COLLAPSED
    resumed = model.monitor(stop_on_collapse=True)
    resumed.load_state_dict(json.loads(json.dumps(monitor.state_dict())))
    run(resumed, model, [30])
    assert resumed.should_stop


def test_a_stop_is_not_armed_anew_by_an_excuse_that_ends():
    model = Dial()
    monitor = run(model.monitor(stop_on_collapse=True), model, range(30), rank={10: 4})
    resumed = model.monitor(stop_on_collapse=True)
    resumed.load_state_dict(json.loads(json.dumps(monitor.state_dict())))
    channel = resumed._watch._channels["representation"]
    conclude = channel.conclude

    def excused(*args):
        alerts = conclude(*args)
        channel.excused = resumed.checks == 32
        return alerts

    channel.conclude = excused
    run(resumed, model, range(30, 40))
    assert resumed.status is Status.COLLAPSED
    assert not resumed.should_stop


def test_embeddings_that_stay_not_finite_stop_too():
    model, listener = Dial(), Listener()
    monitor = model.monitor(stop_on_collapse=True, sinks=[listener])
    run(monitor, model, range(12), shift={10: math.nan})
    assert not monitor.should_stop
    run(monitor, model, [12])
    assert monitor.should_stop
    assert "3 checks up to step 12" in monitor.stop_reason
    assert listener.alerts() == ["BASELINE", "NONFINITE", "STOPPED"]


def test_non_finite_and_vanished_embeddings_are_told_and_leave_a_sound_snapshot():
    model, listener = Dial(), Listener()
    monitor = model.monitor(sinks=[listener])
    changes = {"shift": {5: math.nan, 8: 0.0}, "rank": {12: 0, 15: WIDTH}}
    run(monitor, model, range(20), **changes)
    assert listener.alerts() == ["BASELINE", "NONFINITE", "VANISHED"]
    assert monitor.failures == 0
    by_step = {s.step: s for s in listener.snapshots()}
    assert by_step[6].metrics()["sigma/finite"] == 0.0
    assert by_step[13].metrics()["sigma/finite"] == 1.0
    for step in (6, 13):
        assert by_step[step].ratios == {}
        assert by_step[step].layers == {"last": {}}
    assert by_step[19].ratios["last"] == pytest.approx(1.0)


def test_the_floor_is_told_where_the_relative_rule_is_blind():
    model, listener = Dial(), Listener()
    monitor = run(model.monitor(sinks=[listener]), model, range(30), shift={10: 1e3})
    # A model without a token loss is watched relative to its baseline on these rows too.
    assert listener.alerts() == ["BASELINE", "WARNING", "COLLAPSED"]
    alert = listener.first("COLLAPSED")
    assert alert.functional == "pooled/uncentred/effective_rank"
    assert (alert.floor, alert.step) == (2.0, 14)
    assert monitor.last_snapshot.ratios["last"] == pytest.approx(1.0, rel=1e-3)


@pytest.mark.parametrize(
    ("rank_ends", "shift_ends"),
    [(40, 60), (60, 40), (50, 50)],
    ids=["rank_first", "shift_first", "at_one_check"],
)
def test_two_rules_that_see_one_collapse_tell_it_once(rank_ends, shift_ends):
    model, listener = Dial(), Listener()
    monitor = model.monitor(sinks=[listener])
    changes = {"rank": {10: 4, rank_ends: WIDTH}, "shift": {10: 1e3, shift_ends: 0.0}}
    run(monitor, model, range(75), **changes)
    assert listener.alerts() == ["BASELINE", "WARNING", "COLLAPSED", "RECOVERED"]
    # Ten checks in a row at which a median of nine is up.
    assert listener.first("RECOVERED").step == max(rank_ends, shift_ends) + 4 + 9
    assert monitor.status is Status.HEALTHY


class TwoLayers(nn.Module):
    """Two modules whose outputs spread over as many directions as they are told."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Identity(), nn.Identity()
        self.rows = Dial().rows
        self.first_rank = self.second_rank = WIDTH

    def forward(self, index):
        self.first(self.rows[index] * (torch.arange(WIDTH) < self.first_rank))
        return self.second(self.rows[index] * (torch.arange(WIDTH) < self.second_rank))


def test_several_layers_are_watched_each_by_itself():
    model, listener = TwoLayers(), Listener()
    monitor = Dial().monitor(embed_fn=None, layers=["first", "second"], sinks=[listener])
    run(monitor, model, range(40), first_rank={10: 10}, second_rank={20: 4})
    # One episode of the model: the second layer is told when it makes things worse.
    assert listener.alerts("first") == ["BASELINE", "WARNING"]
    assert listener.alerts("second") == ["BASELINE", "COLLAPSED"]
    metrics = {s.step: s.metrics() for s in listener.snapshots()}
    assert [metrics[step]["sigma/status"] for step in (5, 15, 35)] == [1, 2, 3]
    for step, lowest in ((15, "first"), (35, "second")):
        assert metrics[step]["sigma/ratio"] == metrics[step][f"sigma/{lowest}/ratio"]
    assert metrics[35]["sigma/first/ratio"] > metrics[35]["sigma/second/ratio"]
    assert {"first", "second"} == set(monitor.last_snapshot.layers)


# The probe set and the budget


@pytest.fixture
def clock(monkeypatch):
    return stop_the_clock(monkeypatch)


def timed(clock, monitor, model, steps, **changes):
    """Steps of one second each."""
    for step in steps:
        clock.advance(1.0 if step else 0.0)
        run(monitor, model, [step], **changes)
    return monitor


def budgeted(model, **options):
    return model.monitor(**{"every": "auto", "max_overhead": 0.01, "max_steps": 1000, **options})


@pytest.mark.parametrize(
    ("examples", "cost", "kept", "checks"),
    # 10 s may be spent on 1000 steps: 20 checks of 0.5 s.
    [
        (128, 0.40, 128, 25),
        (128, 0.49, 128, 20),
        (128, 0.60, 64, 32),
        (128, 1.20, 64, 16),
        (64, 0.60, 64, 16),
        (65, 0.60, 64, 16),
    ],
)
def test_the_probe_set_shrinks_to_64_before_there_are_fewer_than_20_checks(
    clock, examples, cost, kept, checks
):
    model, listener = Dial(examples, clock=clock, cost=cost / examples), Listener()
    monitor = timed(clock, budgeted(model, sinks=[listener]), model, range(1001))
    sizes = [s.examples for s in listener.snapshots()]
    assert sizes == [examples] + [kept] * (len(sizes) - 1)  # before the first step nothing is known
    assert abs(len(sizes) - checks) <= 1
    assert monitor.failures == 0


def test_the_baseline_is_that_of_the_smaller_probe_set(clock, tmp_path, messages):
    model = Dial(128, clock=clock, cost=1.0 / 128)
    smaller = model.rows[:64]
    monitor = budgeted(model, output_dir=tmp_path, sinks=None)
    timed(clock, monitor, model, range(1001), rank={500: 13})
    before, after = (
        read.metrics()["sigma/ratio"]
        for read in (
            next(s for s in read_record(tmp_path / RECORD).snapshots if 0 < s.step < 500),
            monitor.last_snapshot,
        )
    )
    assert before == pytest.approx(1.0)  # the same rows as at step 0: 128 would give another rank
    ranks = [
        _centred_effective_rank(smaller * (torch.arange(WIDTH) < rank)) for rank in (13, WIDTH)
    ]
    assert after == pytest.approx(ranks[0] / ranks[1], rel=1e-6)
    record = read_record(tmp_path / RECORD)
    budget = [e for e in record.events if e["event"] == "budget"]
    assert [event["examples"] for event in budget] == [64]
    assert sum("cut to 64 examples" in message for message in messages()) == 1
    assert not any("baseline begins anew" in message for message in messages())
    assert len({s.fingerprint for s in record.snapshots}) == 2  # the two are never compared


def _centred_effective_rank(rows):
    singular = torch.linalg.svdvals((rows - rows.mean(0)).double())
    shares = singular / singular.sum()
    return float(torch.special.entr(shares).sum().exp())


@pytest.mark.parametrize("resumes", [False, True], ids=["unbroken", "resumed"])
@pytest.mark.parametrize("cost", [0.15, 0.4], ids=["as_often_as_asked", "stretched"])
def test_what_was_asked_before_the_budget_is_known_stays(clock, cost, resumes):
    model, listener = Dial(128, clock=clock, cost=cost / 128), Listener()
    monitor = budgeted(model, sinks=[listener])
    timed(clock, monitor, model, range(3))
    monitor.bridge(0.5)
    if resumes:
        state = json.loads(json.dumps(monitor.state_dict()))
        monitor = budgeted(model, sinks=[listener])
        monitor.load_state_dict(state)
    timed(clock, monitor, model, range(3, 200))
    assert monitor.checks > 1
    assert monitor.last_snapshot.ratios["last"] == pytest.approx(math.exp(-0.5))
    windows = monitor._watch.layers["last"].level
    assert 20 <= windows.expected_checks < 1000 // 10 + 1  # of the budget, not as asked


def test_a_new_baseline_that_was_asked_for_before_the_budget_is_known_stays(clock):
    model, listener = Dial(128, clock=clock, cost=0.4 / 128), Listener()
    monitor = budgeted(model, sinks=[listener])
    timed(clock, monitor, model, range(3))
    monitor.rebaseline()
    timed(clock, monitor, model, range(3, 200), rank={3: 8})
    assert listener.alerts() == ["BASELINE", "BASELINE"]
    assert monitor.last_snapshot.ratios["last"] == pytest.approx(1.0)


@pytest.mark.parametrize("resumes", [False, True], ids=["unbroken", "resumed"])
def test_what_was_asked_before_a_cut_stays(clock, resumes):
    model, listener = Dial(128, clock=clock, cost=1.2 / 128), Listener()

    def go_on(monitor):
        if not resumes:
            return monitor
        resumed = budgeted(model, sinks=[listener])
        resumed.load_state_dict(json.loads(json.dumps(monitor.state_dict())))
        return resumed

    monitor = timed(clock, budgeted(model, sinks=[listener]), model, range(3))
    monitor.bridge(0.5)
    monitor = timed(clock, go_on(monitor), model, range(3, 400))
    assert monitor.last_snapshot.examples == 64
    assert monitor.last_snapshot.ratios["last"] == pytest.approx(math.exp(-0.5))

    listener.heard.clear()
    monitor = timed(clock, budgeted(model, sinks=[listener]), model, range(3))
    monitor.rebaseline()
    monitor = timed(clock, go_on(monitor), model, range(3, 400), rank={3: 8})
    assert monitor.last_snapshot.examples == 64
    assert monitor.last_snapshot.ratios["last"] == pytest.approx(1.0)
    assert set(listener.alerts()) == {"BASELINE"}


def test_a_first_check_that_fails_does_not_keep_the_probe_set_from_being_cut(clock):
    model, listener = Dial(128, clock=clock, cost=1.2 / 128), Listener()
    monitor = budgeted(model, sinks=[listener])
    timed(clock, monitor, model, range(1001), fails={0: True, 1: False})
    assert monitor.failures == 1
    sizes = [s.examples for s in listener.snapshots()]
    assert sizes == [128] + [64] * (len(sizes) - 1)
    assert len(sizes) >= 12


def test_windows_follow_a_run_that_turns_out_faster_than_its_first_steps(clock):
    """Compiling, say: 6 s a step at first, and then a twentieth of a second."""
    model, listener = Dial(64, clock=clock, cost=0.2 / 64), Listener()
    monitor = budgeted(model, max_steps=2000, sinks=[listener], stop_on_collapse=True)
    for step in range(2001):
        clock.advance(6.0 if step <= 5 else 0.05)
        run(monitor, model, [step], rank={600: 2})
    assert len(listener.snapshots()) < 10
    assert "COLLAPSED" in listener.alerts()
    assert monitor.should_stop


def test_a_baseline_of_the_smaller_probe_set_is_used_where_the_budget_pays_for_all(
    clock, tmp_path, messages
):
    def model_of(cost):
        return Dial(128, clock=clock, cost=cost / 128)

    dear = model_of(1.2)
    control = budgeted(dear, output_dir=tmp_path, sinks=None)
    timed(clock, control, dear, range(300)).close()
    cheap, listener = model_of(0.1), Listener()
    monitor = budgeted(cheap, baseline=tmp_path / RECORD, sinks=[listener])
    timed(clock, monitor, cheap, range(300), rank={0: 8})
    assert monitor.last_snapshot.examples == 64
    assert monitor.last_snapshot.ratios["last"] < 0.6
    assert "WARNING" in listener.alerts()
    assert not any("was not used" in message for message in messages())


def test_a_baseline_that_cannot_be_read_is_said_and_not_used(tmp_path, messages):
    model = Dial()
    run(model.monitor(output_dir=tmp_path, sinks=None), model, range(5)).close()
    path = tmp_path / RECORD
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        if line.get("event") == "baseline":
            line["baselines"].pop("loss")
    path.write_text("\n".join(json.dumps(line) for line in lines) + "\n")
    monitor = run(model.monitor(baseline=path), model, range(10), rank={0: 8})
    assert monitor.failures == 0
    assert monitor.status is Status.WARMUP  # "auto" of drawn weights
    assert sum("cannot be read (KeyError: 'loss')" in message for message in messages()) == 1


def test_another_probe_set_after_a_cut_is_cut_too(clock, messages):
    model = Dial(200, clock=clock, cost=1.0 / 200)
    monitor = budgeted(model)
    timed(clock, monitor, model, range(100))
    assert monitor.last_snapshot.examples == 64
    other = ProbeSet.from_tensors({"index": torch.arange(100, 200)})
    monitor.probes = other
    timed(clock, monitor, model, range(100, 200))
    assert monitor.last_snapshot.examples == 64
    assert monitor.last_snapshot.fingerprint != ""
    assert torch.equal(
        monitor.instrument.ready_probes.tensors["index"], other.tensors["index"][:64]
    )
    assert any("baseline begins anew" in message for message in messages())


def test_without_a_budget_the_probe_set_stays(clock):
    model = Dial(128, clock=clock, cost=1.0)
    monitor = timed(clock, budgeted(model, max_overhead=None), model, range(100))
    assert len(monitor.probes) == 128


def test_the_choice_of_probes_may_come_later():
    model = Dial()
    monitor = model.monitor()
    probes, monitor.probes = monitor.probes, None
    assert monitor.step(model, 0) is None
    monitor.probes = probes
    assert monitor.step(model, 1).step == 1


# State


RANKS = {12: 10, 18: 4, 24: WIDTH, 40: 4}  # the plateau of a run of 50 is frozen at check 10


def seen(monitor, listener):
    """What a run was told, but for the time of day."""
    snapshots = [
        (s.step, s.check, s.status, dict(s.ratios), s.layers, s.alerted, s.examples, s.fingerprint)
        for s in listener.snapshots()
    ]
    alerts = [a for a in listener.heard if hasattr(a, "kind")]
    return snapshots, alerts, state_but_the_stop(monitor)


def state_but_the_stop(monitor):
    """A run that goes on is no longer a stopped one."""
    return {**monitor.state_dict(), "stop_reason": None}


def assert_goes_on(make, go, cuts, last):
    """A run that is cut and resumed tells what the unbroken one tells."""
    listener = Listener()
    monitor, model = make(listener)
    go(monitor, model, range(last + 1))
    expected = seen(monitor, listener)
    for cut in cuts:
        listener = Listener()
        monitor, model = make(listener)
        go(monitor, model, range(cut + 1))
        state = monitor.state_dict()
        resumed, model = make(listener)
        resumed.load_state_dict(json.loads(json.dumps(state, allow_nan=False)))
        assert state_but_the_stop(resumed) == {**state, "stop_reason": None}, cut
        go(resumed, model, range(cut + 1, last + 1))
        assert seen(resumed, listener)[:2] == expected[:2], cut
        state = {**seen(resumed, listener)[2], "cadence": None}
        assert state == {**expected[2], "cadence": None}, cut


@shows("plain PyTorch", "resumed")
@pytest.mark.parametrize(("baseline", "max_steps"), [("start", None), ("plateau", 50)])
def test_a_resumed_run_goes_on_as_the_unbroken_one(baseline, max_steps):
    model = Dial()

    def make(listener):
        options = {"baseline": baseline, "max_steps": max_steps, "stop_on_collapse": True}
        return model.monitor(sinks=[listener], **options), model

    def go(monitor, model, steps):
        for step in steps:
            model.rank = [WIDTH, *(r for start, r in RANKS.items() if step >= start)][-1]
            monitor.step(model, step)

    assert_goes_on(make, go, [15, 42], 50)


costs = pytest.mark.parametrize("cost", [0.15, 0.6], ids=["affordable", "shrinks"])


@costs
def test_a_run_resumed_after_a_check_keeps_to_the_same_budget(clock, cost):
    model = Dial(128, clock=clock, cost=cost / 128)

    def make(listener):
        return budgeted(model, sinks=[listener], max_steps=400), model

    def go(monitor, model, steps):
        timed(clock, monitor, model, steps)

    listener = Listener()
    go(*make(listener), range(401))
    checks = [s.step for s in listener.snapshots()]
    assert_goes_on(make, go, [checks[1], checks[len(checks) // 2]], 400)


@costs
@pytest.mark.parametrize("cut", [3, 30, 280])
def test_a_run_resumed_anywhere_keeps_its_baseline_and_its_budget(clock, messages, cost, cut):
    """Training time since the latest check is in no state, so checks may move a little."""
    model, listener = Dial(128, clock=clock, cost=cost / 128), Listener()
    begun = clock.now
    first = timed(clock, budgeted(model, sinks=[listener], max_steps=400), model, range(cut + 1))
    resumed = budgeted(model, sinks=[listener], max_steps=400)
    resumed.load_state_dict(first.state_dict())
    timed(clock, resumed, model, range(cut + 1, 401))
    spent = clock.now - begun - 400
    assert spent <= 1.1 * 0.01 * (clock.now - begun)
    assert resumed.last_snapshot.step == 400
    assert resumed.last_snapshot.ratios["last"] == pytest.approx(1.0)
    assert listener.alerts() == ["BASELINE"]
    assert not any("begins anew" in message for message in messages())


@pytest.mark.parametrize(
    "change",
    [
        lambda monitor, model: setattr(monitor, "probes", monitor.probes.first(16)),
        lambda monitor, model: setattr(monitor.instrument, "relative_ridge", 1e-2),
        lambda monitor, model: setattr(monitor.instrument.probe, "pooling", "mean"),
        lambda monitor, model: setattr(model, "rows", model.rows.double()),
    ],
    ids=["probes", "ridge", "pooling", "precision"],
)
def test_another_fingerprint_is_never_compared_with_the_saved_baseline(messages, change):
    model = Dial()
    monitor = run(model.monitor(), model, range(10))
    listener = Listener()
    resumed = model.monitor(sinks=[listener])
    resumed.load_state_dict(monitor.state_dict())
    change(resumed, model)
    run(resumed, model, range(10, 30), rank={10: 4})  # it would be COLLAPSED by the old baseline
    assert resumed.status is Status.HEALTHY
    assert listener.alerts() == ["BASELINE"]
    assert sum("the baseline begins anew at step 10" in message for message in messages()) == 1


def test_the_same_fingerprint_is_compared():
    model = Dial()
    monitor = run(model.monitor(), model, range(10))
    resumed = model.monitor()
    resumed.load_state_dict(monitor.state_dict())
    run(resumed, model, range(10, 30), rank={10: 4})
    assert resumed.status is Status.COLLAPSED


def test_steps_that_were_seen_are_not_checked_again_after_a_resume():
    model = Dial()
    monitor = run(model.monitor(), model, range(10))
    resumed = model.monitor()
    resumed.load_state_dict(monitor.state_dict())
    run(resumed, model, range(5, 12))
    assert resumed.last_snapshot.check == 12


# A plain loop that is resumed


@pytest.mark.parametrize("first", [10, 11])
def test_a_resumed_loop_says_so_and_its_steps_supersede_those_it_repeats(tmp_path, first):
    """Whether it calls `step` before its first step too, or only after each."""
    model = Dial()
    monitor = model.monitor(output_dir=tmp_path, sinks=None)
    run(monitor, model, range(11))
    state = json.loads(json.dumps(monitor.state_dict()))
    run(monitor, model, range(11, 25), rank={11: 4})  # it collapses, and is killed
    assert monitor.status is Status.COLLAPSED
    resumed = model.monitor(output_dir=tmp_path, sinks=None)
    resumed.load_state_dict(state)
    run(resumed, model, range(first, 20), rank={first: WIDTH}).close()
    record = read_record(tmp_path / RECORD)
    told = [e for e in record.events if e["event"] not in ("baseline", "end")]
    assert [e["event"] for e in told] == ["started", "resumed", "closed"]
    assert told[1]["step"] == first
    assert [s.check for s in record.snapshots] == [s.step + 1 for s in record.snapshots]
    assert [s.step for s in record.snapshots] == [*range(20)]
    assert [alert["kind"] for alert in record.alerts] == ["BASELINE"]


def test_a_step_from_before_the_load_resumes_nothing(clock, tmp_path):
    """A loop that calls `step(model, 0)` whether it was loaded or not."""
    model = Dial(clock=clock, cost=1 / 32)

    def monitor():
        return model.monitor(every=10, max_steps=40, output_dir=tmp_path, sinks=None)

    first = timed(clock, monitor(), model, range(21))
    resumed = monitor()
    resumed.load_state_dict(first.state_dict())
    assert resumed.step(model, 0) is None
    assert resumed.observe("codebook", None, 3) is None
    clock.advance(1e6)
    timed(clock, resumed, model, range(20, 41))
    assert resumed.cadence.overhead_with() == pytest.approx(5 / (5 + 40))
    told = [e for e in read_record(tmp_path / RECORD).events if e["event"] == "resumed"]
    assert [e["step"] for e in told] == [20]


def test_a_check_after_the_load_says_so_too(tmp_path):
    model = Dial()
    state = run(model.monitor(), model, range(3)).state_dict()
    resumed = model.monitor(output_dir=tmp_path, sinks=None)
    resumed.load_state_dict(state)
    for step in (7, 8):
        resumed.check(model, step)
    told = [(e["event"], e["step"]) for e in read_record(tmp_path / RECORD).events]
    assert told == [("resumed", 7)]


def test_a_state_from_before_the_first_check_resumes_nothing(tmp_path):
    model = Dial()
    monitor = model.monitor(output_dir=tmp_path, sinks=None)
    monitor.load_state_dict(model.monitor().state_dict())
    run(monitor, model, range(2)).close()
    events = [e["event"] for e in read_record(tmp_path / RECORD).events]
    assert events == ["started", "baseline", "end", "closed"]


def test_time_from_the_load_to_the_first_step_is_not_training_time(clock):
    """Checks and steps of a second each."""
    model = Dial(clock=clock, cost=1 / 32)

    def monitor():
        return model.monitor(every=10, max_steps=40)

    first = timed(clock, monitor(), model, range(21))
    resumed = monitor()
    resumed.load_state_dict(first.state_dict())
    clock.advance(1e6)
    assert resumed.step(model, 20) is None
    timed(clock, resumed, model, range(21, 41))
    assert resumed.cadence.overhead_with() == pytest.approx(5 / (5 + 40))


STATE = run(Dial().monitor(), Dial(), range(3)).state_dict()


@pytest.mark.parametrize("name", sorted(STATE))
def test_a_state_that_lacks_a_field_is_refused_and_the_monitor_begins_anew(name):
    model = Dial()
    monitor = model.monitor()
    with pytest.raises(RecordError, match=name):
        monitor.load_state_dict({key: value for key, value in STATE.items() if key != name})
    assert monitor.step(model, 0).check == 1


@pytest.mark.parametrize(
    "change",
    [
        {"version": 99},
        {"version": 4},  # of a run whose record has another schema
        {"status": "ASLEEP"},
        {"cadence": {}},
        {"cadence": None},
        {"watch": {"layers": {"last": {}}}},
        {"checks": "many"},
        {"watch": {**STATE["watch"], "order": []}},
    ],
    ids=[
        "version",
        "older_version",
        "status",
        "no_cadence_fields",
        "no_cadence",
        "no_watch_fields",
        "checks",
        "no_layers",
    ],
)
def test_a_malformed_state_is_refused(change):
    with pytest.raises(RecordError):
        Dial().monitor().load_state_dict({**STATE, **change})


def test_reset_begins_a_new_run_with_the_same_settings():
    model, listener = Dial(), Listener()
    monitor = model.monitor(sinks=[listener], stop_on_collapse=True)
    run(monitor, model, range(30), rank={0: WIDTH, 10: 4})
    first = listener.alerts()
    monitor.reset()
    assert (monitor.status, monitor.should_stop, monitor.checks) == (Status.WARMUP, False, 0)
    listener.heard.clear()
    run(monitor, model, range(30), rank={0: WIDTH, 10: 4})
    assert listener.alerts() == first == ["BASELINE", "WARNING", "COLLAPSED", "STOPPED"]


# Construction


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"every": 0}, "every=0"),
        ({"max_overhead": 2.0}, r"max_overhead=2\.0"),
        ({"pooling": "max"}, "pooling='max'"),
        ({"functionals": ["rank"]}, "functionals="),
        ({"functionals": "trace"}, "functionals='trace'"),
        ({"method": "svd"}, "method='svd'"),
        ({"baseline": "none"}, "baseline='none'"),
        ({"relative_ridge": 0.0}, r"relative_ridge=0\.0"),
        ({"detector": {"collapsed": 2}}, "collapsed=2"),
        ({"detector": {"colapsed": 0.4}}, "colapsed"),
        ({"detector": {"baseline": "start"}}, "baseline"),
        ({"detector": {"expected_checks": 20}}, "expected_checks"),
        ({"stop_on_collapse": "yes"}, "stop_on_collapse='yes'"),
        ({"stop_on_collapse": 1.0}, r"1\.0"),
        ({"stop_on_collapse": 0.0}, r"0\.0"),
        ({"layers": []}, r"layers=\[\]"),
        ({"detector": "loud"}, "preset='loud'"),
        ({"detector": {"generation": {"colapsed": 0.4}}}, "colapsed"),
        ({"detector": {"loss": {"warning_slow": 2}}}, "warning_slow=2"),
        ({"channels": "generation"}, "channels='generation'"),
        ({"channels": ["generation"]}, r"channels=\['generation'\]"),
        ({"channels": ["representation", "smell"]}, "smell"),
        ({"channels": CHANNELS, "generation": {"every": 0}}, "every=0"),
        ({"channels": CHANNELS, "generation": {"words": 3}}, "words"),
        ({"channels": CHANNELS, "generation": {"temperature": -1.0}}, r"temperature=-1\.0"),
        ({"channels": CHANNELS, "encoder": 3}, "encoder=3"),
        ({"sinks": [3]}, r"sinks=\[3\].*MetricsSink\(function\)"),
        ({"sinks": ["record"]}, r"sinks=\['record'\]"),
        ({"sinks": "default"}, "sinks='default'"),
        ({"baseline": 3}, "baseline=3"),
        ({"output_dir": 3}, "output_dir=3 is of type int"),
        ({"output_dir": b"runs"}, "output_dir=b'runs' is of type bytes"),
        ({"baseline": "no/such/record.jsonl"}, "no/such/record.jsonl"),
    ],
    ids=str,
)
def test_an_option_that_cannot_be_used_is_refused_at_once(options, named):
    with pytest.raises(InputError, match=named):
        SigmaMonitor(**options)


def test_a_collapse_ratio_moves_the_warning_levels_and_the_users_own_win():
    moved = SigmaMonitor(stop_on_collapse=0.75).thresholds["representation"]
    assert moved["warning_fast"] == 0.75
    own = SigmaMonitor(stop_on_collapse=0.4, detector={"warning_slow": 0.85}).thresholds[
        "representation"
    ]
    assert (own["collapsed"], own["warning_slow"]) == (0.4, 0.85)


def test_functionals_are_those_asked_for_and_the_watched_one():
    model = Dial()
    monitor = model.monitor(functionals=["trace", "mean_cosine"])
    layers = monitor.check(model, 0).layers
    assert set(layers["last"]) == {
        "effective_rank",
        "trace",
        "uncentred/effective_rank",
        "uncentred/trace",
        "uncentred/mean_cosine",
        "pooled/uncentred/effective_rank",
        "subspace_drift",
    }


def test_a_resumed_run_takes_the_ratios_that_are_asked_for_now():
    model = Dial()
    saved = run(model.monitor(stop_on_collapse=0.3), model, range(10)).state_dict()
    resumed = model.monitor(stop_on_collapse=0.6)
    resumed.load_state_dict(saved)
    run(resumed, model, range(10, 40), rank={10: round(0.45 * WIDTH)})
    assert resumed.status is Status.COLLAPSED
    assert resumed.should_stop


def test_a_preset_is_taken_by_name_alone():
    for preset in ("sensitive", "quiet"):
        assert SigmaMonitor(detector=preset).thresholds["representation"] == {"preset": preset}


def test_presets_reach_the_detectors():
    model = Dial()
    found = {}
    for preset in ("sensitive", "default", "quiet"):
        model.rank = WIDTH
        listener = Listener()
        thresholds = {"preset": preset, "trend": False}
        monitor = model.monitor(detector=thresholds, sinks=[listener])
        run(monitor, model, range(40), rank={10: 13})  # about 0.83 of the baseline
        found[preset] = listener.alerts()
    assert found == {
        "sensitive": ["BASELINE", "WARNING"],
        "default": ["BASELINE"],
        "quiet": ["BASELINE"],
    }


def test_rebaseline_takes_the_model_as_it_is_for_healthy():
    model, listener = Dial(), Listener()
    monitor = model.monitor(sinks=[listener])
    run(monitor, model, range(40), rank={10: 4})
    assert monitor.status is Status.COLLAPSED
    monitor.rebaseline()
    run(monitor, model, range(40, 60))
    assert monitor.status is Status.HEALTHY
    assert listener.alerts() == ["BASELINE", "WARNING", "COLLAPSED", "BASELINE"]
    assert monitor.last_snapshot.ratios["last"] == pytest.approx(1.0)


def test_a_bridge_moves_the_ratio():
    model = Dial()
    monitor = run(model.monitor(), model, range(5))
    monitor.bridge(math.log(2))
    assert run(monitor, model, range(5, 6)).last_snapshot.ratios["last"] == pytest.approx(0.5)
    with pytest.raises(InputError, match=r"layer='first'.*last"):
        monitor.bridge(0.1, layer="first")
    with pytest.raises(InputError, match="layer='last'"):
        model.monitor().bridge(0.1)
