"""accelerate on several processes: `python -m tests.integrations.accelerate_ranks FOLDER WORLD N`.

A training with N micro-batches in a step without the monitor, one with it that is left at step 10,
and its resumption, in which the model collapses. And one in which every process has the same
example, so that its numbers are those of one process.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from accelerate import debug_launcher

from tests.integrations.accelerate_hosts import Kept, eager, train
from tests.integrations.bitwise import differences
from tests.integrations.test_accelerate import ONSET

SAVED = 10


def main(folder: Path, accumulate: int) -> None:
    torch.set_num_threads(1)
    watch, tracker = eager(folder, every=1, stop_on_collapse=True), Kept()
    alone = train(accumulate=accumulate, stop_at=SAVED)
    beside = train(
        watch,
        accumulate=accumulate,
        stop_at=SAVED,
        save=lambda step: folder / "state" if step == SAVED else None,
    )
    left = train(
        watch,
        accumulate=accumulate,
        flat_from=ONSET,
        trackers=[tracker],
        resume=(folder / "state", SAVED),
    )
    accelerator, monitor = left["accelerator"], left["monitor"]
    alike = Kept()
    train(eager(folder / "alike"), rows=1, flat_from=ONSET, trackers=[alike])
    kept = ("parameters", "optimizer", "scheduler", "torch")
    report = {
        "wrapped": type(left["model"]).__name__,
        "changed": [d for name in kept for d in differences(alone[name], beside[name], name)],
        "step": left["step"],
        "stop_reason": monitor.stop_reason,
        "failures": monitor.failures,
        "heard": [step for step, _ in tracker.sigma],
        "alike": alike.sigma,
    }
    path = folder / f"rank{accelerator.process_index}.json"
    path.write_text(json.dumps(report))


if __name__ == "__main__":
    world, accumulate = map(int, sys.argv[2:])
    debug_launcher(main, (Path(sys.argv[1]), accumulate), num_processes=world)
