"""A training that is killed in mid-run: `python -m tests.integrations.killed_run FOLDER STEP`."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainerCallback

from tests.integrations.hosts import Flatten, eager, make_trainer

STEPS = 60
ONSET = 24  # of a collapse, so that there is a status to lose


class KillAt(TrainerCallback):
    """Ends the process at `step`, without a chance to tidy up."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


def resumable(folder: Path, *others: TrainerCallback, watcher: Any = None, **arguments: Any) -> Any:
    """The training of the resume tests, the same in every process."""
    watcher = eager(every=2) if watcher is None else watcher
    callbacks = [Flatten(ONSET), *([watcher] if watcher else []), *others]
    return make_trainer(
        folder,
        *callbacks,
        **{
            "max_steps": STEPS,
            "save_strategy": "steps",
            "save_steps": 10,
            "logging_steps": 7,
            **arguments,
        },
    )


def watcher_of(trainer: Trainer) -> Any:
    return next(cb for cb in trainer.callback_handler.callbacks if hasattr(cb, "monitor"))


if __name__ == "__main__":
    torch.set_num_threads(1)
    resumable(Path(sys.argv[1]), KillAt(int(sys.argv[2]))).train()
