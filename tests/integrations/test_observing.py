"""Rows that a user observes from inside a host's run, through the monitor of the callback."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from transformers import TrainerCallback, TrainerState

from sigma_monitor import SigmaCallback
from tests.compatibility import shows
from tests.integrations import hosts, lightning_hosts
from tests.integrations.hosts import Listener, loss_entries, record_of, sigma_entries
from tests.integrations.models import token_rows
from tests.monitor.observing_ranks import WIDTH, spread

ONSET, SELDOM = 8, {"every": 100, "baseline": "start"}


def observe(monitor: Any, step: int) -> None:
    rows = spread(rank=WIDTH if step < ONSET else 2, shift=1.0)
    monitor.observe("codebook", torch.nn.Parameter(rows), step)


class Observes(TrainerCallback):
    """At one of the hooks of every step: before it, within it, or after all that we do there."""

    def __init__(self, monitor: Any, hook: str = "on_step_begin") -> None:
        self.monitor = monitor
        setattr(self, hook, self._after if hook == "on_optimizer_step" else self._now)

    def _now(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        observe(self.monitor, state.global_step)

    def _after(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        observe(self.monitor, state.global_step + 1)


def stopped_by_rows(folder: Path, monitor: Any) -> int:
    """The step of the observation that asked for the stop, where nothing else could have."""
    record = record_of(folder)
    assert monitor.stop_reason.startswith("observed codebook: COLLAPSED at step ")
    assert {a["channel"] for a in record.alerts if a["kind"] == "STOPPED"} == {"observed"}
    assert all(snapshot.step in (0, record.snapshots[-1].step) for snapshot in record.snapshots)
    return record.observations[-1].step


@shows("Trainer", "stopped", case="rows observed")
def test_a_trainer_stops_at_the_hook_after_the_observation(tmp_path: Path) -> None:
    callback = hosts.eager(stop_on_collapse=True, **SELDOM)
    trainer = hosts.make_trainer(tmp_path, callback, Observes(callback.monitor))
    trainer.train()
    step = stopped_by_rows(tmp_path, callback.monitor)
    assert ONSET < step < 25
    assert trainer.state.global_step == step + 1  # the step that had begun was finished


@shows("Lightning", "stopped", case="rows observed")
def test_a_lightning_trainer_stops_at_the_hook_after_the_observation(tmp_path: Path) -> None:
    callback = lightning_hosts.eager(stop_on_collapse=True, **SELDOM)

    class Observes(pl.Callback):
        def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
            observe(callback.monitor, trainer.global_step)

    trainer = lightning_hosts.make_trainer(tmp_path, callback, Observes())
    lightning_hosts.fit(trainer)
    step = stopped_by_rows(tmp_path, callback.monitor)
    assert ONSET < step < 25
    assert trainer.global_step == step + 1


def test_a_checkpoint_holds_what_was_observed_where_a_check_waits_for_it(tmp_path: Path) -> None:
    callback = SigmaCallback(max_overhead=None)
    trainer = hosts.make_trainer(
        tmp_path,
        callback,
        Observes(callback.monitor),
        save_strategy="steps",
        save_steps=4,
        max_steps=6,
    )
    trainer.train()
    assert 4 not in [snapshot.step for snapshot in record_of(tmp_path).snapshots]
    saved = TrainerState.load_from_json(str(tmp_path / "checkpoint-4/trainer_state.json"))
    observer = saved.stateful_callbacks["sigma_monitor"]["observer"]
    assert observer["series"]["codebook"]["number"] == 4


HOOKS = ("on_step_begin", "on_optimizer_step", "on_step_end")


def by_name(logged: list[tuple[int, dict[str, float]]]) -> dict[str, list[tuple[int, float]]]:
    """Step and value of each metric but the overhead, which checks and observations share."""
    found: dict[str, list[tuple[int, float]]] = {}
    for step, metrics in logged:
        for name in metrics.keys() - {"sigma/overhead"}:
            found.setdefault(name, []).append((step, metrics[name]))
    return found


def recorded(folder: Path) -> dict[str, list[tuple[int, float]]]:
    record = record_of(folder)
    return by_name([(x.step, x.metrics()) for x in [*record.snapshots, *record.observations]])


@shows("Trainer", "same numbers", case="rows observed")
@pytest.mark.parametrize("hook", HOOKS)
def test_every_logger_of_a_trainer_gets_each_observation_once_at_its_step(
    hook: str, tmp_path: Path
) -> None:
    callback, before, after = hosts.eager(every=2), Listener(), Listener()
    observes = Observes(callback.monitor, hook)
    trainer = hosts.make_trainer(
        tmp_path, before, callback, observes, after, max_steps=6, logging_steps=1
    )
    trainer.train()
    expected = recorded(tmp_path)
    assert len(expected["sigma/codebook/effective_rank"]) == 6
    assert by_name(before.sigma) == by_name(after.sigma) == expected
    history = trainer.state.log_history
    assert by_name(sigma_entries(history)) == expected
    assert [entry["step"] for entry in loss_entries(history)] == [*range(1, 7)]
    if hook == "on_optimizer_step":  # in one record with the check of that step
        steps = [step for step, _ in sigma_entries(history)]
        assert steps == sorted(set(steps))


@pytest.mark.parametrize("hook", HOOKS)
def test_an_observed_metric_can_choose_the_best_model(hook: str, tmp_path: Path) -> None:
    callback = hosts.eager(**SELDOM)
    trainer = hosts.make_trainer(
        tmp_path,
        callback,
        Observes(callback.monitor, hook),
        metric_for_best_model="sigma/codebook/effective_rank",
        greater_is_better=False,
        eval_strategy="steps",
        save_strategy="steps",
        eval_steps=5,
        save_steps=5,
        max_steps=15,
    )
    trainer.train()
    collapsed = min(o.estimates["effective_rank"].value for o in record_of(tmp_path).observations)
    assert trainer.state.best_metric == collapsed < 3
    assert trainer.state.best_model_checkpoint == str(tmp_path / "checkpoint-10")


@shows("Lightning", "same numbers", case="rows observed")
@pytest.mark.parametrize("hook", ["on_train_batch_start", "on_train_batch_end"])
def test_every_logger_of_lightning_gets_each_observation_once(hook: str, tmp_path: Path) -> None:
    callback = lightning_hosts.eager(every=2)

    def act(trainer: Any, *_: Any) -> None:
        observe(callback.monitor, trainer.global_step)

    observes = type("Observes", (pl.Callback,), {hook: lambda self, *given: act(*given)})()
    loggers = [lightning_hosts.Kept(), lightning_hosts.Kept()]
    trainer = lightning_hosts.make_trainer(
        tmp_path, callback, observes, logger=loggers, log_every_n_steps=1, max_steps=6
    )
    lightning_hosts.fit(trainer)
    name = "sigma/codebook/effective_rank"
    values = [value for _, value in recorded(tmp_path)[name]]
    assert len(values) == 6
    losses = [step for step, _ in loggers[0].of("train_loss")]
    steps = losses if hook == "on_train_batch_start" else [*losses[1:], losses[-1]]
    for logger in loggers:
        assert logger.of(name) == list(zip(steps, values, strict=True))
        checks = [value for _, value in logger.of("sigma/last/effective_rank")]
        assert checks == [v for _, v in recorded(tmp_path)["sigma/last/effective_rank"]]
    assert float(trainer.callback_metrics[name]) == pytest.approx(values[-1], rel=1e-6)  # float32


class ObservesValidation(lightning_hosts.Wrapped):
    """Rows from `validation_step`, which the sanity check calls too."""

    def __init__(self, monitor: Any) -> None:
        super().__init__()
        self.monitor = monitor

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        super().validation_step(batch, batch_idx)
        observe(self.monitor, self.trainer.global_step)


def fit_with_sanity_check(folder: Path, steps: int, **options: Any) -> tuple[Any, Any]:
    callback = lightning_hosts.eager()
    arguments = {"num_sanity_val_steps": 2, "val_check_interval": 4, "max_steps": steps}
    trainer = lightning_hosts.make_trainer(folder, callback, **arguments)
    module = lightning_hosts.fit(trainer, ObservesValidation(callback.monitor), **options)
    trainer.save_checkpoint(folder / "end.ckpt")
    return trainer, module


def lines(folder: Path) -> tuple[list[int], list[int], list[str]]:
    """Steps of checks and of observations, and the events of the run."""
    record = record_of(folder)
    events = [event["event"] for event in record.events]
    kept = [event for event in events if event not in ("baseline", "end")]
    return [s.step for s in record.snapshots], [o.step for o in record.observations], kept


def test_rows_of_the_sanity_check_of_lightning_are_left_alone(tmp_path: Path) -> None:
    trainer, module = fit_with_sanity_check(tmp_path, 8)
    first = lines(tmp_path)
    assert first == ([0, 3, 6, 8], [4, 8], ["started", "observing", "closed"])
    trainer.fit_loop.epoch_loop.max_steps = 16  # a second run, which begins anew at step 8
    lightning_hosts.fit(trainer, module)
    assert lines(tmp_path)[:2] == ([8, 11, 14, 16], [12, 16])
    (tmp_path / "sigma/record.jsonl").unlink()
    (tmp_path / "sigma/record-1.jsonl").rename(tmp_path / "sigma/record.jsonl")
    assert lines(tmp_path) == first


def test_the_sanity_check_of_a_resumed_lightning_run_leaves_the_record_alone(
    tmp_path: Path,
) -> None:
    fit_with_sanity_check(tmp_path, 8)
    fit_with_sanity_check(tmp_path, 12, ckpt_path=str(tmp_path / "end.ckpt"))
    checks, observations, events = lines(tmp_path)
    assert (checks[-1], observations) == (12, [4, 8, 12])
    assert events == ["started", "observing", "closed", "resumed", "closed"]


def test_rows_of_a_fast_dev_run_are_left_alone(tmp_path: Path) -> None:
    callback = lightning_hosts.eager()
    trainer = lightning_hosts.make_trainer(tmp_path, callback, fast_dev_run=2)
    lightning_hosts.fit(trainer, ObservesValidation(callback.monitor))
    assert not callback.monitor.observed


def test_an_evaluation_after_the_end_of_training_leaves_the_record_closed(tmp_path: Path) -> None:
    callback = hosts.eager(**SELDOM)
    trainer = hosts.make_trainer(tmp_path, callback, max_steps=6)
    trainer.model.register_forward_hook(
        lambda *_: observe(callback.monitor, trainer.state.global_step)
    )
    trainer.train()
    kept = hosts.record_path(tmp_path).read_bytes()
    step = trainer.state.global_step
    for later in (step, step + 1):  # one that was seen, and one that was not
        trainer.state.global_step = later
        trainer.evaluate()
    callback.monitor.close()
    assert hosts.record_path(tmp_path).read_bytes() == kept
    trainer.train()
    assert [o.step for o in record_of(tmp_path).observations] == [*range(6)]


class NoExamples(torch.utils.data.IterableDataset[Any]):
    """Training data that no probe example can be taken from."""

    def __iter__(self) -> Any:
        return iter(token_rows(160))


def test_a_trainer_without_a_probe_set_logs_and_stops_by_what_is_observed(tmp_path: Path) -> None:
    callback = hosts.eager(stop_on_collapse=True, **SELDOM)
    logger = Listener()
    trainer = hosts.make_trainer(
        tmp_path, logger, callback, Observes(callback.monitor), train=NoExamples(), held_out=None
    )
    trainer.train()
    step = stopped_by_rows(tmp_path, callback.monitor)
    assert trainer.state.global_step == step + 1 < 25
    assert by_name(logger.sigma) == recorded(tmp_path)
    assert lines(tmp_path) == ([], [*range(step + 1)], ["observing", "closed"])


def test_lightning_without_a_probe_set_logs_and_stops_by_what_is_observed(tmp_path: Path) -> None:
    callback, logger = (
        lightning_hosts.eager(stop_on_collapse=True, **SELDOM),
        lightning_hosts.Kept(),
    )

    class Observes(pl.Callback):
        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:  # after our hook
            observe(callback.monitor, trainer.global_step)

    trainer = lightning_hosts.make_trainer(tmp_path, callback, Observes(), logger=[logger])
    lightning_hosts.fit(trainer, train=lightning_hosts.loader(NoExamples()), held_out=None)
    step = stopped_by_rows(tmp_path, callback.monitor)
    assert trainer.global_step <= step + 1 < 25
    values = [value for _, value in logger.of("sigma/codebook/effective_rank")]
    assert values == [v for _, v in recorded(tmp_path)["sigma/codebook/effective_rank"]]
    assert lines(tmp_path)[2] == ["observing", "closed"]


def test_the_record_is_closed_where_a_callback_is_off(tmp_path: Path) -> None:
    callback = hosts.eager(**SELDOM)
    observes = Observes(callback.monitor)
    trainer = hosts.make_trainer(tmp_path, callback, observes, max_steps=6)
    callback._measure = None  # type: ignore[assignment,method-assign]
    trainer.train()
    assert not callback.active
    assert lines(tmp_path)[2][-1] == "closed"
    assert len(record_of(tmp_path).observations) == 6
    assert not any("interrupted" in event for event in record_of(tmp_path).events)


def test_rows_of_the_last_evaluation_are_in_the_log_history(tmp_path: Path) -> None:
    callback = hosts.eager(**SELDOM)
    arguments = {
        "max_steps": 8,
        "per_device_train_batch_size": 24,  # four steps to an epoch
        "eval_strategy": "epoch",  # after our last hook
    }
    observes = Observes(callback.monitor, "on_evaluate")
    trainer = hosts.make_trainer(tmp_path, callback, observes, **arguments)
    trainer.train()
    assert by_name(sigma_entries(trainer.state.log_history)) == recorded(tmp_path)
    assert lines(tmp_path)[1] == [4, 8]


def test_a_lightning_checkpoint_holds_what_was_observed_where_checks_fail(tmp_path: Path) -> None:
    def fails(*_: Any) -> Any:
        raise RuntimeError("no embedding")

    callback = lightning_hosts.eager(embed_fn=fails)
    assert callback.state_dict() == {}

    class Observes(pl.Callback):
        def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
            observe(callback.monitor, trainer.global_step)

    trainer = lightning_hosts.make_trainer(tmp_path, callback, Observes(), max_steps=6)
    lightning_hosts.fit(trainer)
    assert callback.monitor.checks == 0
    assert callback.state_dict()["observer"]["series"]["codebook"]["number"] == 6
