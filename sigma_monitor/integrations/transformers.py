"""`SigmaCallback`: the monitor in a transformers `Trainer`."""

from __future__ import annotations

import gc
import logging
import math
import time
import weakref
from typing import Any

from transformers import (
    DefaultFlowCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_utils import IntervalStrategy

from sigma_monitor.integrations.default_probes import default_probes, has_examples
from sigma_monitor.integrations.harmless import agreed, end_run, harmless
from sigma_monitor.integrations.naming import distinct_name
from sigma_monitor.integrations.shared import (
    agree_on_probes,
    goes_on,
    is_idle,
    new_metrics,
    note_undelivered,
)
from sigma_monitor.integrations.sparing import sparing
from sigma_monitor.integrations.trackers import transformers_trackers
from sigma_monitor.monitor import SigmaMonitor
from sigma_monitor.probing import ProbeSet
from sigma_monitor.probing.guard import frozen_generators
from sigma_monitor.probing.probe_set import is_map_style
from sigma_monitor.snapshot import NAME, Snapshot

__all__ = ["STATE_KEY", "SigmaCallback"]

_logger = logging.getLogger("sigma_monitor")

STATE_KEY = "sigma_monitor"  # in `TrainerState.stateful_callbacks`, hence in every checkpoint


class SigmaCallback(TrainerCallback):
    """Watches the spectrum of the model's embeddings while a `Trainer` trains it.

        Trainer(model, args, train_dataset=train, eval_dataset=test, callbacks=[SigmaCallback()])

    Without arguments, 128 probe examples come from the evaluation data, or from the training data
    when there is none (`held_out=false` in console and record); checks follow the length of the run
    and take at most 1 % of its time; metrics go wherever the Trainer reports, alerts to the console
    and to a live W&B run, and `output_dir/sigma/record.jsonl` keeps everything. Training is bitwise
    what it would be without, and resumes with the checkpoint.

    With `every="auto"` a check that is due at an evaluation or a save comes a step later; but where
    `metric_for_best_model` is one of ours, checks come at evaluations. Several callbacks of one
    Trainer keep apart by `name=`; the second of a name goes by `sigma_2`, in their order.

    Args:
        probes: The probe set; None chooses one from the Trainer's data.
        save_on_stop: Save a checkpoint at the step at which a collapse stops the run.
        **options: Keyword arguments of `SigmaMonitor`, such as `stop_on_collapse=True`. By default
            `output_dir` is the Trainer's, or that of the trial; `max_steps` and `warmup_steps` are
            the run's.

    Attributes:
        monitor: The `SigmaMonitor`: `status`, `should_stop`, `stop_reason`, `last_snapshot`.
        active: False once something failed for good, or when `enabled=False`.
        undelivered: Checks whose metrics a logger refused.

    Raises:
        InputError: On an option that cannot be used.
    """

    def __init__(
        self, probes: ProbeSet | None = None, *, save_on_stop: bool = False, **options: Any
    ) -> None:
        self.monitor = SigmaMonitor(probes, **options)
        self.save_on_stop = save_on_stop
        self.monitor.between_runs = True
        self.active = self.monitor.enabled
        self.undelivered = 0
        self._output_dir = self.monitor.output_dir
        self._name = self.monitor.name
        self._chosen_probes = probes
        self._trainer: weakref.ref[Trainer] | None = None
        self._saved: dict[str, Any] | None = None
        self._saved_revision = 0
        self._sought_probes = False  # in this run
        self._waiting = False  # a check that is due, for the step to come
        self._told_missing = False
        self._metrics: dict[str, float] = {}  # the latest value of each
        self._told_unmeasured = False

    @property
    def state_key(self) -> str:
        """Where the state is in the `stateful_callbacks` of a checkpoint."""
        name = self.monitor.name
        return STATE_KEY if name == NAME else f"{STATE_KEY}_{name}"

    def attach(self, trainer: Trainer) -> None:
        """Take the place in `trainer` from which metrics reach every logger.

        Called by itself; call it where the console says that no Trainer was found.
        """
        self._trainer = weakref.ref(trainer)
        handler = trainer.callback_handler
        others = [callback for callback in handler.callbacks if callback is not self]
        attached = [o for o in others if isinstance(o, SigmaCallback) and o._attached() is trainer]
        self.monitor.name = distinct_name(self._name, [other.monitor.name for other in attached])
        place = next(
            (i + 1 for i, other in enumerate(others) if isinstance(other, DefaultFlowCallback)), 0
        )
        # A new list: the handler may be iterating over the present one.
        handler.callbacks = [*others[:place], self, *others[place:]]

    @harmless
    def on_init_end(self, args: TrainingArguments, state: Any, control: Any, **_: Any) -> None:
        """Attach to the Trainer that has just been made."""
        self._attach_to_trainer_of(state)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Begin a run, or go on with the one in the checkpoint."""
        self.active = self.monitor.enabled
        self._begin(args, state)
        self.monitor.between_runs = not self.active  # alike on all ranks

    @agreed
    def _begin(self, args: TrainingArguments, state: TrainerState) -> None:
        trainer = self._attached()
        if trainer is None or trainer.state is not state:
            self._attach_to_trainer_of(state)
            trainer = self._attached()
        monitor = self.monitor
        monitor.output_dir = self._output_dir or _run_folder(trainer, args)
        monitor.probes = self._chosen_probes
        monitor.reset()
        monitor.cadence.max_steps = state.max_steps
        monitor.warmup_steps = args.get_warmup_steps(state.max_steps)
        by_steps = args.logging_strategy == IntervalStrategy.STEPS
        monitor.cadence.logging_steps = int(state.logging_steps) if by_steps else None
        self._metrics, self._told_unmeasured = {}, False
        self._saved, self._saved_revision = None, 0
        self._sought_probes = self._waiting = False
        callbacks = [] if trainer is None else trainer.callback_handler.callbacks
        monitor.trackers = transformers_trackers(_loggers(args), callbacks, monitor.name)
        saved = _kept_states(state).get(self.state_key)
        if goes_on(monitor, saved, state.global_step):
            self._saved = saved

    @harmless
    def on_step_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: Any = None,
        train_dataloader: Any = None,
        eval_dataloader: Any = None,
        processing_class: Any = None,
        **_: Any,
    ) -> None:
        """Choose the probe set, and check before the first step."""
        if self.monitor.instrument.tokenizer is None:
            self.monitor.instrument.tokenizer = processing_class
        if self.monitor.probes is None and not self._sought_probes:
            self._choose_probes(train_dataloader, eval_dataloader)
        if self.active and self.monitor.cadence.last_step is None:
            self._check(args, state, control, model)

    @harmless
    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: Any = None,
        **_: Any,
    ) -> None:
        """Check when one is due, log, keep the state for a checkpoint, and stop when asked to."""
        if self._wanted(args) is None and is_idle(
            self.monitor, state.global_step, self._saved_revision
        ):
            return
        self._waiting = self._waits(args, state, control)
        self._check(args, state, control, model)
        if self.monitor.should_stop:
            control.should_training_stop = True
            control.should_save |= self.save_on_stop

    @harmless
    def on_epoch_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: Any = None,
        **_: Any,
    ) -> None:
        """Log what was observed after our hook of the step, and check if one waits in vain."""
        self._waiting &= not control.should_training_stop
        self._check(args, state, control, model)

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        """Add the one metric of ours that `metric_for_best_model` asks for, and no other.

        A search over hyperparameters takes the sum of whatever it finds there. Also where the
        callback is off: the Trainer raises on a metric that is missing.
        """
        wanted = self._wanted(args)
        if metrics is None or wanted is None:
            return
        for observation in self.monitor.observed:  # after our hook of this step
            self._metrics |= observation.metrics()
        if wanted not in self._metrics and not self._told_unmeasured:
            self._told_unmeasured = True
            _logger.warning(
                "sigma_monitor: metric_for_best_model=%r has not been measured by step %d, so it "
                "counts as NaN, which is never the best; measured so far: %s",
                args.metric_for_best_model,
                state.global_step,
                ", ".join(self._metrics) or "nothing",
            )
        metrics[f"eval_{wanted}"] = self._metrics.get(wanted, math.nan)

    def on_train_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: Any,
        model: Any = None,
        **_: Any,
    ) -> None:
        """Close the record, after a last check where one waits."""
        self._check_last(args, state, model)
        end_run(self)

    @harmless
    def _check_last(self, args: TrainingArguments, state: TrainerState, model: Any) -> None:
        """What has no later step to come at: in `log_history`, since a logger may be closed by now.

        Where the best model has been loaded, the weights of the last step are gone.
        """
        last = self._waiting and not args.load_best_model_at_end
        snapshot = self._checked(state, model) if last else None
        for step, metrics in new_metrics(self.monitor, snapshot).items():
            self._metrics |= metrics
            _append(state, metrics, step)

    def _wanted(self, args: TrainingArguments) -> str | None:
        """The metric of ours that chooses the best model; None when none does."""
        wanted = (args.metric_for_best_model or "").removeprefix("eval_")
        return wanted if wanted.startswith(f"{self.monitor.name}/") else None

    def _waits(self, args: TrainingArguments, state: TrainerState, control: TrainerControl) -> bool:
        """Whether a check that is due leaves this step to an evaluation or a save.

        An evaluation that asks for a metric of ours is where a check belongs instead.
        """
        cadence, step = self.monitor.cadence, state.global_step
        epoch_ends = float(state.epoch or 0.0).is_integer()
        evaluates = control.should_evaluate or (
            epoch_ends and args.eval_strategy == IntervalStrategy.EPOCH
        )
        saves = control.should_save or (epoch_ends and args.save_strategy == IntervalStrategy.EPOCH)
        if evaluates and self._wanted(args) is not None:
            cadence.bring_forward(step)
            return False
        busy = (evaluates or saves) and not control.should_training_stop
        return busy and cadence.can_wait(step)

    def _check(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any
    ) -> None:
        """Check if one is due and need not wait, and log it with what was observed meanwhile."""
        snapshot = None if self._waiting else self._checked(state, model)
        started = time.perf_counter()
        for step, metrics in new_metrics(self.monitor, snapshot).items():
            self._metrics |= metrics
            self._log(metrics, step, args, state, control)
        self._keep_state(state)
        if snapshot is not None:
            self.monitor.cadence.charge(time.perf_counter() - started)

    def _checked(self, state: TrainerState, model: Any) -> Snapshot | None:
        """Nothing without a probe set, where rows that are observed are all there is."""
        return None if self.monitor.probes is None else self._measure(state, model)

    def _measure(self, state: TrainerState, model: Any) -> Snapshot | None:
        return self.monitor.step(model, state.global_step)

    def _keep_state(self, state: TrainerState) -> None:
        """For the next checkpoint, after a check or an observation."""
        if self.monitor.revision != self._saved_revision:
            self._saved_revision = self.monitor.revision
            self._saved = self.monitor.state_dict()
        if self._saved is not None:
            _kept_states(state)[self.state_key] = self._saved

    def _log(
        self,
        metrics: dict[str, float],
        step: int,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
    ) -> None:
        trainer = self._attached()
        if trainer is None:
            self._tell_missing(args)
            _append(state, metrics, step)
            return
        # A record of its own, also where a train log is due: merged into that one, a logger that
        # refuses our metrics would end the training. The base method, since overrides in subclasses
        # add metrics of their own, which would be lost to the train log. It clears flags that the
        # Trainer still has to act on.
        flags, present = dict(vars(control)), state.global_step
        state.global_step = step  # which every logger reads, and may be that of an observation
        try:
            with sparing(
                trainer.callback_handler.callbacks,
                lambda logger, error: note_undelivered(self, type(logger).__name__, step, error),
            ):
                Trainer.log(trainer, dict(metrics))
        except Exception as error:
            note_undelivered(self, "the Trainer", step, error)
        finally:
            state.global_step = present
            for name, flag in flags.items():  # what another callback asks for meanwhile stays
                setattr(control, name, flag or getattr(control, name))

    def _tell_missing(self, args: TrainingArguments) -> None:
        if not self._told_missing:
            self._told_missing = True
            _logger.warning(
                "sigma_monitor: its Trainer was not found, so %s will miss the sigma metrics; the "
                "record has them. Call callback.attach(trainer) after making the Trainer.",
                ", ".join(_loggers(args)) or "the console",
            )

    def _attached(self) -> Trainer | None:
        return None if self._trainer is None else self._trainer()

    def _attach_to_trainer_of(self, state: TrainerState) -> None:
        """Find the Trainer whose state this is: no hook is given the Trainer itself."""
        for candidate in gc.get_objects():
            if issubclass(type(candidate), Trainer) and vars(candidate).get("state") is state:
                self.attach(candidate)
                return

    @agreed
    def _choose_probes(self, train_dataloader: Any, eval_dataloader: Any) -> None:
        self._sought_probes = True
        self.monitor.probes = self._default_probes(train_dataloader, eval_dataloader)
        agree_on_probes(self.monitor)

    def _default_probes(self, train_dataloader: Any, eval_dataloader: Any) -> ProbeSet | None:
        started, seed = time.perf_counter(), self.monitor.instrument.probe.seed
        with frozen_generators(seed):
            evaluation = _evaluation_loader(self._attached(), eval_dataloader)
        probes = default_probes(
            evaluation,
            ("train_dataset", train_dataloader),
            seed=seed,
            callback="SigmaCallback",
            remedy="eval_dataset= to the Trainer",
            tokenizer=self.monitor.instrument.tokenizer,
        )
        self.monitor.cadence.charge(time.perf_counter() - started, once=True)
        return probes


def _run_folder(trainer: Trainer | None, args: TrainingArguments) -> str:
    """Where the checkpoints of this run are: of a trial, in a folder of its own."""
    trial = getattr(trainer, "_trial", None)
    folder_of = getattr(trainer, "_get_output_dir", None)  # the only one that knows
    return str(args.output_dir if trial is None or folder_of is None else folder_of(trial))


def _append(state: TrainerState, metrics: dict[str, float], step: int) -> None:
    """Metrics to the history, as `Trainer.log` does it, and to no logger."""
    state.log_history.append({**metrics, "epoch": state.epoch, "step": step})


def _kept_states(state: TrainerState) -> dict[str, Any]:
    """The part of the trainer state that goes into every checkpoint."""
    kept: Any = state.stateful_callbacks  # annotated as a list, a dict once constructed
    return kept  # type: ignore[no-any-return]


def _loggers(args: TrainingArguments) -> list[str]:
    report_to = args.report_to or []
    return [report_to] if isinstance(report_to, str) else report_to


def _evaluation_loader(trainer: Trainer | None, eval_dataloader: Any) -> tuple[str, Any] | None:
    """What to call the evaluation data, and a loader of it, never to be iterated.

    The loader is asked for because its dataset and `collate_fn` are what the Trainer makes of the
    user's: columns removed, overrides of subclasses applied.
    """
    name = "eval_dataset"
    if trainer is None:
        return (name, eval_dataloader) if has_examples(eval_dataloader) else None
    dataset = trainer.eval_dataset
    if isinstance(dataset, dict):
        key = next((key for key, part in dataset.items() if is_map_style(part)), None)
        if key is None:
            return None
        name, dataset = f"eval_dataset[{key!r}]", dataset[key]
    return (name, trainer.get_eval_dataloader(dataset)) if is_map_style(dataset) else None
