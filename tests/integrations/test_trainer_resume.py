"""A run that was killed goes on as if nothing had happened."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from transformers import Trainer, TrainerCallback

from sigma_monitor import ProbeSet, SigmaCallback, Snapshot, Status
from sigma_monitor.integrations.transformers import STATE_KEY
from sigma_monitor.sinks import JsonlSink, Record, read_record
from tests.compatibility import shows
from tests.integrations.bitwise import differences, remains
from tests.integrations.hosts import (
    StopAt,
    eager,
    events_of,
    expected_metrics,
    kinds,
    make_trainer,
    our_warnings,
    record_of,
    record_path,
    sigma_entries,
)
from tests.integrations.killed_run import ONSET, STEPS, resumable, watcher_of
from tests.integrations.models import token_rows

KILLED_AT = 37
REPOSITORY = Path(__file__).parents[2]


@dataclass(frozen=True)
class Finished:
    """What a run that nothing interrupted has come to."""

    snapshots: list[Snapshot]
    alerts: list[dict[str, Any]]
    state: dict[str, Any]
    remains: dict[str, Any]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    folder = tmp_path_factory.mktemp("uninterrupted")
    trainer = resumable(folder)
    trainer.train()
    record = record_of(folder)
    state = lasting(watcher_of(trainer).monitor.state_dict())
    return Finished(record.snapshots, record.alerts, state, remains(trainer))


@pytest.fixture(scope="module")
def killed_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("killed")
    command = [sys.executable, "-m", "tests.integrations.killed_run", str(folder), str(KILLED_AT)]
    ended = subprocess.run(command, cwd=REPOSITORY, capture_output=True, timeout=200, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()[-2000:]
    return folder


@pytest.fixture
def killed(killed_once: Path, tmp_path: Path) -> Path:
    """A copy of what the killed run has left, to go on from."""
    return Path(shutil.copytree(killed_once, tmp_path / "killed"))


def lasting(state: dict[str, Any]) -> dict[str, Any]:
    """A monitor's state without what a clock has measured."""
    cadence = {name: state["cadence"][name] for name in ("last_step", "next_step", "spacing")}
    return {**state, "cadence": cadence}


def measured(snapshot: Snapshot) -> dict[str, Any]:
    """A snapshot without what a clock has measured."""
    clocks = ("time", "seconds", "overhead")
    return {name: value for name, value in vars(snapshot).items() if name not in clocks}


def checkpoint(folder: Path, step: int) -> str:
    return str(folder / f"checkpoint-{step}")


def edit_saved_state(folder: Path, step: int, edit: Callable[[Any], Any]) -> None:
    path = folder / f"checkpoint-{step}" / "trainer_state.json"
    body = json.loads(path.read_text())
    body["stateful_callbacks"][STATE_KEY] = edit(body["stateful_callbacks"][STATE_KEY])
    path.write_text(json.dumps(body))


def resume(folder: Path, step: int, **options: Any) -> Trainer:
    trainer = resumable(folder, **options)
    trainer.train(resume_from_checkpoint=checkpoint(folder, step))
    assert trainer.state.global_step == STEPS
    return trainer


def happened(record: Record) -> list[str]:
    """The events but for the references of later runs."""
    return [e["event"] for e in record.events if e["event"] not in ("baseline", "end")]


def test_the_run_that_is_not_interrupted_has_something_to_lose(uninterrupted: Finished) -> None:
    assert kinds(uninterrupted.alerts) == ["BASELINE", "WARNING", "COLLAPSED"]
    baseline, warning, collapsed = (alert["step"] for alert in uninterrupted.alerts)
    assert 10 < baseline < 20 < ONSET < warning <= collapsed <= 30
    assert uninterrupted.state["status"] == "COLLAPSED"


def test_a_kill_leaves_a_whole_record(killed: Path, uninterrupted: Finished) -> None:
    record = record_of(killed)
    assert record.torn_lines == []
    assert happened(record) == ["started"]
    before = [s for s in uninterrupted.snapshots if s.step <= KILLED_AT]
    assert [measured(s) for s in record.snapshots] == [measured(s) for s in before]


@pytest.mark.parametrize(
    ("how", "returned", "last"),
    [
        pytest.param(
            ["SIGTERM"], -signal.SIGTERM, "baseline", id="default", marks=pytest.mark.long
        ),
        pytest.param(["SIGTERM", "exit"], 3, "closed", id="handler_exits"),
    ],
)
def test_a_termination_leaves_a_whole_record(
    how: list[str], returned: int, last: str, tmp_path: Path
) -> None:
    module = "tests.integrations.killed_run"
    command = [sys.executable, "-m", module, str(tmp_path), "20", *how]
    ended = subprocess.run(command, cwd=REPOSITORY, capture_output=True, timeout=200, check=False)
    assert ended.returncode == returned, ended.stderr.decode()[-2000:]
    assert record_path(tmp_path).read_bytes().endswith(b"\n")
    record = record_of(tmp_path)
    assert record.torn_lines == []
    assert [s.step for s in record.snapshots] == list(range(0, 21, 2))
    assert record.events[-1]["event"] == last
    assert record.events[-1].get("interrupted") is (True if last == "closed" else None)


class Raises(TrainerCallback):
    """Ends the training with an exception."""

    def __init__(self, step: int, error: type[BaseException]) -> None:
        self.step = step
        self.error = error

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self.step:
            raise self.error


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_a_training_that_raises_leaves_a_whole_record(
    error: type[BaseException], tmp_path: Path
) -> None:
    """In a notebook, say, where the same Trainer trains once more."""
    trainer = make_trainer(tmp_path, eager(every=2), Raises(5, error), max_steps=8)
    with pytest.raises(error):
        trainer.train()
    assert [s.step for s in record_of(tmp_path).snapshots] == [0, 2, 4]
    assert happened(record_of(tmp_path)) == ["started"]
    trainer.remove_callback(Raises)
    trainer.train()
    assert [s.step for s in record_of(tmp_path).snapshots] == [0, 2, 4, 6, 8]
    before = read_record(record_path(tmp_path).with_stem("record-1"))
    assert happened(before) == ["started", "closed"]
    assert before.events[-1]["interrupted"] is True


def test_a_record_cut_at_any_byte_of_its_last_line_is_read(killed: Path) -> None:
    path = record_path(killed)
    lines = path.read_bytes().splitlines(keepends=True)
    alert = next(line for line in lines if b'"type": "alert"' in line)
    before, last = lines[0] + alert, lines[-1]
    path.write_bytes(before + last)
    complete = read_record(path)
    assert len(complete.snapshots) == len(complete.alerts) == len(complete.events) == 1
    assert len(last) > 500
    for cut in range(len(last) + 1):
        path.write_bytes(before + last[:cut])
        record = read_record(path)
        whole = cut >= len(last) - 1  # the end of the line may be missing
        assert record.torn_lines == ([3] if cut and not whole else [])
        assert record.snapshots == (complete.snapshots if whole else [])
        assert (record.alerts, record.events) == (complete.alerts, complete.events)


@pytest.mark.parametrize("missing", [0, 1, 2, 300])
def test_a_torn_record_is_continued_on_a_line_of_its_own(killed: Path, missing: int) -> None:
    path = record_path(killed)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) - missing])
    before = read_record(path)
    sink = JsonlSink(path)
    sink.note("resumed", {"step": 36})
    sink.close()
    after = read_record(path)
    assert after.snapshots == before.snapshots
    assert after.torn_lines == before.torn_lines
    assert bool(after.torn_lines) == (missing >= 2)
    assert happened(after) == ["started", "resumed"]


@shows("Trainer", "resumed")
@pytest.mark.parametrize("step", [10, 20, 30])
def test_a_resumed_run_goes_on_as_if_nothing_had_happened(
    step: int, killed: Path, uninterrupted: Finished, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = resume(killed, step)
    monitor = watcher_of(trainer).monitor
    assert differences(uninterrupted.state, lasting(monitor.state_dict())) == []
    assert monitor.status is Status.COLLAPSED
    record = record_of(killed)
    assert [measured(s) for s in record.snapshots] == [measured(s) for s in uninterrupted.snapshots]
    assert our_warnings(caplog) == []
    assert happened(record) == ["started", "resumed", "closed"]
    assert [e["step"] for e in record.events if e["event"] == "resumed"] == [step]
    assert sigma_entries(trainer.state.log_history) == expected_metrics(killed)


@shows("Trainer", "resumed")
@pytest.mark.parametrize("step", [10, 20, 30])
def test_a_resumed_record_has_no_alert_twice(
    step: int, killed: Path, uninterrupted: Finished
) -> None:
    resume(killed, step)
    assert record_of(killed).alerts == uninterrupted.alerts


@shows("Trainer", "resumed")
@pytest.mark.parametrize("restore", [False, True])
def test_training_resumes_bitwise_with_either_way_of_restoring_callbacks(
    restore: bool, killed: Path, uninterrupted: Finished
) -> None:
    trainer = resume(killed, 30, restore_callback_states_from_checkpoint=restore)
    monitor = watcher_of(trainer).monitor
    assert differences(uninterrupted.state, lasting(monitor.state_dict())) == []
    after = remains(trainer)
    for part in ("parameters", "optimizer", "python", "numpy", "torch"):
        assert differences(uninterrupted.remains[part], after[part]) == []


@shows("Trainer", "resumed")
def test_a_checkpoint_of_the_resumed_run_can_be_resumed_too(
    killed: Path, uninterrupted: Finished
) -> None:
    trainer = resumable(killed, StopAt(40))
    trainer.train(resume_from_checkpoint=checkpoint(killed, 30))
    again = resume(killed, 40)
    state = watcher_of(again).monitor.state_dict()
    assert differences(uninterrupted.state, lasting(state)) == []
    assert len(events_of(killed, "resumed")) == 2


def test_resuming_without_the_monitor_works_and_keeps_its_state(
    killed: Path, uninterrupted: Finished
) -> None:
    without = resumable(killed, StopAt(40), watcher=False)
    without.train(resume_from_checkpoint=checkpoint(killed, 30))
    assert without.state.global_step == 40
    with_again = resume(killed, 40)
    monitor = watcher_of(with_again).monitor
    baseline = uninterrupted.state["watch"]["layers"]["last"]["level"]["baseline"]
    assert monitor.state_dict()["watch"]["layers"]["last"]["level"]["baseline"] == baseline
    assert monitor.status is Status.COLLAPSED
    for part in ("parameters", "optimizer", "torch"):
        assert differences(uninterrupted.remains[part], remains(with_again)[part]) == []


def test_the_monitor_can_start_on_a_checkpoint_that_never_saw_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    resumable(tmp_path, StopAt(20), watcher=False).train()
    trainer = resume(tmp_path, 20)
    (started,) = events_of(tmp_path, "started")
    assert started["step"] == 20
    assert [s.step for s in record_of(tmp_path).snapshots][:2] == [20, 22]
    assert sigma_entries(trainer.state.log_history) == expected_metrics(tmp_path)
    assert our_warnings(caplog) == []
    again = resume(tmp_path, 30)
    assert watcher_of(again).monitor.checks == watcher_of(trainer).monitor.checks == 21


CORRUPTIONS: dict[str, Callable[[Any], Any]] = {
    "other_version": lambda state: {**state, "version": 99},
    "no_version": lambda state: {k: v for k, v in state.items() if k != "version"},
    "missing_field": lambda state: {k: v for k, v in state.items() if k != "watch"},
    "unknown_status": lambda state: {**state, "status": "FINE"},
    "detector_of_another_kind": lambda state: {
        **state,
        "watch": {"layers": {"last": {"level": None}}},
    },
    "watches_no_mapping": lambda state: {**state, "watch": 3},
    "steps_are_text": lambda state: {
        **state,
        "cadence": {**state["cadence"], "last_step": "thirty", "next_step": "thirty-two"},
    },
    "counters_are_none": lambda state: {**state, "checks": None},
    "text": lambda state: "not a state",
    "list": lambda state: [state],
}


@pytest.mark.parametrize("corruption", CORRUPTIONS)
def test_a_corrupted_state_gives_one_warning_and_a_fresh_baseline(
    corruption: str, killed: Path, caplog: pytest.LogCaptureFixture
) -> None:
    edit_saved_state(killed, 30, CORRUPTIONS[corruption])
    trainer = resume(killed, 30)
    callback = watcher_of(trainer)
    (warning,) = our_warnings(caplog)
    assert "baseline begins anew" in warning
    assert callback.active
    assert [event["step"] for event in events_of(killed, "started")] == [0, 30]
    assert callback.monitor.checks == 16  # at steps 30, 32, ..., 60
    baseline = callback.monitor.state_dict()["watch"]["layers"]["last"]["level"]["baseline"]
    assert baseline["step"] > 30


def test_other_probes_at_resume_give_one_warning_and_a_fresh_baseline(
    killed: Path, caplog: pytest.LogCaptureFixture
) -> None:
    others = ProbeSet.from_dataset(token_rows(16, seed=5))
    trainer = resume(killed, 30, watcher=eager(every=2, probes=others))
    (warning,) = our_warnings(caplog)
    assert "differ from those of the saved baseline" in warning
    assert others.fingerprint != events_of(killed, "started")[0]["fingerprint"]
    monitor = watcher_of(trainer).monitor
    assert monitor.state_dict()["watch"]["layers"]["last"]["level"]["baseline"]["step"] > 30
    assert monitor.status is Status.HEALTHY  # collapsed already when the new baseline was taken
    fingerprints = [s.fingerprint for s in record_of(killed).snapshots]
    assert len(set(fingerprints)) == 2
    assert fingerprints[0] != fingerprints[-1] != ""


@pytest.mark.parametrize("interrupted_at", [2, 20])
def test_a_budget_that_cuts_the_probe_set_survives_a_resume(
    interrupted_at: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Interrupted before, and after, the budget is applied for the first time."""

    def trainer(*others: Any) -> Trainer:
        return make_trainer(
            tmp_path,
            SigmaCallback(),
            *others,
            held_out=token_rows(128, seed=1),
            save_strategy="steps",
            save_steps=interrupted_at,
        )

    trainer(StopAt(interrupted_at)).train()
    trainer().train(resume_from_checkpoint=checkpoint(tmp_path, interrupted_at))
    assert not any("baseline begins anew" in text for text in our_warnings(caplog))
    snapshots = record_of(tmp_path).snapshots
    assert [snapshots[0].examples, snapshots[-1].examples] == [128, 64]
    assert snapshots[-1].step == 30


def test_a_stop_that_was_carried_out_is_not_repeated_at_resume(tmp_path: Path) -> None:
    first = resumable(tmp_path, watcher=eager(every=2, stop_on_collapse=True), save_steps=2)
    first.train()
    stopped = first.state.global_step
    assert ONSET < stopped < STEPS
    again = resume(tmp_path, stopped, watcher=eager(every=2, stop_on_collapse=True))
    assert watcher_of(again).monitor.status is Status.COLLAPSED
    assert kinds(record_of(tmp_path).alerts).count("STOPPED") == 1
