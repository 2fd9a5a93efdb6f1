"""The durable record: one JSON line per check, observation, alert and event of the run.

A line is written with one call and flushed, so a kill at any byte leaves whole lines and at most
one torn last line, which the reader recognises. A record that is continued begins a fresh line
first, and on reading its checks supersede earlier ones at the same and later steps: those of a run
that was killed and resumed, or of another run that wrote to the same file before. Observations do
likewise, each for its name. A run that begins at the beginning puts the record of an older one
aside, and so does one that finds a record of another schema.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, NamedTuple

from sigma_monitor.alert import Alert
from sigma_monitor.errors import RecordError
from sigma_monitor.snapshot import SCHEMA, Observation, Snapshot

__all__ = [
    "FILE",
    "JsonlSink",
    "Line",
    "Record",
    "RecordReader",
    "is_superseded",
    "parse_line",
    "read_lines",
    "read_record",
]

FILE = "record.jsonl"  # in the monitor's folder
_LONGEST_LINE = 1 << 28  # bytes; a device has lines without end


class JsonlSink:
    """Appends to the file at `path`; it and its folder are created at the first line.

    Args:
        path: Of the file.
        afresh: Rename what lies there to `record-1.jsonl`, or the next number, at the first line.
    """

    inline = True  # what the process has done is in the file, also when it is killed
    baselines = True
    vital = True

    def __init__(self, path: str | os.PathLike[str], *, afresh: bool = False) -> None:
        self.path = Path(path)
        self._afresh = afresh
        self._file: IO[bytes] | None = None

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Nothing: `check` and `observe` have all of it."""

    def check(self, snapshot: Snapshot) -> None:
        """Append a line of type `check`."""
        self._append("check", snapshot.to_dict())

    def observe(self, observation: Observation) -> None:
        """Append a line of type `observation`."""
        self._append("observation", observation.to_dict())

    def alert(self, alert: Alert) -> None:
        """Append a line of type `alert`."""
        self._append("alert", alert.to_dict())

    def note(self, event: str, details: Mapping[str, Any]) -> None:
        """Append a line of type `event`; `details` are its fields.

        `closed` with `interrupted` is of a run that did not come to its end.
        """
        self._append("event", {"event": event, **details})

    def close(self) -> None:
        """Close the file; a later line opens it again."""
        file, self._file = self._file, None
        if file is not None:
            file.close()

    def _append(self, kind: str, body: Mapping[str, Any]) -> None:
        text = json.dumps({"type": kind, "schema": SCHEMA, **body}, allow_nan=False)
        line = f"{text}\n".encode()
        if self._file is None:
            file = self._opened()
            line = (b"\n" if _ends_torn(self.path) else b"") + line
            self._file = file
        try:
            written = self._file.write(line)
            if written != len(line):
                raise OSError(f"only {written} of {len(line)} bytes were written to {self.path}")
        except BaseException:  # opened anew it tells what it ends with, and no handle stays stale
            with contextlib.suppress(OSError):
                self.close()
            raise

    def _opened(self) -> IO[bytes]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self._afresh or _has_another_schema(self.path):
            self._afresh = False
            _put_aside(self.path)
        # Unbuffered: a failed write leaves nothing behind that close() would fail on again.
        return self.path.open("ab", buffering=0)


@dataclass(frozen=True)
class Record:
    """What a record file holds."""

    snapshots: list[Snapshot]  # by step; those repeated after a resume replace the earlier ones
    alerts: list[dict[str, Any]]  # likewise
    events: list[dict[str, Any]]
    torn_lines: list[int]  # numbers, from 1, of lines cut by a kill
    observations: list[Observation] = field(default_factory=list)  # of each name likewise


class Line(NamedTuple):
    """One line of a record."""

    number: int  # from 1
    kind: str  # check, observation, alert, event, or torn: cut by a kill
    body: Any  # Snapshot, Observation, or the fields of an alert or event


def read_record(path: str | os.PathLike[str]) -> Record:
    """Read a record that may have been cut at any byte.

    Raises:
        RecordError: When the file cannot be read, or a line that is not torn does not make sense.
    """
    reader = RecordReader()
    for line in read_lines(path):
        reader.take(line)
    return reader.record


def read_lines(path: str | os.PathLike[str]) -> Iterator[Line]:
    """Read a record line by line, in memory that does not grow with the file.

    What a resumed run repeats comes twice: see `is_superseded`.

    Raises:
        RecordError: As `read_record`, when its line is reached.
    """
    for number, raw in enumerate(_lines(path), start=1):
        line = parse_line(path, number, raw)
        if line is not None:
            yield line


def parse_line(path: str | os.PathLike[str], number: int, raw: bytes) -> Line | None:
    """What a line of a record holds; None where it is blank.

    Args:
        path: Of the record, for messages.
        number: Of the line, from 1.
        raw: The line, with or without its newline.

    Raises:
        RecordError: When a line that is not torn does not make sense.
    """
    if not raw.strip():
        return None
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError):  # the latter of brackets without end
        return Line(number, "torn", None)
    kind = body.pop("type", None) if isinstance(body, dict) else None
    if kind == "check":
        with _of_line(path, number):
            return Line(number, kind, Snapshot.from_dict(body))
    if kind == "observation":
        with _of_line(path, number):
            return Line(number, kind, Observation.from_dict(body))
    if kind in ("alert", "event"):
        return Line(number, kind, body)
    raise RecordError(
        f"{path}, line {number}: type {kind!r} is unknown. Pass a record written by "
        f"sigma-monitor, schema {SCHEMA}."
    )


def is_superseded(alert: Mapping[str, Any], by: Snapshot | Observation) -> bool:
    """Whether an alert came of a check that a resumed run repeats from `by` on.

    Args:
        alert: A line of type `alert`.
        by: Of a step that was there before.
    """
    observed = alert.get("channel") == "observed"
    if isinstance(by, Observation):
        same = observed and alert.get("layer") == by.name
    else:
        same = not observed
    step = alert.get("step")
    return same and isinstance(step, int | float) and step >= by.step


class RecordReader:
    """Takes the lines of a record one by one, as of one that is still being written.

    Attributes:
        record: What the lines so far amount to; its lists change with every line.
    """

    def __init__(self) -> None:
        self.record = Record([], [], [], [])
        self._latest: dict[str, int] = {}  # step of the latest observation, by name

    def take(self, line: Line) -> None:
        """Take the next line."""
        if line.kind == "torn":
            self.record.torn_lines.append(line.number)
        elif line.kind == "check":
            self._add_check(line.body)
        elif line.kind == "observation":
            self._add_observation(line.body)
        else:
            known = self.record.alerts if line.kind == "alert" else self.record.events
            known.append(line.body)

    def _add_check(self, new: Snapshot) -> None:
        known, alerts = self.record.snapshots, self.record.alerts
        if known and known[-1].step >= new.step:  # a resumed run repeats itself
            known[:] = [old for old in known if old.step < new.step]
            alerts[:] = [alert for alert in alerts if not is_superseded(alert, new)]
        known.append(new)

    def _add_observation(self, new: Observation) -> None:
        known, alerts = self.record.observations, self.record.alerts
        if new.step <= self._latest.get(new.name, -math.inf):  # likewise, for its name
            known[:] = [old for old in known if old.name != new.name or old.step < new.step]
            alerts[:] = [alert for alert in alerts if not is_superseded(alert, new)]
        known.append(new)
        self._latest[new.name] = new.step


def _lines(path: str | os.PathLike[str]) -> Iterator[bytes]:
    try:
        with Path(path).open("rb") as file:
            for number in itertools.count(1):
                line = file.readline(_LONGEST_LINE + 1)
                if not line:
                    return
                if len(line) > _LONGEST_LINE:
                    raise RecordError(
                        f"{path}, line {number}: it is longer than {_LONGEST_LINE} bytes. Pass a "
                        "record.jsonl."
                    )
                yield line
    except OSError as error:
        raise RecordError(f"{path}: {error}. Pass the path of a record.jsonl.") from error


@contextlib.contextmanager
def _of_line(path: str | os.PathLike[str], number: int) -> Iterator[None]:
    """Say of what is refused inside where it stands."""
    try:
        yield
    except RecordError as error:
        raise RecordError(f"{path}, line {number}: {error}") from error


def _has_another_schema(path: Path) -> bool:
    """Whether the file begins with a line of a version that no line of this one may follow."""
    if not path.is_file():  # none, or a device or pipe, which may have no end
        return False
    try:
        with path.open("rb") as file:
            body = json.loads(file.readline())
    except (OSError, ValueError, RecursionError):  # torn, or of something else
        return False
    return isinstance(body, dict) and body.get("schema") != SCHEMA


def _put_aside(path: Path) -> None:
    """Rename the file, if there is one; where that cannot be done it is appended to."""
    if not path.exists():
        return
    names = (path.with_stem(f"{path.stem}-{number}") for number in itertools.count(1))
    with contextlib.suppress(OSError):
        path.rename(next(name for name in names if not name.exists()))


def _ends_torn(path: Path) -> bool:
    with path.open("rb") as file:
        if file.seek(0, os.SEEK_END) == 0:
            return False
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"
