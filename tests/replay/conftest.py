"""Fixtures of the files that are replayed."""

from __future__ import annotations

import pytest

from tests.replay.files import WRITERS


@pytest.fixture(params=WRITERS)
def write(request, tmp_path):
    """Rows into a file of either format."""
    return lambda rows: WRITERS[request.param](tmp_path / request.param, rows)


@pytest.fixture
def write_text(tmp_path):
    def written(text, name="run.csv"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return written
