"""`wandb-workspace`: a workspace of our panels, in W&B."""

from __future__ import annotations

import argparse

from sigma_monitor.cli.shared import OK, Commands, add_json, result_alone, show
from sigma_monitor.errors import InputError

__all__ = ["add"]


def add(commands: Commands) -> None:
    """Add it to the commands."""
    workspace = commands.add_parser("wandb-workspace", help="save a W&B workspace of our panels")
    workspace.add_argument("project", metavar="ENTITY/PROJECT")
    workspace.add_argument("--name", default="sigma-monitor", help="of the workspace")
    workspace.add_argument(
        "--host",
        choices=("trainer", "lightning", "plain"),
        default="trainer",
        help="what logs the metrics; plain: WandbSink(metrics=True), or accelerate",
    )
    workspace.add_argument("--monitor", default="sigma", help="name= of the monitor")
    workspace.add_argument(
        "--layer",
        action="append",
        metavar="NAME",
        help="that is watched; can be repeated; default: last",
    )
    workspace.add_argument("--dry-run", action="store_true", help="print it, and save nothing")
    add_json(workspace)
    workspace.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    with result_alone():
        from sigma_monitor import dashboard

        try:
            workspace = dashboard.build(
                options.project,
                name=options.name,
                host=options.host,
                monitor=options.monitor,
                layers=options.layer or ["last"],
            )
        except ImportError as error:
            raise InputError(str(error)) from error
        shown = dashboard.to_dict(workspace)
        if not options.dry_run:
            shown["url"] = dashboard.save(workspace)
    show(shown if options.json or options.dry_run else shown["url"])
    return OK
