"""Stopping on collapse, runs beside and after each other, and options that cannot be used."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback

from sigma_monitor import SigmaCallback, Status
from sigma_monitor.errors import InputError
from sigma_monitor.sinks import read_record
from tests.compatibility import shows
from tests.integrations.bitwise import differences, remains
from tests.integrations.hosts import (
    Flatten,
    Listener,
    Poison,
    eager,
    events_of,
    expected_metrics,
    kinds,
    make_trainer,
    our_warnings,
    place_of,
    record_of,
    record_path,
    sigma_entries,
)
from tests.integrations.models import tiny_llama

ONSET = 10
EVERY = 2
START = {"every": EVERY, "baseline": "start"}


def run(folder: Path, *callbacks: TrainerCallback, **arguments: Any) -> Trainer:
    trainer = make_trainer(folder, *callbacks, **arguments)
    trainer.train()
    return trainer


@shows("Trainer", "stopped")
@pytest.mark.parametrize("stop", [True, 0.6, 0.2])
def test_a_collapse_stops_the_run_at_its_check(stop: bool | float, tmp_path: Path) -> None:
    callback = eager(stop_on_collapse=stop, **START)
    trainer = run(tmp_path, Flatten(ONSET), callback)
    record = record_of(tmp_path)
    assert kinds(record.alerts) == ["BASELINE", "WARNING", "COLLAPSED", "STOPPED"]
    stopped = record.alerts[-1]
    assert ONSET < stopped["step"] <= ONSET + 5 * EVERY
    assert trainer.state.global_step == stopped["step"] == record.snapshots[-1].step
    assert stopped["severity"] == "info"
    assert callback.monitor.should_stop
    assert callback.monitor.stop_reason == f"COLLAPSED at step {stopped['step']}"
    assert callback.monitor.stop_reason in stopped["text"]
    assert sigma_entries(trainer.state.log_history) == expected_metrics(tmp_path)


def test_a_limit_of_another_functional_stops_the_run(tmp_path: Path) -> None:
    callback = eager(
        stop_on_collapse={"uncentred/stable_rank": 0.01, "uncentred/trace": 0.3}, **START
    )
    trainer = run(tmp_path, Flatten(ONSET), callback)
    record = record_of(tmp_path)
    stopped = record.alerts[-1]
    assert trainer.state.global_step == stopped["step"] == record.snapshots[-1].step < 30
    assert "uncentred/stable_rank" in record.snapshots[-1].layers["last"]
    assert callback.monitor.stop_reason is not None
    assert callback.monitor.stop_reason.startswith("uncentred/trace at layer last 0.")
    assert callback.monitor.stop_reason in stopped["text"]


@pytest.mark.parametrize("stop", [False, 0.05])
def test_a_run_that_was_not_to_stop_goes_on(stop: bool | float, tmp_path: Path) -> None:
    callback = eager(stop_on_collapse=stop, **START)
    trainer = run(tmp_path, Flatten(ONSET), callback)
    assert trainer.state.global_step == 30
    assert "STOPPED" not in kinds(record_of(tmp_path).alerts)
    assert not callback.monitor.should_stop
    assert callback.monitor.stop_reason is None
    expected = Status.COLLAPSED if stop is False else Status.WARNING
    assert callback.monitor.status is expected


def test_two_rules_that_both_see_a_collapse_tell_it_once(tmp_path: Path) -> None:
    """One feature left: below half of the baseline, and below the floor of 2."""
    run(tmp_path, Flatten(ONSET, kept=1), eager(**START))
    record = record_of(tmp_path)
    assert kinds(record.alerts) == ["BASELINE", "WARNING", "COLLAPSED"]
    last = record.snapshots[-1].layers["last"]
    assert last["pooled/uncentred/effective_rank"].value <= 2
    assert record.snapshots[-1].ratios["last"] < 0.5


def test_the_stop_saves_and_evaluates_as_any_end_of_training(tmp_path: Path) -> None:
    callback = eager(stop_on_collapse=True, **START)
    trainer = run(
        tmp_path,
        Flatten(ONSET),
        callback,
        save_strategy="steps",
        save_steps=EVERY,
        eval_strategy="steps",
        eval_steps=EVERY,
    )
    step = trainer.state.global_step
    assert (tmp_path / f"checkpoint-{step}").exists()
    assert step in [entry["step"] for entry in trainer.state.log_history if "eval_loss" in entry]


@pytest.mark.parametrize("saves", [False, True])
def test_a_checkpoint_is_saved_at_the_stop_where_that_was_asked_for(
    saves: bool, tmp_path: Path
) -> None:
    callback = eager(stop_on_collapse=True, save_on_stop=saves, **START)
    trainer = run(tmp_path, Flatten(ONSET), callback)
    saved = [path.name for path in tmp_path.glob("checkpoint-*")]
    assert saved == ([f"checkpoint-{trainer.state.global_step}"] if saves else [])


@pytest.mark.parametrize(("on_resume", "steps"), [("continue", 30), ("rearm", EVERY), ("stop", 1)])
def test_a_stopped_run_goes_on_as_it_was_told_to(
    on_resume: str, steps: int, tmp_path: Path
) -> None:
    first = run(tmp_path, Flatten(ONSET), eager(stop_on_collapse=True, save_on_stop=True, **START))
    stopped = first.state.global_step
    again = make_trainer(tmp_path, eager(stop_on_collapse=True, on_resume=on_resume, **START))
    again.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{stopped}"))
    assert again.state.global_step == min(30, stopped + steps)


BEST = {
    "eval_strategy": "steps",
    "eval_steps": EVERY,
    "save_strategy": "best",
    "metric_for_best_model": "sigma/last/ratio",
    "greater_is_better": True,
}


def test_the_best_model_can_be_that_of_the_highest_ratio(tmp_path: Path) -> None:
    trainer = run(tmp_path, Flatten(ONSET), eager(**START), **BEST)
    ratios = {s.step: s.ratios["last"] for s in record_of(tmp_path).snapshots if s.step}
    best = max(ratios, key=lambda step: ratios[step])
    assert trainer.state.best_global_step == best
    assert trainer.state.best_metric == pytest.approx(ratios[best])


def test_early_stopping_can_wait_for_a_metric_of_ours(tmp_path: Path) -> None:
    patience = EarlyStoppingCallback(early_stopping_patience=2)
    trainer = run(tmp_path, Flatten(ONSET), eager(**START), patience, **BEST)
    assert trainer.state.best_global_step is not None
    assert trainer.state.global_step <= ONSET + 4 * EVERY


def test_early_stopping_and_the_best_model_go_by_the_lowest_ratio(tmp_path: Path) -> None:
    """As a user has them: at the default cadence, which must then fall on evaluations."""
    patience = EarlyStoppingCallback(early_stopping_patience=3)
    callback = SigmaCallback(baseline="start", max_overhead=None)
    trainer = run(
        tmp_path,
        Flatten(ONSET),
        callback,
        patience,
        eval_strategy="steps",
        eval_steps=EVERY,
        save_strategy="steps",
        save_steps=EVERY,
        metric_for_best_model="sigma/ratio",
        greater_is_better=True,
        load_best_model_at_end=True,
    )
    state = trainer.state
    ratios = {s.step: s.metrics()["sigma/ratio"] for s in record_of(tmp_path).snapshots}
    evaluated = [entry["step"] for entry in state.log_history if "eval_loss" in entry]
    assert len(evaluated) >= 4
    assert state.best_global_step == max(evaluated, key=lambda step: ratios[step]) <= ONSET
    assert state.best_metric == pytest.approx(ratios[state.best_global_step])
    assert state.global_step == state.best_global_step + 3 * EVERY
    assert state.best_model_checkpoint == str(tmp_path / f"checkpoint-{state.best_global_step}")
    best = tiny_llama().from_pretrained(state.best_model_checkpoint)
    for name, value in best.state_dict().items():
        assert torch.equal(trainer.model.state_dict()[name], value), name


@pytest.mark.parametrize("options", [{"enabled": False}, {"every": 1000}], ids=["off", "typo"])
def test_a_metric_that_is_not_there_ends_no_training(
    options: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    metric = "sigma/last/rato" if "every" in options else "sigma/last/ratio"
    trainer = run(
        tmp_path, eager(**{**START, **options}), **{**BEST, "metric_for_best_model": metric}
    )
    assert trainer.state.global_step == 30
    assert trainer.state.best_global_step is None
    warnings = [text for text in our_warnings(caplog) if "has not been measured" in text]
    assert len(warnings) == 1
    assert metric in warnings[0]


def test_an_evaluation_has_no_metric_of_ours_that_nobody_asked_for(tmp_path: Path) -> None:
    """`hyperparameter_search` takes the sum of all of them."""
    trainer = run(tmp_path, eager(**START))
    assert not any("sigma" in name for name in trainer.evaluate())


@pytest.mark.parametrize("policy", ["again", "", None])
def test_an_unknown_policy_is_refused(policy: str) -> None:
    with pytest.raises(InputError, match=f"on_resume={policy!r}"):
        SigmaCallback(on_resume=policy)


def test_three_checks_without_a_finite_embedding_stop_the_run(tmp_path: Path) -> None:
    callback = eager(stop_on_collapse=True, **START)
    trainer = run(tmp_path, Poison(ONSET + 1), callback)
    assert trainer.state.global_step == ONSET + 3 * EVERY
    assert kinds(record_of(tmp_path).alerts) == ["BASELINE", "NONFINITE", "STOPPED"]
    assert callback.monitor.stop_reason is not None
    assert f"step {trainer.state.global_step}" in callback.monitor.stop_reason


def test_the_reason_is_on_the_console(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    callback = eager(stop_on_collapse=True, **START)
    run(tmp_path, Flatten(ONSET), callback)
    shown = capsys.readouterr().err
    assert shown.count("[sigma: a stop that was asked for is due]") == 1
    assert shown.count("[sigma: representations have collapsed]") == 1
    assert str(callback.monitor.stop_reason) in shown


@pytest.mark.parametrize(("warmup_steps", "frozen"), [(0, 7), (12, 16)])
def test_no_plateau_is_looked_for_while_the_learning_rate_warms_up(
    warmup_steps: int, frozen: int, tmp_path: Path
) -> None:
    short = {"warmup_checks": 3, "baseline_checks": 5, "plateau_tolerance": 5.0}
    callback = eager(every=1, detector=short, baseline="plateau")
    run(tmp_path, callback, max_steps=20, warmup_steps=warmup_steps)
    (baseline,) = [a for a in record_of(tmp_path).alerts if a["kind"] == "BASELINE"]
    assert baseline["step"] == frozen


class CollapseOnce(TrainerCallback):
    """Flattens the model in the first of two trainings only."""

    def __init__(self) -> None:
        self.flatten = Flatten(ONSET)
        self.trainings = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.trainings += 1

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        if self.trainings == 1:
            self.flatten.on_step_begin(*args, **kwargs)


def test_two_trainings_of_one_trainer_share_no_state(tmp_path: Path) -> None:
    callback = eager(stop_on_collapse=True, **START)
    trainer = make_trainer(tmp_path, CollapseOnce(), callback)
    trainer.train()
    assert callback.monitor.status is Status.COLLAPSED
    assert trainer.state.global_step < 30
    with torch.no_grad():
        trainer.model.model.norm.weight.fill_(1.0)
    trainer.train()
    assert trainer.state.global_step == 30
    assert callback.monitor.status is Status.HEALTHY
    assert not callback.monitor.should_stop
    assert callback.monitor.stop_reason is None
    assert callback.monitor.checks == len(record_of(tmp_path).snapshots) >= 12
    assert record_of(tmp_path).snapshots[0].check == 1
    assert [event["step"] for event in events_of(tmp_path, "started")] == [0]
    assert len(events_of(tmp_path, "closed")) == 1
    assert sigma_entries(trainer.state.log_history) == expected_metrics(tmp_path)
    before = read_record(record_path(tmp_path).with_stem("record-1"))
    assert kinds(before.alerts) == ["BASELINE", "WARNING", "COLLAPSED", "STOPPED"]
    assert [event["event"] for event in before.events].count("closed") == 1


def test_two_trainers_side_by_side_share_no_state(tmp_path: Path) -> None:
    listeners = [Listener(), Listener()]
    callbacks = [eager(**START), eager(**START)]
    harm: list[list[TrainerCallback]] = [[Flatten(ONSET)], []]
    trainers = [
        make_trainer(tmp_path / name, *harm[i], callbacks[i], listeners[i], max_steps=20)
        for i, name in enumerate(["harmed", "healthy"])
    ]
    for trainer in trainers:
        trainer.train()
    assert [callback.monitor.status for callback in callbacks] == [
        Status.COLLAPSED,
        Status.HEALTHY,
    ]
    for listener, trainer, name in zip(listeners, trainers, ["harmed", "healthy"], strict=True):
        expected = expected_metrics(tmp_path / name)
        assert len(expected) >= 10
        assert listener.sigma == expected
        assert sigma_entries(trainer.state.log_history) == expected


class Collects(TrainerCallback):
    """A collection while a Trainer is made, which may come at any time."""

    def on_init_end(self, *_: Any, **__: Any) -> None:
        gc.collect()


@pytest.mark.parametrize("way", ["given", "given_and_collected", "added_later", "first_again"])
def test_one_callback_serves_two_trainers_one_after_the_other(way: str, tmp_path: Path) -> None:
    """As in a notebook whose Trainer is made again with the callback of another cell."""
    callback = eager(**START)
    listeners = [Listener(), Listener()]
    first = make_trainer(tmp_path / "0", callback, listeners[0], max_steps=10)
    first.train()
    given = [] if way == "added_later" else [callback]
    before = [Collects()] if way == "given_and_collected" else []
    second = make_trainer(tmp_path / "1", *before, *given, listeners[1], max_steps=10)
    if way == "added_later":
        second.add_callback(callback)
    if way == "first_again":
        listeners[0].heard.clear()
        first.train()
    second.train()
    for number, trainer in enumerate([first, second]):
        expected = expected_metrics(tmp_path / str(number))
        assert len(expected) >= 5
        assert listeners[number].sigma == expected
        assert sigma_entries(trainer.state.log_history) == expected
        assert place_of(callback, trainer) == 0


def test_disabled_it_does_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def embed(model: Any, batch: Any) -> Any:
        raise AssertionError("a disabled monitor has probed")

    callback = SigmaCallback(enabled=False, embed_fn=embed)
    listener = Listener()
    trainer = make_trainer(tmp_path / "watched", listener, callback)
    callbacks = list(trainer.callback_handler.callbacks)
    assert callbacks.index(listener) < callbacks.index(callback)
    trainer.train()
    assert trainer.callback_handler.callbacks == callbacks
    assert not callback.active
    assert callback.monitor.probes is None
    assert callback.monitor.checks == callback.monitor.failures == 0
    assert not record_path(tmp_path / "watched").parent.exists()
    assert sigma_entries(trainer.state.log_history) == []
    assert "sigma_monitor" not in trainer.state.stateful_callbacks
    assert our_warnings(caplog) == []
    plain = run(tmp_path / "plain")
    assert differences(remains(plain), remains(trainer)) == []


@pytest.mark.parametrize(
    ("options", "value", "remedy"),
    [
        ({"stop_on_collapse": 1.5}, "1.5", "such as 0.5"),
        ({"stop_on_collapse": 0.0}, "0.0", "such as 0.5"),
        ({"stop_on_collapse": "yes"}, "'yes'", "True, False"),
        ({"every": 0}, "every=0", '"auto"'),
        ({"every": -3}, "every=-3", '"auto"'),
        ({"every": 2.5}, "every=2.5", '"auto"'),
        ({"max_overhead": 0}, "max_overhead=0", "None"),
        ({"max_overhead": 3}, "max_overhead=3", "0.01"),
        ({"pooling": "max"}, "pooling='max'", '"mean"'),
        ({"baseline": "best"}, "baseline='best'", '"plateau"'),
        ({"functionals": ["rank"]}, "rank", "effective_rank"),
        ({"functionals": "effective_rank"}, "effective_rank", "list"),
        ({"method": "magic"}, "method='magic'", '"exact"'),
        ({"relative_ridge": 0}, "relative_ridge=0", "1e-3"),
        ({"detector": {"colapsed": 0.4}}, "colapsed", "collapsed"),
        ({"detector": {"collapsed": 4}}, "collapsed=4", "between 0 and 1"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_an_option_that_cannot_be_used_is_refused_at_construction(
    options: dict[str, Any], value: str, remedy: str
) -> None:
    with pytest.raises(InputError) as raised:
        SigmaCallback(**options)
    assert value in str(raised.value)
    assert remedy in str(raised.value)


def test_an_unknown_option_is_refused_at_construction() -> None:
    with pytest.raises((InputError, TypeError), match="evry"):
        SigmaCallback(evry=3)
