"""`chain`: verdicts on the generations of a recursive pipeline."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from sigma_monitor.cli.shared import (
    BAD_INPUT,
    Commands,
    add_fail_on,
    add_json,
    code_of,
    result_alone,
    show,
)
from sigma_monitor.errors import InputError

if TYPE_CHECKING:
    from sigma_monitor.lineage import Lineage

__all__ = ["add"]


def add(commands: Commands) -> None:
    """Add it to the commands."""
    chain = commands.add_parser("chain", help="verdicts on generations of a recursive pipeline")
    chain.add_argument(
        "generations",
        nargs="+",
        metavar="GEN",
        help="one generation: a file, a glob in quotes or a folder of .jsonl, .txt (a document a "
        "line) or .parquet, or of embeddings in .npy, .npz, .safetensors or .pt",
    )
    chain.add_argument(
        "--control",
        nargs="+",
        default=[],
        metavar="GEN",
        help="the same number of generations on real data, which these are compared with",
    )
    chain.add_argument("--text-key", default="text", metavar="KEY", help="default: text")
    chain.add_argument("--prompt-key", metavar="KEY", help="default: documents have no prompts")
    chain.add_argument(
        "--encoder",
        default="hashing",
        help="hashing (character n-grams, the default) or a sentence-transformers model",
    )
    chain.add_argument(
        "--sample",
        type=_sample,
        default=2000,
        metavar="N|all",
        help="documents of the fixed index set, by default 2000; all: stream the whole corpus, "
        "spectra without intervals",
    )
    chain.add_argument(
        "--preset", choices=("paper",), help="SIGMA's tracks under the published settings"
    )
    chain.add_argument("--seed", type=int, default=0, help="of the index set")
    chain.add_argument(
        "--cache", type=Path, metavar="DIR", help="keep embeddings there, and go on from it"
    )
    chain.add_argument("--confidence", type=float, default=0.95, help="of the intervals")
    add_fail_on(chain)
    add_json(chain)
    chain.set_defaults(run=_run)


def _sample(argument: str) -> int | str:
    if argument == "all":
        return argument
    try:
        return int(argument)
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"{argument!r} is neither a whole number nor all"
        ) from error


def _run(options: argparse.Namespace) -> int:
    from sigma_monitor.lineage import launched
    from sigma_monitor.ranks import is_main

    with launched():
        main_process = is_main()
        try:
            with result_alone():
                report = _lineage(options).report()
        except InputError:
            if main_process:
                raise
            return BAD_INPUT
        if main_process:
            show(report.to_dict() if options.json else report.table())
        return code_of(report.status, options)


def _lineage(options: argparse.Namespace) -> Lineage:
    from sigma_monitor.lineage import Lineage, open_corpus
    from sigma_monitor.lineage.shared import together

    if options.control and len(options.control) != len(options.generations):
        raise InputError(
            f"--control has {len(options.control)} generations and the chain "
            f"{len(options.generations)}: pass one control for each."
        )
    lineage = Lineage(
        options.encoder,
        sample=options.sample,
        preset=options.preset,
        seed=options.seed,
        cache=options.cache,
        confidence=options.confidence,
    )
    keys = {"text_key": options.text_key, "prompt_key": options.prompt_key}
    sides = [options.generations, options.control]
    # All of them are looked at before the first is read.
    opened = together(lambda: [[open_corpus(one, **keys) for one in side] for side in sides])
    for side, control in zip(opened, (False, True), strict=True):
        for number, corpus in enumerate(side):
            lineage.add_corpus(number, corpus, control=control)
    return lineage
