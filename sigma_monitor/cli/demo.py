"""`demo`: a healthy training beside three that collapse."""

from __future__ import annotations

import argparse
from pathlib import Path

from sigma_monitor.cli.shared import INTERNAL, OK, Commands, add_json, result_alone, show

__all__ = ["add"]


def add(commands: Commands) -> None:
    """Add it to the commands."""
    demo = commands.add_parser("demo", help="a healthy training and three that collapse")
    demo.add_argument("--text", type=Path, help="text to train on; default: Python's reference")
    demo.add_argument("--model", type=Path, help="folder of a pretrained model to start from")
    demo.add_argument("--out", type=Path, default=Path("sigma-demo"), help="output folder")
    demo.add_argument("--picture", type=Path, help="default: collapse.png in the output folder")
    demo.add_argument("--steps", type=int, default=240, help="training steps of each arm")
    demo.add_argument("--seed", type=int, default=0)
    add_json(demo)
    demo.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    with result_alone():
        from sigma_monitor.demo import run_demo

        result = run_demo(
            text=options.text,
            model=options.model,
            out=options.out,
            picture=options.picture,
            steps=options.steps,
            seed=options.seed,
        )
    show(result.to_dict() if options.json else result.table())
    return OK if result.as_expected else INTERNAL
