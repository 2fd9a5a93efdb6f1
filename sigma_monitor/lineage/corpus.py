"""One generation in files: documents that stream by, or embeddings that are mapped into memory."""

from __future__ import annotations

import glob
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from sigma_monitor.analysis.files import SUFFIXES as EMBEDDINGS
from sigma_monitor.analysis.files import StoredArray, open_arrays
from sigma_monitor.errors import InputError

__all__ = ["Corpus", "open_corpus"]

_JSON_LINES = (".jsonl", ".ndjson")
_TEXT = (".txt", ".text")
_PARQUET = (".parquet",)
_DOCUMENTS = (*_JSON_LINES, *_TEXT, *_PARQUET)
_PARQUET_BATCH = 1024  # rows


@dataclass(frozen=True)
class Corpus:
    """Where one generation lies."""

    source: str  # as it was asked for
    files: tuple[Path, ...]
    arrays: tuple[StoredArray, ...]  # its embeddings; none where it holds documents
    text_key: str
    prompt_key: str | None

    def documents(self) -> Iterator[tuple[str, str | None]]:
        """Text and prompt of each document, in the order of the files, which are read as it goes.

        Raises:
            InputError: On a file that cannot be read, or a document without text or prompt; it
                names file and line.
        """
        keys = [self.text_key, *([] if self.prompt_key is None else [self.prompt_key])]
        for path in self.files:
            for found in _READERS[path.suffix.lower()](path, keys):
                yield found[0], found[1] if len(found) > 1 else None

    def rows(self) -> list[Tensor]:
        """(n, m) embeddings of each file.

        Raises:
            InputError: When they cannot be read, or are token rows.
        """
        return [_rows(array) for array in self.arrays]


def open_corpus(argument: str, *, text_key: str = "text", prompt_key: str | None = None) -> Corpus:
    """What a file, a glob or a folder means; of embeddings, their headers are read.

    Args:
        argument: A file; `FILE:name` for one of the arrays in it; a glob, whose files are taken in
            the order of their names; a folder, whose files are, at any depth.
        text_key: Of JSON lines and Parquet.
        prompt_key: Likewise; None where documents have no prompts.

    Raises:
        InputError: When there is no such file, files of several kinds, one of a kind that is not
            read, or a prompt key where there are no keys.
    """
    files = _found(argument)
    suffixes = sorted({path.suffix.lower() for path in files})
    if len(suffixes) > 1:
        raise InputError(
            f"{argument}: files of several kinds, {', '.join(suffixes)}. Pass a glob that means "
            "one of them."
        )
    if suffixes and suffixes[0] in _DOCUMENTS:
        if suffixes[0] in _TEXT and prompt_key is not None:
            raise InputError(
                f"{argument}: lines of text have no key {prompt_key!r}. Pass JSON lines or "
                "Parquet with prompts, or no prompt key."
            )
        return Corpus(argument, tuple(files), (), text_key, prompt_key)
    if prompt_key is not None:
        raise InputError(
            f"{argument}: embeddings have no key {prompt_key!r}. Pass no prompt key, or prompts "
            "to Lineage.add_embeddings."
        )
    stored = argument.rpartition(":")[0]
    if not suffixes and Path(stored).suffix.lower() in _DOCUMENTS:
        raise InputError(
            f"{argument}: FILE:name is of arrays. Pass {stored}, and --text-key for its texts."
        )
    arrays = [_one_array(str(path)) for path in files] if suffixes else [_one_array(argument)]
    return Corpus(argument, tuple(files), tuple(arrays), text_key, None)


def _found(argument: str) -> list[Path]:
    """The files of an argument; none where it may be `FILE:name`."""
    path = Path(argument)
    if path.is_file():
        files = [path]
        if path.suffix.lower() not in (*_DOCUMENTS, *EMBEDDINGS):
            raise InputError(
                f"{argument}: files with suffix {path.suffix!r} are not read. Pass "
                f"{', '.join((*_DOCUMENTS, *EMBEDDINGS))}."
            )
        return files
    inside = path.rglob("*") if path.is_dir() else map(Path, glob.glob(argument, recursive=True))
    files = [file for file in inside if file.is_file() and not file.name.startswith(".")]
    known = sorted(file for file in files if file.suffix.lower() in (*_DOCUMENTS, *EMBEDDINGS))
    if not known and ":" not in argument:
        state = "no file with documents or embeddings" if files or path.exists() else "no such file"
        raise InputError(
            f"{argument}: {state}. Pass a file, a glob in quotes or a folder with "
            f"{', '.join((*_DOCUMENTS, *EMBEDDINGS))}."
        )
    return known


def _one_array(argument: str) -> StoredArray:
    arrays, _ = open_arrays(argument)
    if len(arrays) > 1:
        names = ", ".join(str(array.name) for array in arrays)
        raise InputError(
            f"{argument}: it holds {len(arrays)} arrays, {names}. Choose one with FILE:name."
        )
    return arrays[0]


def _rows(array: StoredArray) -> Tensor:
    rows, groups = array.rows()
    if groups is not None:
        raise InputError(
            f"{array.label}: shape {array.shape} is of tokens, and a generation has one row for "
            "each document. Pool them, by their mean for one."
        )
    return rows


def _json_lines(path: Path, keys: list[str]) -> Iterator[list[str]]:
    for where, line in _lines(path):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:  # also of numbers and brackets without end
            raise InputError(
                f"{where}: this is no JSON: {error}. Write one object on each line, to its end."
            ) from error
        if not isinstance(record, dict):
            raise InputError(f"{where}: this is no JSON object. Write one on each line.")
        yield [_text(where, record, key) for key in keys]


def _text_lines(path: Path, keys: list[str]) -> Iterator[list[str]]:
    return ([line] for _, line in _lines(path))


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    """Place and text of every line that is not blank."""
    try:
        with path.open("rb") as file:
            for number, data in enumerate(file, start=1):
                where = f"{path}, line {number}"
                try:
                    line = data.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
                except UnicodeDecodeError as error:
                    raise InputError(
                        f"{where}: this is not text in UTF-8 (byte {error.start + 1}). Save the "
                        "file as such."
                    ) from error
                if line.strip():
                    yield where, line
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}. Pass a file to be read.") from error


def _parquet(path: Path, keys: list[str]) -> Iterator[list[str]]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise InputError(
            f'{path}: Parquet needs pyarrow: pip install "sigma-monitor[parquet]".'
        ) from error
    try:
        with parquet.ParquetFile(path) as file:
            for key in keys:
                _check_key(str(path), key, file.schema_arrow.names)
            number = 0
            for batch in file.iter_batches(_PARQUET_BATCH, columns=keys):
                for record in batch.to_pylist():
                    number += 1
                    where = f"{path}, row {number}"
                    yield [_text(where, record, key) for key in keys]
    except (OSError, UnicodeDecodeError, pyarrow.ArrowException) as error:
        cause = str(error).rstrip(".")
        raise InputError(
            f"{path}: it cannot be read as Parquet: {cause}. Write it anew."
        ) from error


def _text(where: str, record: dict[str, Any], key: str) -> str:
    _check_key(where, key, list(record))
    value = record[key]
    if not isinstance(value, str):
        raise InputError(
            f"{where}: {key!r} is {type(value).__name__}, not text. Pass the key of the text, or "
            "write an empty text where there is none."
        )
    return value


def _check_key(where: str, key: str, keys: list[str]) -> None:
    if key not in keys:
        raise InputError(
            f"{where}: no key {key!r}; there is {', '.join(map(repr, keys)) or 'none at all'}. "
            "Pass one of them as --text-key or --prompt-key."
        )


_READERS = (
    dict.fromkeys(_JSON_LINES, _json_lines)
    | dict.fromkeys(_TEXT, _text_lines)
    | dict.fromkeys(_PARQUET, _parquet)
)
