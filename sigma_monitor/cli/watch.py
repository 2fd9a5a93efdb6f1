"""`watch`: a training that runs, live."""

from __future__ import annotations

import argparse

from sigma_monitor.cli.shared import OK, Commands
from sigma_monitor.errors import InputError

__all__ = ["add"]


def add(commands: Commands) -> None:
    """Add it to the commands."""
    watch = commands.add_parser("watch", help="a training that runs, live; q leaves")
    watch.add_argument(
        "record",
        metavar="RECORD",
        help="record.jsonl, which need not be there yet, or the output folder of the run",
    )
    watch.add_argument("--once", action="store_true", help="show what there is, and return")
    watch.add_argument("--json", action="store_true", help="print a line of JSON for each event")
    watch.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from sigma_monitor.errors import RecordError
    from sigma_monitor.live import watch

    try:
        watch(options.record, once=options.once, as_json=options.json)
    except RecordError as error:
        raise InputError(str(error)) from error
    return OK
