"""The picture of the concepts is what its script draws."""

from __future__ import annotations

import re

from tests.docs.commands import ROOT
from tests.scripts import script


def test_the_numbers_in_the_picture_and_in_its_text_are_those_of_the_rows() -> None:
    picture = script("spectra_picture")
    drawn = picture.PICTURE.read_text(encoding="utf-8")
    told = (ROOT / "docs" / "concepts.md").read_text(encoding="utf-8")
    (alternative,) = re.findall(r"!\[(.*?)\]\(spectra\.svg\)", told)
    for title, rows in picture.rows().items():
        assert title in drawn
        assert picture.caption(rows) in drawn
        assert set(re.findall(r"\d\.\d+", picture.caption(rows))) <= set(
            re.findall(r"\d\.\d+", alternative)
        )
