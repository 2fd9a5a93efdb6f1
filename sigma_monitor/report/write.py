"""From a record, a folder of them or a chain to a file that is there whole or not at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sigma_monitor.errors import InputError
from sigma_monitor.report.chain import chain_view
from sigma_monitor.report.chain_file import read_chain
from sigma_monitor.report.comparison import RunRow, comparison_of, row_of
from sigma_monitor.report.page import LEVELS, MOST_BYTES, Level, render
from sigma_monitor.report.plain import clean
from sigma_monitor.report.reading import read_run
from sigma_monitor.report.view import view_of
from sigma_monitor.sinks.jsonl import FILE

__all__ = ["Report", "write_report"]

_MOST_RUNS = 200  # of a comparison
_MOST_PICTURES = 24
_LONG = 80  # characters of a name


@dataclass(frozen=True)
class Report:
    """What was written."""

    path: Path
    bytes: int
    data: dict[str, Any]  # what the page says, JSON-ready

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready builtins."""
        return {"page": str(self.path), "bytes": self.bytes, **self.data}


def write_report(source: str | os.PathLike[str], output: str | os.PathLike[str]) -> Report:
    """Write the page of a record, or of all records below a folder.

    Args:
        source: A `record.jsonl`; or a folder with one or more of them below it, of which several
            make a page that compares the runs; or the output of `sigma-monitor chain --json`.
        output: Where the page is written; an earlier file there is replaced.

    Raises:
        InputError: When there is no record or none can be read, or the page cannot be written.
    """
    source, output = Path(source), Path(output)
    records = _records(source)
    _check_output(output, records)
    if source.is_dir() and len(records) > 1:
        page, data = _comparison(source, records)
    elif (body := read_chain(records[0])) is not None:
        page, data = _chain(records[0], body)
    else:
        page, data = _single(records[0])
    _write_whole(output, page)
    return Report(output, len(page), data)


def _records(source: Path) -> list[Path]:
    if not source.is_dir():
        return [source]
    found = sorted(source.rglob(FILE))
    if not found:
        raise InputError(
            f"{source}: no {FILE} is in it or below it. Pass the output folder of a run that "
            "was watched, or the path of a record."
        )
    return found


def _check_output(output: Path, records: list[Path]) -> None:
    if output.is_dir():
        raise InputError(
            f"-o {output}: that is a folder. Pass the path of a file, such as report.html."
        )
    resolved = output.resolve()
    if any(record.resolve() == resolved for record in records):
        raise InputError(f"-o {output}: that is the record itself. Pass another path.")


def _single(record: Path) -> tuple[bytes, dict[str, Any]]:
    run, title = read_run(record), _name(record, record.parent.parent.parent)

    def page(level: Level) -> tuple[bytes, dict[str, Any]]:
        view = view_of(run, title, most_rows=level.rows)
        return render("run.html", level, view=view, source=clean(str(record))), view.to_dict()

    return _fitting(page)


def _chain(path: Path, body: dict[str, Any]) -> tuple[bytes, dict[str, Any]]:
    view = chain_view(body, clean(path.stem, _LONG))

    def page(level: Level) -> tuple[bytes, dict[str, Any]]:
        return render("chain.html", level, view=view, source=clean(str(path))), view.to_dict()

    return _fitting(page)


def _comparison(source: Path, records: list[Path]) -> tuple[bytes, dict[str, Any]]:
    rows: list[RunRow] = []
    refused: dict[str, str] = {}
    for record in records[:_MOST_RUNS]:
        name = _name(record, source)
        try:
            run = read_run(record)
        except InputError as error:
            refused[name] = clean(str(error))
            continue
        key = f"run-{len(rows) + 1}" if len(rows) < _MOST_PICTURES else None
        rows.append(row_of(run, name, key=key))
    if not rows:
        reasons = "\n".join(refused.values())
        raise InputError(f"{source}: none of its {len(records)} records can be read:\n{reasons}")
    unshown = max(0, len(records) - _MOST_RUNS)
    view = comparison_of(rows, f"Runs in {clean(source.resolve().name, _LONG)}", refused, unshown)

    def page(level: Level) -> tuple[bytes, dict[str, Any]]:
        return render(
            "comparison.html", level, view=view, source=clean(str(source))
        ), view.to_dict()

    return _fitting(page)


def _fitting(page: Callable[[Level], tuple[bytes, dict[str, Any]]]) -> tuple[bytes, dict[str, Any]]:
    """The most detailed page that is small enough."""
    for level in LEVELS:
        content, data = page(level)
        if len(content) <= MOST_BYTES:
            return content, data
    raise RuntimeError(f"the page has {len(content)} bytes at its shortest")


def _name(record: Path, below: Path) -> str:
    """Of the run: its folder, without that of the monitor where it has the default name."""
    folder = record.resolve().parent
    with contextlib.suppress(ValueError):
        folder = folder.relative_to(below.resolve())
    parts = [part for part in folder.parts if part != "sigma"]
    name = "/".join(parts) or record.resolve().parent.name
    return clean(name, _LONG)


def _write_whole(output: Path, page: bytes) -> None:
    unfinished = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        try:
            with unfinished.open("xb") as file:
                file.write(page)
            unfinished.replace(output)
        finally:
            unfinished.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(
            f"-o {output}: {error.strerror or error}. Pass a path that can be written."
        ) from error
