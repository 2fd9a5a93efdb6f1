"""Several callbacks of one Trainer, and the trials of a search: nothing is shared."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import transformers.trainer
from transformers import Trainer

from sigma_monitor import SigmaCallback, Status
from sigma_monitor.errors import InputError
from tests.compatibility import shows
from tests.integrations.bitwise import differences
from tests.integrations.hosts import (
    Flatten,
    Listener,
    StopAt,
    eager,
    events_of,
    make_trainer,
    our_warnings,
    record_of,
)
from tests.integrations.killed_run import resumable
from tests.integrations.models import tiny_llama
from tests.integrations.test_trainer_resume import checkpoint, lasting


def metrics_of(history: list[dict[str, Any]], name: str) -> list[tuple[int, dict[str, float]]]:
    """Step and the part below `name/` of each entry that has one."""
    parts = [
        (entry["step"], {k: v for k, v in entry.items() if k.startswith(f"{name}/")})
        for entry in history
    ]
    return [(step, part) for step, part in parts if part]


def expected(folder: Path, name: str) -> list[tuple[int, dict[str, float]]]:
    return [(s.step, s.metrics()) for s in record_of(folder, name).snapshots]


@pytest.mark.parametrize(
    ("given", "names"),
    [
        (({}, {}), ["sigma", "sigma_2"]),
        (({"name": "student"}, {"name": "teacher"}), ["student", "teacher"]),
        (({"name": "sigma_2"}, {}, {}), ["sigma_2", "sigma", "sigma_3"]),
    ],
    ids=str,
)
def test_callbacks_of_one_trainer_keep_metrics_records_and_states_apart(
    given: tuple[dict[str, Any], ...],
    names: list[str],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    callbacks = [eager(every=2 + i, layers=["last", 0, 1][i], **o) for i, o in enumerate(given)]
    trainer = make_trainer(tmp_path, *callbacks, Listener(), max_steps=6)
    trainer.train()
    assert [callback.monitor.name for callback in callbacks] == names
    for callback, name in zip(callbacks, names, strict=True):
        assert callback.active
        entries = metrics_of(trainer.state.log_history, name)
        assert entries == expected(tmp_path, name)
        assert len(entries) == callback.monitor.checks >= 3
        assert len(events_of(tmp_path, "closed", of=name)) == 1
    kept = trainer.state.stateful_callbacks
    assert len([key for key in kept if key.startswith("sigma_monitor")]) == len(names)
    warnings = [text for text in our_warnings(caplog) if "two callbacks" in text]
    assert len(warnings) == (0 if "teacher" in names else 1)


@shows("Trainer", "resumed", case="two callbacks")
def test_callbacks_of_one_trainer_resume_each_from_its_own_state(tmp_path: Path) -> None:
    def trainer(*others: Any) -> tuple[Trainer, list[SigmaCallback]]:
        pair = [eager(every=2), eager(every=3, layers=0)]
        return resumable(tmp_path, pair[1], *others, watcher=pair[0], max_steps=20), pair

    first, watchers = trainer(StopAt(10))
    first.train()
    states = [lasting(watcher.monitor.state_dict()) for watcher in watchers]
    assert states[0]["fingerprint"] != states[1]["fingerprint"]
    again, resumed = trainer()
    again.train(resume_from_checkpoint=checkpoint(tmp_path, 10))
    for watcher, state, every in zip(resumed, states, (2, 3), strict=True):
        name = watcher.monitor.name
        assert watcher.monitor.state_dict()["fingerprint"] == state["fingerprint"]
        assert [event["step"] for event in events_of(tmp_path, "resumed", of=name)] == [10]
        steps = [s.step for s in record_of(tmp_path, name).snapshots]
        assert steps == sorted({*range(0, 20, every), 20})
        kept = again.state.stateful_callbacks[watcher.state_key]
        assert differences(lasting(kept), lasting(watcher.monitor.state_dict())) == []


@pytest.mark.parametrize("name", ["", "a/b", "a.b", "eval_x", "test_x", 3, None])
def test_a_name_that_loggers_or_folders_cannot_take_is_refused(name: Any) -> None:
    with pytest.raises(InputError, match=re.escape(f"name={name!r}")):
        SigmaCallback(name=name)


class Trial(dict[str, float]):
    """Its hyperparameters, and its number as optuna's has one."""

    def __init__(self, number: int, **parameters: float) -> None:
        super().__init__(parameters)
        self.number = number
        self.params = parameters


class Grid:
    """A search backend that tries two learning rates, as optuna's does with its own."""

    def ensure_available(self) -> None:
        pass

    def run(self, trainer: Any, n_trials: int, direction: str, **_: Any) -> list[float]:
        objectives = []
        for number in range(n_trials):
            trainer.objective = None
            trainer.train(trial=Trial(number, learning_rate=[1e-3, 1e-5][number]))
            objectives.append(trainer.compute_objective(trainer.evaluate()))
        return objectives


def test_trials_of_a_search_share_neither_state_nor_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(
        transformers.trainer.ALL_HYPERPARAMETER_SEARCH_BACKENDS,
        transformers.trainer.HPSearchBackend.OPTUNA,
        Grid,
    )
    callback = eager(every=2, baseline="start", stop_on_collapse=True)
    harm = Flatten(10)
    trainer = make_trainer(tmp_path, harm, callback)
    trainer.model_init = lambda _: tiny_llama()
    found: list[tuple[int, Status]] = []

    def space(trial: Any) -> dict[str, Any]:
        harm.onset = 10 if trial.number == 0 else 1000
        return dict(trial.params)

    def objective(metrics: dict[str, float]) -> float:
        found.append((trainer.state.global_step, callback.monitor.status))
        assert not any("sigma" in name for name in metrics)
        return metrics["eval_loss"]

    trainer.hyperparameter_search(
        hp_space=space, compute_objective=objective, n_trials=2, backend="optuna"
    )
    assert found[0][0] < 30
    assert found == [(found[0][0], Status.COLLAPSED), (30, Status.HEALTHY)]
    assert not (tmp_path / "sigma").exists()
    for number in range(2):
        folder = tmp_path / f"run-{number}"
        record = record_of(folder)
        assert [e["step"] for e in record.events if e["event"] == "started"] == [0]
        assert record.snapshots[0].check == 1
        assert record.snapshots[-1].step == found[number][0]
        assert [a["kind"] for a in record.alerts if a["kind"] == "COLLAPSED"] == (
            ["COLLAPSED"] if number == 0 else []
        )
        assert [path.name for path in (folder / "sigma").iterdir()] == ["record.jsonl"]
