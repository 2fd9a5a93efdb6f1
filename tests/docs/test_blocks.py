"""Every code block of the README and the pages is run, or checked for what it names."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.commands import ROOT
from tests.docs.pages import PAGES, no_names
from tests.docs.reader import LANGUAGES, blocks

FOUND = {
    path.relative_to(ROOT).as_posix(): path
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
}
WITH_BLOCKS = [name for name, path in FOUND.items() if blocks(path)]


@pytest.mark.parametrize("name", WITH_BLOCKS)
def test_a_page_does_what_it_says(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with PAGES.get(name, no_names)(tmp_path) as reader:
        reader.read(FOUND[name])


@pytest.mark.parametrize("name", WITH_BLOCKS)
def test_every_block_names_a_language_that_is_run(name: str) -> None:
    unknown = [(line, found) for line, found in blocks(FOUND[name]) if found not in LANGUAGES]
    assert unknown == []


def test_every_page_that_is_prepared_is_there() -> None:
    assert set(PAGES) <= set(WITH_BLOCKS)
