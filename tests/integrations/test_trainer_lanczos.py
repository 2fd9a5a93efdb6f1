"""Randomised spectra in a Trainer run: training, numbers and alerts of the exact way."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sigma_monitor import Estimate, Snapshot
from sigma_monitor.sinks import Record
from tests.compatibility import shows
from tests.integrations.bitwise import differences, remains
from tests.integrations.conftest import offline_wandb
from tests.integrations.hosts import (
    Flatten,
    eager,
    expected_metrics,
    make_trainer,
    record_of,
    sigma_entries,
    sigma_part,
)
from tests.integrations.models import tiny_llama, token_rows
from tests.integrations.wandb_file import WandbFile

# Test vectors are random from 65 dimensions on: all three spectra have more.
WIDTH, EXAMPLES = 80, 72
EVERY, LAST = 6, 30
RATE = 2e-4  # the drawn weights contract by themselves at a higher one
LAYERS = ["last", 0]
COMPARED = ("effective_rank", "log_det", "participation_ratio", "trace")
ONSET, COLLAPSE_EVERY = 6, 2


@dataclass(frozen=True)
class Run:
    """A finished training."""

    folder: Path
    remains: dict[str, Any]
    history: list[dict[str, Any]]
    record: Record

    def alerts(self) -> dict[str, dict[str, Any]]:
        return {alert["kind"]: alert for alert in self.record.alerts}


def train(folder: Path, *callbacks: Any, **arguments: Any) -> Run:
    trainer = make_trainer(
        folder,
        *callbacks,
        model=tiny_llama(hidden_size=WIDTH),
        held_out=token_rows(EXAMPLES, seed=1),
        **{"max_steps": LAST, "learning_rate": RATE, **arguments},
    )
    trainer.train()
    watched = any(hasattr(callback, "monitor") for callback in callbacks)
    record = record_of(folder) if watched else Record([], [], [], [])
    return Run(folder, remains(trainer), trainer.state.log_history, record)


def watched(folder: Path, method: str) -> Run:
    watcher = eager(every=EVERY, method=method, baseline="start", layers=LAYERS)
    with offline_wandb(folder):
        run = train(folder, watcher, report_to=["wandb"])
    assert watcher.monitor.failures == 0
    return run


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return watched(tmp_path_factory.mktemp("exact"), "exact")


@pytest.fixture(scope="module")
def lanczos(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return watched(tmp_path_factory.mktemp("lanczos"), "lanczos")


def half_widths_away(truth: float, estimate: Estimate) -> float:
    """How far outside of the value the truth lies, in half-widths of that side."""
    if truth == estimate.value:
        return 0.0
    end = estimate.high if truth > estimate.value else estimate.low
    return (truth - estimate.value) / (end - estimate.value) if end != estimate.value else math.inf


def pairs(exact: Run, lanczos: Run) -> list[tuple[Snapshot, Snapshot]]:
    return list(zip(exact.record.snapshots, lanczos.record.snapshots, strict=True))


@shows("Trainer", "same weights", case="method lanczos")
def test_the_training_is_bitwise_the_one_without_a_monitor(
    exact: Run, lanczos: Run, tmp_path: Path
) -> None:
    alone = train(tmp_path).remains
    assert differences(alone, exact.remains) == []
    assert differences(alone, lanczos.remains) == []


def test_both_ways_check_at_the_same_steps(exact: Run, lanczos: Run) -> None:
    steps = [(one.step, two.step) for one, two in pairs(exact, lanczos)]
    assert steps == [(step, step) for step in range(0, LAST + 1, EVERY)]


@pytest.mark.parametrize("layer", ["last", "0"])
@pytest.mark.parametrize("functional", COMPARED)
def test_the_exact_value_lies_in_the_randomised_interval_at_every_check(
    functional: str, layer: str, exact: Run, lanczos: Run
) -> None:
    keys = [functional, f"uncentred/{functional}"]
    if functional == "effective_rank":
        keys.append("pooled/uncentred/effective_rank")
    away = []
    for one, two in pairs(exact, lanczos):
        for key in keys:
            truth, estimate = one.layers[layer][key], two.layers[layer][key]
            assert truth.kind in ("exact", "sampling")
            if functional == "trace":  # known without test vectors
                assert estimate.kind == "exact"
                assert estimate.value == pytest.approx(truth.value, rel=1e-12)
                continue
            assert estimate.kind == "test_vectors"
            assert estimate.low < estimate.value < estimate.high
            away.append(half_widths_away(truth.value, estimate))
    # Intervals of 95 %, of checks that share their test vectors: some miss, none by far.
    assert all(distance <= 3 for distance in away)
    assert sum(distance <= 1 for distance in away) >= 0.75 * len(away)


def test_the_intervals_are_narrow_enough_to_be_of_use(lanczos: Run) -> None:
    for snapshot in lanczos.record.snapshots:
        for estimates in snapshot.layers.values():
            rank, log_det = estimates["effective_rank"], estimates["log_det"]
            assert rank.high - rank.low < 0.06 * rank.value
            assert log_det.high - log_det.low < 0.25 * WIDTH  # nats


@pytest.mark.parametrize("logger", ["log_history", "wandb"])
def test_the_intervals_reach_every_logger(logger: str, lanczos: Run) -> None:
    if logger == "wandb":
        run = WandbFile.of_only_run(lanczos.folder)
        assert run.exited
        entries = run.sigma()
    else:
        entries = sigma_entries(lanczos.history)
    assert entries == expected_metrics(lanczos.folder)
    assert len(entries) == len(lanczos.record.snapshots)
    for _, metrics in entries:
        for layer in ("last", "0"):
            for key in ("log_det", "effective_rank", "uncentred/log_det"):
                name = f"sigma/{layer}/{key}"
                assert metrics[f"{name}_low"] < metrics[name] < metrics[f"{name}_high"]


def test_the_train_logs_are_untouched(exact: Run, lanczos: Run) -> None:
    plain = [
        [(entry["step"], entry["loss"]) for entry in run.history if "loss" in entry]
        for run in (exact, lanczos)
    ]
    assert plain[0] == plain[1]
    assert plain[0]
    assert not any(sigma_part(entry) for entry in lanczos.history if "loss" in entry)


def test_status_and_ratio_agree(exact: Run, lanczos: Run) -> None:
    start = lanczos.record.snapshots[0]
    for one, two in pairs(exact, lanczos):
        assert one.status is two.status
        assert one.alerted is two.alerted
        assert one.loss == two.loss
        for layer in one.ratios:
            ranks = [s.layers[layer]["effective_rank"] for s in (start, two)]
            allowed = sum((rank.high - rank.low) / 2 / rank.value for rank in ranks)
            assert math.log(two.ratios[layer] / one.ratios[layer]) == pytest.approx(0, abs=allowed)
    assert list(lanczos.alerts()) == list(exact.alerts()) == ["BASELINE"]


@pytest.mark.parametrize("method", ["exact", "lanczos"])
def test_the_record_names_the_method_of_every_spectrum(
    method: str, request: pytest.FixtureRequest
) -> None:
    run: Run = request.getfixturevalue(method)
    spectra = dict.fromkeys(("centred", "uncentred", "pooled"), method)
    for snapshot in run.record.snapshots:
        assert snapshot.conventions["method"] == {"last": spectra, "0": spectra}


# `kept` features stay alive: fewer, or more, than the leading directions that nothing random
# is needed for.
@pytest.mark.parametrize("kept", [4, 36])
def test_a_collapse_is_told_when_the_exact_way_tells_it(kept: int, tmp_path: Path) -> None:
    runs = {}
    for method in ("exact", "lanczos"):
        watcher = eager(
            every=COLLAPSE_EVERY, method=method, baseline="start", detector={"collapsed": 0.6}
        )
        runs[method] = train(tmp_path / method, Flatten(ONSET, kept), watcher, max_steps=14)
        assert watcher.monitor.failures == 0
    expected, found = runs["exact"].alerts(), runs["lanczos"].alerts()
    assert list(found) == list(expected) == ["BASELINE", "WARNING", "COLLAPSED"]
    for kind, alert in found.items():
        exact = expected[kind]
        assert abs(alert["step"] - exact["step"]) <= COLLAPSE_EVERY
        if kind == "BASELINE":
            continue
        assert 0 < alert["low"] < alert["value"] < alert["high"] < alert["baseline"]
        assert math.isfinite(alert["high"])
        if alert["step"] == exact["step"]:
            ratio = exact["value"] / exact["baseline"]
            assert alert["low"] <= ratio * alert["baseline"] <= alert["high"]
            # Of the median; the first check after the fall knows it only to some per cent.
            assert alert["ratio"] == pytest.approx(exact["ratio"], rel=0.1)
    assert differences(runs["exact"].remains, runs["lanczos"].remains) == []
