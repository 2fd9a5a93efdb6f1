"""What a W&B run shows of the monitor: spectra, alerts, settings, outcome and tags.

Metrics reach the run through the logger of the host, or, where there is none, through here.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from sigma_monitor.alert import Alert
from sigma_monitor.sinks.base import Sink
from sigma_monitor.sinks.wandb_alert import WandbAlerts, WandbFirstAlert
from sigma_monitor.sinks.wandb_chart import spectrum_chart
from sigma_monitor.snapshot import NAME, SHARES, Observation, Snapshot, metric_name

__all__ = ["WandbSink"]

_COLLAPSED = "sigma-collapsed"  # tag
_LOG_SHARES = np.log10(SHARES)


class WandbSink:
    """Writes into the W&B run that is live in this process, if any, or into the one given.

    At every check a histogram of the spectrum; at an alert a chart of the spectrum at the baseline
    and now, and the alert itself; the settings in the run's configuration, the outcome in its
    summary, and a tag once it has collapsed. Nothing in a disabled run.

    Args:
        run: What `wandb.init` returned; None for the one that is live.
        metrics: Whether to log the metrics too: for a loop of your own that has no other way. Where
            it logs more rarely than the monitor checks, each check begins another row of the run; a
            loop that passes `step=` to `run.log` must count training steps then.
        step_metric: Name of the axis of the host's rows, such as `train/global_step`. Without one
            it is `<name>/step`, and values join the row that the run is about to write.
        host_step: Where the host is on its axis; None: it counts the steps that the monitor does.
        name: Of the monitor, in front of what is written.
    """

    # What is written is handed to a process of wandb's, which waits for the network in our place;
    # and only the training's own thread knows which row it is about to write.
    inline = True
    metrics_only = True  # `parts` has what sends alerts

    def __init__(
        self,
        run: Any = None,
        *,
        metrics: bool = False,
        step_metric: str | None = None,
        host_step: Callable[[], int] | None = None,
        name: str = NAME,
    ) -> None:
        self._given = run
        self._seen: Any = None  # the last live run: an alert may come later than its end
        self._with_metrics = metrics
        self._host_axis = step_metric
        self._host_step = host_step
        self._name = name
        self._axis = step_metric or f"{name}/step"
        self._defined: set[str] = set()
        self._baseline: Mapping[str, tuple[int, ...]] = {}  # spectra
        self._latest: Mapping[str, tuple[int, ...]] = {}
        self._run_id: str | None = None
        self._joined = (-1, -1)  # row of the run that we wrote into last, and our step there

    def parts(self) -> Sequence[Sink]:
        """A copy of this, which one monitor writes with, and what may wait for W&B."""
        own = copy.copy(self)
        first_alert = f"{self._name}/first_alert_step"
        return own, WandbAlerts(lambda: own._seen), WandbFirstAlert(own._found, first_alert)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """One row, where metrics were asked for."""
        if self._with_metrics:
            self._write(dict(metrics), step)

    def check(self, snapshot: Snapshot) -> None:
        """One row: a histogram for every layer, and metrics where they were asked for."""
        self._latest = snapshot.spectra
        row: dict[str, Any] = snapshot.metrics() if self._with_metrics else {}
        self._write(row, snapshot.step, snapshot.spectra)

    def observe(self, observation: Observation) -> None:
        """One row, where metrics were asked for."""
        self.log(observation.metrics(), observation.step)

    def alert(self, alert: Alert) -> None:
        """Nothing: `parts` has what sends it."""

    def mark(self, alert: Alert) -> None:
        """Show what it is about."""
        run = self._live()
        if run is not None:
            self._show(run, alert)

    def note(self, event: str, details: Mapping[str, Any]) -> None:
        """The settings of a run that begins, the outcome of one that ends."""
        run = self._live()
        if run is None:
            return
        if event == "started":
            settings = {f"{self._name}_monitor": dict(details)}
            run.config.update(settings, allow_val_change=True)
        elif event == "closed" and "status" in details:  # which a run that was cut off has not
            # Another name than that of the metric, whose last value is in the summary too.
            run.summary[f"{self._name}/final_status"] = details["status"]
            run.summary[f"{self._name}/stop_reason"] = details.get("stop_reason")

    def close(self) -> None:
        """Nothing is held; the run belongs to the user."""

    def _found(self) -> Any:
        """The run, where it takes anything."""
        run = self._given or getattr(sys.modules.get("wandb"), "run", None)
        return None if run is None or run.disabled else run

    def _live(self) -> Any:
        """The run that is found, which may be another than before."""
        run = self._found()
        if run is not None:
            self._seen = run
            if run.id != self._run_id:
                self._run_id, self._defined, self._joined = run.id, set(), (-1, -1)
        return run

    def _write(
        self,
        row: dict[str, Any],
        step: int,
        spectra: Mapping[str, tuple[int, ...]] | None = None,
    ) -> None:
        run = self._live()
        if run is None:
            return
        import wandb

        for layer, counts in (spectra or {}).items():
            key = f"{self._name}/{metric_name(layer)}/spectrum"
            row[key] = wandb.Histogram(np_histogram=(np.asarray(counts), _LOG_SHARES))
        if not row:
            return
        # By exact name: of patterns that overlap W&B takes any, and the hosts define "*".
        for name in row.keys() - self._defined:
            run.define_metric(name, step_metric=self._axis)
            self._defined.add(name)
        row[self._axis] = step if self._host_step is None else self._host_step()
        if self._host_axis is not None or run.settings.mode == "shared":
            run.log(row)
        else:
            run.log(row, step=self._row(run, step))

    def _row(self, run: Any, step: int) -> int:
        """Which row of the run to write into: the present one, so that no row of the training ends.

        Metrics that we have there already are kept, by going on to the next one.
        """
        row: int = run.step
        before, step_before = self._joined
        row += self._with_metrics and row == before and step != step_before
        self._joined = row, step
        return row

    def _show(self, run: Any, alert: Alert) -> None:
        """In the summary, the tags, and a chart."""
        if alert.kind == "BASELINE":
            self._baseline = self._latest
            if alert.baseline is not None:
                layer = "" if alert.layer is None else f"/{metric_name(alert.layer)}"
                run.summary[f"{self._name}{layer}/baseline"] = alert.baseline
            return
        if alert.severity == "info":
            return
        if alert.kind == "COLLAPSED" and _COLLAPSED not in (run.tags or ()):
            run.tags = (*(run.tags or ()), _COLLAPSED)
        if alert.layer is not None and alert.layer in self._latest:
            key = f"{self._name}/{metric_name(alert.layer)}/spectrum_at_alert"
            self._write({key: self._chart(alert)}, alert.step)

    def _chart(self, alert: Alert) -> Any:
        import wandb

        assert alert.layer is not None
        known = {"baseline": self._baseline, f"step {alert.step}": self._latest}
        curves = {name: of[alert.layer] for name, of in known.items() if alert.layer in of}
        return wandb.Image(spectrum_chart(alert.layer, curves))
