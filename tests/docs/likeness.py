"""Whether what a page shows is what was printed."""

from __future__ import annotations

import re

__all__ = ["alike"]

_NUMBER = re.compile(r"(?<![\w.])[-−]?\d+(\.\d+)?(e[-+]?\d+)?%?\*?(?![\w])")
_ELLIPSIS = "..."


def alike(shown: str, printed: str, *, exact: bool) -> bool:
    """Compare line by line; a line of three dots stands for any number of lines.

    Args:
        shown: In the page.
        printed: By the block before it.
        exact: Otherwise it may be a part of what was printed, and numbers, and the stars behind
            them, may be others: they come from data that a page leaves to its reader.
    """
    wanted, found = _lines(shown, exact), _lines(printed, exact)
    place, floating = 0, not exact
    for line in wanted:
        if line == _ELLIPSIS:
            floating = True
            continue
        if floating and line in found[place:]:
            place = found.index(line, place)
        if place >= len(found) or found[place] != line:
            return False
        place, floating = place + 1, False
    return floating or not exact or place == len(found)


def _lines(text: str, exact: bool) -> list[str]:
    lines = [line.rstrip() for line in text.strip().splitlines()]
    if exact:
        return lines
    return [" ".join(_NUMBER.sub("#", line).split()) for line in lines]
