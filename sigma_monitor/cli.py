"""The command line: `sigma-monitor`, also as `python -m sigma_monitor`.

Exit codes: 0 as expected, 1 a chain or a replayed series that was COLLAPSED somewhere, 2 bad input,
3 one that was WARNING at worst where `--fail-on warning` was given, 70 internal error (or a demo
whose verdicts, or a doctor whose findings, were not the expected ones).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from sigma_monitor import __version__
from sigma_monitor.errors import InputError

if TYPE_CHECKING:
    from sigma_monitor.alert import Status
    from sigma_monitor.lineage import Lineage

__all__ = ["main", "threshold"]

_OK, _COLLAPSED, _BAD_INPUT, _WARNING, _INTERNAL = 0, 1, 2, 3, 70


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
        return _BAD_INPUT
    except BrokenPipeError:  # whoever read it has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _OK
    except Exception:
        traceback.print_exc()
        return _INTERNAL


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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="sigma-monitor", description=__doc__.split("\n\n")[0])
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(title="commands", required=True)
    demo = commands.add_parser("demo", help="a healthy training and three that collapse")
    demo.add_argument("--text", type=Path, help="text to train on; default: Python's reference")
    demo.add_argument("--model", type=Path, help="folder of a pretrained model to start from")
    demo.add_argument("--out", type=Path, default=Path("sigma-demo"), help="output folder")
    demo.add_argument("--picture", type=Path, help="default: collapse.png in the output folder")
    demo.add_argument("--steps", type=int, default=240, help="training steps of each arm")
    demo.add_argument("--seed", type=int, default=0)
    _add_json(demo)
    demo.set_defaults(run=_demo)
    _add_analyze(commands)
    _add_chain(commands)
    _add_replay(commands)
    _add_report(commands)
    _add_workspace(commands)
    _add_watch(commands)
    doctor = commands.add_parser("doctor", help="whether what is installed here works")
    _add_json(doctor)
    doctor.set_defaults(run=_doctor)
    return parser


def _add_analyze(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    analyze = commands.add_parser("analyze", help="spectra of embeddings in files, and their drift")
    analyze.add_argument(
        "files",
        nargs="+",
        metavar="FILE",
        help=".npy, .npz, .safetensors or .pt; FILE:name for one of its arrays. Further files are "
        "compared with the first",
    )
    analyze.add_argument("--normalize", action="store_true", help="scale rows to unit length")
    ridge = analyze.add_mutually_exclusive_group()
    ridge.add_argument("--relative-ridge", type=float, help="in units of tr(C)/m; default: 1e-3")
    ridge.add_argument("--ridge", type=float, help="absolute, on C = G/n")
    analyze.add_argument("--method", choices=("auto", "exact", "lanczos"), default="auto")
    analyze.add_argument("--confidence", type=float, default=0.95, help="of the intervals")
    analyze.add_argument("--picture", type=Path, help="draw the spectra to this .svg or .png")
    _add_json(analyze)
    analyze.set_defaults(run=_analyze)


def _add_chain(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
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
        "without intervals",
    )
    chain.add_argument(
        "--preset", choices=("paper",), help="SIGMA's tracks under the published settings"
    )
    chain.add_argument("--seed", type=int, default=0, help="of the index set")
    chain.add_argument(
        "--cache", type=Path, metavar="DIR", help="keep embeddings there, and go on from it"
    )
    chain.add_argument("--confidence", type=float, default=0.95, help="of the intervals")
    _add_fail_on(chain)
    _add_json(chain)
    chain.set_defaults(run=_chain)


def _sample(argument: str) -> int | str:
    return argument if argument == "all" else int(argument)


def _add_json(command: argparse.ArgumentParser) -> None:
    command.add_argument("--json", action="store_true", help="print the result as JSON")


def _add_fail_on(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--fail-on",
        choices=("collapsed", "warning"),
        default="collapsed",
        help="warning: exit with 3 when that is the worst; COLLAPSED always exits with 1",
    )


def _add_replay(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
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
    _add_fail_on(replay)
    _add_json(replay)
    replay.set_defaults(run=_replay)


def _add_report(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
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
    report.set_defaults(run=_report)


def _add_workspace(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
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
    _add_json(workspace)
    workspace.set_defaults(run=_workspace)


def _add_watch(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    watch = commands.add_parser("watch", help="a training that runs, live; q leaves")
    watch.add_argument(
        "record",
        metavar="RECORD",
        help="record.jsonl, which need not be there yet, or the output folder of the run",
    )
    watch.add_argument("--once", action="store_true", help="show what there is, and return")
    watch.add_argument("--json", action="store_true", help="print a line of JSON for each event")
    watch.set_defaults(run=_watch)


def _demo(options: argparse.Namespace) -> int:
    # Libraries print what they think of the environment: standard output is for the result.
    with contextlib.redirect_stdout(sys.stderr):
        from sigma_monitor.demo import run_demo

        result = run_demo(
            text=options.text,
            model=options.model,
            out=options.out,
            picture=options.picture,
            steps=options.steps,
            seed=options.seed,
        )
    print(json.dumps(result.to_dict(), indent=2) if options.json else result.table())
    return _OK if result.as_expected else _INTERNAL


def _analyze(options: argparse.Namespace) -> int:
    with contextlib.redirect_stdout(sys.stderr):
        from sigma_monitor import analysis

        if options.picture is not None:
            analysis.check_picture(options.picture)
        settings = analysis.Settings(
            normalize=options.normalize,
            ridge=options.ridge,
            relative_ridge=options.relative_ridge,
            method=options.method,
            confidence=options.confidence,
        )
        report = analysis.analyze_files(options.files, settings)
        if options.picture is not None:
            analysis.draw(report, options.picture)
    _print(report.to_dict() if options.json else analysis.table(report))
    return _OK


def _chain(options: argparse.Namespace) -> int:
    from sigma_monitor.lineage import launched
    from sigma_monitor.ranks import is_main

    with launched():
        main_process = is_main()
        try:
            with contextlib.redirect_stdout(sys.stderr):
                report = _lineage(options).report()
        except InputError:
            if main_process:
                raise
            return _BAD_INPUT
        if main_process:
            _print(report.to_dict() if options.json else report.table())
        return _code(report.status, options)


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


def _print(result: dict[str, Any] | str) -> None:
    """As JSON, or as the text that it is."""
    print(result if isinstance(result, str) else json.dumps(result, indent=2, allow_nan=False))


def _code(worst: Status, options: argparse.Namespace) -> int:
    from sigma_monitor.alert import Status

    if worst is Status.COLLAPSED:
        return _COLLAPSED
    warned = worst is Status.WARNING and options.fail_on == "warning"
    return _WARNING if warned else _OK


def _replay(options: argparse.Namespace) -> int:
    with contextlib.redirect_stdout(sys.stderr):
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
    _print(result.to_dict() if options.json else result.text())
    return _code(result.worst, options)


def _report(options: argparse.Namespace) -> int:
    with contextlib.redirect_stdout(sys.stderr):
        from sigma_monitor.report import write_report

        report = write_report(options.source, options.output)
    _print(report.to_dict() if options.json else f"{report.path} ({report.bytes / 1000:,.0f} kB)")
    return _OK


def _workspace(options: argparse.Namespace) -> int:
    with contextlib.redirect_stdout(sys.stderr):
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
    _print(shown if options.json or options.dry_run else shown["url"])
    return _OK


def _watch(options: argparse.Namespace) -> int:
    from sigma_monitor.errors import RecordError
    from sigma_monitor.live import watch

    try:
        watch(options.record, once=options.once, as_json=options.json)
    except RecordError as error:
        raise InputError(str(error)) from error
    return _OK


def _doctor(options: argparse.Namespace) -> int:
    with contextlib.redirect_stdout(sys.stderr):
        from sigma_monitor.doctor import examine

        examination = examine()
    _print(examination.to_dict() if options.json else examination.text())
    return _OK if examination.as_expected else _INTERNAL
