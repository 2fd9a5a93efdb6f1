"""What the commands have in common: exit codes, options and how a result is printed."""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import AbstractContextManager, redirect_stdout
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from sigma_monitor.alert import Status

__all__ = [
    "BAD_INPUT",
    "COLLAPSED",
    "INTERNAL",
    "OK",
    "WARNING",
    "Commands",
    "add_fail_on",
    "add_json",
    "code_of",
    "result_alone",
    "show",
]

OK, COLLAPSED, BAD_INPUT, WARNING, INTERNAL = 0, 1, 2, 3, 70

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def add_json(command: argparse.ArgumentParser) -> None:
    """Add `--json`."""
    command.add_argument("--json", action="store_true", help="print the result as JSON")


def add_fail_on(command: argparse.ArgumentParser) -> None:
    """Add `--fail-on`, which `code_of` reads."""
    command.add_argument(
        "--fail-on",
        choices=("collapsed", "warning"),
        default="collapsed",
        help="warning: exit with 3 when that is the worst; COLLAPSED always exits with 1",
    )


def code_of(worst: Status, options: argparse.Namespace) -> int:
    """The exit code of a verdict."""
    from sigma_monitor.alert import Status

    if worst is Status.COLLAPSED:
        return COLLAPSED
    warned = worst is Status.WARNING and options.fail_on == "warning"
    return WARNING if warned else OK


def result_alone() -> AbstractContextManager[object]:
    """Inside, what libraries print about the environment goes elsewhere than the result."""
    return redirect_stdout(sys.stderr)


def show(result: dict[str, Any] | str) -> None:
    """Print it as JSON, or as the text that it is."""
    print(result if isinstance(result, str) else json.dumps(result, indent=2, allow_nan=False))
