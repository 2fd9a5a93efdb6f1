"""How varied texts are, without any model: n-grams and compression."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Hashable, Sequence
from itertools import chain

__all__ = ["compression_ratio", "distinct", "distinct_without", "repeated_share"]


def distinct(texts: Sequence[Sequence[Hashable]], n: int) -> float:
    """Different n-grams of all texts over their number (distinct-n, Li et al. 2016).

    0.0 when no text is as long as n.
    """
    grams = [_grams(text, n) for text in texts]
    total = sum(map(len, grams))
    return len(set(chain.from_iterable(grams))) / total if total else 0.0


def distinct_without(
    texts: Sequence[Sequence[Hashable]], n: int, groups: Sequence[int] | None = None
) -> list[float]:
    """`distinct` of the other texts, without each text in turn, or each group of texts.

    Args:
        texts: Of tokens or words.
        n: Length of the n-grams.
        groups: Group of each text, from 0, where it is groups that are left out.
    """
    of = range(len(texts)) if groups is None else groups
    sizes = [0] * (max(of, default=-1) + 1)
    owner: dict[tuple[Hashable, ...], int] = {}  # the only group that has it, or -1
    for group, text in zip(of, texts, strict=True):
        for gram in _grams(text, n):
            sizes[group] += 1
            if owner.setdefault(gram, group) != group:
                owner[gram] = -1
    alone = Counter(owner.values())
    total = sum(sizes)
    return [
        (len(owner) - alone[group]) / (total - size) if total > size else 0.0
        for group, size in enumerate(sizes)
    ]


def repeated_share(texts: Sequence[Sequence[Hashable]], n: int) -> float:
    """Mean share of n-grams that are repeats within their text (seq-rep-n, Welleck et al. 2020)."""
    grams = [_grams(text, n) for text in texts]
    shares = [1 - len(set(own)) / len(own) for own in grams if own]
    return sum(shares) / len(shares) if shares else 0.0


def compression_ratio(texts: Sequence[str]) -> float:
    """Bytes of all texts over their bytes when compressed (Shaib et al. 2024); more is duller."""
    data = "\n".join(texts).encode()
    return len(data) / len(zlib.compress(data, 9))


def _grams(text: Sequence[Hashable], n: int) -> list[tuple[Hashable, ...]]:
    return list(zip(*(text[i:] for i in range(n)), strict=False))
