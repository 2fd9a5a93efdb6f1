"""Whatever fails around the monitor, or in it, the training goes on and somebody is told once."""

from __future__ import annotations

import errno
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback

from sigma_monitor import Alert, Status
from sigma_monitor.sinks import JsonlSink, read_record
from tests.integrations.bitwise import differences, remains
from tests.integrations.hosts import (
    Listener,
    Poison,
    eager,
    events_of,
    expected_metrics,
    kinds,
    loss_entries,
    make_trainer,
    our_warnings,
    record_lines,
    record_of,
    sigma_entries,
    sigma_part,
)
from tests.integrations.models import SmallForCausalLM, tiny_llama

LAST = 18


def run(folder: Path, *callbacks: TrainerCallback, **arguments: Any) -> Trainer:
    trainer = make_trainer(folder, *callbacks, **{"max_steps": LAST, **arguments})
    trainer.train()
    assert trainer.state.global_step == trainer.args.max_steps
    return trainer


class RefusesSigma(TrainerCallback):
    """A logger that takes everything but our metrics."""

    def __init__(self) -> None:
        self.refused: list[int] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if sigma_part(logs):
            self.refused.append(state.global_step)
            raise ValueError("no such metric here")


@pytest.mark.parametrize(
    "logging_steps", [17, 3, 1], ids=["own_log", "with_the_train_log", "every_step"]
)
def test_a_logger_that_refuses_our_metrics(
    logging_steps: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    refuses = RefusesSigma()
    callback = eager()
    watched = run(tmp_path, callback, refuses, logging_steps=logging_steps)
    assert refuses.refused
    (warning,) = our_warnings(caplog)
    assert "RefusesSigma refused the metrics of step 0 (ValueError: no such metric here)" in warning
    assert callback.undelivered == len(refuses.refused)
    assert [note["step"] for note in events_of(tmp_path, "undelivered")] == refuses.refused
    assert callback.monitor.checks == len(record_of(tmp_path).snapshots) >= 6
    assert callback.monitor.failures == 0

    plain = run(tmp_path / "plain", logging_steps=logging_steps)
    assert differences(remains(plain), remains(watched)) == []


@pytest.mark.parametrize("logging_steps", [17, 3], ids=["own_log", "with_the_train_log"])
def test_other_loggers_get_everything_although_one_refuses(
    logging_steps: int, tmp_path: Path
) -> None:
    first, last = Listener(), Listener()
    run(tmp_path, first, eager(), RefusesSigma(), last, logging_steps=logging_steps)
    assert first.sigma == last.sigma == expected_metrics(tmp_path)
    losses = [step for step, logs in last.heard if "loss" in logs]
    assert losses == [logging_steps * i for i in range(1, LAST // logging_steps + 1)]


def test_evaluation_and_checkpoint_survive_a_logger_that_refuses(tmp_path: Path) -> None:
    trainer = run(
        tmp_path,
        eager(),
        RefusesSigma(),
        logging_steps=17,
        eval_strategy="steps",
        eval_steps=6,
        save_strategy="steps",
        save_steps=6,
    )
    evaluated = [entry["step"] for entry in trainer.state.log_history if "eval_loss" in entry]
    assert evaluated == [6, 12, 18]
    assert len(list(tmp_path.glob("checkpoint-*"))) == 3


class BrokenSink:
    """Raises in the methods of these names; counts the calls of all."""

    inline = True  # so that each call is made once; a thread of its own would try again
    baselines = True

    def __init__(self, *broken: str) -> None:
        self.broken = broken
        self.calls: list[str] = []

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        self._call("log")

    def alert(self, alert: Alert) -> None:
        self._call("alert")

    def close(self) -> None:
        self._call("close")

    def _call(self, name: str) -> None:
        self.calls.append(name)
        if name in self.broken:
            raise OSError(f"cannot {name}")


@pytest.mark.parametrize("broken", ["log", "alert", "close"])
def test_a_sink_that_raises(broken: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    sink = BrokenSink(broken)
    record = JsonlSink(tmp_path / "record.jsonl")
    callback = eager(sinks=[sink, record])
    trainer = run(tmp_path, callback)
    warnings = our_warnings(caplog)
    assert sum(f"cannot {broken}" in text for text in warnings) == 1
    assert callback.active
    assert callback.monitor.failures == 0
    kept = read_record(record.path)
    assert len(kept.snapshots) == callback.monitor.checks >= 6
    assert len(sigma_entries(trainer.state.log_history)) == callback.monitor.checks
    calls = sink.calls.count(broken)
    if broken == "log":  # called no longer once it has failed three times, and that is said
        assert calls == 3
        assert sum("disabled" in text for text in warnings) == 1
        lost = kept.events[-1]["lost"]["BrokenSink"]
        assert lost == callback.monitor.checks + len(kept.alerts)
        assert sum(f"lost {lost} calls" in text for text in warnings) == 1
    elif broken == "alert":
        assert calls == len(kept.alerts) == 1
        assert kept.events[-1]["lost"] == {"BrokenSink": 1}
    else:
        assert kept.events[-1]["lost"] == {}
    assert kept.events[-1]["event"] == "closed"


def test_a_full_disk_for_the_record(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("no /dev/full here")
    others = BrokenSink()
    callback = eager(sinks=[JsonlSink(full), others])
    trainer = run(tmp_path, callback)
    warnings = our_warnings(caplog)
    assert sum("No space left" in text for text in warnings) == 1
    assert sum("JsonlSink lost" in text for text in warnings) == 1
    assert len(warnings) == 2  # a disk may have room again: the record is never given up
    assert others.calls.count("log") == callback.monitor.checks >= 6
    assert len(sigma_entries(trainer.state.log_history)) == callback.monitor.checks


class ScarceDisk:
    """A file with no room, or little, for the line of the third check."""

    def __init__(self, file: Any, room: int | None) -> None:
        self._file = file
        self._room = room

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def write(self, data: bytes) -> Any:
        if b'"check": 3,' not in data or b'"type": "check"' not in data:
            return self._file.write(data)
        if self._room is None:
            raise OSError(errno.ENOSPC, "No space left on device")
        return self._file.write(data[: self._room])


@pytest.mark.parametrize("room", [None, 0, 20], ids=["refused", "nothing_written", "cut_short"])
def test_a_disk_that_is_full_for_a_while(
    room: int | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The record goes on, each line whole, and counts what it has lost."""
    open_file = Path.open

    def scarce(self: Path, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        file = open_file(self, mode, *args, **kwargs)
        return ScarceDisk(file, room) if self.name == "record.jsonl" and "a" in mode else file

    monkeypatch.setattr(Path, "open", scarce)
    callback = eager()
    run(tmp_path, callback)
    record = record_of(tmp_path)
    others = [n for n in range(1, callback.monitor.checks + 1) if n != 3]
    assert [snapshot.check for snapshot in record.snapshots] == others
    assert len(record.torn_lines) == (room == 20)
    assert record.events[-1]["lost"] == {"JsonlSink": 1}
    assert sum("JsonlSink failed" in text for text in our_warnings(caplog)) == 1


def test_an_output_folder_that_cannot_be_written(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "sigma").write_text("a file stands where the folder should be")
    callback = eager()
    trainer = run(tmp_path, callback)
    assert sum("JsonlSink failed" in text for text in our_warnings(caplog)) == 1
    assert len(sigma_entries(trainer.state.log_history)) == callback.monitor.checks >= 6


def test_weights_that_become_nan(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    callback = eager()
    trainer = run(tmp_path, callback, Poison(7))
    assert [entry["step"] for entry in loss_entries(trainer.state.log_history)] == [5, 10, 15]
    alerts = [alert for alert in record_of(tmp_path).alerts if alert["kind"] != "BASELINE"]
    (alert,) = alerts
    assert (alert["kind"], alert["severity"], alert["step"]) == ("NONFINITE", "error", 9)
    assert "step 9" in alert["text"]
    finite = {step: metrics["sigma/finite"] for step, metrics in sigma_entries_of(trainer)}
    assert {step for step, share in finite.items() if share == 1.0} == {0, 3, 6}
    assert {step for step, share in finite.items() if share == 0.0} == set(finite) - {0, 3, 6}
    assert len(finite) == callback.monitor.checks
    raised = {step for step, metrics in sigma_entries_of(trainer) if metrics["sigma/alert"]}
    assert raised == {9}
    assert all("sigma/last/effective_rank" in m for s, m in sigma_entries_of(trainer) if s < 7)
    assert not any("sigma/last/effective_rank" in m for s, m in sigma_entries_of(trainer) if s > 7)
    checks = [line for line in record_lines(tmp_path) if line["type"] == "check"]
    assert [line["finite"] for line in checks] == list(finite.values())
    assert callback.monitor.failures == 0
    assert callback.monitor.last_snapshot is not None
    assert callback.monitor.last_snapshot.finite == 0.0
    assert our_warnings(caplog) == []


def sigma_entries_of(trainer: Trainer) -> list[tuple[int, dict[str, float]]]:
    return sigma_entries(trainer.state.log_history)


def test_a_model_that_is_nan_from_the_start(tmp_path: Path) -> None:
    model = tiny_llama()
    torch.nn.init.constant_(model.model.norm.weight, float("nan"))
    callback = eager()
    trainer = run(tmp_path, callback, model=model, save_strategy="steps", save_steps=9)
    assert {metrics["sigma/finite"] for _, metrics in sigma_entries_of(trainer)} == {0.0}
    (alert,) = record_of(tmp_path).alerts
    assert (alert["kind"], alert["step"]) == ("NONFINITE", 0)
    assert callback.monitor.status is Status.WARMUP
    assert callback.monitor.failures == 0
    record_lines(tmp_path)  # strict JSON
    json.dumps(callback.monitor.state_dict(), allow_nan=False)


def spoil_some(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Every example whose first token is even has an infinite embedding."""
    hidden = model.body(batch["input_ids"])
    even = batch["input_ids"][:, 0] % 2 == 0
    return torch.where(even[:, None, None], torch.inf, hidden)


def test_the_share_of_examples_with_finite_embeddings_is_counted(tmp_path: Path) -> None:
    callback = eager(embed_fn=spoil_some)
    trainer = run(tmp_path, callback, model=SmallForCausalLM())
    probes = callback.monitor.probes
    assert probes is not None
    odd = float((probes.tensors["input_ids"][:, 0] % 2).double().mean())
    assert 0 < odd < 1
    assert {m["sigma/finite"] for _, m in sigma_entries_of(trainer)} == {odd}
    assert kinds(record_of(tmp_path).alerts) == ["NONFINITE"]


def fails(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    raise RuntimeError("cannot embed")


def test_checks_that_fail_are_reported_once_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    callback = eager(embed_fn=fails)
    trainer = run(tmp_path, callback)
    warnings = our_warnings(caplog)
    assert sum("cannot embed" in text for text in warnings) == 1
    assert sum("switched off after 3" in text for text in warnings) == 1
    assert len(warnings) == 2
    assert callback.monitor.failures == 3
    assert [note["step"] for note in events_of(tmp_path, "failed")] == [0, 3, 6]
    assert events_of(tmp_path, "closed")[0]["failures"] == 3
    assert sigma_entries_of(trainer) == []


def test_one_failed_check_among_others(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    calls = []

    def fails_once(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        calls.append(len(calls))
        if len(calls) == 3:
            raise RuntimeError("cannot embed this time")
        return model.body(batch["input_ids"])

    callback = eager(embed_fn=fails_once)
    run(tmp_path, callback, model=SmallForCausalLM())
    (warning,) = our_warnings(caplog)
    assert "cannot embed this time" in warning
    assert callback.monitor.failures == 1
    assert callback.monitor.checks == len(record_of(tmp_path).snapshots) == len(calls) - 1
    (failed,) = events_of(tmp_path, "failed")
    assert failed["step"] not in {s.step for s in record_of(tmp_path).snapshots}


@pytest.mark.parametrize("layers", ["model.no_such_layer", 7])
def test_a_layer_that_does_not_exist_is_said_once(
    layers: str | int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    callback = eager(layers=layers)
    run(tmp_path, callback)
    naming = [text for text in our_warnings(caplog) if str(layers) in text]
    assert len(naming) == 1
    assert callback.monitor.checks == 0
