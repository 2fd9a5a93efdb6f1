"""Tags and alerts, and where wanted metrics, of the MLflow run that is active."""

from __future__ import annotations

import copy
import json
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sigma_monitor.alert import Alert
from sigma_monitor.sinks.extras import require
from sigma_monitor.sinks.private_random import private_random
from sigma_monitor.snapshot import NAME, Snapshot, metric_name

__all__ = ["MlflowSink"]

# Which draw how long to wait before MLflow tries again.
_DRAWING = (
    "mlflow.store.tracking.sqlalchemy_store",
    "mlflow.utils.request_utils",
    "mlflow.utils.rest_utils",
    "urllib3.util.retry",
)


@dataclass
class _Run:
    """One of MLflow's."""

    id: str
    uri: str | None  # of the server it is at
    status: str = ""  # that it has as a tag


class MlflowSink:
    """Writes into the MLflow run that is active in the training's thread, if any.

    The tag `sigma.status` is that of the last check, `sigma.alert` the title of the last alert.
    MLflow has no alerts, so each is a file of JSON among the artifacts,
    `sigma/alerts/000068-WARNING-representation-last-effective_rank.json`.

    Args:
        run_id: Of another run.
        metrics: Whether to log the metrics too: for a loop of your own that has no other way.
        name: Of the monitor, in front of tags and artifacts.
        tracking_uri: Where that run is; None: where MLflow's is set to when it is found.

    Raises:
        ImportError: Without MLflow: `pip install "sigma-monitor[mlflow]"`.
    """

    def __init__(
        self,
        run_id: str | None = None,
        *,
        metrics: bool = False,
        name: str = NAME,
        tracking_uri: str | None = None,
    ) -> None:
        require("mlflow", "mlflow", "MlflowSink")
        self._with_metrics = metrics
        self._name = name
        self._given = run_id, tracking_uri
        self._run = None if run_id is None else _Run(run_id, tracking_uri)
        self._runs: dict[str, _Run] = {}

    def bind(self) -> MlflowSink | None:
        """This sink with its run, which MLflow keeps by thread: another thread has none."""
        mlflow = sys.modules.get("mlflow")
        if mlflow is None:
            return None
        run_id, uri = self._given
        if run_id is None:
            active = mlflow.active_run()
            if active is None:
                return None
            run_id = str(active.info.run_id)
        bound = copy.copy(self)
        run = _Run(run_id, uri or mlflow.get_tracking_uri())
        bound._run = self._runs.setdefault(run_id, run)
        return bound

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """One value of each, where metrics were asked for."""
        if self._with_metrics and self._run is not None:
            from mlflow.entities import Metric

            now = time.time_ns() // 1_000_000
            values = [Metric(name, value, now, step) for name, value in metrics.items()]
            with _client(self._run) as client:
                client.log_batch(self._run.id, metrics=values)

    def check(self, snapshot: Snapshot) -> None:
        """The status as a tag when it has changed, and metrics where they were asked for."""
        self.log(snapshot.metrics(), snapshot.step)
        run = self._run
        if run is not None and snapshot.status.name != run.status:
            self._tag(run, "status", snapshot.status.name)
            run.status = snapshot.status.name

    def alert(self, alert: Alert) -> None:
        """A tag and an artifact."""
        run = self._run
        if run is None:
            return
        # One step may have several of a kind, of different layers and channels.
        about = (alert.kind, alert.channel, alert.layer, alert.functional)
        words = "-".join(metric_name(word).replace("/", "_") for word in about if word)
        path = f"{self._name}/alerts/{alert.step:06d}-{words}.json"
        text = json.dumps(alert.to_dict(), indent=2, allow_nan=False)
        with _client(run) as client:
            client.log_text(run.id, text, path)
        self._tag(run, "alert", alert.title)

    def close(self) -> None:
        """Nothing is held; the run belongs to the user."""

    def _tag(self, run: _Run, key: str, value: str) -> None:
        with _client(run) as client:
            client.set_tag(run.id, f"{self._name}.{key}", value)


@contextmanager
def _client(run: _Run) -> Iterator[Any]:
    from mlflow import MlflowClient

    with private_random(*_DRAWING):
        yield MlflowClient(run.uri)
