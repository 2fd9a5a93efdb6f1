"""Examples in docstrings do what they say; the reference shows them."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

import sigma_monitor

ROOT = Path(sigma_monitor.__file__).parent
MODULES = sorted(
    ".".join((ROOT.name, *path.relative_to(ROOT).with_suffix("").parts))
    for path in ROOT.rglob("*.py")
    if ">>>" in path.read_text(encoding="utf-8")
)


@pytest.mark.parametrize("name", MODULES)
def test_a_session_goes_as_it_is_written(name: str) -> None:
    done = doctest.testmod(importlib.import_module(name))
    assert done.attempted > 0
    assert done.failed == 0


def test_there_are_some() -> None:
    assert "sigma_monitor.spectrum.summary" in MODULES
