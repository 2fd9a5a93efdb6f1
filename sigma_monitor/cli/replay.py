"""`replay`: the alerts that a recorded series would have raised."""

from __future__ import annotations

import argparse
import contextlib
from typing import Any, get_type_hints

from sigma_monitor.cli.shared import Commands, add_fail_on, add_json, code_of, result_alone, show
from sigma_monitor.errors import InputError

__all__ = ["add", "threshold"]


def add(commands: Commands) -> None:
    """Add it to the commands."""
    replay = commands.add_parser("replay", help="alerts that a recorded series would have raised")
    replay.add_argument(
        "file",
        metavar="FILE",
        help="CSV with a header line, JSONL with one object per line, or a record.jsonl",
    )
    replay.add_argument(
        "--column",
        metavar="NAME",
        help="the series: a positive functional such as an effective rank; default in a record: "
        "effective_rank of the first layer",
    )
    replay.add_argument(
        "--step-column",
        metavar="NAME",
        help="default: step, global_step, train/global_step or _step; without any, the row number",
    )
    replay.add_argument("--log", action="store_true", help="the column is a natural log already")
    replay.add_argument("--baseline", choices=("start", "plateau", "auto"), default="start")
    replay.add_argument("--preset", choices=("default", "sensitive", "quiet"), default="default")
    replay.add_argument(
        "--threshold",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a threshold of one's own; can be repeated",
    )
    replay.add_argument(
        "--long",
        action="store_true",
        help="the windows of a long run; default: those that suit the number of values",
    )
    add_fail_on(replay)
    add_json(replay)
    replay.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    with result_alone():
        from sigma_monitor.replay import replay_file

        result = replay_file(
            options.file,
            options.column,
            step_column=options.step_column,
            log=options.log,
            baseline=options.baseline,
            long=options.long,
            preset=options.preset,
            **dict(map(threshold, options.threshold)),
        )
    show(result.to_dict() if options.json else result.text())
    return code_of(result.worst, options)


def threshold(argument: str) -> tuple[str, Any]:
    """Name and value of a field of `Thresholds` written as `NAME=VALUE`.

    Switches are true or false, and `none` stands for no floor.

    Raises:
        InputError: When there is no such field, or the value is not of its type.
    """
    from sigma_monitor.detection import Thresholds

    name, equals, text = (part.strip() for part in argument.partition("="))
    types = get_type_hints(Thresholds)
    if not equals or name not in types:
        raise InputError(
            f"--threshold {argument}: pass NAME=VALUE, where NAME is one of {', '.join(types)}."
        )
    kind = types[name]
    spelled: dict[Any, dict[str, Any]] = {
        bool: {"true": True, "false": False},
        float | None: {"none": None},
    }
    words = spelled.get(kind, {})
    if text.lower() in words:
        return name, words[text.lower()]
    if kind is not bool:
        with contextlib.suppress(ValueError):
            return name, int(text) if kind is int else float(text)
    wanted = {bool: "true or false", int: "a whole number"}.get(kind, "a number")
    raise InputError(f"--threshold {argument}: {text!r} is not {wanted}.")
