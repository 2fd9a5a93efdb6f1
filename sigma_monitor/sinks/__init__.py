"""Where snapshots and alerts go.

A sink is anything with `log(snapshot)`, `alert(alert)` and `close()`: see `base.Sink`. It may
raise; `base.Isolated` keeps that from the training, and `outlet.Outlet` is all sinks of a run.
"""

from sigma_monitor.sinks.base import Isolated, Sink
from sigma_monitor.sinks.console import ConsoleSink
from sigma_monitor.sinks.jsonl import JsonlSink, Record, read_record
from sigma_monitor.sinks.metrics import MetricsSink
from sigma_monitor.sinks.outlet import RECORD, Outlet, SinkSpec
from sigma_monitor.sinks.wandb import WandbAlertSink

__all__ = [
    "RECORD",
    "ConsoleSink",
    "Isolated",
    "JsonlSink",
    "MetricsSink",
    "Outlet",
    "Record",
    "Sink",
    "SinkSpec",
    "WandbAlertSink",
    "read_record",
]
