"""GRPO on two processes: `python -m tests.integrations.grpo_ranks FOLDER`.

Once with the monitor, which reads the completions of both, and once without.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from sigma_monitor.integrations.trl import SigmaGRPOCallback
from tests.integrations.hosts import loss_entries
from tests.integrations.sharded_loop import digest
from tests.integrations.trl_hosts import make_trl, own_metrics, variety
from tests.processes import forked

WORLD, STEPS, EVERY = 2, 6, 3
PROMPTS = 3  # in a reading; each has 4 completions, 2 on each process


def train(folder: Path, *, watched: bool) -> dict[str, Any]:
    sigma = SigmaGRPOCallback(every=EVERY, max_overhead=None, generation={"prompts": PROMPTS})
    read, texts = sigma._probe.read, []

    def noted(*arguments: Any) -> Any:
        writing = read(*arguments)
        texts.append(0 if writing is None else len(writing.texts))
        return writing

    sigma._probe.read = noted  # type: ignore[method-assign]
    trainer = make_trl(
        "grpo",
        folder,
        *[sigma] * watched,
        rewards=(variety, *[sigma] * watched),
        max_steps=STEPS,
        per_device_train_batch_size=2,
        ddp_backend="gloo",
        logging_steps=1,
    )
    trainer.train()
    return {
        "world": trainer.args.world_size,
        "weights": digest(trainer.model),
        "generator": torch.get_rng_state().tolist(),
        "logged": own_metrics(loss_entries(trainer.state.log_history)),
        "failures": sigma.monitor.failures,
        "seen": sigma.seen,
        "texts": texts,
    }


def main(folder: Path) -> None:
    alone = train(folder / "alone", watched=False)
    beside = train(folder / "watched", watched=True)
    report = json.dumps({"alone": alone, "beside": beside})
    (folder / f"rank{dist.get_rank()}.json").write_text(report)


if __name__ == "__main__":
    torch.set_num_threads(1)
    forked(WORLD, main, Path(sys.argv[1]))
