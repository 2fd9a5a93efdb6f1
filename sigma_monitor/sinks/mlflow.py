"""Tags and alerts, and where wanted metrics, of the MLflow run that is active."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
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
        self._run, self._uri = self._given
        self._status = ""

    def bind(self) -> None:
        """Find the run: MLflow keeps it by thread, so that another thread has none."""
        mlflow = sys.modules.get("mlflow")
        if mlflow is None:
            return
        run_id, uri = self._given
        if run_id is None:
            run = mlflow.active_run()
            run_id = self._run if run is None else run.info.run_id
        if run_id is not None and (run_id != self._run or self._uri is None):
            self._run, self._uri = run_id, uri or mlflow.get_tracking_uri()

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """One value of each, where metrics were asked for."""
        if self._with_metrics and self._run is not None:
            from mlflow.entities import Metric

            now = time.time_ns() // 1_000_000
            values = [Metric(name, value, now, step) for name, value in metrics.items()]
            with self._client() as client:
                client.log_batch(self._run, metrics=values)

    def check(self, snapshot: Snapshot) -> None:
        """The status as a tag when it has changed, and metrics where they were asked for."""
        self.log(snapshot.metrics(), snapshot.step)
        if self._run is not None and snapshot.status.name != self._status:
            self._tag("status", snapshot.status.name)
            self._status = snapshot.status.name

    def alert(self, alert: Alert) -> None:
        """A tag and an artifact."""
        if self._run is None:
            return
        # One step may have several of a kind, of different layers and channels.
        about = (alert.kind, alert.channel, alert.layer, alert.functional)
        words = "-".join(metric_name(word).replace("/", "_") for word in about if word)
        path = f"{self._name}/alerts/{alert.step:06d}-{words}.json"
        text = json.dumps(alert.to_dict(), indent=2, allow_nan=False)
        with self._client() as client:
            client.log_text(self._run, text, path)
        self._tag("alert", alert.title)

    def close(self) -> None:
        """Forget the run, which belongs to the user: the next training may be in another."""
        self._run, self._uri = self._given
        self._status = ""

    def _tag(self, key: str, value: str) -> None:
        with self._client() as client:
            client.set_tag(self._run, f"{self._name}.{key}", value)

    @contextmanager
    def _client(self) -> Iterator[Any]:
        from mlflow import MlflowClient

        with private_random(*_DRAWING):
            yield MlflowClient(self._uri)
