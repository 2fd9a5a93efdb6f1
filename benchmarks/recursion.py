"""At which generation `chain` tells that a recursion collapses, and whether it tells a healthy one.

Trains the arms of examples/recursive_training.py with several seeds, at the settings of the
example. Beside the verdict of each generation stand two witnesses that need the model or its
tokens: the perplexity of the text under the generation-0 model, and distinct-2. Each has moved
where it is off by a fifth of what it was at generation 0. The lineage on real data is judged like
an arm, against that of the next seed: prompts are the same for all seeds.

Texts are kept in --runs: a benchmark that was interrupted goes on where it was.

Run: python benchmarks/recursion.py [--data FOLDER] [--quick] [--jobs 2] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from itertools import groupby
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "examples")]

from environment import environment  # noqa: E402

SEEDS = {0.7: 5, 1.0: 2}  # temperature and number of seeds
MOVED = 0.2
MEASURED = "measured.json"
WITNESSES = ("perplexity", "distinct_2")
RESULT = ROOT / "benchmarks" / "results" / "recursion.json"


def train(data: Path | None, temperature: float, seed: int, folder: Path, quick: bool) -> None:
    """All arms of one seed that are not in `folder` yet."""
    import recursive_training as example
    import torch
    from transformers.utils import logging

    torch.set_num_threads(1)
    logging.set_verbosity_error()
    settings = example.Settings(temperature=temperature, seed=seed)
    if quick:
        settings = replace(settings, generations=2, **example.QUICK)
    ground = None
    for arm in (example.CONTROL, *example.ARMS):
        done = folder / arm / MEASURED
        if done.exists():
            continue
        ground = ground or example.prepare(data, settings)
        started = time.process_time()
        rows = example.lineage(arm, ground, settings, folder / arm)
        measured = {
            "settings": asdict(settings),
            "seconds": round(time.process_time() - started, 1),  # of one thread
            "generations": rows,
        }
        done.write_text(json.dumps(measured))


def judged(arm: Path, control: Path, count: int) -> list[dict[str, Any]]:
    """The verdict of `chain` on each generation of an arm, against a lineage on real data."""
    from sigma_monitor import Lineage

    lineage = Lineage()
    for generation in range(count):
        for add, folder in ((lineage.add_control, control), (lineage.add, arm)):
            lines = (folder / f"gen{generation}.jsonl").read_text("utf-8").splitlines()
            rows = [json.loads(line) for line in lines]
            add(generation, [row["text"] for row in rows], [row["prompt"] for row in rows])
    return [verdict.to_dict() for verdict in lineage.verdicts()]


def row(temperature: float, seed: int, arm: Path, control: Path) -> dict[str, Any]:
    """One arm of one seed: what was told when, and what had moved when."""
    measured = json.loads((arm / MEASURED).read_text())
    rows = measured["generations"]
    verdicts = judged(arm, control, len(rows))
    return {
        "temperature": temperature,
        "arm": arm.name,
        "seed": seed,
        "seconds": measured["seconds"],
        "warned": first(verdict["status"] in ("WARNING", "COLLAPSED") for verdict in verdicts),
        "collapsed": first(verdict["status"] == "COLLAPSED" for verdict in verdicts),
        **{
            f"{name}_moved": first(abs(each[name] / rows[0][name] - 1) >= MOVED for each in rows)
            for name in WITNESSES
        },
        "generations": [
            {
                **{name: round(each[name], 4) for name in WITNESSES},
                "status": verdict["status"],
                "ratios": {k: round(v["value"], 4) for k, v in verdict["ratios"].items()},
                "findings": [
                    f"{found['measure']}: {found['side']}" for found in verdict["findings"]
                ],
            }
            for each, verdict in zip(rows, verdicts, strict=True)
        ],
    }


def first(found: Iterable[bool]) -> int | None:
    """The number of the first that is true."""
    return next((number for number, each in enumerate(found) if each), None)


def lineages(plan: list[tuple[float, int, Path]]) -> Iterator[dict[str, Any]]:
    """Every arm of every seed, those on real data too."""
    import recursive_training as example

    for temperature, folders in groupby(sorted(plan), key=lambda planned: planned[0]):
        seeds = list(folders)
        for place, (_, seed, folder) in enumerate(seeds):
            other = seeds[(place + 1) % len(seeds)][2]
            yield row(temperature, seed, folder / example.CONTROL, other / example.CONTROL)
            for arm in example.ARMS:
                yield row(temperature, seed, folder / arm, folder / example.CONTROL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    data = os.environ.get("SIGMA_MONITOR_DATA")
    parser.add_argument("--data", type=Path, default=Path(data) if data else None)
    parser.add_argument("--jobs", type=int, default=2, help="processes of one thread each")
    parser.add_argument("--runs", type=Path, default=Path("sigma-recursion"))
    parser.add_argument("--quick", action="store_true", help="a self-check, of half a minute")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    seeds = {0.7: 2} if options.quick else SEEDS
    plan = [
        (temperature, seed, options.runs / f"{temperature}-{seed}")
        for temperature, count in seeds.items()
        for seed in range(count)
    ]
    with ProcessPoolExecutor(min(options.jobs, len(plan))) as pool:
        for done in [
            pool.submit(train, options.data, t, seed, folder, options.quick)
            for t, seed, folder in plan
        ]:
            done.result()
    settings = json.loads(next(plan[0][2].glob(f"*/{MEASURED}")).read_text())["settings"]
    result = {
        "environment": environment(["scikit-learn"]),
        "data": "stories260k, TinyStories" if options.data else "Python's own text",
        "settings": {k: v for k, v in settings.items() if k not in ("temperature", "seed")},
        "moved": MOVED,
        "lineages": list(lineages(plan)),
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1, allow_nan=False) + "\n")
    for each in result["lineages"]:
        print({key: value for key, value in each.items() if key != "generations"})


if __name__ == "__main__":
    main()
