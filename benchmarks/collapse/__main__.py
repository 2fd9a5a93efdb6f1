"""The collapse bench: harmful and healthy trainings, this package and its rivals on each of them.

Every run is kept in a file of its own below --runs, so that a bench that was interrupted goes on
where it was; the results of all of them are then put together.

Run: python benchmarks/collapse [--data FOLDER] [--quick] [--jobs 2] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import traceback
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from environment import commit, environment  # noqa: E402
from summary import summarised  # noqa: E402

RESULT = HERE.parent / "results" / "collapse.json"
HARMFUL_SEEDS, CONTROL_SEEDS = 5, 10
QUICK = ("H5", "H8", "C5")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="folder of real text and model; default: Python")
    parser.add_argument(
        "--quick", action="store_true", help="three scenarios, one seed: two minutes"
    )
    parser.add_argument("--jobs", type=int, default=2, help="processes of one thread each")
    parser.add_argument("--only", nargs="*", help="names of scenarios")
    parser.add_argument("--seeds", type=int, help="at most so many of each scenario")
    parser.add_argument("--runs", type=Path, default=Path("sigma-bench"), help="folder of the runs")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    data = options.data or _data_of_environment()
    failed = run_all(
        planned(options.quick, options.only, options.seeds), data, options.runs, options.jobs
    )
    runs = [json.loads(path.read_text()) for path in sorted(options.runs.glob("*.json"))]
    result = {
        "environment": environment(["scikit-learn"]),
        # A restart keeps the runs that are there, whatever code they were made with.
        "commits": sorted({run.get("commit") or "unknown" for run in runs}),
        "data": "stories260k, TinyStories, Shakespeare" if data else "Python's own text",
        "seconds": round(sum(run["seconds"] for run in runs)),  # of all trainings, on one thread
        "failed": failed,
        **summarised(runs),
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1, allow_nan=False) + "\n")
    for row in result["methods"]:
        print(row)
    sys.exit(bool(failed))


def _data_of_environment() -> Path | None:
    folder = os.environ.get("SIGMA_MONITOR_DATA")
    return Path(folder) if folder else None


def planned(quick: bool, only: list[str] | None, most: int | None) -> list[tuple[str, int]]:
    """Scenario and seed of every run; the seeds of all scenarios come before the next seed."""
    from scenarios import SCENARIOS

    names = only or (QUICK if quick else list(SCENARIOS))
    most = 1 if quick else most or CONTROL_SEEDS
    seeds = {
        name: min(most, HARMFUL_SEEDS if SCENARIOS[name].harmful else CONTROL_SEEDS)
        for name in names
    }
    return [(n, seed) for seed in range(CONTROL_SEEDS) for n in names if seed < seeds[n]]


def run_all(
    plan: list[tuple[str, int]], data: Path | None, folder: Path, jobs: int
) -> dict[str, str]:
    """Run what is not there yet; name and last line of the error of every run that failed."""
    folder.mkdir(parents=True, exist_ok=True)
    missing = [(n, seed) for n, seed in plan if not (folder / f"{n}-{seed}.json").exists()]
    failed = {}
    code = commit()  # now, when the code is loaded: it may change on disk in the hours to come
    with ProcessPoolExecutor(jobs, initializer=_one_thread) as pool:
        futures = {pool.submit(run_one, n, s, data, folder, code): f"{n}-{s}" for n, s in missing}
        for future in as_completed(futures):
            name = futures[future]
            try:
                print(f"{name}: {future.result():.0f} s", file=sys.stderr, flush=True)
            except Exception as error:
                traceback.print_exception(error, file=sys.stderr)
                failed[name] = f"{type(error).__name__}: {error}"
    return failed


def _one_thread() -> None:
    import torch
    import transformers

    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()


def run_one(name: str, seed: int, data: Path | None, folder: Path, code: str | None) -> float:
    """One training; its rows and alerts go to a file. Seconds it took."""
    import shutil

    from ground import ground
    from measures import Measures
    from scenarios import SCENARIOS, Run

    scenario, measures = SCENARIOS[name], Measures()
    base = ground(data)
    trained = folder / f"{name}-{seed}"
    shutil.rmtree(trained, ignore_errors=True)
    started = time.perf_counter()
    scenario.train(Run(base, seed, trained, measures))
    seconds = time.perf_counter() - started
    body: dict[str, Any] = {
        "commit": code,
        "scenario": name,
        "story": scenario.story,
        "onset": scenario.onset,
        "channels": list(scenario.channels),
        "seed": seed,
        "seconds": seconds,
        "alerts": measures.alerts,
        "rows": measures.rows,
    }
    shutil.rmtree(trained)
    part = folder / f"{name}-{seed}.part"
    part.write_text(json.dumps(body))
    part.rename(folder / f"{name}-{seed}.json")
    return seconds


if __name__ == "__main__":
    main()
