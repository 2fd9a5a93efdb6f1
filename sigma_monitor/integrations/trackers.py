"""Sinks for the trackers that a host reports to: alerts, and what else is no metric."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from sigma_monitor.errors import described
from sigma_monitor.sinks import MlflowSink, Sink, TensorBoardSink, TrackioSink, WandbSink

__all__ = ["lightning_trackers", "transformers_trackers"]

_logger = logging.getLogger("sigma_monitor")


def transformers_trackers(names: Iterable[str], callbacks: Iterable[Any], name: str) -> list[Sink]:
    """Beside the callbacks of a transformers Trainer, which log the metrics.

    A live W&B run has its sink whatever the Trainer reports to: somebody has opened it here.

    Args:
        names: Of the trackers, as `TrainingArguments.report_to` has them.
        callbacks: Of the Trainer.
        name: Of the monitor.
    """
    named, present = set(names), list(callbacks)

    def reports_to(tracker: str, kind: str) -> bool:
        return tracker in named or bool(_of_kind(kind, present))

    axis = "train/global_step" if reports_to("wandb", "WandbCallback") else None
    makers: list[Callable[[], Sink]] = [partial(WandbSink, step_metric=axis, name=name)]
    if reports_to("trackio", "TrackioCallback"):
        makers.append(TrackioSink)
    if reports_to("mlflow", "MLflowCallback"):
        makers.append(partial(MlflowSink, name=name))
    for callback in _of_kind("TensorBoardCallback", present):
        makers.append(partial(_beside, callback, "tb_writer", prefix="train/", name=name))
    return _made(makers)


def lightning_trackers(
    loggers: Iterable[Any], name: str, logger_step: Callable[[], int]
) -> list[Sink]:
    """Beside the loggers of a Lightning Trainer, which get the metrics.

    Args:
        loggers: Of the Trainer.
        name: Of the monitor.
        logger_step: At which the metrics of the present check are logged.
    """
    present = list(loggers)
    has_wandb = bool(_of_kind("WandbLogger", present))
    axis, host_step = ("trainer/global_step", logger_step) if has_wandb else (None, None)
    makers: list[Callable[[], Sink]] = [
        partial(WandbSink, step_metric=axis, host_step=host_step, name=name)
    ]
    for logger in _of_kind("MLFlowLogger", present):
        makers.append(partial(_within_run_of, logger, name=name))
    for logger in _of_kind("TensorBoardLogger", present):
        makers.append(partial(_beside, logger, "experiment", prefix="", name=name))
    return _made(makers)


def _of_kind(kind: str, things: Iterable[Any]) -> list[Any]:
    """Those of this class or one that is derived from it, by its name: no host is imported here."""
    return [thing for thing in things if kind in (each.__name__ for each in type(thing).__mro__)]


def _made(makers: Iterable[Callable[[], Sink]]) -> list[Sink]:
    """Each sink that can be made; the others are said."""
    sinks = []
    for make in makers:
        try:
            sinks.append(make())
        except Exception as error:
            _logger.warning(
                "sigma_monitor: a tracker gets nothing but metrics in this run (%s); training "
                "goes on",
                described(error),
            )
    return sinks


def _within_run_of(logger: Any, *, name: str) -> Sink:
    return MlflowSink(logger.run_id, name=name, tracking_uri=logger.experiment.tracking_uri)


def _beside(host: Any, attribute: str, *, prefix: str, name: str) -> Sink:
    """With the writer that `host` has at the time."""
    return TensorBoardSink(
        lambda: getattr(host, attribute), metrics=False, prefix=prefix, name=name
    )
