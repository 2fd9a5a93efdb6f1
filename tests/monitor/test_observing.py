"""Rows that a user hands to the monitor: a codebook, an embedding table, a projector's output."""

import json
import logging
import math

import pytest
import torch

from sigma_monitor import SigmaMonitor, Status, spectral_summary
from sigma_monitor.errors import RecordError
from sigma_monitor.monitor import RECORD
from sigma_monitor.sinks import JsonlSink, MetricsSink, read_record
from sigma_monitor.snapshot import Observation
from tests.clock import stop_the_clock
from tests.compatibility import shows
from tests.monitor.observing_ranks import WIDTH, observe_on, spread
from tests.monitor.test_monitor import Dial, Listener, Unshowable, no_steps, state_but_the_stop
from tests.processes import spawned


class Hearer(Listener):
    """A sink that takes observations too."""

    def observe(self, observation):
        self.heard.append(observation)

    def observations(self, name=None):
        found = [x for x in self.heard if isinstance(x, Observation)]
        return [x for x in found if name in (None, x.name)]


def monitor(**options):
    return SigmaMonitor(**{"baseline": "start", "sinks": [], **options})


@pytest.fixture
def warnings(caplog):
    caplog.set_level(logging.WARNING, "sigma_monitor")
    return lambda: [record.getMessage() for record in caplog.records]


# What is measured


def axes(*variances):
    """Rows on the axes, two on each: C is diagonal with these values over their number."""
    rows = torch.diag(torch.tensor(variances, dtype=torch.float64).sqrt())
    return torch.cat([rows, -rows])


def test_the_numbers_are_those_of_a_known_spectrum():
    variances = torch.tensor([8.0, 4.0, 2.0, 2.0], dtype=torch.float64)
    found = monitor().observe("table", axes(*variances), 0).estimates
    shares = variances / variances.sum()
    values = variances.sqrt() / variances.sqrt().sum()  # the effective rank is of these
    rank = float(torch.exp(-(values * values.log()).sum()))
    assert found["effective_rank"].value == pytest.approx(rank, rel=1e-12)
    assert found["participation_ratio"].value == pytest.approx(float(1 / (shares**2).sum()))
    assert found["trace"].value == pytest.approx(float(variances.mean()))
    assert found["uncentred/effective_rank"].value == pytest.approx(rank, rel=1e-12)


def test_a_common_direction_is_seen_in_the_uncentred_rows_alone():
    rows = axes(1.0, 1.0, 1.0, 1.0) + torch.tensor([0.0, 0.0, 0.0, 1e5])
    found = monitor().observe("output", rows, 0).estimates
    assert found["effective_rank"].value == pytest.approx(4.0)
    assert found["uncentred/effective_rank"].value == pytest.approx(1.0, abs=1e-3)
    assert found["uncentred/mean_cosine"].value == pytest.approx(1.0, abs=1e-3)


def test_token_rows_come_with_their_means():
    hidden = torch.randn(8, 5, WIDTH, generator=torch.Generator().manual_seed(1))
    found = monitor().observe("hidden", hidden, 0)
    groups = torch.arange(8).repeat_interleave(5)
    by_hand = spectral_summary(hidden.reshape(40, WIDTH), center=True, groups=groups)
    assert found.estimates["effective_rank"] == by_hand.effective_rank
    pooled = spectral_summary(hidden.mean(1)).effective_rank
    assert found.estimates["pooled/uncentred/effective_rank"].value == pytest.approx(pooled.value)
    assert (found.rows, found.features) == (40, WIDTH)


def test_rows_of_a_matrix_are_their_own_means():
    found = monitor().observe("table", spread(), 0).estimates
    assert not any(key.startswith("pooled") for key in found)


def test_many_rows_are_measured_without_the_error_of_their_number():
    few, many = (spread(n=n) for n in (4096, 4097))
    assert monitor().observe("table", few, 0).estimates["effective_rank"].kind == "sampling"
    watching = monitor()
    assert watching.observe("table", many, 0).estimates["effective_rank"].kind == "exact"
    assert len(json.dumps(watching.state_dict())) < 10_000  # nothing of the rows in checkpoints


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_every_floating_type_is_taken(dtype):
    found = monitor().observe("table", spread().to(dtype), 0)
    assert found.estimates["effective_rank"].value == pytest.approx(15.3, abs=0.1)


def test_autocast_around_the_call_changes_no_number():
    rows = torch.randn(48, 40, generator=torch.Generator().manual_seed(2))
    plain = monitor(method="lanczos").observe("output", rows, 0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = monitor(method="lanczos").observe("output", rows, 0)
    assert cast.estimates == plain.estimates


@shows("plain PyTorch", "same weights", case="rows observed")
def test_training_does_not_notice():
    """Parameters, their graph, gradients and generators are as they were."""

    def trained(watching):
        torch.manual_seed(0)
        table = torch.nn.Embedding(32, WIDTH)
        optimiser = torch.optim.SGD(table.parameters(), lr=0.1)
        for step in range(5):
            output = torch.nn.functional.dropout(table(torch.randint(32, (16,))))
            if watching is not None:
                assert watching.observe("table", table.weight, step) is not None
                assert watching.observe("output", output, step) is not None
            output.pow(2).sum().backward()
            optimiser.step()
            optimiser.zero_grad()
        return table.weight.detach().clone(), torch.rand(1)

    for method in ("exact", "lanczos"):
        for one, other in zip(trained(None), trained(monitor(method=method)), strict=True):
            assert torch.equal(one, other)


def test_metrics_are_below_the_name():
    sent = []
    watching = monitor(sinks=[MetricsSink(lambda values, step: sent.append((step, values)))])
    watching.observe("codebook", spread(), 7)
    [(step, values)] = sent
    assert step == 7
    assert {
        "sigma/codebook/effective_rank",
        "sigma/codebook/effective_rank_low",
        "sigma/codebook/uncentred/mean_cosine",
        "sigma/codebook/ratio",
        "sigma/codebook/status",
        "sigma/codebook/alert",
        "sigma/codebook/seconds",
    } <= values.keys()
    assert all(name.startswith(("sigma/codebook/", "sigma/overhead")) for name in values)


# What is told


def test_alignment_to_one_direction_is_caught_though_the_centred_rank_stays():
    hearer = Hearer()
    watching = monitor(sinks=[hearer], max_steps=100, stop_on_collapse=True)
    for step in range(100):
        rows = spread(shift=0.0 if step < 40 else 1000.0)
        found = watching.observe("projector", rows, step)
        if watching.should_stop:
            break
    assert 40 < step < 60
    assert watching.status is Status.COLLAPSED
    assert watching.stop_reason == f"observed projector: COLLAPSED at step {step}"
    assert hearer.alerts() == ["BASELINE", "WARNING", "COLLAPSED", "STOPPED"]
    alert = hearer.first("COLLAPSED")
    assert (alert.channel, alert.layer) == ("observed", "projector")
    assert (alert.functional, alert.convention) == ("uncentred/effective_rank", "uncentred rows")
    assert alert.severity == "error"
    assert alert.title == "sigma: rows of projector have collapsed"
    assert f"COLLAPSED at step {step} (observation {step + 1})." in alert.text
    assert "observed projector" in alert.text
    assert "all rows point one way" in alert.text
    assert "text" not in alert.text + alert.advice
    assert "probe" not in alert.text + alert.advice
    assert found.ratio < 0.1  # of the uncentred rank, the lower one
    assert found.estimates["effective_rank"].value == pytest.approx(15.3, abs=0.1)


def test_loss_of_directions_warns_collapses_and_recovers():
    hearer = Hearer()
    watching = monitor(sinks=[hearer], max_steps=100)
    for step in range(100):
        watching.observe("codebook", spread(rank=4 if 30 <= step < 50 else WIDTH, shift=1.0), step)
    assert hearer.alerts() == ["BASELINE", "WARNING", "COLLAPSED", "RECOVERED"]
    assert hearer.first("COLLAPSED").convention == "centred rows"
    assert hearer.first("COLLAPSED").onset_step == 30
    assert watching.status is Status.HEALTHY
    assert not watching.should_stop  # nobody asked for it


def test_thresholds_are_those_of_the_representation():
    for detector, expected in (({}, Status.COLLAPSED), ({"collapsed": 0.1}, Status.WARNING)):
        watching = monitor(detector=detector, max_steps=60)
        for step in range(60):
            watching.observe("codebook", spread(rank=WIDTH if step < 20 else 4, shift=1.0), step)
        assert watching.status is expected


def test_non_finite_rows_are_told_and_measure_nothing():
    hearer = Hearer()
    watching = monitor(sinks=[hearer], stop_on_collapse=True)
    watching.observe("codebook", spread(), 0)
    for step in range(1, 4):
        broken = spread()
        broken[3, 3] = math.nan
        found = watching.observe("codebook", broken, step)
        assert (found.estimates, found.ratio) == ({}, None)
    assert hearer.alerts() == ["BASELINE", "NONFINITE", "STOPPED"]
    assert hearer.first("NONFINITE").text.endswith("observed as codebook hold NaN or infinity.")
    assert watching.stop_reason.startswith("observed codebook: nothing could be measured in 3")
    assert watching.observation_failures == 0


def test_equal_rows_have_vanished():
    hearer = Hearer()
    watching = monitor(sinks=[hearer])
    watching.observe("codebook", torch.ones(8, 4), 0)
    assert hearer.alerts() == ["VANISHED"]
    assert "rows observed as codebook are all equal" in hearer.first("VANISHED").text


def test_two_names_know_nothing_of_each_other():
    both, alone = Hearer(), Hearer()
    first, second = monitor(sinks=[both]), monitor(sinks=[alone])
    for step in range(30):
        first.observe("falls", spread(rank=WIDTH if step < 9 else 2, shift=1.0), step)
        if step >= 5:
            first.observe("stays", spread(), step)
            second.observe("stays", spread(), step)
    assert first.status is Status.COLLAPSED
    assert [x.status for x in both.observations("stays")] == [Status.HEALTHY] * 25
    assert [x.number for x in both.observations("stays")] == [*range(1, 26)]
    assert [x.estimates for x in both.observations("stays")] == [
        x.estimates for x in alone.observations()
    ]


def test_the_worst_of_checks_and_observations_is_the_status():
    model = Dial()
    watching = model.monitor(max_steps=60)
    for step in range(60):
        watching.step(model, step)
        watching.observe("codebook", spread(rank=WIDTH if step < 10 else 2, shift=1.0), step)
    assert watching.last_snapshot.status is Status.COLLAPSED
    assert watching.status is Status.COLLAPSED
    watching.rebaseline()
    assert watching.status is not Status.COLLAPSED
    watching.step(model, 60)
    watching.observe("codebook", spread(rank=2, shift=1.0), 60)
    assert watching.status is Status.HEALTHY  # that is the reference now


@shows("plain PyTorch", "stopped", case="rows observed")
def test_a_collapse_of_observed_rows_stops_once_for_each_collapse():
    hearer = Hearer()
    watching = monitor(sinks=[hearer], max_steps=100, stop_on_collapse=True)
    for step in range(100):
        low = 10 <= step < 30 or step >= 70
        watching.observe("codebook", spread(rank=2 if low else WIDTH, shift=1.0), step)
    assert hearer.alerts().count("STOPPED") == 2


def test_limits_of_functionals_stop_in_place_of_collapse():
    watching = monitor(max_steps=60, stop_on_collapse={"uncentred/participation_ratio": 0.3})
    for step in range(60):
        watching.observe("output", spread(shift=0.0 if step < 20 else 6.0), step)
        if watching.should_stop:
            break
    assert 20 < step < 40
    reason = "observed output: uncentred/participation_ratio at layer output "
    assert watching.stop_reason.startswith(reason)
    assert watching.status is not Status.COLLAPSED


@pytest.mark.parametrize(
    ("asked", "loaded", "kind"),
    [("auto", None, "plateau"), ("auto", True, "start"), ("auto", False, "plateau")],
)
def test_auto_takes_the_kind_of_baseline_that_the_model_has(asked, loaded, kind, tmp_path):
    model = Dial()
    if loaded:
        model.name_or_path = "somewhere"
    watching = model.monitor(baseline=asked, sinks=[JsonlSink(tmp_path / "record.jsonl")])
    if loaded is not None:
        watching.step(model, 0)
    watching.observe("codebook", spread(), 0)
    watching.close()
    events = read_record(tmp_path / "record.jsonl").events
    assert next(e for e in events if e["event"] == "observing")["baseline"] == kind


def test_windows_suit_the_number_of_observations_to_come():
    """A collapse late in a run of 20 is told, though a long run's windows are not filled."""
    steps = {}
    for max_steps in (20, None):
        hearer = Hearer()
        watching = monitor(sinks=[hearer], max_steps=max_steps, baseline="plateau")
        for step in range(21):
            watching.observe("codebook", spread(rank=WIDTH if step < 15 else 2), step)
        steps[max_steps] = hearer.alerts()
    assert steps == {20: ["BASELINE", "WARNING", "COLLAPSED"], None: []}


def test_rows_of_another_width_begin_anew(warnings):
    hearer = Hearer()
    watching = monitor(sinks=[hearer])
    watching.observe("projector", spread(), 0)
    watching.observe("projector", spread()[:, :3], 1)
    assert "17" in warnings()[-1]
    assert hearer.alerts() == ["BASELINE", "BASELINE"]
    assert [x.number for x in hearer.observations()] == [1, 1]


# What goes wrong


BAD_ROWS = {
    "not a tensor": ([[1.0, 2.0]], "type list"),
    "indices": (torch.arange(12).reshape(3, 4), "not their indices"),
    "empty": (torch.empty(0, 4), "two rows at least"),
    "no features": (torch.empty(4, 0), "two rows at least"),
    "one row": (torch.ones(1, 4), "two rows at least"),
    "one dimension": (torch.ones(4), "shape (4,)"),
    "complex": (torch.ones(4, 4, dtype=torch.complex64), "complex64"),
    "sparse": (torch.eye(4).to_sparse(), ""),
}


@pytest.mark.parametrize(("rows", "cause"), BAD_ROWS.values(), ids=BAD_ROWS)
def test_rows_without_a_spectrum_are_told_once_and_counted(rows, cause, tmp_path, caplog):
    watching = monitor(output_dir=tmp_path, sinks=["default"])
    for step in range(5):
        assert watching.observe("codebook", rows, step) is None
    watching.close()
    assert watching.observation_failures == 3
    told = [r for r in caplog.records if "could not be measured" in r.getMessage()]
    assert len(told) == 1
    assert told[0].getMessage().count("step 0")
    events = read_record(tmp_path / RECORD).events
    assert [e["step"] for e in events if e["event"] == "observing_failed"] == [0, 1, 2]
    assert events[-1]["observation_failures"] == 3
    assert cause in events[0]["error"]


def test_a_failure_is_got_over_and_three_in_a_row_are_not():
    hearer = Hearer()
    watching = monitor(sinks=[hearer])
    for step, rows in enumerate([spread(), None, None, spread(), None, None, None, spread()]):
        watching.observe("codebook", rows, step)
    assert [x.step for x in hearer.observations()] == [0, 3]
    assert hearer.alerts() == ["BASELINE", "NO_DATA"]
    assert watching.observation_failures == 5
    assert watching.observe("other", spread(), 8) is not None


@pytest.mark.parametrize(
    "name",
    ["", "two words", "a/b", "a.b", None, "generation", "loss", "status", "last"],
)
def test_a_name_that_cannot_stand_in_a_metric_ends_nothing(name, warnings):
    watching = monitor()
    assert watching.observe(name, spread(), 0) is None
    assert watching.observe(name, spread(), 1) is None
    assert watching.observation_failures == 2
    [message] = warnings()
    assert repr(name) in message


@pytest.mark.parametrize(
    ("shown", "name"), [("<list>", ["codebook"]), ("<Unshowable>", Unshowable())]
)
def test_a_name_that_is_no_text_is_told_by_its_type(shown, name, warnings):
    watching = monitor()
    assert watching.observe(name, spread(), 0) is None
    [message] = warnings()
    assert f"observe({shown}, ..., step=0)" in message
    assert f"name={shown}:" in message


def test_names_of_layers_are_taken(warnings):
    watching = monitor(layers=[3, "model.norm"])
    for name in ("3", "model_norm"):
        assert watching.observe(name, spread(), 0) is None
    assert watching.observe("last", spread(), 0) is not None


@no_steps
def test_a_step_that_is_none_ends_nothing(shown, step, warnings, tmp_path):
    watching = monitor(output_dir=tmp_path, sinks=["default"])
    watching.observe("codebook", spread(), 0)
    assert watching.observe("codebook", spread(), step) is None
    assert watching.observe("codebook", spread(), step) is None
    assert watching.observation_failures == 2
    [message] = warnings()
    assert f"step={shown}:" in message
    watching.close()
    failed = [e for e in read_record(tmp_path / RECORD).events if e["event"] == "observing_failed"]
    assert [event["step"] for event in failed] == [shown]


def test_a_call_that_is_refused_resumes_nothing(tmp_path):
    watching = monitor()
    watching.observe("codebook", spread(), 10)
    resumed = monitor(output_dir=tmp_path, sinks=["default"])
    resumed.load_state_dict(watching.state_dict())
    resumed.observe("no name", spread(), 11)
    resumed.observe("codebook", spread(), 12)
    resumed.close()
    told = [e for e in read_record(tmp_path / RECORD).events if e["event"] == "resumed"]
    assert [event["step"] for event in told] == [12]


def test_ranks_that_lost_each_other_are_told_of_and_end_nothing(monkeypatch, warnings):
    def broken(_):
        raise RuntimeError("connection closed by peer")

    watching = monitor()
    watching.observe("codebook", spread(), 0)
    monkeypatch.setattr("sigma_monitor.monitor.observing.from_main", broken)
    watching.observe("codebook", spread(), 1)
    assert "connection closed by peer" in warnings()[0]
    assert watching.observe("codebook", spread(), 2) is None
    assert watching.observation_failures == 1


class Quantised(Dial):
    """Has its rows observed from within its forward pass."""

    watching = None

    def embed(self, model, batch):
        rows = super().embed(model, batch)
        self.seen = self.watching.observe("codebook", rows, self.step)
        return rows


@pytest.mark.parametrize("others", [False, True], ids=["its own", "another monitor's"])
def test_rows_from_within_the_forward_pass_are_those_of_training_alone(others):
    model = Quantised()
    model.watching = watching = model.monitor()
    checking = model.monitor(name="second") if others else watching
    for model.step in range(3):
        checking.step(model, model.step)
        assert model.seen is None
        model.embed(model, {"index": torch.arange(32)})
        assert model.seen.step == model.step
    model.fails, model.step = True, 3
    checking.step(model, 3)
    assert checking.failures == 1
    model.fails = False
    model.embed(model, {"index": torch.arange(32)})
    assert model.seen.step == 3
    assert watching.observation_failures == 0


def test_a_step_that_was_seen_is_not_measured_again():
    watching = monitor()
    assert watching.observe("codebook", spread(), 5) is not None
    assert watching.observe("codebook", spread(), 5) is None
    assert watching.observe("codebook", spread(), 4) is None
    assert watching.observe("other", spread(), 5) is not None
    assert watching.observation_failures == 0


def test_a_sink_that_raises_ends_nothing_and_one_that_takes_no_observations_is_spared():
    class Raising(Hearer):
        def observe(self, observation):
            raise OSError("the disk is full")

    hearer, deaf = Hearer(), Listener()
    watching = monitor(sinks=[Raising(), deaf, hearer])
    for step in range(5):
        watching.observe("codebook", spread(), step)
    assert [x.step for x in hearer.observations()] == [*range(5)]
    assert deaf.alerts() == ["BASELINE"]


def test_a_monitor_that_is_off_measures_nothing(tmp_path):
    watching = monitor(enabled=False, output_dir=tmp_path, sinks=["default"])
    assert watching.observe("codebook", spread(), 0) is None
    watching.close()
    assert list(tmp_path.iterdir()) == []


# What it costs


def test_seconds_are_in_the_overhead_and_not_paid_by_the_checks(monkeypatch):
    """A second of training at each step, one of observing at every other."""
    clock = stop_the_clock(monkeypatch)
    model = Dial(clock=clock, cost=0.001)
    watching = model.monitor(every=10, max_overhead=None, max_steps=40)
    slow = "sigma_monitor.monitor.observing.measure"
    from sigma_monitor.monitor.observing import measure

    def measured(*args, **kwargs):
        clock.advance(1.0)
        return measure(*args, **kwargs)

    monkeypatch.setattr(slow, measured)
    for step in range(41):
        clock.advance(1.0 if step else 0.0)
        watching.step(model, step)
        if step % 2:
            found = watching.observe("codebook", spread(), step)
            assert found.seconds == pytest.approx(1.0)
    checks = 5 * 32 * 0.001
    share = (20 + checks) / (40 + 20 + checks)
    assert watching.last_snapshot.overhead == pytest.approx(share, rel=1e-6)
    assert found.overhead == pytest.approx((20 + 0.128) / (39 + 20 + 0.128), rel=1e-6)


def test_alone_it_knows_the_training_time_too(monkeypatch):
    clock = stop_the_clock(monkeypatch)
    watching = monitor()
    from sigma_monitor.monitor.observing import measure

    def measured(*args, **kwargs):
        clock.advance(1.0)
        return measure(*args, **kwargs)

    monkeypatch.setattr("sigma_monitor.monitor.observing.measure", measured)
    shares = []
    for step in range(3):
        clock.advance(3.0)
        shares.append(watching.observe("codebook", spread(), step).overhead)
    assert shares == [None, pytest.approx(2 / 5), pytest.approx(3 / 9)]


# State and record


def falling(step):
    return spread(rank=WIDTH if step < 12 else 3, shift=1.0)


def heard(steps, *, saved_at=()):
    """Everything told of two names, through a saved state at these steps."""
    hearer = Hearer()
    watching = monitor(sinks=[hearer], max_steps=steps, stop_on_collapse=True)
    stopped = []
    for step in range(steps):
        if step in saved_at:
            state = json.loads(json.dumps(watching.state_dict()))
            watching = monitor(sinks=[hearer], max_steps=steps, stop_on_collapse=True)
            watching.load_state_dict(state)
            assert state_but_the_stop(watching) == {**state, "stop_reason": None}
        watching.observe("codebook", falling(step), step)
        if step % 3 == 0:
            watching.observe("table", spread(), step)
        if watching.should_stop and not stopped:
            stopped = [step, watching.stop_reason]
    kept = [x for x in hearer.heard if x != "closed"]
    volatile = {"time", "seconds", "overhead"}
    return stopped, [{k: v for k, v in x.to_dict().items() if k not in volatile} for x in kept]


@shows("plain PyTorch", "resumed", case="rows observed")
def test_a_state_saved_and_restored_at_any_time_changes_nothing():
    unbroken = heard(30)
    assert unbroken[0]
    for step in (1, 13, 14, 17, 25):
        stopped, told = heard(30, saved_at=[step])
        assert told == unbroken[1]
        assert stopped[:1] == unbroken[0][:1] or step > unbroken[0][0]


def test_a_state_of_something_else_is_refused():
    watching = monitor()
    state = watching.state_dict()
    with pytest.raises(RecordError, match="not a state of SigmaMonitor"):
        watching.load_state_dict({**state, "observer": {"failures": 0}})


def test_the_record_holds_observations_and_its_end(tmp_path):
    watching = monitor(output_dir=tmp_path, sinks=["default"], max_steps=40)
    for step in range(40):
        watching.observe("codebook", falling(step), step)
    watching.close()
    record = read_record(tmp_path / RECORD)
    assert record.snapshots == []
    assert [x.step for x in record.observations] == [*range(40)]
    assert [a["kind"] for a in record.alerts] == ["BASELINE", "WARNING", "COLLAPSED"]
    assert [e["event"] for e in record.events] == ["observing", "closed"]
    assert record.events[-1]["observations"] == 40
    last = record.observations[-1]
    assert last == Observation.from_dict(json.loads(json.dumps(last.to_dict())))
    for body in ({**last.to_dict(), "schema": 99}, {"schema": last.schema, "name": "codebook"}):
        with pytest.raises(RecordError):
            Observation.from_dict(body)


def test_what_a_resumed_run_repeats_is_read_once(tmp_path):
    model = Dial()

    def begun():
        return model.monitor(sinks=["default"], output_dir=tmp_path, every=5, max_steps=40)

    first = begun()
    for step in range(24):
        first.step(model, step)
        first.observe("codebook", falling(step), step)
        first.observe("table", spread(), step)
        if step == 10:
            state = first.state_dict()
    again = begun()
    again.load_state_dict(state)
    for step in range(11, 40):
        again.observe("codebook", falling(step), step)
        again.step(model, step)
    again.close()
    record = read_record(tmp_path / RECORD)
    codebook = [x.step for x in record.observations if x.name == "codebook"]
    assert codebook == [*range(40)]
    assert [x.step for x in record.observations if x.name == "table"] == [*range(24)]
    assert [s.step for s in record.snapshots] == [0, 5, 10, 15, 20, 25, 30, 35]
    told = [a["kind"] for a in record.alerts if a["layer"] == "codebook"]
    assert told == ["BASELINE", "WARNING", "COLLAPSED"]
    assert [e["step"] for e in record.events if e["event"] == "resumed"] == [11]


# Several processes


@shows("plain PyTorch", "stopped", strategy="no wrapper, 2 processes", case="rows observed")
def test_ranks_stop_together_by_the_rows_of_the_first(tmp_path):
    spawned(2, observe_on, tmp_path)
    first, second = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1))
    assert first["stopped"] is not None
    assert first["stopped"] > 18  # rank 1 alone would have given up
    assert (first["stopped"], first["reason"]) == (second["stopped"], second["reason"])
    assert second["measured"] == first["measured"] == [*range(first["stopped"] + 1)]
    assert second["last"] == first["last"]
    record = read_record(tmp_path / "run" / RECORD)
    assert [x.step for x in record.observations] == first["measured"]
