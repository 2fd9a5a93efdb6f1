"""Where snapshots and alerts go.

A sink is anything with `log(metrics, step)`, `alert(alert)` and `close()`: see `base.Sink`. It may
raise, hang and be slow; `isolated` and `courier` keep that from the training.
"""

from sigma_monitor.sinks.apprise import AppriseSink
from sigma_monitor.sinks.base import Sink
from sigma_monitor.sinks.console import ConsoleSink
from sigma_monitor.sinks.courier import Courier
from sigma_monitor.sinks.function import FunctionSink
from sigma_monitor.sinks.isolated import Isolated
from sigma_monitor.sinks.jsonl import (
    JsonlSink,
    Line,
    Record,
    RecordReader,
    is_superseded,
    parse_line,
    read_lines,
    read_record,
)
from sigma_monitor.sinks.metrics import MetricsSink
from sigma_monitor.sinks.mlflow import MlflowSink
from sigma_monitor.sinks.tensorboard import TensorBoardSink
from sigma_monitor.sinks.trackio import TrackioSink
from sigma_monitor.sinks.wandb import WandbSink
from sigma_monitor.sinks.webhook import WebhookSink

__all__ = [
    "AppriseSink",
    "ConsoleSink",
    "Courier",
    "FunctionSink",
    "Isolated",
    "JsonlSink",
    "Line",
    "MetricsSink",
    "MlflowSink",
    "Record",
    "RecordReader",
    "Sink",
    "TensorBoardSink",
    "TrackioSink",
    "WandbSink",
    "WebhookSink",
    "is_superseded",
    "parse_line",
    "read_lines",
    "read_record",
]
