"""`doctor`: whether what is installed here works."""

from __future__ import annotations

import argparse

from sigma_monitor.cli.shared import INTERNAL, OK, Commands, add_json, result_alone, show

__all__ = ["add"]


def add(commands: Commands) -> None:
    """Add it to the commands."""
    doctor = commands.add_parser("doctor", help="whether what is installed here works")
    add_json(doctor)
    doctor.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    with result_alone():
        from sigma_monitor.doctor import examine

        examination = examine()
    show(examination.to_dict() if options.json else examination.text())
    return OK if examination.as_expected else INTERNAL
