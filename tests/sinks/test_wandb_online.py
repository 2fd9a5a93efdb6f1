"""Online W&B runs, against a server on this machine: all of it arrives, once, or is in the record.

What the server does to alerts, and its death, reach neither the training nor the end of the run.
"""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import wandb
from lightning.pytorch.loggers import WandbLogger
from torch import Tensor, nn

from sigma_monitor import ProbeSet, SigmaMonitor
from sigma_monitor.sinks import WandbSink
from sigma_monitor.snapshot import SHARES
from tests.integrations import accelerate_hosts, lightning_hosts
from tests.integrations.conftest import offline_wandb
from tests.integrations.hosts import (
    Flatten,
    eager,
    events_of,
    expected_metrics,
    make_trainer,
    our_warnings,
    record_of,
    record_path,
)
from tests.integrations.wandb_file import WandbFile
from tests.snapshots import alert, snapshot
from tests.wandb_backend import ENTITY, KEY, WandbBackend, online_wandb

STEPS = 30
ONSET, CURED = 10, 20  # a collapse, and its end
AT_MOST = 15.0  # seconds for the end of a run, and for ours

Row = Mapping[str, Any]


class Shaped(nn.Module):
    """Embeddings of a rank that is set."""

    kept = 32

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def embed(self, batch: Mapping[str, Tensor]) -> Tensor:
        scale = torch.where(torch.arange(32) < self.kept, 1.0, 0.01)
        return batch["rows"] * scale


def watch(folder: Path, sink: WandbSink | None = None, **options: Any) -> SigmaMonitor:
    rows = torch.randn(48, 32, generator=torch.Generator().manual_seed(0))
    settings = {
        "embed_fn": lambda model, batch: model.embed(batch),
        "every": 1,
        "max_overhead": None,
        "max_steps": STEPS,
        "baseline": "start",
        "output_dir": folder,
        "sinks": ["default", *([] if sink is None else [sink])],
    }
    return SigmaMonitor(ProbeSet.from_tensors({"rows": rows}), **{**settings, **options})


def train(
    monitor: SigmaMonitor,
    log: Callable[[int], None] = lambda step: None,
    *,
    steps: int = STEPS,
    close: bool = True,
) -> float:
    """Train, with a collapse that passes; returns the seconds that closing took."""
    model = Shaped()
    for step in range(steps):
        log(step)
        model.kept = 4 if ONSET <= step < CURED else 32
        monitor.step(model, step)
    started = time.monotonic()
    if close:
        monitor.close()
    return time.monotonic() - started


def metrics_of(history: Sequence[Row], axis: str, prefix: str = "") -> list[tuple[int, Row]]:
    """Step and metrics of every row that has some of a check."""
    return [
        (
            row[axis],
            {
                name.removeprefix(prefix): value
                for name, value in row.items()
                if name.startswith(f"{prefix}sigma/") and name != axis and "/spectrum" not in name
            },
        )
        for row in history
        if f"{prefix}sigma/status" in row
    ]


def histograms_of(history: Sequence[Row], axis: str) -> list[tuple[int, Any]]:
    key = "sigma/last/spectrum"
    return [(row[axis], row[key]["values"]) for row in history if key in row]


def spectra(folder: Path) -> list[tuple[int, list[int]]]:
    """What there should be a histogram of."""
    return [(each.step, list(each.spectra["last"])) for each in record_of(folder).snapshots]


def news_of(folder: Path) -> list[dict[str, Any]]:
    return [alert for alert in record_of(folder).alerts if alert["kind"] != "BASELINE"]


LEVELS = {"info": "INFO", "warn": "WARN", "error": "ERROR"}


def assert_alerts(backend: WandbBackend, folder: Path, kinds: Sequence[str]) -> None:
    """Each of these arrived, once, in the words of the record."""
    told = news_of(folder)
    assert [alert["kind"] for alert in told] == list(kinds)
    assert backend.attempts == len(told)
    for sent, kept in zip(backend.alerts, told, strict=True):
        assert sent["severity"] == LEVELS[kept["severity"]]
        assert sent["title"] == kept["title"]
        assert sent["text"] == f"{kept['text']}\n{kept['advice']}".strip()
        assert f"step {kept['step']}" in sent["text"]
        assert sent["entityName"] == ENTITY
        assert sent["waitDuration"] == 60_000
    assert events_of(folder, "undelivered") == []


def defined(backend: WandbBackend) -> dict[str, str]:
    """Axis of each metric that has one."""
    entries = backend.config["_wandb"]["m"]
    names = [entry.get("1", entry.get("2")) for entry in entries]
    return {
        name: names[entry["5"] - 1]
        for name, entry in zip(names, entries, strict=True)
        if "5" in entry
    }


# A loop of one's own


@dataclass(frozen=True)
class Run:
    folder: Path
    backend: WandbBackend


COLLAPSE = ("WARNING", "COLLAPSED", "RECOVERED")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("plain")
    with online_wandb(folder) as backend:
        run = wandb.init(project="p", config={"lr": 1e-3})
        monitor = watch(folder, WandbSink(metrics=True), stop_on_collapse=True)
        train(monitor, lambda step: run.log({"loss": 0.5 * step}))
        run.finish()
    return Run(folder, backend)


def test_every_metric_arrives_once_on_the_axis_of_the_monitor(plain: Run) -> None:
    expected = expected_metrics(plain.folder)
    assert len(expected) == STEPS
    assert metrics_of(plain.backend.history, "sigma/step") == expected
    losses = [row["loss"] for row in plain.backend.history if "loss" in row]
    assert losses == [0.5 * step for step in range(STEPS)]


def test_a_histogram_of_every_check_arrives(plain: Run) -> None:
    assert histograms_of(plain.backend.history, "sigma/step") == spectra(plain.folder)


def test_a_chart_of_the_spectrum_arrives_with_each_alarm(plain: Run) -> None:
    key = "sigma/last/spectrum_at_alert"
    assert {row[key]["_type"] for row in plain.backend.history if key in row} == {"image-file"}
    charts = [row["sigma/step"] for row in plain.backend.history if key in row]
    alarms = [alert["step"] for alert in news_of(plain.folder) if alert["severity"] != "info"]
    assert charts == alarms


def test_every_alert_arrives_once(plain: Run) -> None:
    assert_alerts(plain.backend, plain.folder, ("WARNING", "COLLAPSED", "STOPPED", "RECOVERED"))
    sent = [alert["severity"] for alert in plain.backend.alerts]
    assert sent == ["WARN", "ERROR", "INFO", "INFO"]


def test_settings_outcome_and_tag_arrive(plain: Run) -> None:
    backend = plain.backend
    (started,) = events_of(plain.folder, "started")
    ours = backend.config["sigma_monitor"]
    assert ours["baseline"] == "start"
    assert ours["fingerprint"] == started["fingerprint"]
    assert backend.config["lr"] == 1e-3
    assert backend.tags == ["sigma-collapsed"]
    baseline, warning = record_of(plain.folder).alerts[:2]
    assert backend.summary["sigma/final_status"] == "HEALTHY"
    assert backend.summary["sigma/first_alert_step"] == warning["step"]
    assert backend.summary["sigma/last/baseline"] == baseline["baseline"]
    (closed,) = events_of(plain.folder, "closed")
    assert backend.summary["sigma/stop_reason"] == closed["stop_reason"]
    assert "COLLAPSED" in closed["stop_reason"]


def test_metrics_are_defined_by_their_exact_names_without_dots(plain: Run) -> None:
    axes = defined(plain.backend)
    logged = {name for row in plain.backend.history for name in row if name.startswith("sigma/")}
    ours = logged - {"sigma/step"}
    assert ours
    assert {name: axes.get(name) for name in ours} == dict.fromkeys(ours, "sigma/step")
    assert not any("." in name or "*" in name for name in axes)


@pytest.mark.parametrize("logs", ["with_steps", "every_seventh_step", "several_rows", "nothing"])
def test_no_row_is_lost_however_the_loop_logs(logs: str, tmp_path: Path) -> None:
    sent = []

    def log(step: int) -> None:
        if logs == "with_steps" or (logs == "every_seventh_step" and step % 7 == 0):
            run.log({"loss": float(step)}, step=step)
        elif logs == "several_rows":
            run.log({"other": 1.0})
            run.log({"loss": float(step)})
        else:
            return
        sent.append(float(step))

    with online_wandb(tmp_path) as backend:
        run = wandb.init(project="p")
        train(watch(tmp_path, WandbSink(metrics=True)), log)
        run.finish()
    assert metrics_of(backend.history, "sigma/step") == expected_metrics(tmp_path)
    assert histograms_of(backend.history, "sigma/step") == spectra(tmp_path)
    assert [row["loss"] for row in backend.history if "loss" in row] == sent


def test_no_generator_is_drawn_from(tmp_path: Path) -> None:
    def state() -> list[Any]:
        return [
            random.getstate(),
            np.random.get_state()[1].tolist(),
            torch.get_rng_state().tolist(),
        ]

    with offline_wandb(tmp_path):
        run = wandb.init(project="p")
        sink = WandbSink(metrics=True)
        before = state()
        sink.check(snapshot(10, spectra={"last": (1,) * (len(SHARES) - 1)}))
        sink.mark(alert("COLLAPSED", "error"))
        sink.note("closed", {"status": "COLLAPSED"})
        assert state() == before
        run.finish()
    (row,) = WandbFile.of_only_run(tmp_path).history
    assert row["sigma/last/spectrum_at_alert/_type"] == "image-file"


# Hosts


def test_a_trainer_that_reports_to_wandb(tmp_path: Path) -> None:
    with online_wandb(tmp_path) as backend:
        trainer = make_trainer(
            tmp_path, eager(baseline="start"), Flatten(12), max_steps=45, report_to=["wandb"]
        )
        trainer.train()
        wandb.finish()
    history, axis = backend.history, "train/global_step"
    assert metrics_of(history, axis, "train/") == expected_metrics(tmp_path)
    assert histograms_of(history, axis) == spectra(tmp_path)
    assert [row[axis] for row in history if "train/loss" in row] == list(range(5, 46, 5))
    assert_alerts(backend, tmp_path, ("WARNING", "COLLAPSED"))
    assert backend.summary["sigma/final_status"] == "COLLAPSED"
    assert backend.tags == ["sigma-collapsed"]
    assert defined(backend)["sigma/last/spectrum"] == axis


@pytest.mark.parametrize("optimizers", [1, 2])
def test_a_lightning_trainer_with_its_logger(optimizers: int, tmp_path: Path) -> None:
    module = lightning_hosts.Wrapped() if optimizers == 1 else lightning_hosts.TwoOptimizers()
    with online_wandb(tmp_path) as backend:
        logger = WandbLogger(project="p", save_dir=tmp_path)
        trainer = lightning_hosts.make_trainer(
            tmp_path,
            lightning_hosts.eager(output_dir=tmp_path, baseline="start"),
            lightning_hosts.From(12, lightning_hosts.flatten),
            logger=logger,
            log_every_n_steps=1,
        )
        lightning_hosts.fit(trainer, module)
        wandb.finish()
    history, axis = backend.history, "trainer/global_step"
    steps = [max(0, each.step // optimizers - 1) for each in record_of(tmp_path).snapshots]
    expected = [metrics for _, metrics in expected_metrics(tmp_path)]
    assert metrics_of(history, axis) == list(zip(steps, expected, strict=True))
    counts = [values for _, values in spectra(tmp_path)]
    assert histograms_of(history, axis) == list(zip(steps, counts, strict=True))
    assert_alerts(backend, tmp_path, ("WARNING", "COLLAPSED"))


def test_accelerate_with_its_tracker(tmp_path: Path) -> None:
    accelerate_hosts.forget_accelerators()
    with online_wandb(tmp_path) as backend:
        left = accelerate_hosts.train(
            accelerate_hosts.eager(tmp_path), trackers=["wandb"], flat_from=12
        )
        left["accelerator"].end_training()
    accelerate_hosts.forget_accelerators()
    history = backend.history
    assert metrics_of(history, "_step") == [
        (step, {**metrics, "sigma/step": step}) for step, metrics in expected_metrics(tmp_path)
    ]
    assert histograms_of(history, "_step") == spectra(tmp_path)
    assert [row["_step"] for row in history if "loss" in row] == list(range(1, 31))
    assert_alerts(backend, tmp_path, ("WARNING", "COLLAPSED"))


# Trouble


@pytest.mark.parametrize(
    "manner",
    [
        "fails",
        pytest.param("refuses", marks=pytest.mark.long),
        pytest.param("drops", marks=pytest.mark.long),
        "hangs",
    ],
)
def test_alerts_that_are_not_taken_hold_up_nothing_and_are_in_the_record(
    manner: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with online_wandb(tmp_path) as backend:
        backend.manner = manner
        run = wandb.init(project="p")
        closing = train(watch(tmp_path, WandbSink(metrics=True)))
        started = time.monotonic()
        run.finish()
        finishing = time.monotonic() - started
    assert closing < AT_MOST
    assert finishing < AT_MOST
    assert metrics_of(backend.history, "sigma/step") == expected_metrics(tmp_path)
    assert backend.summary["sigma/final_status"] == "HEALTHY"
    assert backend.alerts == []
    lost = [(event["sink"], event["alert"]) for event in events_of(tmp_path, "undelivered")]
    assert lost == [("WandbAlerts", kind) for kind in COLLAPSE]
    (closed,) = events_of(tmp_path, "closed")
    assert closed["lost"] == {"WandbAlerts": 3}
    assert len([text for text in our_warnings(caplog) if "WandbAlerts failed" in text]) == 1
    told = record_path(tmp_path).read_text() + caplog.text
    for secret in (KEY, backend.url, backend.url.removeprefix("http://"), "graphql"):
        assert secret not in told


def test_a_server_that_dies_in_mid_run_holds_up_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Ours ends in time by itself; wandb needs its own setting, or waits for hours.
    monkeypatch.setenv("WANDB_FINISH_TIMEOUT", "3")
    with online_wandb(tmp_path) as backend:
        run = wandb.init(project="p")
        monitor = watch(tmp_path, WandbSink(metrics=True))
        closing = train(monitor, lambda step: backend.die() if step == ONSET else None)
        started = time.monotonic()
        run.finish()
        finishing = time.monotonic() - started
    assert closing < AT_MOST
    assert finishing < AT_MOST
    assert [snapshot.step for snapshot in record_of(tmp_path).snapshots] == list(range(STEPS))
    assert [alert["kind"] for alert in news_of(tmp_path)] == list(COLLAPSE)
    assert [event["alert"] for event in events_of(tmp_path, "undelivered")] == list(COLLAPSE)
    (closed,) = events_of(tmp_path, "closed")
    assert closed["lost"] == {"WandbAlerts": 3}


def test_alerts_reach_a_run_that_has_ended_before(tmp_path: Path) -> None:
    with online_wandb(tmp_path) as backend:
        run = wandb.init(project="p")
        monitor = watch(tmp_path)
        train(monitor, lambda step: run.finish() if step == ONSET else None)
    assert_alerts(backend, tmp_path, COLLAPSE)
    (closed,) = events_of(tmp_path, "closed")
    assert closed["lost"] == {}


# Other modes


def test_an_offline_run_delivers_its_alerts_when_it_is_synchronised(tmp_path: Path) -> None:
    with offline_wandb(tmp_path):
        run = wandb.init(project="p")
        train(watch(tmp_path, WandbSink(metrics=True)))
        run.finish()
    written = WandbFile.of_only_run(tmp_path)
    assert written.exited
    assert metrics_of(written.history, "sigma/step") == expected_metrics(tmp_path)
    assert [alert.level for alert in written.alerts] == ["WARN", "ERROR", "INFO"]
    with online_wandb(tmp_path) as backend:
        (folder,) = tmp_path.glob("wandb/offline-run-*")
        command = [sys.executable, "-m", "wandb", "sync", str(folder)]
        subprocess.run(command, check=True, timeout=60)
    assert_alerts(backend, tmp_path, COLLAPSE)
    assert metrics_of(backend.history, "sigma/step") == expected_metrics(tmp_path)


def test_a_disabled_run_gets_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with online_wandb(tmp_path) as backend:
        run = wandb.init(project="p", mode="disabled")
        train(watch(tmp_path, WandbSink(metrics=True)))
        run.finish()
    assert backend.operations == {}
    assert backend.attempts == 0
    assert our_warnings(caplog) == []
    assert list(tmp_path.glob("wandb/*run*")) == []


def test_a_run_in_shared_mode(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with online_wandb(tmp_path) as backend:
        run = wandb.init(project="p", settings=wandb.Settings(mode="shared", x_label="rank-0"))
        train(watch(tmp_path, WandbSink(metrics=True)), lambda step: run.log({"loss": 1.0}))
        run.finish()
    assert metrics_of(backend.history, "sigma/step") == expected_metrics(tmp_path)
    assert_alerts(backend, tmp_path, COLLAPSE)
    assert our_warnings(caplog) == []


def test_without_wandb_nothing_happens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delitem(sys.modules, "wandb")
    train(watch(tmp_path, WandbSink(metrics=True)))
    assert "wandb" not in sys.modules
    assert our_warnings(caplog) == []
