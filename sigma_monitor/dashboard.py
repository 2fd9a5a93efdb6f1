"""A W&B workspace of the monitor's panels, saved by `wandb-workspaces`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sigma_monitor.detection import Thresholds
from sigma_monitor.errors import InputError
from sigma_monitor.snapshot import NAME, metric_name

__all__ = ["HOSTS", "Host", "build", "save", "to_dict"]


@dataclass(frozen=True)
class Host:
    """How the rows of a host look in W&B."""

    prefix: str  # in front of the names of metrics; what `WandbSink` writes by itself has none
    axis: str | None  # None: that of the monitor, `<monitor>/step`


HOSTS = {
    "trainer": Host("train/", "train/global_step"),
    "lightning": Host("", "trainer/global_step"),
    "plain": Host("", None),
}


def build(
    target: str,
    *,
    name: str = "sigma-monitor",
    host: str = "trainer",
    monitor: str = NAME,
    layers: Sequence[str] = ("last",),
) -> Any:
    """Build the workspace, without a network; its `save()` sends it.

    Args:
        target: `ENTITY/PROJECT` of W&B.
        name: Of the workspace.
        host: One of `HOSTS`.
        monitor: Name of the monitor.
        layers: That it watches; the first has the panels of log det and spectrum.

    Raises:
        ImportError: Without wandb-workspaces: `pip install "sigma-monitor[workspaces]"`.
        InputError: On a target, a name or layers that cannot be used.
    """
    entity, slash, project = target.partition("/")
    if not (entity and slash and project) or "/" in project:
        raise InputError(f"{target!r}: pass ENTITY/PROJECT, such as my-team/my-project.")
    if not layers:
        raise InputError("layers=(): name at least one layer.")
    try:
        import wandb_workspaces.workspaces as ws
    except ImportError as error:
        raise ImportError(
            'a workspace needs wandb-workspaces: pip install "sigma-monitor[workspaces]".'
        ) from error
    panels = _Panels(HOSTS[host], monitor, [metric_name(layer) for layer in layers])
    sections = {
        "Status": panels.status(),
        "Log det": panels.log_det(),
        "Spectrum": panels.spectrum(),
        "Layers": panels.of_layers(),
        "Generation": panels.generation(),
        "Cost": panels.cost(),
    }
    try:
        return ws.Workspace(
            entity=entity,
            project=project,
            name=name,
            sections=[
                ws.Section(name=title, panels=of, is_open=True) for title, of in sections.items()
            ],
        )
    except ValueError as error:  # W&B takes no emoji
        raise InputError(f"name={name!r}: {error}") from error


def save(workspace: Any) -> str:
    """Save it as a new view of its project.

    Returns:
        Its address.

    Raises:
        InputError: Without a key.
    """
    import wandb

    try:
        workspace.save()
        return str(workspace.url)
    except wandb.errors.UsageError as error:
        raise InputError(f"W&B wants a key: {error} Or pass --dry-run.") from error


class _Panels:
    """The panels of each section."""

    def __init__(self, host: Host, monitor: str, layers: Sequence[str]) -> None:
        self._prefix = f"{host.prefix}{monitor}"
        self._monitor = monitor
        self._axis = host.axis or f"{monitor}/step"
        self._layers = layers

    def _line(self, title: str, *metrics: str, levels: Sequence[float] = (), **options: Any) -> Any:
        import wandb_workspaces.reports.v2.interface as wr

        names: list[Any] = [f"{self._prefix}/{metric}" for metric in metrics]
        # A level is a line of its own: the metric without its values.
        lines = [f"${{{names[0]}}} * 0 + {level:g}" for level in levels]
        # The axis for every panel: a section's would be W&B's step, whatever the workspace says.
        return wr.LinePlot(
            title=title, x=self._axis, y=names, custom_expressions=lines or None, **options
        )

    def _with_band(self, title: str, metric: str) -> Any:
        return self._line(title, metric, f"{metric}_low", f"{metric}_high")

    def status(self) -> list[Any]:
        levels = Thresholds().warning_slow, Thresholds().collapsed
        return [
            self._line("Lowest ratio to baseline; warning, collapse", "ratio", levels=levels),
            self._line("Status: 0 warm-up, 1 healthy, 2 warning, 3 collapsed", "status"),
            self._line("Alerts", "alert"),
            self._line("Held-out loss of the probe set", "loss"),
            self._line("Share of finite embeddings", "finite"),
        ]

    def log_det(self) -> list[Any]:
        layer = self._layers[0]
        return [
            self._with_band("log det, centred", f"{layer}/log_det"),
            self._with_band("log det, uncentred", f"{layer}/uncentred/log_det"),
        ]

    def spectrum(self) -> list[Any]:
        import wandb_workspaces.reports.v2.interface as wr

        key = f"{self._monitor}/{self._layers[0]}/spectrum"
        return [
            wr.LinePlot(title="log10 of the share of the trace", x=self._axis, y=[key]),
            wr.MediaBrowser(title="At alerts", media_keys=[f"{key}_at_alert"]),
        ]

    def of_layers(self) -> list[Any]:
        def each(metric: str) -> list[str]:
            return [f"{layer}/{metric}" for layer in self._layers]

        return [
            *[
                self._with_band(f"Effective rank, {name}", f"{name}/effective_rank")
                for name in self._layers
            ],
            self._line("Ratio to baseline", *each("ratio")),
            self._line("Effective rank, uncentred", *each("uncentred/effective_rank")),
            self._line("Mean cosine", *each("uncentred/mean_cosine")),
            self._line("Angle from the directions at baseline", *each("subspace_drift")),
        ]

    def generation(self) -> list[Any]:
        return [
            self._with_band("Effective rank of the texts", "generation/effective_rank"),
            self._with_band("Output entropy, nats", "generation/output_entropy"),
            self._line("Distinct n-grams", "generation/distinct_1", "generation/distinct_2"),
            self._line("Repeated 4-grams", "generation/repeated_4gram_share"),
        ]

    def cost(self) -> list[Any]:
        return [
            self._line("Share of wall time", "overhead"),
            self._line("Seconds of a check", "check_seconds"),
        ]


def to_dict(workspace: Any) -> dict[str, Any]:
    """What a workspace shows, JSON-ready: panels by section, and the fields that are set."""
    return {
        "entity": workspace.entity,
        "project": workspace.project,
        "name": workspace.name,
        "sections": [
            {"name": section.name, "panels": [_shown(panel) for panel in section.panels]}
            for section in workspace.sections
        ],
    }


def _shown(panel: Any) -> dict[str, Any]:
    fields = ("title", "x", "y", "custom_expressions", "media_keys")
    values = {name: getattr(panel, name, None) for name in fields}
    return {"type": type(panel).__name__, **{k: v for k, v in values.items() if v}}
