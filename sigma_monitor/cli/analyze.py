"""`analyze`: spectra of embeddings in files."""

from __future__ import annotations

import argparse
from pathlib import Path

from sigma_monitor.cli.shared import OK, Commands, add_json, result_alone, show

__all__ = ["add"]


def add(commands: Commands) -> None:
    """Add it to the commands."""
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
    add_json(analyze)
    analyze.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    with result_alone():
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
    show(report.to_dict() if options.json else analysis.table(report))
    return OK
