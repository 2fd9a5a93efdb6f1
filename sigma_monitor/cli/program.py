"""The command line: `sigma-monitor`, also as `python -m sigma_monitor`.

Exit codes: 0 as expected, 1 a chain or a replayed series that was COLLAPSED somewhere, 2 bad input,
3 one that was WARNING at worst where `--fail-on warning` was given, 70 internal error (or a demo
whose verdicts, or a doctor whose findings, were not the expected ones).
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Sequence

from sigma_monitor import __version__
from sigma_monitor.cli import analyze, chain, demo, doctor, replay, report, watch, workspace
from sigma_monitor.cli.shared import BAD_INPUT, INTERNAL, OK
from sigma_monitor.errors import InputError

__all__ = ["main"]

# In the order of `--help`.
_COMMANDS = (demo, analyze, chain, replay, report, workspace, watch, doctor)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: Arguments without the program's name; those of the process by default.

    Returns:
        The exit code.
    """
    options = _parser().parse_args(argv)
    try:
        return int(options.run(options))
    except InputError as error:
        print(f"sigma-monitor: {error}", file=sys.stderr)
        return BAD_INPUT
    except BrokenPipeError:  # whoever read it has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except Exception:
        traceback.print_exc()
        return INTERNAL


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="sigma-monitor", description=__doc__.split("\n\n")[0])
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(title="commands", required=True)
    for command in _COMMANDS:
        command.add(commands)
    return parser
