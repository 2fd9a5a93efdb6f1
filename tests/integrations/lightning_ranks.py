"""Lightning on two processes: `python -m tests.integrations.lightning_ranks FOLDER WHO_FAILS`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from tests.integrations.begins import break_begin
from tests.integrations.lightning_hosts import From, Kept, eager, fit, flatten, make_trainer
from tests.integrations.test_lightning_stop import ONSET, START


class Report(pl.Callback):
    """Makes the trouble of a begin, and writes what its rank has come to."""

    def __init__(self, folder: Path, watcher: Any, logger: Kept, trouble: str) -> None:
        self.folder, self.watcher, self.logger = folder, watcher, logger
        self.trouble = trouble

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        break_begin(self.watcher, self.trouble, trainer.global_rank)

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        report = {
            "step": trainer.global_step,
            "active": self.watcher.active,
            "stop_reason": self.watcher.monitor.stop_reason,
            "failures": self.watcher.monitor.failures,
            "heard": len(self.logger.sigma),
        }
        (self.folder / f"rank{trainer.global_rank}.json").write_text(json.dumps(report))


def main(folder: Path, fails: str) -> None:
    def embed(module: Any, batch: dict[str, Tensor]) -> Tensor:
        if fails == f"rank_{module.global_rank}" and module.global_step == 4:
            raise RuntimeError("cannot embed this time")
        return module.model.model(batch["input_ids"]).last_hidden_state

    watcher, logger = eager(stop_on_collapse=True, embed_fn=embed, **START), Kept()
    trainer = make_trainer(
        folder,
        Report(folder, watcher, logger, fails),
        From(ONSET, flatten),
        watcher,
        logger=[logger],
        devices=2,
        strategy="ddp_fork",
    )
    fit(trainer)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), sys.argv[2])
