"""A Trainer on two processes, DDP: `python -m tests.integrations.trainer_ranks FOLDER TROUBLE`."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import torch

from tests.integrations.begins import break_begin
from tests.integrations.hosts import Flatten, eager, make_trainer
from tests.integrations.models import tiny_llama, token_rows
from tests.processes import leave

ONSET, EVERY, TROUBLE_AT = 10, 2, 6


def main(folder: Path, trouble: str) -> None:
    rank, step = int(os.environ["RANK"]), [0]

    def embed(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        hidden = model.model(batch["input_ids"]).last_hidden_state
        if step[0] == TROUBLE_AT and trouble == f"raises_{rank}":
            raise RuntimeError("cannot embed this time")
        nan = step[0] == TROUBLE_AT and trouble == f"nan_{rank}"
        return hidden * float("nan") if nan else hidden

    watcher = eager(every=EVERY, baseline="start", stop_on_collapse=True, embed_fn=embed)
    check = watcher.monitor.step

    def counted(model: Any, at: int) -> Any:
        step[0] = at
        return check(model, at)

    watcher.monitor.step = counted  # type: ignore[method-assign]
    break_begin(watcher, trouble, rank)
    callbacks = [Flatten(ONSET), *([] if trouble == "unwatched" else [watcher])]
    trainer = make_trainer(
        folder,
        *callbacks,
        model=tiny_llama(attention_dropout=0.1),
        train=token_rows(256),
        ddp_backend="gloo",
        max_steps=16 if trouble == "unwatched" else 30,
    )
    trainer.train()
    weights = b"".join(p.detach().numpy().tobytes() for p in trainer.model.parameters())
    report = {
        "world": trainer.args.world_size,
        "step": trainer.state.global_step,
        "active": watcher.active,
        "reason": watcher.monitor.stop_reason,
        "failures": watcher.monitor.failures,
        "weights": hashlib.sha256(weights).hexdigest(),
        "logged": sum("sigma/status" in entry for entry in trainer.state.log_history),
    }
    (folder / f"rank{rank}.json").write_text(json.dumps(report))
    leave()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), sys.argv[2])
