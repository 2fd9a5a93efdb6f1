"""`report`: one HTML page of a record, or of a folder of runs."""

from __future__ import annotations

import argparse
from pathlib import Path

from sigma_monitor.cli.shared import OK, Commands, result_alone, show

__all__ = ["add"]


def add(commands: Commands) -> None:
    """Add it to the commands."""
    report = commands.add_parser("report", help="one HTML page of a record, or of a folder of runs")
    report.add_argument(
        "source",
        type=Path,
        metavar="RECORD|DIR",
        help="a record.jsonl; a folder, whose runs are compared where it has several; or what "
        "chain --json printed",
    )
    report.add_argument(
        "-o", "--output", type=Path, default=Path("report.html"), help="default: report.html"
    )
    report.add_argument("--json", action="store_true", help="print what the page says as JSON, too")
    report.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    with result_alone():
        from sigma_monitor.report import write_report

        report = write_report(options.source, options.output)
    show(report.to_dict() if options.json else f"{report.path} ({report.bytes / 1000:,.0f} kB)")
    return OK
