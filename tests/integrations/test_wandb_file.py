"""The reader of `.wandb` files reads what is there, and refuses what is damaged."""

from __future__ import annotations

import struct
import zlib

import pytest

from tests.integrations.wandb_file import payloads

HEADER = struct.pack("<4sHB", b":W&B", 0xBEE1, 0)
BLOCK = 32 * 1024


def log_of(*records: bytes) -> bytes:
    """What wandb writes, after the format's description."""
    data = bytearray(HEADER)
    for record in records:
        first = True
        while True:
            left = BLOCK - len(data) % BLOCK
            if left < 7:
                data += bytes(left)
                left = BLOCK
            part, record = record[: left - 7], record[left - 7 :]
            kind = {(True, True): 1, (True, False): 2, (False, False): 3, (False, True): 4}[
                first, not record
            ]
            checksum = zlib.crc32(bytes([kind]) + part)
            data += struct.pack("<IHB", checksum, len(part), kind) + part
            first = False
            if not record:
                break
    return bytes(data)


@pytest.mark.parametrize("sizes", [(3, 5), (40_000, 7), (100_000, 1), (BLOCK - 20, 9, 50_000)])
def test_records_of_any_length_come_back(sizes: tuple[int, ...]) -> None:
    records = [bytes([65 + index]) * size for index, size in enumerate(sizes)]
    assert list(payloads(log_of(*records))) == records


@pytest.mark.parametrize("change", ["flip", "cut", "header"])
def test_a_damaged_file_is_refused(change: str) -> None:
    data = bytearray(log_of(b"one", b"two" * 20_000))
    if change == "flip":
        data[50_000] ^= 1
    elif change == "cut":
        del data[40_000:]
    else:
        data[0] ^= 1
    with pytest.raises(AssertionError, match=r"damaged|cut off|not a \.wandb file"):
        list(payloads(bytes(data)))
