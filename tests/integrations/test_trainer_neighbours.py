"""Beside other callbacks: their wishes stay, and a monitor that gives up says so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainerCallback

from tests.integrations.hosts import eager, make_trainer

RECORD = Path("sigma") / "record.jsonl"


class StopsOnOurMetric(TrainerCallback):
    """A user's own policy, on what every logger gets."""

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if "sigma/status" in logs and state.global_step >= 6:
            control.should_training_stop = True


@pytest.mark.parametrize("logging_steps", [3, 17])
def test_a_stop_that_another_callback_asks_for_while_we_log_is_kept(tmp_path, logging_steps):
    trainer = make_trainer(tmp_path, eager(), StopsOnOurMetric(), logging_steps=logging_steps)
    trainer.train()
    assert trainer.state.global_step == 6


def events(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / RECORD).read_text().splitlines()]
    return [line for line in lines if line["type"] == "event"]


def test_a_callback_that_gives_up_says_so_in_the_record_and_is_there_for_the_next_run(
    tmp_path, monkeypatch
):
    callback = eager()
    trainer = make_trainer(tmp_path, callback, max_steps=12)
    checked = callback._check

    def breaks(args: Any, state: Any, *others: Any) -> None:
        if state.global_step >= 6:
            raise RuntimeError("broken on purpose")
        checked(args, state, *others)

    monkeypatch.setattr(callback, "_check", breaks)
    trainer.train()
    assert trainer.state.global_step == 12
    assert not callback.active
    assert [event["event"] for event in events(tmp_path)] == ["started", "switched_off", "closed"]
    assert "broken on purpose" in events(tmp_path)[1]["error"]

    monkeypatch.setattr(callback, "_check", checked)
    trainer.train()
    assert callback.active
    assert events(tmp_path)[-1]["event"] == "closed"
    assert events(tmp_path)[-1]["checks"] >= 4
