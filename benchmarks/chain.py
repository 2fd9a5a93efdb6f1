"""Peak memory and processor time of `sigma-monitor chain` over generations of several lengths.

A generation of synthetic documents lies in JSON lines and goes through the command, with its
default encoder, in a process of its own: once with the default index set, once with `--sample all`,
which embeds every document. Peak memory is the largest resident set of that process, as the kernel
counts it: interpreter and libraries are in it.

With --long there is a generation of a million documents too, which takes a quarter of an hour of
one core and 300 MB of disk for a while.

Run: python benchmarks/chain.py [--quick | --long] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from itertools import accumulate, product
from pathlib import Path
from typing import Any

from environment import environment

RESULT = Path(__file__).parent / "results" / "chain.json"
ROOT = Path(__file__).parents[1]
LENGTHS = (10_000, 100_000)  # documents of a generation
LONG = 1_000_000
QUICK = 1_000
WORDS, VOCABULARY = 40, 5_000
SAMPLES = ("2000", "all")


def write(path: Path, documents: int) -> None:
    """Documents of words drawn by Zipf's law, one at a time."""
    draw = random.Random(0)
    words = [f"{i * 7919:x}" for i in range(VOCABULARY)]
    weights = list(accumulate(1 / (i + 1) for i in range(VOCABULARY)))
    with path.open("w", encoding="utf-8") as file:
        for _ in range(documents):
            text = " ".join(draw.choices(words, cum_weights=weights, k=WORDS))
            file.write(json.dumps({"text": text}) + "\n")


def measured(generation: Path, sample: str) -> dict[str, Any]:
    """The command in another process."""
    command = [sys.executable, "-m", "sigma_monitor", "chain", str(generation), "--json"]
    with subprocess.Popen(
        [*command, "--sample", sample],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
    ) as running:
        assert running.stdout is not None
        printed = running.stdout.read()
        _, status, used = os.wait4(running.pid, 0)
        running.returncode = os.waitstatus_to_exitcode(status)
    if running.returncode:
        raise RuntimeError(f"{command} exited with {running.returncode}")
    report = json.loads(printed)
    return {
        "documents": report["documents"],
        "sampled": report["sampled"],
        "encoder": report["encoder"],
        "peak_mib": round(used.ru_maxrss / 1024, 1),
        "processor_seconds": round(used.ru_utime + used.ru_stime, 1),
    }


def corpora(lengths: tuple[int, ...]) -> Iterator[dict[str, Any]]:
    """The cheap index sets first."""
    for sample, documents in product(SAMPLES, lengths):
        with tempfile.TemporaryDirectory() as folder:
            generation = Path(folder) / "generation.jsonl"
            write(generation, documents)
            yield measured(generation, sample)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--quick", action="store_true", help="a self-check of one short corpus")
    length.add_argument("--long", action="store_true", help="a million documents too")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    lengths = (QUICK,) if options.quick else LENGTHS + (LONG,) * options.long
    options.out.parent.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    result = {"environment": environment(["scikit-learn"]), "generations": rows}
    for row in corpora(lengths):
        print(row, flush=True)
        rows.append(row)
        # What an interruption leaves is what was measured.
        options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
