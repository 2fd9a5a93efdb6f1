"""The monitor with randomised spectra: what it follows, tells the detector, and keeps."""

import json
import logging
import math
from collections import defaultdict

import numpy as np
import pytest
import torch
from torch import nn

from sigma_monitor import ProbeSet, SigmaMonitor, Status, spectral_summary
from sigma_monitor.channels import layer as watched_layer
from sigma_monitor.channels.layer import LayerWatch
from sigma_monitor.checking import measure as measure_module
from sigma_monitor.checking.measure import CENTRED, POOLED, UNCENTRED, Measured, measure
from sigma_monitor.probing import Rows
from sigma_monitor.snapshot import WATCHED
from sigma_monitor.spectrum import cost
from sigma_monitor.spectrum.operator import RowOperator
from sigma_monitor.spectrum.uncertainty import half_width, paired_standard_error
from tests.clock import stop_the_clock

EXAMPLES, WIDTH = 160, 80  # test vectors are random from 65 dimensions on
NARROW = 1.6  # decay of a collapsed spectrum
SPECTRA = (CENTRED, UNCENTRED, POOLED)


def cloud(examples=EXAMPLES, width=WIDTH, *, decay=0.7, tokens=None, seed=0):
    """Rows whose spectrum falls as a power."""
    generator = torch.Generator().manual_seed(seed)
    shape = (examples, width) if tokens is None else (examples, tokens, width)
    rows = torch.randn(shape, generator=generator)
    return rows * torch.arange(1, width + 1) ** -decay


class Cloud(nn.Module):
    """A model whose embeddings of the probe set are what they are told to be."""

    def __init__(self, rows=None, *, clock=None, cost=0.0):
        super().__init__()
        self.rows = cloud() if rows is None else rows
        self.clock, self.cost = clock, cost  # seconds per example

    def embed(self, _model, batch):
        if self.clock is not None:
            self.clock.advance(self.cost * len(batch["index"]))
        return self.rows[batch["index"]]

    def monitor(self, **options):
        defaults = {
            "every": 1,
            "max_overhead": None,
            "embed_fn": self.embed,
            "baseline": "start",
            "method": "lanczos",
            "sinks": [],
        }
        probes = ProbeSet.from_tensors({"index": torch.arange(len(self.rows))})
        return SigmaMonitor(probes, **{**defaults, **options})


class Listener:
    """A sink that keeps everything."""

    inline = True
    baselines = True

    def __init__(self):
        self.snapshots, self.alerts = [], []

    def log(self, metrics, step):
        raise AssertionError("check() is there")

    def check(self, snapshot):
        self.snapshots.append(snapshot)

    def alert(self, alert):
        self.alerts.append(alert)

    def close(self):
        pass

    def kinds(self):
        return [alert.kind for alert in self.alerts]


class Products:
    """How many vectors have been multiplied with the rows since the last look."""

    def __init__(self):
        self.count = 0

    def take(self):
        count, self.count = self.count, 0
        return count


@pytest.fixture
def products(monkeypatch):
    counter, apply = Products(), RowOperator.apply

    def spy(self, vectors):
        counter.count += vectors.shape[1]
        return apply(self, vectors)

    monkeypatch.setattr(RowOperator, "apply", spy)
    # What the rotation of the leading directions costs is the same at every check.
    monkeypatch.setattr(measure_module, "leading_directions", lambda rows, count: None)
    return counter


@pytest.fixture
def told(monkeypatch):
    """(log effective rank, standard error) of each check, as the relative rule got them."""
    heard, update = [], LayerWatch.update

    def spy(self, step, measured):
        events = update(self, step, measured)
        heard.append((measured.log_of(WATCHED), self.stderr))
        return events

    monkeypatch.setattr(LayerWatch, "update", spy)
    return heard


@pytest.fixture
def no_sampling(monkeypatch):
    """Leaves the error of the test vectors alone in what the detector is told."""
    monkeypatch.setattr(watched_layer, "paired_standard_error", lambda before, after: 0.0)


@pytest.fixture
def clock(monkeypatch):
    return stop_the_clock(monkeypatch)


def summaries_of(monitor):
    return monitor.instrument._previous["last"].spectra


def rank_of(snapshot, key=WATCHED):
    return snapshot.layers["last"][key]


def log_half(estimate):
    """Half of the interval of a positive estimate on the log scale."""
    return math.log(estimate.high / estimate.low) / 2


def exact_rank(rows):
    return spectral_summary(rows, center=True, method="exact", sampling=False).effective_rank.value


def jittered(rows, size, seed):
    generator = torch.Generator().manual_seed(seed)
    return rows * (1 + size * torch.randn(rows.shape, generator=generator))


def saved(monitor):
    """Its state, through the strict JSON of a checkpoint."""
    state = monitor.state_dict()
    assert json.loads(json.dumps(state, allow_nan=False)) == state
    return json.loads(json.dumps(state))


# Following the check before


def test_an_unchanged_model_costs_fewer_products_from_the_second_check_on(products):
    model = Cloud()
    monitor = model.monitor()
    first = monitor.check(model, 0)
    cost_of_first = products.take()
    opening = dict(summaries_of(monitor))
    assert sum(summary.matvecs for summary in opening.values()) == cost_of_first
    for step in (1, 2):
        later = monitor.check(model, step)
        assert products.take() < 0.6 * cost_of_first
        for name, summary in summaries_of(monitor).items():
            assert summary.randomized.anchor is opening[name]
        for key, estimate in first.layers["last"].items():
            again = later.layers["last"][key]
            half = (estimate.high - estimate.low) / 2
            assert again.value == pytest.approx(estimate.value, abs=half, rel=1e-12), key
        assert later.ratios["last"] == pytest.approx(1.0, abs=log_half(rank_of(first)))


def test_a_model_that_has_moved_is_measured_anew_and_followed_from_there(products):
    model = Cloud()
    monitor = model.monitor()
    monitor.check(model, 0)
    products.take()
    model.rows = cloud(decay=NARROW)
    moved = monitor.check(model, 1)
    at_move = products.take()
    anchor = summaries_of(monitor)[CENTRED]
    assert anchor.randomized.anchor is None
    assert math.log(exact_rank(model.rows) / rank_of(moved).value) == pytest.approx(
        0, abs=3 * log_half(rank_of(moved))
    )
    costs, anchors = [], [anchor]
    for step in range(2, 5):
        snapshot = monitor.check(model, step)
        costs.append(products.take())
        summary = summaries_of(monitor)[CENTRED]
        assert summary.randomized.anchor in (None, anchors[-1])
        anchors.append(summary.randomized.anchor or summary)
        allowed = log_half(rank_of(moved)) + log_half(rank_of(snapshot))
        assert math.log(rank_of(snapshot).value / rank_of(moved).value) == pytest.approx(
            0, abs=allowed
        )
    assert min(costs) < 0.6 * at_move


def test_what_a_check_keeps_does_not_grow(products):
    """Each check follows the anchor, not a chain of checks."""
    model = Cloud()
    monitor = model.monitor()
    for step in range(6):
        model.rows = jittered(model.rows, 1e-3, step)
        monitor.check(model, step)
        anchor = summaries_of(monitor)[CENTRED].randomized.anchor
        assert anchor is None or anchor.randomized.anchor is None


def test_a_level_measured_anew_counts_what_was_tried_before(products):
    model = Cloud(cloud(decay=0.0))
    monitor = model.monitor()
    monitor.check(model, 0)
    products.take()
    model.rows = cloud(decay=NARROW)
    monitor.check(model, 1)
    assert sum(summary.matvecs for summary in summaries_of(monitor).values()) == products.take()


def test_the_warm_up_and_the_smaller_set_do_not_disturb_what_is_followed(clock, products):
    """The opening check also measures 64 examples; the next follows that of all of them."""
    model = Cloud()
    monitor = model.monitor(every="auto", max_overhead=0.5, max_steps=100)
    monitor.step(model, 0)
    products.take()
    step = 0
    while monitor.checks < 2:
        step += 1
        clock.advance(1.0)
        monitor.step(model, step)
    assert summaries_of(monitor)[CENTRED].randomized.anchor is not None
    assert summaries_of(monitor)[CENTRED].n == EXAMPLES


def test_a_new_run_follows_nothing_of_the_one_before():
    model = Cloud()
    monitor = model.monitor()
    monitor.check(model, 0)
    monitor.reset()
    monitor.check(model, 0)
    assert all(s.randomized.anchor is None for s in summaries_of(monitor).values())


@pytest.mark.parametrize("first", ["exact", "lanczos"])
def test_a_spectrum_found_the_other_way_is_not_followed(first):
    later = "lanczos" if first == "exact" else "exact"
    rows = Rows(cloud(), None, cloud(), torch.ones(EXAMPLES, dtype=torch.bool))
    options = {"functionals": [WATCHED], "relative_ridge": 1e-3}
    before = measure(rows, methods=dict.fromkeys(SPECTRA, first), **options)
    after = measure(rows, methods=dict.fromkeys(SPECTRA, later), previous=before, **options)
    assert after.methods == dict.fromkeys(SPECTRA, later)
    alone = measure(rows, methods=dict.fromkeys(SPECTRA, later), **options)
    assert after.estimates == alone.estimates


# Resuming


def test_a_resumed_run_measures_everything_anew_and_stays_paired(products, told):
    model = Cloud()
    monitor = model.monitor()
    first = monitor.check(model, 0)
    cost_of_first = products.take()
    model.rows = jittered(model.rows, 1e-2, 1)
    monitor.check(model, 1)
    assert products.take() < 0.6 * cost_of_first
    state = saved(monitor)

    resumed = model.monitor()
    resumed.load_state_dict(state)
    assert saved(resumed) == state
    told.clear()
    products.take()
    snapshot = resumed.check(model, 2)
    assert products.take() > 0.9 * cost_of_first
    assert summaries_of(resumed)[CENTRED].randomized.anchor is None
    ((log_value, stderr),) = told
    exact = exact_rank(model.rows) / exact_rank(cloud())
    change = math.log(rank_of(snapshot).value / rank_of(first).value)
    assert math.log(snapshot.ratios["last"]) == pytest.approx(change, abs=1e-12)
    assert log_value == math.log(rank_of(snapshot).value)
    assert 0 < stderr < 0.01
    assert change == pytest.approx(math.log(exact), abs=4 * stderr)

    # Without the reference by test vector the error is that of the level itself.
    state["watch"]["layers"]["last"]["reference_vectors"] = []
    unpaired = model.monitor()
    unpaired.load_state_dict(state)
    unpaired.check(model, 2)
    assert told[-1][0] == log_value
    assert told[-1][1] > 1.05 * stderr


def test_a_reference_that_followed_another_check_pairs_with_its_change(told):
    model = Cloud()
    monitor = model.monitor(baseline="plateau")
    rows = model.rows
    for step in range(12):
        model.rows = jittered(rows, 1e-2, step)
        monitor.check(model, step)
    state = saved(monitor)
    change = np.array(state["watch"]["layers"]["last"]["reference_change"])
    assert len(change) == 6

    def error_with(reference_change):
        state["watch"]["layers"]["last"]["reference_change"] = reference_change
        resumed = model.monitor(baseline="plateau")
        resumed.load_state_dict(state)
        resumed.check(model, 12)
        return told[-1][1]

    own = np.std(change, ddof=1) / math.sqrt(6)
    sampling_and_level, all_three = error_with([]), error_with(change.tolist())
    assert math.hypot(sampling_and_level, own) < all_three < sampling_and_level + own


def test_a_resumed_run_tells_what_the_unbroken_one_tells():
    rows = [cloud(decay=NARROW if step >= 3 else 0.7) for step in range(12)]

    def go(monitor, model, steps):
        for step in steps:
            model.rows = jittered(rows[step], 1e-3, step)
            monitor.step(model, step)

    model, whole, broken = Cloud(), Listener(), Listener()
    go(model.monitor(sinks=[whole]), model, range(12))
    first = model.monitor(sinks=[broken])
    go(first, model, range(6))
    resumed = model.monitor(sinks=[broken])
    resumed.load_state_dict(saved(first))
    go(resumed, model, range(6, 12))
    assert broken.kinds() == whole.kinds() == ["BASELINE", "WARNING", "COLLAPSED"]
    assert [a.step for a in broken.alerts] == [a.step for a in whole.alerts]
    for one, two in zip(whole.snapshots, broken.snapshots, strict=True):
        allowed = log_half(rank_of(one)) + log_half(rank_of(two))
        assert math.log(one.ratios["last"] / two.ratios["last"]) == pytest.approx(0, abs=allowed)


# The method


def set_rates(monkeypatch, *, winner):
    """A device on which that way is the cheaper one, whatever the dimension."""
    fast, slow = (1e15, 1e3) if winner == "exact" else (1e3, 1e15)
    rates = cost.Rates(
        torch.device("cpu"), fast, fast, fast, {torch.float32: slow, torch.float64: slow}
    )
    monkeypatch.setattr(cost, "EXACT_UP_TO", 0)
    monkeypatch.setattr(cost, "rates", lambda device: rates)


@pytest.mark.parametrize(("first", "later"), [("lanczos", "exact"), ("exact", "lanczos")])
def test_auto_is_decided_by_the_first_check_and_kept(monkeypatch, first, later):
    model, listener = Cloud(), Listener()
    monitor = model.monitor(method="auto", sinks=[listener])
    set_rates(monkeypatch, winner=first)
    monitor.check(model, 0)
    set_rates(monkeypatch, winner=later)
    monitor.check(model, 1)
    resumed = model.monitor(method="auto", sinks=[listener])
    resumed.load_state_dict(saved(monitor))
    resumed.check(model, 2)
    assert [s.conventions["method"] for s in listener.snapshots] == [
        {"last": dict.fromkeys(SPECTRA, first)}
    ] * 3
    resumed.reset()  # a new run decides anew
    resumed.check(model, 0)
    assert listener.snapshots[-1].conventions["method"] == {"last": dict.fromkeys(SPECTRA, later)}


def test_a_method_that_is_asked_for_now_wins_over_the_saved_one():
    model = Cloud()
    monitor = model.monitor(method="exact")
    monitor.check(model, 0)
    resumed = model.monitor(method="lanczos")
    resumed.load_state_dict(saved(monitor))
    snapshot = resumed.check(model, 1)
    assert snapshot.conventions["method"] == {"last": dict.fromkeys(SPECTRA, "lanczos")}
    assert snapshot.ratios["last"] == pytest.approx(1.0, abs=3 * log_half(rank_of(snapshot)))


def test_another_fingerprint_decides_anew(monkeypatch):
    model = Cloud()
    monitor = model.monitor(method="auto")
    set_rates(monkeypatch, winner="lanczos")
    monitor.check(model, 0)
    set_rates(monkeypatch, winner="exact")
    monitor.instrument.relative_ridge = 1e-2
    snapshot = monitor.check(model, 1)
    assert snapshot.conventions["method"] == {"last": dict.fromkeys(SPECTRA, "exact")}


def test_auto_stays_exact_where_the_dimension_is_small(monkeypatch):
    def no_device(device):
        raise AssertionError("no rates are needed")

    monkeypatch.setattr(cost, "rates", no_device)
    model = Cloud()
    snapshot = model.monitor(method="auto").check(model, 0)
    assert snapshot.conventions["method"] == {"last": dict.fromkeys(SPECTRA, "exact")}
    assert rank_of(snapshot).kind == "sampling"


def test_a_check_without_a_spectrum_decides_nothing(monkeypatch):
    model = Cloud()
    rows, model.rows = model.rows, torch.full_like(model.rows, math.nan)
    monitor = model.monitor(method="auto")
    set_rates(monkeypatch, winner="exact")
    assert monitor.check(model, 0).conventions["method"] == {}
    model.rows = rows
    set_rates(monkeypatch, winner="lanczos")
    decided = {"last": dict.fromkeys(SPECTRA, "lanczos")}
    assert monitor.check(model, 1).conventions["method"] == decided
    # Nor does it forget what has been decided.
    set_rates(monkeypatch, winner="exact")
    model.rows = torch.full_like(rows, math.nan)
    monitor.check(model, 2)
    model.rows = rows
    assert monitor.check(model, 3).conventions["method"] == decided


# The budget


def test_a_probe_set_cut_by_the_budget_is_measured_anew_and_paired(clock, products, told):
    """64 examples of two token rows: random in centred and uncentred rows, not in pooled ones."""
    rows = cloud(128, tokens=3)
    model, listener = Cloud(rows, clock=clock, cost=1.0 / 128), Listener()
    monitor = model.monitor(every="auto", max_overhead=0.01, max_steps=1000, sinks=[listener])
    monitor.step(model, 0)
    for step in range(1, 400):
        clock.advance(1.0)
        model.rows = rows if step < 200 else rows * torch.arange(1, WIDTH + 1) ** -0.3
        products.take()
        if monitor.step(model, step) is not None and monitor.checks == 2:
            fresh = products.take()
            assert all(s.randomized.anchor is None for s in summaries_of(monitor).values())
        elif monitor.checks == 3 and products.count:
            assert products.take() < 0.75 * fresh
    assert monitor.failures == 0
    assert [s.examples for s in listener.snapshots[:3]] == [128, 64, 64]
    assert [s.rows for s in listener.snapshots[:3]] == [256, 128, 128]
    assert len({s.fingerprint for s in listener.snapshots}) == 2
    for snapshot in listener.snapshots:
        assert snapshot.conventions["method"] == {"last": dict.fromkeys(SPECTRA, "lanczos")}
        assert rank_of(snapshot).kind == "test_vectors"
    pooled = [rank_of(s, "pooled/uncentred/effective_rank").kind for s in listener.snapshots]
    assert pooled == ["test_vectors"] + ["quadrature"] * (len(pooled) - 1)
    # The baseline is that of the smaller set: the same rows again, then those with less spread.
    second, last = listener.snapshots[1], listener.snapshots[-1]
    assert second.ratios["last"] == pytest.approx(1.0, rel=0.01)
    kept = rows[:64, 1:].reshape(-1, WIDTH)
    narrow = kept * torch.arange(1, WIDTH + 1) ** -0.3
    truth = exact_rank(narrow) / exact_rank(kept)
    stderr = told[-1][1]
    assert 0 < stderr < 0.05
    assert math.log(last.ratios["last"] / truth) == pytest.approx(0, abs=3 * stderr)
    assert listener.kinds() == ["BASELINE"] or set(listener.kinds()) == {"BASELINE", "WARNING"}


def test_a_probe_set_cut_by_the_budget_keeps_to_the_method_of_its_own_first_check(
    clock, monkeypatch
):
    """All 128 examples have more dimensions than the exact way is taken for, 64 have not."""
    set_rates(monkeypatch, winner="lanczos")
    monkeypatch.setattr(cost, "EXACT_UP_TO", 70)
    model, listener = Cloud(cloud(128), clock=clock, cost=1.0 / 128), Listener()
    options = {"every": "auto", "max_overhead": 0.01, "max_steps": 1000, "method": "auto"}
    monitor = model.monitor(**options, sinks=[listener])
    for step in range(200):
        clock.advance(1.0 if step else 0.0)
        monitor.step(model, step)
    assert [s.examples for s in listener.snapshots[:3]] == [128, 64, 64]
    found = [s.conventions["method"]["last"] for s in listener.snapshots[:3]]
    assert found == [dict.fromkeys(SPECTRA, way) for way in ("lanczos", "exact", "exact")]


# Checks that have nothing to measure, and other shapes


@pytest.mark.parametrize("kind", ["NONFINITE", "VANISHED"])
def test_a_check_with_nothing_to_measure_is_told_and_then_forgotten(kind, products, told):
    model, listener = Cloud(), Listener()
    monitor = model.monitor(sinks=[listener])
    rows = model.rows
    monitor.check(model, 0)
    cost_of_first = products.take()
    monitor.check(model, 1)
    model.rows = rows.clone()
    if kind == "NONFINITE":
        model.rows[7, 3] = math.nan
    else:
        model.rows[:] = rows[5]
    monitor.check(model, 2)
    assert listener.snapshots[-1].layers == {"last": {}}
    assert listener.snapshots[-1].conventions["method"] == {}
    state = saved(monitor)
    model.rows = jittered(rows, 1e-3, 0)
    products.take()
    back = monitor.check(model, 3)
    assert products.take() < 0.6 * cost_of_first  # it follows the check before that one
    assert listener.kinds() == ["BASELINE", kind]
    assert (monitor.failures, monitor.status) == (0, Status.HEALTHY)
    assert back.ratios["last"] == pytest.approx(1.0, abs=0.02)
    missed, (_, stderr) = told[2:]
    assert missed[1] is None
    assert not math.isfinite(missed[0])
    assert 0 < stderr < 0.02
    resumed = model.monitor()
    resumed.load_state_dict(state)
    assert resumed.check(model, 3).ratios["last"] == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize("kind", ["NONFINITE", "VANISHED"])
def test_a_first_check_with_nothing_to_measure_leaves_no_reference(kind, told):
    model, listener = Cloud(), Listener()
    monitor = model.monitor(sinks=[listener])
    rows = model.rows
    model.rows = torch.full_like(rows, math.nan if kind == "NONFINITE" else 1.0)
    monitor.check(model, 0)
    saved(monitor)
    model.rows = rows
    monitor.check(model, 1)
    model.rows = jittered(rows, 1e-3, 0)
    monitor.check(model, 2)
    assert [stderr is None for _, stderr in told] == [True, True, False]
    assert listener.kinds() == [kind, "BASELINE"]
    assert listener.snapshots[-1].ratios["last"] == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize("examples", [160, 40])
def test_up_to_64_dimensions_nothing_is_random(examples, told):
    rows = cloud(examples, 64 if examples > 64 else WIDTH)
    model, listener = Cloud(rows), Listener()
    monitor = model.monitor(sinks=[listener])
    references = []
    for step in range(3):
        model.rows = jittered(rows, 1e-2, step)
        monitor.check(model, step)
        references.append(summaries_of(monitor)[CENTRED].log_rank_without)
        assert rank_of(listener.snapshots[-1]).kind == "quadrature"
    assert saved(monitor)["watch"]["layers"]["last"]["reference_vectors"] == []
    expected = [paired_standard_error(references[0], later) for later in references[1:]]
    assert [stderr for _, stderr in told] == [None, *expected]
    assert min(expected) > 0
    ratio = exact_rank(jittered(rows, 1e-2, 2)) / exact_rank(jittered(rows, 1e-2, 0))
    # Brackets of 5e-3 nats at both ends.
    assert math.log(listener.snapshots[-1].ratios["last"] / ratio) == pytest.approx(0, abs=1e-2)


def test_another_number_of_rows_is_measured_anew_and_compared(told, products):
    """Tokens come and go with the padding of generated text; the examples stay."""
    rows = cloud(80, tokens=5)
    model, listener = Cloud(rows[:, :4]), Listener()
    monitor = model.monitor(sinks=[listener])
    monitor.check(model, 0)
    cost_of_first = products.take()
    model.rows = rows
    monitor.check(model, 1)
    assert products.take() > 0.8 * cost_of_first
    assert [s.rows for s in listener.snapshots] == [240, 320]
    assert monitor.failures == 0
    truth = exact_rank(rows[:, 1:].flatten(0, 1)) / exact_rank(rows[:, 1:4].flatten(0, 1))
    stderr = told[-1][1]
    assert 0 < stderr < 0.05
    found = listener.snapshots[-1].ratios["last"]
    assert math.log(found / truth) == pytest.approx(0, abs=3 * stderr)
    monitor.check(model, 2)
    assert rank_of(listener.snapshots[-1]).value == pytest.approx(
        exact_rank(rows[:, 1:].flatten(0, 1)), rel=0.02
    )


CHANGES = {
    "ridge": lambda monitor, model: setattr(monitor.instrument, "relative_ridge", 1e-2),
    "precision": lambda monitor, model: setattr(model, "rows", model.rows.double()),
    "examples_of_the_same_rows": lambda monitor, model: (
        setattr(model, "rows", cloud(80, tokens=3)),
        setattr(monitor, "probes", monitor.probes.first(80)),
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_another_fingerprint_in_mid_run_begins_anew(change, caplog):
    caplog.set_level(logging.WARNING, "sigma_monitor")
    model = Cloud()
    monitor = model.monitor()
    monitor.check(model, 0)
    CHANGES[change](monitor, model)
    monitor.check(model, 1)
    assert sum("begins anew" in record.getMessage() for record in caplog.records) == 1
    assert monitor.status is Status.HEALTHY


# What the detector is told


@pytest.mark.parametrize("checks", [60, pytest.param(200, marks=pytest.mark.long)])
def test_checks_of_a_model_that_only_jitters_raise_no_alert(told, checks):
    rows = cloud(100, 72, decay=0.5)
    model, listener = Cloud(rows), Listener()
    monitor = model.monitor(sinks=[listener], detector={})
    # The other two spectra are not what this is about, and cost less the exact way.
    monitor.instrument._methods = {"last": {UNCENTRED: "exact", POOLED: "exact"}}
    for step in range(checks):
        model.rows = jittered(rows, 1e-3, step)
        monitor.step(model, step)
    assert (monitor.checks, monitor.failures) == (checks, 0)
    assert listener.snapshots[-1].conventions["method"]["last"][CENTRED] == "lanczos"
    assert listener.kinds() == ["BASELINE"]
    assert {s.status for s in listener.snapshots} == {Status.HEALTHY}
    logs, stderrs = np.array([log for log, _ in told]), np.array([s for _, s in told[1:]])
    assert np.isfinite(stderrs).all()
    assert abs(logs - logs[0]).max() < 0.03
    # Errors are neither far too small for the scatter, nor so large that they blind the rule.
    assert np.std(logs) < 3 * stderrs.mean()
    assert stderrs.max() < 0.02


SEEDS = range(16)


@pytest.mark.parametrize("moves", ["jitters", "narrows"])
def test_the_error_of_the_test_vectors_is_their_spread_with_the_examples_held_fixed(
    moves, no_sampling
):
    """Over seeds: of the log-ratio to the reference, followed (jitters) or anew (narrows)."""
    before = cloud(decay=0.2)
    after = jittered(before, 1e-2, 0) if moves == "jitters" else cloud(decay=0.7)
    options = {"center": True, "method": "lanczos", "relative_ridge": 1e-3}
    changes, errors, followed = [], [], []
    for seed in SEEDS:
        generator = torch.Generator().manual_seed(seed)
        reference = spectral_summary(before, generator=generator, **options)
        later = spectral_summary(after, generator=generator, previous=reference, **options)
        followed.append(later.randomized.anchor is reference)
        watcher = watch_of()
        values = [as_measured(summary) for summary in (reference, later)]
        for step, value in enumerate(values):
            watcher.update(step, value)
        changes.append(values[1].log_of(WATCHED) - values[0].log_of(WATCHED))
        errors.append(watcher.stderr)
    assert any(followed) is (moves == "jitters")
    spread, told = np.std(changes, ddof=1), math.sqrt(np.mean(np.square(errors)))
    # Sixteen seeds know a standard deviation to a fifth; a few vectors know their error to a third.
    assert 1 / 1.8 < told / spread < 1.8
    truth = math.log(exact_rank(after) / exact_rank(before))
    bracket = 5e-3  # of the quadrature, the same for every seed
    assert abs(np.mean(changes) - truth) < 4 * spread / math.sqrt(len(SEEDS)) + bracket


def watch_of():
    return LayerWatch("last", "token", baseline="start", expected_checks=None, thresholds={})


def as_measured(summary):
    spectra = dict.fromkeys(SPECTRA, summary)
    estimates = {WATCHED: summary.effective_rank}
    return Measured(estimates, spectra, summary.n, pooled_limit=1)


def test_the_alert_says_how_sure_the_change_is(told):
    decays = defaultdict(lambda: NARROW, dict.fromkeys(range(3), 0.7))
    model, listener = Cloud(), Listener()
    monitor = model.monitor(sinks=[listener])
    for step in range(10):
        model.rows = cloud(decay=decays[step])
        monitor.step(model, step)
    assert listener.kinds() == ["BASELINE", "WARNING", "COLLAPSED"]
    truth = exact_rank(cloud(decay=NARROW)) / exact_rank(cloud())
    for alert in listener.alerts[1:]:
        log_value, stderr = told[alert.check - 1]
        assert alert.value == pytest.approx(math.exp(log_value))
        assert 0 < alert.low < alert.value < alert.high < alert.baseline
        assert alert.low <= truth * alert.baseline <= alert.high
        assert math.log(alert.high / alert.value) == pytest.approx(
            half_width(stderr, EXAMPLES, 0.95)
        )


def test_the_alert_is_right_about_the_given_examples_too(no_sampling):
    """Without the error of the probe set the interval is that of the test vectors alone."""
    model, listener = Cloud(), Listener()
    monitor = model.monitor(sinks=[listener])
    for step in range(10):
        model.rows = cloud(decay=0.7 if step < 3 else NARROW)
        monitor.step(model, step)
    truth = exact_rank(cloud(decay=NARROW)) / exact_rank(cloud())
    for alert in listener.alerts[1:]:
        half = math.log(alert.high / alert.value)
        assert 0 < half < 0.05
        assert math.log(truth * alert.baseline / alert.value) == pytest.approx(0, abs=2 * half)


@pytest.mark.parametrize("level", ["reference", "later"])
def test_the_error_adds_up_level_and_change(level):
    """By hand: a paired level of all test vectors, and a paired change of a few of them."""
    options = {"center": True, "method": "lanczos"}
    first = spectral_summary(cloud(), **options)
    anchor = first if level == "reference" else spectral_summary(cloud(decay=NARROW), **options)
    rows = cloud() if level == "reference" else cloud(decay=NARROW)
    last = spectral_summary(jittered(rows, 1e-4, 0), previous=anchor, **options)
    assert last.randomized.anchor is anchor
    watcher = watch_of()
    for step, summary in enumerate((first, last)):
        watcher.update(step, as_measured(summary))
    values = {summary: as_measured(summary).vector_values for summary in (first, anchor, last)}
    assert len(values[first].change) == 0
    # The same to first order: the slopes of the entropy are those of today.
    np.testing.assert_allclose(values[last].level, values[anchor].level, rtol=1e-5)
    assert len(values[last].change) <= len(values[anchor].level) == len(values[first].level)
    moved = math.log(last.effective_rank.value / anchor.effective_rank.value)
    relevelled = (values[last].level - values[anchor].level).mean()
    assert values[last].change.mean() + relevelled == pytest.approx(moved, abs=1e-12)

    def error(values):
        return np.std(values, ddof=1) / math.sqrt(len(values))

    parts = [
        paired_standard_error(first.log_rank_without, last.log_rank_without),
        error(values[last].level - values[first].level),
        error(values[last].change),
    ]
    assert bool(parts[1] < 0.1 * parts[2]) is (level == "reference")
    assert parts[2] > 0
    expected = math.hypot(parts[0], parts[1] + parts[2])
    assert watcher.stderr == pytest.approx(expected, rel=1e-12)
