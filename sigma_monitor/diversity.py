"""How varied texts are, without any model: n-grams and compression."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from itertools import chain

__all__ = ["compression_ratio", "distinct", "repeated_share"]


def distinct(texts: Sequence[Sequence[int]], n: int) -> float:
    """Different n-grams of all texts over their number (distinct-n, Li et al. 2016).

    0.0 when no text is as long as n.
    """
    grams = [_grams(text, n) for text in texts]
    total = sum(map(len, grams))
    return len(set(chain.from_iterable(grams))) / total if total else 0.0


def repeated_share(texts: Sequence[Sequence[int]], n: int) -> float:
    """Mean share of n-grams that are repeats within their text (seq-rep-n, Welleck et al. 2020)."""
    grams = [_grams(text, n) for text in texts]
    shares = [1 - len(set(own)) / len(own) for own in grams if own]
    return sum(shares) / len(shares) if shares else 0.0


def compression_ratio(texts: Sequence[str]) -> float:
    """Bytes of all texts over their bytes when compressed (Shaib et al. 2024); more is duller."""
    data = "\n".join(texts).encode()
    return len(data) / len(zlib.compress(data, 9))


def _grams(text: Sequence[int], n: int) -> list[tuple[int, ...]]:
    return list(zip(*(text[i:] for i in range(n)), strict=False))
