"""Sinks for the trackers that a host reports to: alerts, and what else is no metric."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from sigma_monitor.sinks import MlflowSink, Sink, TensorBoardSink, TrackioSink, WandbSink

__all__ = ["lightning_trackers", "transformers_trackers"]


def transformers_trackers(names: Iterable[str], callbacks: Iterable[Any], name: str) -> list[Sink]:
    """Beside the callbacks of a transformers Trainer, which log the metrics.

    Args:
        names: Of the trackers, as `TrainingArguments.report_to` has them.
        callbacks: Of the Trainer.
        name: Of the monitor.
    """
    reported = set(names)
    axis = "train/global_step" if "wandb" in reported else None
    sinks: list[Sink] = [WandbSink(step_metric=axis, name=name)]
    if "trackio" in reported:
        sinks.append(TrackioSink())
    if "mlflow" in reported:
        sinks.append(MlflowSink(name=name))
    for callback in callbacks:
        if type(callback).__name__ == "TensorBoardCallback":
            sinks.append(_beside(callback, "tb_writer", prefix="train/", name=name))
    return sinks


def lightning_trackers(
    loggers: Iterable[Any], name: str, logger_step: Callable[[], int]
) -> list[Sink]:
    """Beside the loggers of a Lightning Trainer, which get the metrics.

    Args:
        loggers: Of the Trainer.
        name: Of the monitor.
        logger_step: At which the metrics of the present check are logged.
    """
    by_kind = {type(logger).__name__: logger for logger in loggers}
    axis = "trainer/global_step" if "WandbLogger" in by_kind else None
    host_step = None if axis is None else logger_step
    sinks: list[Sink] = [WandbSink(step_metric=axis, host_step=host_step, name=name)]
    if "MLFlowLogger" in by_kind:
        sinks.append(MlflowSink(by_kind["MLFlowLogger"].run_id, name=name))
    if "TensorBoardLogger" in by_kind:
        sinks.append(_beside(by_kind["TensorBoardLogger"], "experiment", prefix="", name=name))
    return sinks


def _beside(host: Any, attribute: str, *, prefix: str, name: str) -> Sink:
    """With the writer that `host` has at the time."""
    return TensorBoardSink(
        lambda: getattr(host, attribute), metrics=False, prefix=prefix, name=name
    )
