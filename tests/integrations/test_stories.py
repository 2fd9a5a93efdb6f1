"""A real pretrained model on real text: healthy runs are quiet, a collapse is seen and stopped."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import TrainerState, TrainingArguments

from sigma_monitor import Status
from tests.integrations.conftest import Stories, offline_wandb
from tests.integrations.hosts import (
    LearningRateJump,
    eager,
    events_of,
    expected_metrics,
    kinds,
    loss_entries,
    make_trainer,
    record_lines,
    record_of,
    sigma_entries,
)
from tests.integrations.wandb_file import WandbFile

LAST = 45  # of the healthy run
ONSET = 20  # the last step with the learning rate that suits the model
EVERY = 2
ALERTED_BY = ONSET + 5 * EVERY
COLLAPSED_BY = ONSET + 8 * EVERY  # it must last before it is called so


@dataclass(frozen=True)
class Run:
    """A finished training."""

    folder: Path
    state: TrainerState
    args: TrainingArguments
    callback: Any


def fine_tune(
    stories: Stories, folder: Path, callback: Any, *others: Any, model: Any = None, **arguments: Any
) -> Run:
    trainer = make_trainer(
        folder,
        callback,
        *others,
        model=model or stories.model(),
        train=stories.train,
        held_out=stories.held_out,
        **arguments,
    )
    trainer.train()
    return Run(folder, trainer.state, trainer.args, callback)


@pytest.fixture(scope="module")
def healthy(stories: Stories, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Reports to TensorBoard and W&B; some checks meet a train log, others do not."""
    folder = tmp_path_factory.mktemp("healthy")
    with offline_wandb(folder):
        return fine_tune(
            stories, folder, eager(), max_steps=LAST, report_to=["tensorboard", "wandb"]
        )


@pytest.fixture(scope="module")
def collapse(stories: Stories, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Learning rate x 100 in mid-run; alerts only."""
    folder = tmp_path_factory.mktemp("collapse")
    with offline_wandb(folder):
        return fine_tune(
            stories,
            folder,
            eager(every=EVERY),
            LearningRateJump(ONSET),
            max_steps=50,
            report_to=["wandb"],
        )


def test_checks_both_meet_and_miss_the_train_log(healthy: Run) -> None:
    checked = {step for step, _ in sigma_entries(healthy.state.log_history)}
    logged = {entry["step"] for entry in loss_entries(healthy.state.log_history)}
    assert {0, LAST} <= checked
    assert LAST in logged
    assert len(checked & logged) >= 3
    assert len(checked - logged) >= 8


def test_log_history_has_every_check_once(healthy: Run) -> None:
    expected = expected_metrics(healthy.folder)
    assert len(expected) == healthy.callback.monitor.checks >= 14
    assert sigma_entries(healthy.state.log_history) == expected


def test_record_and_metrics_agree_on_the_numbers(healthy: Run) -> None:
    raw = [line for line in record_lines(healthy.folder) if line["type"] == "check"]
    for (step, metrics), line in zip(sigma_entries(healthy.state.log_history), raw, strict=True):
        value, low, high, kind = line["layers"]["last"]["effective_rank"]
        assert step == line["step"]
        assert kind == "sampling"
        assert metrics["sigma/last/effective_rank"] == value
        assert metrics["sigma/last/effective_rank_low"] == low <= value
        assert metrics["sigma/last/effective_rank_high"] == high >= value
        assert metrics["sigma/loss"] == line["loss"]
        assert metrics["sigma/ratio"] == line["ratios"]["last"]
        assert metrics["sigma/status"] == 1.0
        assert metrics["sigma/finite"] == 1.0
        assert metrics["sigma/check_seconds"] == line["seconds"] > 0


def test_tensorboard_has_every_value_once(healthy: Run) -> None:
    files = healthy.folder.rglob("events.out.tfevents.*")
    (event_file,) = (path for path in files if path.parent.name != "sigma")  # of the bands
    events = EventAccumulator(str(event_file), size_guidance={"scalars": 0})
    events.Reload()
    tags = events.Tags()["scalars"]
    found = {
        tag.removeprefix("train/"): [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in tags
        if "sigma" in tag
    }
    expected: dict[str, list[tuple[int, float]]] = {}
    for step, metrics in expected_metrics(healthy.folder):
        for name, value in metrics.items():
            expected.setdefault(name, []).append((step, float(np.float32(value))))
    assert found == expected
    assert [event.step for event in events.Scalars("train/loss")] == list(range(5, LAST + 1, 5))


def test_wandb_has_every_value_once(healthy: Run) -> None:
    run = WandbFile.of_only_run(healthy.folder)
    assert run.exited
    assert run.sigma() == expected_metrics(healthy.folder)
    losses = [row["train/global_step"] for row in run.history if "train/loss" in row]
    assert losses == list(range(5, LAST + 1, 5))
    assert run.alerts == []  # BASELINE is for the record only


def test_train_losses_are_logged_as_without_the_monitor(
    healthy: Run, stories: Stories, tmp_path: Path
) -> None:
    trainer = make_trainer(
        tmp_path,
        model=stories.model(),
        train=stories.train,
        max_steps=10,
    )
    trainer.train()
    plain = [(e["step"], e["loss"]) for e in loss_entries(trainer.state.log_history)]
    watched = [(e["step"], e["loss"]) for e in loss_entries(healthy.state.log_history)]
    assert watched[:2] == plain


def test_a_loaded_model_is_its_own_baseline(healthy: Run) -> None:
    (started,) = events_of(healthy.folder, "started")
    assert started["baseline"] == "start"
    assert started["held_out"] is True
    (baseline,) = record_of(healthy.folder).alerts
    assert (baseline["kind"], baseline["step"]) == ("BASELINE", 0)


def test_a_healthy_fine_tune_raises_no_alert(healthy: Run) -> None:
    assert kinds(record_of(healthy.folder).alerts) == ["BASELINE"]
    assert healthy.callback.monitor.status is Status.HEALTHY
    assert healthy.state.global_step == LAST


def test_a_longer_healthy_fine_tune_with_dropout_raises_no_alert(
    stories: Stories, tmp_path: Path
) -> None:
    run = fine_tune(
        stories,
        tmp_path,
        eager(every=4, stop_on_collapse=True),
        model=stories.model(attention_dropout=0.1),
        max_steps=100,
    )
    assert kinds(record_of(tmp_path).alerts) == ["BASELINE"]
    assert run.callback.monitor.checks >= 20
    assert run.state.global_step == 100
    snapshots = record_of(tmp_path).snapshots
    assert snapshots[-1].loss < 0.9 * snapshots[0].loss


def test_a_collapse_is_alerted_within_five_checks_and_goes_on(collapse: Run) -> None:
    alerts = [a for a in record_of(collapse.folder).alerts if a["kind"] != "BASELINE"]
    assert kinds(alerts) == ["WARNING", "COLLAPSED"]
    assert [alert["severity"] for alert in alerts] == ["warn", "error"]
    warning, collapsed = alerts
    assert ONSET < warning["onset_step"] <= warning["step"] <= ALERTED_BY
    assert warning["step"] <= collapsed["step"] <= COLLAPSED_BY
    assert warning["functional"] == "effective_rank"
    assert warning["ratio"] <= 0.8
    assert warning["baseline"] > 40
    assert all(alert["low"] < alert["value"] < alert["high"] for alert in alerts)
    assert collapse.state.global_step == 50
    assert not collapse.callback.monitor.should_stop
    assert collapse.callback.monitor.status is Status.COLLAPSED


def test_the_metrics_show_the_collapse(collapse: Run) -> None:
    entries = dict(sigma_entries(collapse.state.log_history))
    alerts = record_of(collapse.folder).alerts
    alarmed = {alert["step"] for alert in alerts if alert["severity"] != "info"}
    assert {step for step, metrics in entries.items() if metrics["sigma/alert"]} == alarmed
    assert entries[50]["sigma/status"] == 3.0
    assert entries[50]["sigma/ratio"] < 0.5
    assert entries[ONSET]["sigma/status"] == 1.0


def test_wandb_gets_each_alert_once(collapse: Run) -> None:
    run = WandbFile.of_only_run(collapse.folder)
    recorded = [a for a in record_of(collapse.folder).alerts if a["kind"] != "BASELINE"]
    assert [alert.level for alert in run.alerts] == ["WARN", "ERROR"]
    assert [alert.title for alert in run.alerts] == [alert["title"] for alert in recorded]
    for sent, kept in zip(run.alerts, recorded, strict=True):
        assert f"step {kept['step']}" in sent.text
        assert sent.text.startswith(kept["text"])
        assert kept["advice"] in sent.text
        assert 0 < len(sent.title) <= 64
    assert run.sigma() == expected_metrics(collapse.folder)


@pytest.mark.parametrize("stop", [True, 0.6])
def test_a_collapse_stops_the_run_when_asked_to(
    stop: bool | float, stories: Stories, tmp_path: Path
) -> None:
    run = fine_tune(
        stories,
        tmp_path,
        eager(every=EVERY, stop_on_collapse=stop),
        LearningRateJump(ONSET),
        max_steps=50,
    )
    alerts = record_of(tmp_path).alerts
    (collapsed,) = [alert for alert in alerts if alert["kind"] == "COLLAPSED"]
    (stopped,) = [alert for alert in alerts if alert["kind"] == "STOPPED"]
    assert ONSET < run.state.global_step <= COLLAPSED_BY
    assert run.state.global_step == collapsed["step"] == stopped["step"]
    assert run.callback.monitor.should_stop
    assert run.callback.monitor.stop_reason == f"COLLAPSED at step {stopped['step']}"
    assert run.callback.monitor.stop_reason in stopped["text"]
    # The check that stops the run is logged like any other.
    assert sigma_entries(run.state.log_history) == expected_metrics(tmp_path)
