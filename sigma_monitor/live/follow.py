"""The lines of a record as they are written, whatever becomes of its file meanwhile."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from sigma_monitor.errors import InputError

__all__ = ["Follower", "News"]

_HEAD = 4096  # bytes by which a file is known again; the first check, with its time, begins there


@dataclass(frozen=True)
class News:
    """What a file has to tell since it was looked at last."""

    lines: list[bytes]  # whole ones, without their newlines
    anew: bool = False  # another run's record lies there now, or less of this one: begin again


class Follower:
    """Reads a file that grows.

    A last line without its newline waits for the rest of it. A file that was renamed is read on
    until another lies at `path`. One that was copied there once more, as by rsync, is known by its
    beginning and read on.

    Args:
        path: Of the file, which need not be there yet.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        self._file: IO[bytes] | None = None
        self._begin()

    def _begin(self) -> None:
        self._head = b""
        self._read = 0  # bytes
        self._rest = b""

    def poll(self) -> News:
        """What is new.

        Raises:
            InputError: When there is something at the path that cannot be read.
        """
        try:
            anew = self._open()
            data = b"" if self._file is None else self._file.read()
        except OSError as error:
            raise InputError(
                f"{self._path}: {error.strerror or error}. Pass the path of a record.jsonl."
            ) from error
        self._read += len(data)
        self._head += data[: _HEAD - len(self._head)]
        *lines, self._rest = (self._rest + data).split(b"\n")
        return News(lines, anew)

    def close(self) -> None:
        """Release the file."""
        if self._file is not None:
            self._file.close()

    def _open(self) -> bool:
        """Open what lies at the path, unless it is open; whether to begin again."""
        try:
            there = self._path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return False  # not yet, or put aside and not replaced yet
        if not stat.S_ISREG(there.st_mode):
            raise InputError(f"{self._path}: it is no file. Pass the path of a record.jsonl.")
        if self._file is None:
            self._file = self._path.open("rb")
            return False
        if os.path.samestat(there, os.fstat(self._file.fileno())) and there.st_size >= self._read:
            return False
        self._file.close()
        self._file = self._path.open("rb")
        known = self._read > 0 and self._file.read(len(self._head)) == self._head
        if known and self._file.seek(0, os.SEEK_END) >= self._read:
            self._file.seek(self._read)
            return False
        self._file.seek(0)
        self._begin()
        return True
