"""A training that is killed in mid-run, by SIGKILL or as told to.

`python -m tests.integrations.killed_run FOLDER STEP [SIGTERM [exit]]`; `exit`: a handler exits.
"""

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

    def __init__(self, step: int, by: signal.Signals = signal.SIGKILL) -> None:
        self.step = step
        self.by = by

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self.step:
            os.kill(os.getpid(), self.by)


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
    folder, step, *how = sys.argv[1:]
    if how[1:] == ["exit"]:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))
    by = signal.Signals[how[0]] if how else signal.SIGKILL
    resumable(Path(folder), KillAt(int(step), by)).train()
