"""`SigmaLightningCallback`: the monitor in a `Trainer` of lightning or pytorch_lightning."""

from __future__ import annotations

import importlib
import math
import sys
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from sigma_monitor.errors import InputError
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
from sigma_monitor.integrations.trackers import lightning_trackers
from sigma_monitor.monitor import SigmaMonitor
from sigma_monitor.probing import Probe, ProbeSet
from sigma_monitor.probing.guard import frozen_generators
from sigma_monitor.probing.layers import layer_list, transformers_models
from sigma_monitor.snapshot import NAME

__all__ = ["SigmaLightningCallback"]

_PACKAGES = ("lightning.pytorch", "pytorch_lightning")  # each with a Callback class of its own


def _callback_class() -> type:
    """`Callback` of the package that the user has imported, or of the one that is installed."""
    for package in sorted(_PACKAGES, key=lambda name: name not in sys.modules):
        try:
            host: type = importlib.import_module(package).Callback
            return host
        except ModuleNotFoundError as error:
            if error.name not in ("lightning", *_PACKAGES):
                raise
    raise ImportError(
        'SigmaLightningCallback needs Lightning: pip install "sigma-monitor[lightning]".'
    )


if TYPE_CHECKING:
    _Callback = object
else:
    _Callback = _callback_class()


class SigmaLightningCallback(_Callback):
    """Watches the spectrum of a model's embeddings while a Lightning `Trainer` trains it.

        Trainer(callbacks=[SigmaLightningCallback()]).fit(module, train_loader, val_loader)

    Without probes, 128 examples come from the dataset of the first validation loader that has a
    map-style one, or else of the training loader (`held_out=false`). Metrics go to every logger of
    the Trainer at the step of the training loss, and into `trainer.callback_metrics`, so that
    `EarlyStopping` and `ModelCheckpoint` can monitor them. Steps are the Trainer's `global_step`,
    which counts the steps of all optimisers. Lightning has no public way to know that validation
    or a checkpoint follows, so checks do not wait for these. Training is bitwise what it would be
    without, and resumes with the checkpoint. Sanity checks, `fast_dev_run` and `validate`, `test`
    and `predict` are left alone.

    What is watched is the one transformers model inside the LightningModule, called by itself:
    `layers` counts and names from there, as it does in a transformers Trainer. Where there is none
    or more than one, pass `embed_fn`, which is given the LightningModule, or `layers=` dotted names
    of modules that its `forward` uses.

    Args:
        probes: The probe set; None chooses one from the Trainer's data.
        **options: Keyword arguments of `SigmaMonitor`, such as `stop_on_collapse=True`. By default
            `output_dir` is the Trainer's `log_dir`, and `max_steps` its estimate. The generation
            channel needs `tokenizer=`.

    Attributes:
        monitor: The `SigmaMonitor`: `status`, `should_stop`, `stop_reason`, `last_snapshot`.
        active: False once something failed for good, or when `enabled=False`.
        undelivered: Checks whose metrics a logger refused, counted for each logger.
        state_key: Of the checkpoint. Two callbacks of one Trainer must differ in `name`, layers,
            pooling, probes or the name of `embed_fn`; those that do not differ in `name` report as
            `sigma`, `sigma_2`, ... in the order of the callbacks.

    Raises:
        InputError: On an option that cannot be used.
    """

    def __init__(self, probes: ProbeSet | None = None, **options: Any) -> None:
        self.monitor = SigmaMonitor(probes, **options)
        self.monitor.between_runs = True
        self.active = self.monitor.enabled
        self.undelivered = 0
        self._output_dir = self.monitor.output_dir
        self._name = self.monitor.name
        self._max_steps = self.monitor.cadence.max_steps
        self._chosen_probes = probes
        self._model: nn.Module | None = None  # that is watched, during a run
        self._logger_step = 0  # of the present check
        self._judged_revision = 0  # of the monitor, when a stop was last agreed on
        self._restored: dict[str, Any] | None = None  # by the checkpoint of this run
        kind = type(self).__qualname__ + ("" if self._name == NAME else f":{self._name}")
        self._state_key = _state_key(kind, self.monitor.instrument.probe, probes)

    @property
    def state_key(self) -> str:
        """Where the state is in a checkpoint: the same in a run and in its resumption."""
        return self._state_key  # of the beginning: Lightning asks at every hook

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Forget the run before, ahead of what a checkpoint may bring."""
        if stage == "fit":
            self.monitor.between_runs = True  # until the sanity check is over
            self.active = self.monitor.enabled and not trainer.fast_dev_run
            self._restored = None
            self._reset(trainer)

    @agreed
    def _reset(self, trainer: Any) -> None:
        before = trainer.callbacks[: trainer.callbacks.index(self)]
        watchers = [o for o in before if isinstance(o, SigmaLightningCallback) and o.active]
        self.monitor.name = distinct_name(self._name, [other.monitor.name for other in watchers])
        self.monitor.reset()
        self._judged_revision = 0

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the state of a checkpoint for the begin of the run."""
        self._restored = state_dict

    @harmless
    def state_dict(self) -> dict[str, Any]:
        """Builtins, for the checkpoint; nothing before something has been measured."""
        return self.monitor.state_dict() if self.monitor.has_measured else {}

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Begin a run, or go on with the one in the checkpoint."""
        self._begin(trainer, pl_module)
        self.monitor.between_runs = not self.active  # alike on all ranks

    @agreed
    def _begin(self, trainer: Any, pl_module: Any) -> None:
        monitor = self.monitor
        self._model = _watched(pl_module, monitor.instrument.probe)
        monitor.instrument.call_within(trainer.precision_plugin.forward_context)
        monitor.output_dir = self._output_dir or trainer.log_dir or trainer.default_root_dir
        monitor.trackers = lightning_trackers(
            trainer.loggers, monitor.name, lambda: self._logger_step
        )
        monitor.probes = self._chosen_probes
        monitor.cadence.max_steps = self._max_steps or _expected_steps(trainer, pl_module)
        monitor.cadence.logging_steps = trainer.log_every_n_steps
        went_on = goes_on(monitor, self._restored, trainer.global_step)
        if not went_on and trainer.ckpt_path is None:
            monitor.first_step = trainer.global_step  # which a second `fit` counts on
        if monitor.probes is None:
            monitor.probes = self._default_probes(trainer)
            agree_on_probes(monitor)

    @harmless
    def on_train_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        """Check before the first step."""
        if self.monitor.cadence.last_step is None:
            self._check(trainer, _logger_step(trainer))

    @harmless
    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Check when one is due, and stop when asked to."""
        if not is_idle(self.monitor, trainer.global_step, self._judged_revision):
            self._check(trainer, _logger_step(trainer))

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Check at the last step, which the Trainer need not have known, and close the record."""
        self._check_last(trainer)
        self._end()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Close the record."""
        self._end()

    def _end(self) -> None:
        end_run(self)
        self._model = None

    @harmless
    def _check_last(self, trainer: Any) -> None:
        cadence = self.monitor.cadence
        if cadence.last_step is not None or self.monitor.probes is None:
            cadence.max_steps = trainer.global_step
            self._check(trainer, _logger_step(trainer) - 1)  # counted on since the last batch

    def _check(self, trainer: Any, logger_step: int) -> None:
        self._logger_step = logger_step
        assert self._model is not None
        snapshot = None
        if self.monitor.probes is not None:  # or rows that are observed are all there is
            snapshot = self.monitor.step(self._model, trainer.global_step)
        self._judge(trainer)
        started = time.perf_counter()
        metrics: dict[str, float] = {}
        for part in new_metrics(self.monitor, snapshot).values():
            metrics |= part
        if metrics:
            self._log(metrics, trainer, logger_step)
        if snapshot is not None:
            self.monitor.cadence.charge(time.perf_counter() - started)

    def _judge(self, trainer: Any) -> None:
        """Stop where that is asked for, by a check or by rows observed since the last batch."""
        monitor = self.monitor
        if monitor.revision != self._judged_revision:  # on all ranks or on none
            self._judged_revision = monitor.revision
            stop = trainer.strategy.reduce_boolean_decision(monitor.should_stop, all=False)
            trainer.should_stop |= stop

    def _log(self, metrics: dict[str, float], trainer: Any, step: int) -> None:
        # Not through `pl_module.log`, which would send each value again at every logging step.
        trainer.callback_metrics.update({k: torch.tensor(value) for k, value in metrics.items()})
        if not trainer.is_global_zero:
            return
        for logger in trainer.loggers:
            try:
                logger.log_metrics(metrics=dict(metrics), step=step)
            except Exception as error:
                note_undelivered(self, type(logger).__name__, trainer.global_step, error)

    def _default_probes(self, trainer: Any) -> ProbeSet | None:
        started, seed = time.perf_counter(), self.monitor.instrument.probe.seed
        with frozen_generators(seed):
            loaders = _validation_loaders(trainer)
        evaluation = _named("val_dataloader", loaders)
        training = list(_named("train_dataloader", trainer.train_dataloader))
        probes = default_probes(
            next((pair for pair in evaluation if has_examples(pair[1])), None),
            next((pair for pair in training if has_examples(pair[1])), training[0]),
            seed=seed,
            callback="SigmaLightningCallback",
            remedy="a validation loader to fit()",
        )
        self.monitor.cadence.charge(time.perf_counter() - started, once=True)
        return probes


def _state_key(name: str, probe: Probe, probes: ProbeSet | None) -> str:
    embed_fn = probe.embed_fn
    measured = {
        "layers": probe.layers,
        "pooling": probe.pooling,
        "embed_fn": getattr(embed_fn, "__qualname__", type(embed_fn).__qualname__),
        "probes": None if probes is None else probes.fingerprint,
    }
    return f"{name}{measured}"


def _watched(module: nn.Module, probe: Probe) -> nn.Module:
    """The one transformers model inside `module`, or `module` where that needs none."""
    if probe.embed_fn is not None:
        return module
    models = transformers_models(module)
    if len(models) == 1:
        return next(iter(models.values()))
    layers = layer_list(probe.layers)
    if any(layer == "last" or isinstance(layer, int) for layer in layers):
        raise InputError(
            f"layers={probe.layers!r} asks for one transformers model, and "
            f"{type(module).__name__} holds {', '.join(models) or 'none'}. Pass embed_fn=lambda "
            "module, batch: (examples, tokens, features) hidden states, or layers= dotted names of "
            "modules that its forward() uses."
        )
    return module


def _expected_steps(trainer: Any, module: Any) -> int | None:
    """Global steps of the run, as the Trainer estimates them; None where it cannot."""
    steps = trainer.estimated_stepping_batches
    if not module.automatic_optimization:
        steps *= len(trainer.optimizers)  # each of which steps once in a batch, as a rule
    if trainer.max_steps > 0:
        steps = min(steps, trainer.max_steps)
    return int(steps) if 0 < steps < math.inf else None


def _logger_step(trainer: Any) -> int:
    """The step at which Lightning logs the training loss of this batch."""
    loop = trainer.fit_loop.epoch_loop
    step: int = getattr(loop, "_batches_that_stepped", trainer.global_step)
    return step


def _validation_loaders(trainer: Any) -> Any:
    """What Lightning validates on, also where it has not been set up before the first step.

    It is set up late in a resumed run that validates in other epochs, and must be the same data.
    """
    source = getattr(trainer.fit_loop.epoch_loop.val_loop, "_data_source", None)
    if trainer.val_dataloaders is None and source is not None and source.is_defined():
        return source.dataloader()
    return trainer.val_dataloaders


def _named(name: str, loaders: Any) -> Iterator[tuple[str, Any]]:
    """Name and loader of each in what `fit` was given: one, or a nest of lists and mappings."""
    if isinstance(loaders, Mapping):
        for key, part in loaders.items():
            yield from _named(f"{name}[{key!r}]", part)
    elif isinstance(loaders, (list, tuple)):
        for index, part in enumerate(loaders):
            yield from _named(f"{name}[{index}]", part)
    else:
        yield name, loaders
