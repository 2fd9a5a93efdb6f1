"""A Lightning run goes on from its checkpoint as if nothing had happened."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from sigma_monitor import ProbeSet, SigmaLightningCallback, Snapshot, Status
from sigma_monitor.sinks import read_record
from tests.compatibility import shows
from tests.integrations.bitwise import differences
from tests.integrations.hosts import events_of, kinds, our_warnings, record_of
from tests.integrations.lightning_hosts import (
    From,
    Kept,
    StopAt,
    Wrapped,
    checked_at,
    eager,
    fit,
    flatten,
    loader,
    make_trainer,
    remains,
)
from tests.integrations.models import tiny_llama, token_rows

STEPS = 60
ONSET = 24  # of a collapse, so that there is a status to lose
EVERY_SECOND = list(range(0, STEPS + 1, 2))


def train(
    folder: Path,
    *,
    watcher: SigmaLightningCallback | None = None,
    others: tuple[Any, ...] = (),
    stop_at: int = STEPS,
    resume_from: int | None = None,
    **arguments: Any,
) -> pl.Trainer:
    """The same training in every run: one batch, no dropout. No checkpoint keeps more of it."""
    saver = ModelCheckpoint(folder, "{step}", save_top_k=-1, every_n_train_steps=10)
    callbacks = [
        From(ONSET, flatten),
        *([watcher] if watcher else []),
        *others,
        StopAt(stop_at),
        saver,
    ]
    arguments = {
        "max_steps": STEPS,
        "enable_checkpointing": True,
        "check_val_every_n_epoch": STEPS,
        **arguments,
    }
    trainer = make_trainer(folder, *callbacks, **arguments)
    path = None if resume_from is None else str(checkpoint(folder, resume_from))
    module = Wrapped(tiny_llama(attention_dropout=0.0))
    fit(trainer, module, train=loader(token_rows(4)), ckpt_path=path)
    return trainer


def checkpoint(folder: Path, step: int) -> Path:
    return folder / f"step={step}.ckpt"


def measured(snapshot: Snapshot) -> dict[str, Any]:
    """A snapshot without what a clock has measured."""
    clocks = ("time", "seconds", "overhead")
    return {name: value for name, value in vars(snapshot).items() if name not in clocks}


def lasting(state: dict[str, Any]) -> dict[str, Any]:
    """A monitor's state without what a clock has measured."""
    cadence = {name: state["cadence"][name] for name in ("last_step", "next_step", "spacing")}
    return {**state, "cadence": cadence}


def happened(folder: Path, name: str = "sigma") -> list[str]:
    events = [event["event"] for event in record_of(folder, name).events]
    return [event for event in events if event not in ("baseline", "end")]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("uninterrupted")
    watcher = eager(every=2)
    train(folder, watcher=watcher)
    return folder, watcher


def test_the_run_that_is_not_interrupted_has_something_to_lose(
    uninterrupted: tuple[Path, Any],
) -> None:
    folder, watcher = uninterrupted
    assert kinds(record_of(folder).alerts) == ["BASELINE", "WARNING", "COLLAPSED"]
    assert watcher.monitor.status is Status.COLLAPSED
    assert checked_at(folder) == EVERY_SECOND


@shows("Lightning", "resumed")
@pytest.mark.parametrize("step", [10, 30])
def test_a_resumed_run_goes_on_as_if_nothing_had_happened(
    step: int,
    uninterrupted: tuple[Path, Any],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    whole, expected = uninterrupted
    train(tmp_path, watcher=eager(every=2), stop_at=step)
    watcher, logger = eager(every=2), Kept()
    train(tmp_path, watcher=watcher, resume_from=step, logger=[logger], log_every_n_steps=1)
    assert our_warnings(caplog) == []
    assert happened(tmp_path) == ["started", "closed", "resumed", "closed"]
    ours, theirs = record_of(tmp_path), record_of(whole)
    assert [measured(s) for s in ours.snapshots] == [measured(s) for s in theirs.snapshots]
    assert ours.alerts == theirs.alerts
    states = [lasting(callback.monitor.state_dict()) for callback in (expected, watcher)]
    assert differences(*states) == []
    # At the steps of the loss, which before lightning 2.5 are one fewer after a resume; the check
    # at the step of the checkpoint is not done again.
    losses = [place for place, _ in logger.of("train_loss")]
    assert len(losses) == STEPS - step
    assert [place for place, _ in logger.sigma] == losses[1::2]


@shows("Lightning", "same weights")
def test_training_resumes_bitwise_with_and_without_the_monitor(tmp_path: Path) -> None:
    train(tmp_path, watcher=eager(every=2), stop_at=30)
    plain = train(tmp_path, resume_from=30)
    watched = train(tmp_path, watcher=eager(every=2), resume_from=30)
    assert differences(remains(plain), remains(watched)) == []


def test_the_state_is_of_builtins(uninterrupted: tuple[Path, Any]) -> None:
    folder, watcher = uninterrupted
    saved = torch.load(checkpoint(folder, 60), weights_only=True)["callbacks"][watcher.state_key]
    assert differences(lasting(saved), lasting(watcher.monitor.state_dict())) == []


def test_the_monitor_can_start_on_a_checkpoint_that_never_saw_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train(tmp_path, stop_at=20)
    train(tmp_path, watcher=eager(every=2), resume_from=20)
    assert our_warnings(caplog) == []
    assert [event["step"] for event in events_of(tmp_path, "started")] == [20]
    assert checked_at(tmp_path) == list(range(20, STEPS + 1, 2))


CORRUPTIONS: dict[str, Callable[[Any], Any]] = {
    "other_version": lambda state: {**state, "version": 99},
    "missing_field": lambda state: {k: v for k, v in state.items() if k != "watch"},
    "text": lambda state: "not a state",
}


@pytest.mark.parametrize("corruption", CORRUPTIONS)
def test_a_corrupted_state_gives_one_warning_and_a_fresh_baseline(
    corruption: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    watcher = eager(every=2)
    train(tmp_path, watcher=watcher, stop_at=10)
    path = checkpoint(tmp_path, 10)
    body = torch.load(path, weights_only=True)
    body["callbacks"][watcher.state_key] = CORRUPTIONS[corruption](
        body["callbacks"][watcher.state_key]
    )
    torch.save(body, path)
    again = eager(every=2)
    train(tmp_path, watcher=again, resume_from=10)
    (warning,) = our_warnings(caplog)
    assert "baseline begins anew" in warning
    assert again.active
    assert [event["step"] for event in events_of(tmp_path, "started")] == [0, 10]
    assert checked_at(tmp_path) == EVERY_SECOND


def embed_one(module: Any, batch: Any) -> Any:
    return module.model.model(batch["input_ids"]).last_hidden_state


def embed_other(module: Any, batch: Any) -> Any:
    return embed_one(module, batch)


PROBES = [ProbeSet.from_dataset(token_rows(8, seed=seed)) for seed in (1, 2)]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"layers": "last"}, {"layers": 0}),
        ({"pooling": "tokens"}, {"pooling": "mean"}),
        ({"probes": PROBES[0]}, {"probes": PROBES[1]}),
        ({"embed_fn": embed_one}, {"embed_fn": embed_other}),
        ({"name": "student"}, {"name": "teacher"}),
    ],
)
def test_two_callbacks_keep_a_state_each(
    one: dict[str, Any], other: dict[str, Any], tmp_path: Path
) -> None:
    folders = tmp_path / "one", tmp_path / "other"

    def pair() -> list[SigmaLightningCallback]:
        chosen = zip((one, other), folders, strict=True)
        return [eager(every=2, output_dir=folder, **options) for options, folder in chosen]

    first, second = pair()
    train(tmp_path, watcher=first, others=(second,), stop_at=10)
    states = [callback.monitor.state_dict() for callback in (first, second)]
    again = pair()
    assert [callback.state_key for callback in again] == [first.state_key, second.state_key]
    saved = torch.load(checkpoint(tmp_path, 10), weights_only=True)["callbacks"]
    for callback, state in zip(again, states, strict=True):
        assert differences(lasting(saved[callback.state_key]), lasting(state)) == []
    train(tmp_path, watcher=again[0], others=(again[1],), stop_at=20, resume_from=10)
    for folder, callback in zip(folders, again, strict=True):
        name = callback.monitor.name
        steps = [snapshot.step for snapshot in record_of(folder, name).snapshots]
        assert steps == list(range(0, 21, 2))
        assert happened(folder, name) == ["started", "closed", "resumed", "closed"]
    assert again[0].monitor.name != again[1].monitor.name


def test_two_callbacks_that_do_the_same_are_refused_at_construction(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="state_key"):
        make_trainer(tmp_path, eager(), eager(every=5))


def test_one_callback_serves_two_trainings_that_share_no_state(tmp_path: Path) -> None:
    train(tmp_path / "0", watcher=eager(every=2), stop_at=30)
    watcher = eager(every=2)
    train(tmp_path / "0", watcher=watcher, resume_from=30)
    assert watcher.monitor.status is Status.COLLAPSED
    trainer = make_trainer(tmp_path / "1", watcher)
    fit(trainer)
    assert watcher.monitor.status is Status.HEALTHY
    assert checked_at(tmp_path / "1") == list(range(0, 31, 2))
    assert happened(tmp_path / "1") == ["started", "closed"]


def test_a_second_fit_begins_a_record_of_its_own(tmp_path: Path) -> None:
    """Also of the same Trainer, which counts its steps on."""
    watcher = eager(every=2)
    trainer = make_trainer(tmp_path, watcher, max_steps=6)
    fit(trainer)
    trainer.fit_loop.epoch_loop.max_steps = 12
    fit(trainer)
    assert checked_at(tmp_path) == [6, 8, 10, 12]
    assert happened(tmp_path) == ["started", "closed"]
    older = read_record(tmp_path / "sigma/record-1.jsonl")
    assert [snapshot.step for snapshot in older.snapshots] == [0, 2, 4, 6]


def test_a_checkpoint_before_the_first_check_holds_no_state_of_the_run_before(
    tmp_path: Path,
) -> None:
    """As a search for a learning rate writes and reads one at the start of `fit`."""

    class SavesAtStart(pl.Callback):
        def on_fit_start(self, trainer: Any, *_: Any) -> None:
            trainer.save_checkpoint(tmp_path / "start.ckpt")

    watcher = eager(every=2)
    fit(make_trainer(tmp_path, watcher, max_steps=4))
    fit(make_trainer(tmp_path, watcher, SavesAtStart(), max_steps=4))
    saved = torch.load(tmp_path / "start.ckpt", weights_only=True)["callbacks"]
    assert watcher.state_key not in saved
