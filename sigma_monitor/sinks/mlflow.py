"""Tags and alerts, and where wanted metrics, of the MLflow run that is active."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping

from sigma_monitor.alert import Alert
from sigma_monitor.sinks.extras import require
from sigma_monitor.snapshot import NAME, Snapshot, metric_name

__all__ = ["MlflowSink"]


class MlflowSink:
    """Writes into the MLflow run that is active in the training's thread, if any.

    The tag `sigma.status` is that of the last check, `sigma.alert` the title of the last alert.
    MLflow has no alerts, so each is a file of JSON among the artifacts,
    `sigma/alerts/000068-WARNING-representation-last-effective_rank.json`.

    Args:
        run_id: Of another run.
        metrics: Whether to log the metrics too: for a loop of your own that has no other way.
        name: Of the monitor, in front of tags and artifacts.

    Raises:
        ImportError: Without MLflow: `pip install "sigma-monitor[mlflow]"`.
    """

    def __init__(
        self, run_id: str | None = None, *, metrics: bool = False, name: str = NAME
    ) -> None:
        require("mlflow", "mlflow", "MlflowSink")
        self._with_metrics = metrics
        self._name = name
        self._given = run_id
        self._run = run_id
        self._status = ""

    def bind(self) -> None:
        """Find the run: MLflow keeps it by thread, so that another thread has none."""
        if self._given is not None:
            return
        mlflow = sys.modules.get("mlflow")
        run = None if mlflow is None else mlflow.active_run()
        if run is not None:
            self._run = run.info.run_id

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """One value of each, where metrics were asked for."""
        if self._with_metrics and self._run is not None:
            import mlflow

            mlflow.log_metrics(dict(metrics), step=step, run_id=self._run)

    def check(self, snapshot: Snapshot) -> None:
        """The status as a tag when it has changed, and metrics where they were asked for."""
        self.log(snapshot.metrics(), snapshot.step)
        if snapshot.status.name != self._status:
            self._tag("status", snapshot.status.name)
            self._status = snapshot.status.name

    def alert(self, alert: Alert) -> None:
        """A tag and an artifact."""
        if self._run is None:
            return
        from mlflow import MlflowClient

        # One step may have several of a kind, of different layers and channels.
        about = (alert.kind, alert.channel, alert.layer, alert.functional)
        words = "-".join(metric_name(word).replace("/", "_") for word in about if word)
        path = f"{self._name}/alerts/{alert.step:06d}-{words}.json"
        text = json.dumps(alert.to_dict(), indent=2, allow_nan=False)
        MlflowClient().log_text(self._run, text, path)
        self._tag("alert", alert.title)

    def close(self) -> None:
        """Nothing is held; the run belongs to the user."""

    def _tag(self, key: str, value: str) -> None:
        if self._run is not None:
            from mlflow import MlflowClient

            MlflowClient().set_tag(self._run, f"{self._name}.{key}", value)
