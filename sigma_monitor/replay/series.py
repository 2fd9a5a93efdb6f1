"""One series out of a file: a CSV, a JSONL, or a record of this package.

A CSV or JSONL becomes a `_Table`, of which a column is chosen; a record has layers and keys
instead. Either way readings come out, and `read_series` keeps those whose step rises and takes
their logs.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import math
import reprlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sigma_monitor.errors import InputError, RecordError
from sigma_monitor.sinks import Record, read_record
from sigma_monitor.snapshot import WATCHED

__all__ = ["STEP_COLUMNS", "Series", "read_series"]

STEP_COLUMNS = ("step", "global_step", "train/global_step", "_step")  # looked for in this order

_RECORD_TYPES = ("check", "observation", "alert", "event")
_JSONL_SUFFIXES = (".jsonl", ".ndjson")


@dataclass(frozen=True)
class Series:
    """What a detector takes of one column."""

    column: str  # of a record: the layer and the key
    points: list[tuple[int, float]]  # rising steps, and natural logs
    skipped: int  # rows with a value but no step above the one before, and lines that were cut


@dataclass(frozen=True)
class _Reading:
    where: str  # the file and the place in it, for messages
    step: int | None
    value: float


@dataclass(frozen=True)
class _Column:
    name: str
    readings: list[_Reading]
    cut: int  # lines of which a kill left only a part


@dataclass(frozen=True)
class _Row:
    where: str  # as of a reading
    cells: Mapping[str, Any]  # None or blank text: the row has no such column


@dataclass(frozen=True)
class _Table:
    columns: list[str]
    rows: list[_Row]
    cut: int = 0  # as of a column


def read_series(path: Path, column: str | None, step_column: str | None, *, log: bool) -> Series:
    """The series that `replay_file` describes.

    Raises:
        InputError: When the file cannot be read, has no such column or no value in it, or a value
            or step cannot be used.
    """
    text = _read_text(path)
    if path.suffix.lower() not in _JSONL_SUFFIXES and not text.lstrip().startswith("{"):
        found = _from_table(path, _csv_table(path, text), column, step_column)
    elif _is_record(text):
        found = _from_record(path, column, step_column, log=log)
    else:
        found = _from_table(path, _jsonl_table(path, text), column, step_column)
    points: list[tuple[int, float]] = []
    for reading in found.readings:
        if reading.step is not None and (not points or reading.step > points[-1][0]):
            log_value = reading.value if log else _log_of(reading, found.name)
            points.append((reading.step, log_value))
    if not points:
        raise InputError(
            f"{path}: no row has a value of {found.name!r} and a step. Pass another --column, "
            "or another --step-column."
        )
    return Series(found.name, points, skipped=len(found.readings) - len(points) + found.cut)


def _log_of(reading: _Reading, column: str) -> float:
    if reading.value < 0:
        raise InputError(
            f"{reading.where}: {column!r} is {reading.value:g}, and a negative value has no log. "
            "Pass a positive functional such as effective_rank, or --log for a column that is a "
            "log already."
        )
    return math.log(reading.value) if reading.value else -math.inf


def _read_text(path: Path) -> str:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}. Pass a CSV or JSONL.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: it is not text in UTF-8. Save it as such.") from error
    if not text.strip():
        raise InputError(f"{path}: it is empty. Pass a CSV with a header line, or a JSONL.")
    return text


def _csv_table(path: Path, text: str) -> _Table:
    reader = csv.reader(io.StringIO(text, newline=""), skipinitialspace=True, strict=True)
    columns: list[str] = []
    rows: list[_Row] = []
    try:
        for cells in reader:
            if not cells:
                continue
            if not columns:
                columns = [cell.strip() for cell in cells]
                continue
            where = f"{path}, line {reader.line_num}"
            if any(cell.strip() for cell in cells[len(columns) :]):
                # A comma too many would move every cell after it into its neighbour's column.
                raise InputError(
                    f"{where}: {len(cells)} cells under a header of {len(columns)}. Put quotes "
                    "around text with commas, and write decimals with a point."
                )
            rows.append(_Row(where, dict(zip(columns, cells, strict=False))))
    except csv.Error as error:
        raise InputError(
            f"{path}, line {reader.line_num}: {error}. Write the file anew as a CSV with commas."
        ) from error
    return _Table(columns, rows)


def _jsonl_table(path: Path, text: str) -> _Table:
    lines = text.split("\n")
    columns: dict[str, None] = {}
    rows: list[_Row] = []
    cut = 0
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        cells = _json_object(line)
        if cells is not None:
            columns |= dict.fromkeys(cells)
            rows.append(_Row(where, cells))
        elif rows and number == len(lines):  # no newline after it: a kill came first
            cut += 1
        else:
            raise InputError(
                f"{where}: {reprlib.repr(line.strip())} is no JSON object. Pass a file with one "
                "object in each line."
            )
    return _Table(list(columns), rows, cut)


def _json_object(line: str) -> dict[str, Any] | None:
    try:
        body = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return body if isinstance(body, dict) else None


def _from_table(path: Path, table: _Table, column: str | None, step_column: str | None) -> _Column:
    if column is None:
        raise InputError(
            f"{path}: which column is the series? Pass --column with one of: "
            f"{', '.join(table.columns)}."
        )
    for name in (column, step_column):
        if name is not None and name not in table.columns:
            raise _no_column(path, name, table.columns)
    rows = {n: row for n, row in enumerate(table.rows, start=1) if _filled(row, column)}
    if step_column is None:
        known = (name for name in STEP_COLUMNS if any(_filled(row, name) for row in rows.values()))
        step_column = next(known, None)
    for name in (column, step_column):
        if name is not None and table.columns.count(name) > 1:
            raise InputError(f"{path}: the header has {name!r} more than once. Rename the others.")
    readings = []
    for n, row in rows.items():
        step = n if step_column is None else _step(row, step_column)
        readings.append(_Reading(row.where, step, _number(row, column)))
    return _Column(column, readings, table.cut)


def _no_column(path: Path, name: str, columns: Iterable[str]) -> InputError:
    return InputError(f"{path}: no column {name!r}. It has: {', '.join(columns)}.")


def _filled(row: _Row, column: str) -> bool:
    cell = row.cells.get(column)
    return cell is not None and (not isinstance(cell, str) or bool(cell.strip()))


def _step(row: _Row, column: str) -> int | None:
    if not _filled(row, column):
        return None
    step = _number(row, column)
    if not step.is_integer():
        raise InputError(
            f"{row.where}: the step {column!r} is {step}, which is no whole number. Pass another "
            "--step-column."
        )
    return int(step)


def _number(row: _Row, column: str) -> float:
    """A cell that is filled; NaN and infinity are numbers here."""
    cell = row.cells[column]
    if isinstance(cell, int | float | str):
        with contextlib.suppress(ValueError):
            return float(str(cell))  # as text, an integer beyond the largest float is infinite
    raise InputError(
        f"{row.where}: {column!r} is {reprlib.repr(cell)}, which is no number. Correct it, or "
        "leave it out."
    )


def _is_record(text: str) -> bool:
    """By the first whole line: a record of a run that was killed may begin with a torn one."""
    bodies = map(_json_object, text.split("\n"))
    first = next((body for body in bodies if body is not None), {})
    return first.get("type") in _RECORD_TYPES and "schema" in first


def _from_record(path: Path, column: str | None, step_column: str | None, *, log: bool) -> _Column:
    try:
        record = read_record(path)
    except RecordError as error:
        message = str(error)
        raise InputError(
            message if message.startswith(str(path)) else f"{path}: {message}"
        ) from error
    if step_column not in (None, "step"):
        raise InputError(
            f"{path}: --step-column {step_column} is not for a record of sigma-monitor, whose "
            "checks know their step. Leave it out."
        )
    layer, key = _place(path, record, column)
    readings = []
    for snapshot in record.snapshots:
        estimates = snapshot.layers.get(layer)
        if estimates is None or (estimates and key not in estimates):
            continue
        if estimates:
            value = estimates[key].value
        elif snapshot.finite < 1:
            value = math.nan
        else:  # all rows were equal
            value = -math.inf if log else 0.0
        readings.append(_Reading(f"{path}, step {snapshot.step}", snapshot.step, value))
    return _Column(f"{layer}/{key}", readings, len(record.torn_lines))


def _place(path: Path, record: Record, column: str | None) -> tuple[str, str]:
    """Layer and key that a column of a record stands for."""
    places = {
        f"{layer}/{key}": (layer, key)
        for snapshot in record.snapshots
        for layer, estimates in snapshot.layers.items()
        # A check that measured nothing still says that the layer is watched.
        for key in (WATCHED, *estimates)
    }
    if not places:
        raise InputError(f"{path}: the record has no checks. Pass one of a run that was measured.")
    first, _ = next(iter(places.values()))
    name = WATCHED if column is None else column
    for written in (name, f"{first}/{name}"):
        if written in places:
            return places[written]
    raise _no_column(path, column or WATCHED, places)
