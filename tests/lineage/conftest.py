"""One hashing encoder for all tests: building it takes seconds, and it is always the same."""

from __future__ import annotations

import functools

import pytest

from sigma_monitor.probing.encoders import hashing_encoder

_built = functools.cache(hashing_encoder)


@pytest.fixture(autouse=True)
def one_encoder(monkeypatch):
    monkeypatch.setattr("sigma_monitor.probing.encoders.hashing_encoder", _built)
