"""`sigma-monitor replay`: what the detector would have said of a series that was recorded."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import math
import os
import reprlib
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from sigma_monitor.alert import Alert, Status
from sigma_monitor.detection import Detector, worded
from sigma_monitor.errors import InputError, RecordError
from sigma_monitor.sinks import read_record

__all__ = ["STEP_COLUMNS", "Replay", "replay_file"]

STEP_COLUMNS = ("step", "global_step", "train/global_step", "_step")  # looked for in this order

_WATCHED = "effective_rank"  # that of `measure`, which would load torch
_RECORD_TYPES = ("check", "alert", "event")
_JSONL_SUFFIXES = (".jsonl", ".ndjson")


@dataclass(frozen=True)
class Replay:
    """What the detector said of one recorded series."""

    file: str
    column: str  # of a record: the layer and the key, such as "last/effective_rank"
    checks: int  # values that the detector got, non-finite ones among them
    skipped: int  # rows with a value but no step above the one before, and lines that were cut
    status: Status  # after the last value
    worst: Status
    alerts: tuple[Alert, ...]  # worded, in the order they came

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready builtins; infinities and NaN become strings."""
        return {
            "file": self.file,
            "column": self.column,
            "checks": self.checks,
            "skipped": self.skipped,
            "status": self.status.name,
            "alerts": [alert.to_dict() for alert in self.alerts],
        }

    def text(self) -> str:
        """One line per alert, and a last line that sums up."""
        lines = [f"[{alert.title}] {alert.text}" for alert in self.alerts]
        loud = sum(alert.severity != "info" for alert in self.alerts)
        last = (
            f"{self.column}: {self.status.name} at the end, {self.worst.name} at worst; "
            f"checks: {self.checks}; alerts above information: {loud}"
        )
        if self.skipped:
            last += (
                f"; rows skipped: {self.skipped} (no step above the one before, or a line that "
                "was cut)"
            )
        return "\n".join([*lines, last])


@dataclass(frozen=True)
class _Value:
    """One recorded value."""

    where: str  # for messages
    step: int | None
    value: float


@dataclass(frozen=True)
class _Series:
    column: str
    values: list[_Value]
    cut: int = 0  # lines of which a kill left only a part


@dataclass(frozen=True)
class _Row:
    number: int  # from 1
    where: str
    cells: Mapping[str, Any]  # None or blank text: the row has no such column


@dataclass(frozen=True)
class _Table:
    columns: list[str]
    rows: list[_Row]
    cut: int = 0


def replay_file(
    path: str | os.PathLike[str],
    column: str | None = None,
    *,
    step_column: str | None = None,
    log: bool = False,
    baseline: Literal["auto", "start", "plateau"] = "start",
    long: bool = False,
    **thresholds: Any,
) -> Replay:
    """Feed a recorded series to a `Detector`.

    Rows in which the column is empty are left out: loggers write each metric in rows of its own.
    Of a record one series is taken, without its intervals, the absolute floor and held-out loss:
    the run itself may have told more or less.

    Args:
        path: A CSV with a header line; a JSONL, one object per line; or a `record.jsonl` of this
            package. UTF-8.
        column: The series. Of a record: `"last/effective_rank"`, or `"effective_rank"` for that of
            the first layer, which is also the default. Other files have no default.
        step_column: The training step, a whole number that rises. Default: the first of
            `STEP_COLUMNS` that rows with a value have, or else the number of the row, from 1.
        log: The column is a natural log already, in nats. Otherwise it is a positive functional
            such as an effective rank, and its log is taken; zero counts as vanished.
        baseline: As in `Detector`.
        long: Keep the windows of a long run; by default they suit the number of values.
        **thresholds: Fields of `Thresholds`, and `preset`.

    Raises:
        InputError: When the file cannot be read, has no such column or no value in it, a value or
            step cannot be used, or a threshold is unknown or out of range.
    """
    path = Path(path)
    text = _read(path)
    if path.suffix.lower() in _JSONL_SUFFIXES or text.lstrip().startswith("{"):
        if _is_record(text):
            series = _recorded(path, column, step_column, log=log)
        else:
            series = _chosen(path, _jsonl(path, text), column, step_column)
    else:
        series = _chosen(path, _csv(path, text), column, step_column)
    rising = _rising(series.values)
    if not rising:
        raise InputError(
            f"{path}: no row has a value of {series.column!r} and a step. Pass another --column, "
            "or another --step-column."
        )
    points = [(step, _log_value(path, series.column, v, log=log)) for step, v in rising]
    expected = None if long else len(points)
    detector = Detector(baseline=baseline, expected_checks=expected, **thresholds)
    worst, alerts = Status.WARMUP, []
    for step, log_value in points:
        worst = max(worst, detector.update(step, log_value))
        if _too_large(log_value) or detector.ratio == math.inf:
            raise InputError(
                f"{path}: at step {step} the log of {series.column!r} is {log_value:.6g}, and its "
                "exponential, or that of its change, is too large for a number. Divide logs by "
                "the dimension."
            )
        alerts += [worded(replace(alert, functional=series.column)) for alert in detector.alerts]
    return Replay(
        file=str(path),
        column=series.column,
        checks=len(points),
        skipped=len(series.values) - len(points) + series.cut,
        status=detector.status,
        worst=worst,
        alerts=tuple(alerts),
    )


def _read(path: Path) -> str:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}. Pass a CSV or JSONL.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: it is not text in UTF-8. Save it as such.") from error
    if not text.strip():
        raise InputError(f"{path}: it is empty. Pass a CSV with a header line, or a JSONL.")
    return text


def _csv(path: Path, text: str) -> _Table:
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
            where = f"line {reader.line_num}"
            if any(cell.strip() for cell in cells[len(columns) :]):
                # A comma too many would move every cell after it into its neighbour's column.
                raise InputError(
                    f"{path}, {where}: {len(cells)} cells under a header of {len(columns)}. Put "
                    "quotes around text with commas, and write decimals with a point."
                )
            rows.append(_Row(len(rows) + 1, where, dict(zip(columns, cells, strict=False))))
    except csv.Error as error:
        raise InputError(
            f"{path}, line {reader.line_num}: {error}. Write the file anew as a CSV with commas."
        ) from error
    return _Table(columns, rows)


def _jsonl(path: Path, text: str) -> _Table:
    lines = text.split("\n")
    columns: dict[str, None] = {}
    rows: list[_Row] = []
    cut = 0
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        body = _parsed(line)
        if isinstance(body, dict):
            columns |= dict.fromkeys(body)
            rows.append(_Row(len(rows) + 1, f"line {number}", body))
        elif rows and number == len(lines):  # no newline after it: a kill came first
            cut += 1
        else:
            raise InputError(
                f"{path}, line {number}: {reprlib.repr(line.strip())} is no JSON object. Pass a "
                "file with one object in each line."
            )
    return _Table(list(columns), rows, cut)


def _parsed(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _is_record(text: str) -> bool:
    """By the first whole line: a record of a run that was killed may begin with a torn one."""
    bodies = (_parsed(line) for line in text.split("\n") if line.strip())
    first = next((body for body in bodies if isinstance(body, dict)), {})
    return first.get("type") in _RECORD_TYPES and "schema" in first


def _recorded(path: Path, column: str | None, step_column: str | None, *, log: bool) -> _Series:
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
    places = {
        f"{layer}/{key}": (layer, key)
        for snapshot in record.snapshots
        for layer, estimates in snapshot.layers.items()
        # A check that measured nothing still says that the layer is watched.
        for key in (_WATCHED, *estimates)
    }
    if not places:
        raise InputError(f"{path}: the record has no checks. Pass one of a run that was measured.")
    first, _ = next(iter(places.values()))
    name = _WATCHED if column is None else column
    if name not in places:
        name = f"{first}/{name}"
    if name not in places:
        raise _no_column(path, column or _WATCHED, places)
    layer, key = places[name]
    values = []
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
        values.append(_Value(f"step {snapshot.step}", snapshot.step, value))
    return _Series(name, values, len(record.torn_lines))


def _chosen(path: Path, table: _Table, column: str | None, step_column: str | None) -> _Series:
    """The column of a table that is not a record."""
    if column is None:
        raise InputError(
            f"{path}: which column is the series? Pass --column with one of: "
            f"{', '.join(table.columns)}."
        )
    for name in (column, step_column):
        if name is not None and name not in table.columns:
            raise _no_column(path, name, table.columns)
    rows = [row for row in table.rows if _filled(row, column)]
    if step_column is None:
        step_column = next(
            (name for name in STEP_COLUMNS if any(_filled(row, name) for row in rows)), None
        )
    for name in (column, step_column):
        if name is not None and table.columns.count(name) > 1:
            raise InputError(f"{path}: the header has {name!r} more than once. Rename the others.")
    values = []
    for row in rows:
        step = row.number if step_column is None else _step(path, row, step_column)
        values.append(_Value(row.where, step, _number(path, row, column)))
    return _Series(column, values, table.cut)


def _no_column(path: Path, name: str, columns: Iterable[str]) -> InputError:
    return InputError(f"{path}: no column {name!r}. It has: {', '.join(columns)}.")


def _filled(row: _Row, column: str) -> bool:
    cell = row.cells.get(column)
    return cell is not None and (not isinstance(cell, str) or bool(cell.strip()))


def _number(path: Path, row: _Row, column: str) -> float:
    """A cell that is filled; NaN and infinity are numbers here."""
    cell = row.cells[column]
    if isinstance(cell, int | float | str):
        with contextlib.suppress(ValueError):
            return float(str(cell))  # as text, an integer beyond the largest float is infinite
    raise InputError(
        f"{path}, {row.where}: {column!r} is {reprlib.repr(cell)}, which is no number. Correct it, "
        "or leave it out."
    )


def _step(path: Path, row: _Row, column: str) -> int | None:
    if not _filled(row, column):
        return None
    step = _number(path, row, column)
    if not step.is_integer():
        raise InputError(
            f"{path}, {row.where}: the step {column!r} is {step}, which is no whole number. Pass "
            "another --step-column."
        )
    return int(step)


def _rising(values: Iterable[_Value]) -> list[tuple[int, _Value]]:
    """Those with a step above all before, and that step."""
    rising: list[tuple[int, _Value]] = []
    for value in values:
        if value.step is not None and (not rising or value.step > rising[-1][0]):
            rising.append((value.step, value))
    return rising


def _log_value(path: Path, column: str, found: _Value, *, log: bool) -> float:
    if log:
        return found.value
    if found.value < 0:
        raise InputError(
            f"{path}, {found.where}: {column!r} is {found.value:g}, and a negative value has no "
            "log. Pass a positive functional such as effective_rank, or --log for a column that "
            "is a log already."
        )
    return math.log(found.value) if found.value else -math.inf


def _too_large(log_value: float) -> bool:
    return math.log(sys.float_info.max) < log_value < math.inf
