"""Where snapshots and alerts go.

A sink is anything with `log(snapshot)`, `alert(alert)` and `close()`: see `base.Sink`. It may
raise; `base.Isolated` keeps that from the training.
"""

from sigma_monitor.sinks.base import Isolated, Sink
from sigma_monitor.sinks.console import ConsoleSink
from sigma_monitor.sinks.jsonl import JsonlSink, Record, read_record
from sigma_monitor.sinks.metrics import MetricsSink
from sigma_monitor.sinks.wandb import WandbAlertSink

__all__ = [
    "ConsoleSink",
    "Isolated",
    "JsonlSink",
    "MetricsSink",
    "Record",
    "Sink",
    "WandbAlertSink",
    "read_record",
]
