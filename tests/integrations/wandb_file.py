"""Reads the `.wandb` file of an offline run: a LevelDB log of protobuf records.

The file begins with a header of 7 bytes (`:W&B`, a magic number of 2 bytes, a version). The rest
lies in blocks of 32 KiB, of chunks that never cross a block: CRC32 (4 bytes), length (2), type (1),
data. A record is one chunk (FULL), or a FIRST, any number of MIDDLEs and a LAST.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_BLOCK = 32 * 1024
_HEADER = struct.Struct("<4sHB")
_CHUNK = struct.Struct("<IHB")
_IDENT, _MAGIC = b":W&B", 0xBEE1
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4


class WandbFile:
    """Rows of history, alerts, and whether the run has ended properly."""

    def __init__(self, path: Path) -> None:
        from wandb.proto import wandb_internal_pb2

        self.history: list[dict[str, Any]] = []
        self.alerts: list[Any] = []  # title, text, level
        self.exited = False
        for payload in payloads(path.read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(payload)
            kind = record.WhichOneof("record_type")
            if kind == "history":
                self.history.append(_row(record.history))
            elif kind == "alert":
                self.alerts.append(record.alert)
            elif kind == "exit":
                self.exited = True

    @classmethod
    def of_only_run(cls, folder: Path) -> WandbFile:
        """The file of the one run that has been written below `folder`."""
        (path,) = folder.rglob("*.wandb")
        return cls(path)

    def sigma(self) -> list[tuple[int, dict[str, float]]]:
        """Step and metrics of each row that has some of ours, as the Trainer's callback logs it."""
        rows = []
        for row in self.history:
            part = {
                name.removeprefix("train/"): value
                for name, value in row.items()
                if "sigma/" in name and "/spectrum" not in name
            }
            if part:
                rows.append((row["train/global_step"], part))
        return rows


def payloads(data: bytes) -> Iterator[bytes]:
    """The records of a log, each checked against its checksum."""
    ident, magic, _version = _HEADER.unpack_from(data)
    assert (ident, magic) == (_IDENT, _MAGIC), "not a .wandb file"
    position, parts = _HEADER.size, []
    while position < len(data):
        left = _BLOCK - position % _BLOCK
        if left < _CHUNK.size:  # padding at the end of a block
            position += left
            continue
        checksum, length, kind = _CHUNK.unpack_from(data, position)
        position += _CHUNK.size
        chunk = data[position : position + length]
        assert len(chunk) == length, "the last record is cut off"
        assert zlib.crc32(bytes([kind]) + chunk) == checksum, f"damaged at byte {position}"
        position += length
        if kind in (_FULL, _FIRST):
            assert not parts, "a record began within another"
        parts.append(chunk)
        if kind in (_FULL, _LAST):
            yield b"".join(parts)
            parts = []
    assert not parts, "the last record is cut off"


def _row(history: Any) -> dict[str, Any]:
    names = ["/".join(item.nested_key) or item.key for item in history.item]
    assert len(names) == len(set(names)), "a row holds a metric twice"
    return {
        name: json.loads(item.value_json) for name, item in zip(names, history.item, strict=True)
    }
