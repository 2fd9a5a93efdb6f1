"""Documents of known variety, encoders that need no library, and the files they are stored in."""

from __future__ import annotations

import hashlib
import json
import random

import numpy as np

FEATURES = 6


def documents(n, *, vocabulary=400, seed=0, words=12):
    """Texts of words drawn from the first so many of one vocabulary."""
    names = random.Random(0)
    known = ["".join(names.choices("abcdefghijklm", k=names.randint(2, 7))) for _ in range(400)]
    draw = random.Random(seed)
    return [" ".join(draw.choices(known[:vocabulary], k=words)) for _ in range(n)]


def digits(texts):
    """(n, 6) numbers between 0 and 1 that depend on each whole text alone."""
    hashes = [hashlib.sha256(text.encode()).digest()[:FEATURES] for text in texts]
    return np.array([list(h) for h in hashes], dtype=float).reshape(-1, FEATURES) / 255


def wide(texts):
    """(n, 12) such numbers."""
    return np.hstack([digits(texts), digits([f"{text}." for text in texts])])


def letters(texts):
    """(n, 6) numbers of letters."""
    return np.array([[text.count(letter) for letter in "abcdef"] for text in texts], dtype=float)


def broken(texts):
    return np.full((len(texts), 2), np.nan)


def write_lines(path, texts, prompts=None, *, key="text"):
    """One JSON object on each line."""
    prompts = [None] * len(texts) if prompts is None else prompts
    records = [
        {key: text} | ({} if prompt is None else {"prompt": prompt})
        for text, prompt in zip(texts, prompts, strict=True)
    ]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)
