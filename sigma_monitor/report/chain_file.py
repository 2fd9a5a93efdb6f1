"""What `sigma-monitor chain --json` printed, told from a record by its beginning."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sigma_monitor.alert import Status
from sigma_monitor.errors import InputError
from sigma_monitor.report.plain import clean, objects
from sigma_monitor.snapshot import LINEAGE, LINEAGE_SCHEMA

__all__ = ["PIECE", "read_chain"]

PIECE = 1 << 16  # bytes by which a chain is told from a record
_LARGEST = 1 << 28  # bytes of a chain
_LINE_OF_RECORD = re.compile(r'^\{"type"', re.MULTILINE)  # as `JsonlSink` begins each


def read_chain(path: Path) -> dict[str, Any] | None:
    """What `chain` printed; None when the file is something else, such as a record.

    Of anything else no more than `PIECE` bytes are read.

    Args:
        path: Of a file, or of a pipe that a chain comes through.

    Raises:
        InputError: When it is of another schema, holds no generation or a verdict without a
            status, or is a pipe with something else.
    """
    body = _body(path)
    if body is None:
        return None
    if body.get("schema") != LINEAGE_SCHEMA:
        raise InputError(
            f"{path}: schema {clean(body.get('schema'), 40)} of a chain: this version reads schema "
            f"{LINEAGE_SCHEMA}. Use the version of sigma-monitor that wrote it."
        )
    if not objects(body.get("generations")) or not objects(body.get("verdicts")):
        raise InputError(f"{path}: it holds no generation. Pass the output of chain --json.")
    for number, verdict in enumerate(body["verdicts"], start=1):
        _check_verdict(path, number, verdict)
    return body


def _body(path: Path) -> dict[str, Any] | None:
    try:
        with path.open("rb") as file:
            content = file.read(PIECE)
            if _begins_like_a_chain(content) and path.stat().st_size <= _LARGEST:
                content += file.read(_LARGEST)
                body = _parsed(content)
                if isinstance(body, dict) and body.get("kind") == LINEAGE:
                    return body
    except OSError:  # `read_run` says why
        return None
    if not path.is_file():  # what was read of it is gone
        raise InputError(
            f"{path}: it is no file, and no chain came through it. Write what comes to a file "
            "first, and pass that."
        )
    return None


def _parsed(content: str | bytes) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError):  # the latter of brackets without end
        return None


def _begins_like_a_chain(piece: bytes) -> bool:
    """Whether this may be the beginning of one object that is no line of a record."""
    text = piece.decode(json.detect_encoding(piece), errors="replace").lstrip()
    if not text.startswith("{") or _LINE_OF_RECORD.search(text):
        return False
    first, _, _ = text.partition("\n")
    body = _parsed(first)
    # Without a body it goes on behind this line, or behind the piece.
    return body is None or body.get("kind") == LINEAGE


def _check_verdict(path: Path, number: int, verdict: Any) -> None:
    if not isinstance(verdict, Mapping):
        raise InputError(
            f"{path}, verdict {number}: it is no object but {clean(verdict, 40)}. Pass the whole "
            "output of chain --json."
        )
    status = verdict.get("status")
    if not isinstance(status, str) or status not in Status.__members__:
        raise InputError(
            f"{path}, verdict {number}, generation {clean(verdict.get('generation'), 40)}: status "
            f"{clean(status, 40) or 'null'} is none of {', '.join(Status.__members__)}. Pass the "
            "whole output of chain --json."
        )
