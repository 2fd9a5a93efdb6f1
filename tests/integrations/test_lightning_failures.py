"""Whatever fails around the monitor, or in it, a Lightning training goes on."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest

import sigma_monitor.integrations.lightning as integration
from sigma_monitor import SigmaLightningCallback
from sigma_monitor.errors import InputError
from tests.integrations.bitwise import differences
from tests.integrations.hosts import events_of, our_warnings, record_of
from tests.integrations.lightning_hosts import (
    Kept,
    checked_at,
    eager,
    fit,
    make_trainer,
    remains,
)

LAST = 12
CHECKED = [0, 3, 6, 9, 12]


def run(folder: Path, *callbacks: Any, **arguments: Any) -> pl.Trainer:
    trainer = make_trainer(folder, *callbacks, **{"max_steps": LAST, **arguments})
    fit(trainer)
    assert trainer.global_step == LAST
    return trainer


def test_a_logger_that_refuses_our_metrics_costs_no_other_logger_a_row(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first, refuses, last = Kept(), Kept(refuses=True), Kept()
    callback = eager()
    run(tmp_path, callback, logger=[first, refuses, last], log_every_n_steps=3)
    (warning,) = our_warnings(caplog)
    assert "Kept refused the metrics of step 0 (ValueError: no such metric here)" in warning
    assert callback.undelivered == len(CHECKED)
    assert [note["step"] for note in events_of(tmp_path, "undelivered")] == CHECKED
    assert len(first.sigma) == len(last.sigma) == len(CHECKED)
    assert [step for step, _ in refuses.of("train_loss")] == [2, 5, 8, 11]


def fails(module: Any, batch: Any) -> Any:
    raise RuntimeError("cannot embed")


def test_checks_that_fail_are_reported_once_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    callback = eager(embed_fn=fails)
    trainer = run(tmp_path, callback)
    warnings = our_warnings(caplog)
    assert sum("cannot embed" in text for text in warnings) == 1
    assert len(warnings) == 2
    assert "switched off after 3" in warnings[1]
    assert [note["step"] for note in events_of(tmp_path, "failed")] == [0, 3, 6]
    assert not any(name.startswith("sigma/") for name in trainer.callback_metrics)


HOOKS = {
    "setup": (integration.SigmaMonitor, "reset"),
    "on_train_start": (integration, "_watched"),
    "on_train_batch_start": (integration, "_logger_step"),
    "on_train_end": (integration.SigmaMonitor, "close"),
    "state_dict": (integration.SigmaMonitor, "state_dict"),
}


@pytest.mark.parametrize("hook", HOOKS)
def test_a_hook_that_fails_switches_the_monitor_off(
    hook: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any) -> Any:
        raise ValueError("a defect of ours")

    callback = eager()
    monkeypatch.setattr(*HOOKS[hook], broken)
    trainer = run(tmp_path, callback)
    trainer.save_checkpoint(tmp_path / "end.ckpt")
    (warning,) = our_warnings(caplog)
    assert "switched off, training goes on (ValueError" in warning
    assert "a defect of ours" in warning
    assert not callback.active
    monkeypatch.undo()
    plain = run(tmp_path / "plain")
    assert differences(remains(plain), remains(trainer)) == []


def test_a_training_that_fails_closes_the_record(tmp_path: Path) -> None:
    class Fails(pl.Callback):
        def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
            if trainer.global_step == 7:
                raise OSError("the data is gone")

    with pytest.raises(OSError, match="the data is gone"):
        run(tmp_path, eager(), Fails())
    assert checked_at(tmp_path) == [0, 3, 6]
    assert record_of(tmp_path).events[-1]["event"] == "closed"


def test_disabled_it_does_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    callback = SigmaLightningCallback(enabled=False, embed_fn=fails)
    other = eager()
    watched = run(tmp_path / "watched", callback)
    assert callback.monitor.checks == callback.monitor.failures == 0
    assert callback.monitor.probes is None
    assert not callback.state_dict()
    assert not any("sigma" in name for name in watched.callback_metrics)
    assert not list(tmp_path.rglob("record*.jsonl"))
    assert our_warnings(caplog) == []
    run(tmp_path / "beside", callback, other)
    assert other.monitor.name == "sigma"  # one that does nothing takes no name
    assert len(record_of(tmp_path / "beside").snapshots) >= 3
    assert differences(remains(run(tmp_path / "plain")), remains(watched)) == []


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"every": 0}, "every=0"),
        ({"stop_on_collapse": "yes"}, "'yes'"),
        ({"pooling": "max"}, "max"),
    ],
)
def test_an_option_that_cannot_be_used_is_refused_at_construction(
    options: dict[str, Any], named: str
) -> None:
    with pytest.raises(InputError, match=named):
        SigmaLightningCallback(**options)


def test_without_lightning_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("lightning", "lightning.pytorch", "pytorch_lightning"):
        monkeypatch.setitem(sys.modules, name, None)  # an import of it fails
    with pytest.raises(ImportError, match=r'pip install "sigma-monitor\[lightning\]"'):
        integration._callback_class()
