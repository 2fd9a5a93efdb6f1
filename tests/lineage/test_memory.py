"""A corpus ten times as long costs the same memory."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.processes import REPOSITORY

# Documents come from a generator: what is kept of them is what the lineage keeps.
PROGRAM = """
import resource, sys
import numpy as np
from sigma_monitor import Lineage

def documents(n):
    for i in range(n):
        yield " ".join(str((i * 7919 + j) % 5003) for j in range(60))

def encoder(texts):
    return np.array([[text.count(digit) for digit in "0123456789"] for text in texts], float)

n, sample = int(sys.argv[1]), sys.argv[2]
for generation in (0, 1):  # the first loads libraries
    lineage = Lineage(encoder, sample="all" if sample == "all" else int(sample))
    lineage.add(0, documents(n if generation else 3000))
    lineage.report()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def peak_kib(n, sample):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(n), sample],
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=280,
        check=True,
    )
    return int(done.stdout)


@pytest.mark.long
@pytest.mark.parametrize("sample", ["1000", "all"])
def test_memory_does_not_grow_with_the_corpus(sample):
    short, long = peak_kib(10_000, sample), peak_kib(100_000, sample)
    # 90,000 documents of 280 bytes and their objects would be some 30 MB more.
    assert long - short < 8_000
