"""The monitored Lightning training is, bit by bit, the training without the monitor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import lightning.pytorch as pl
import pytest
import torch

from sigma_monitor import SigmaLightningCallback
from tests.compatibility import shows
from tests.integrations.bitwise import differences
from tests.integrations.hosts import sigma_part
from tests.integrations.lightning_hosts import (
    Kept,
    TwoOptimizers,
    Wrapped,
    checked_at,
    eager,
    fit,
    make_trainer,
    remains,
)
from tests.integrations.models import SmallForCausalLM, tiny_gpt2


def raising_embed_fn(module: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Goes through the model, draws, and fails."""
    module.model(input_ids=batch["input_ids"])
    torch.rand(5)
    raise RuntimeError("cannot embed")


@dataclass(frozen=True)
class Case:
    """A training, and what the monitor is asked to do in it."""

    module: Callable[[], pl.LightningModule] = Wrapped
    arguments: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)  # of the callback


CASES = {
    "attention_dropout": Case(),
    "explicit_dropout": Case(module=lambda: Wrapped(tiny_gpt2())),
    "batch_norm": Case(module=lambda: Wrapped(SmallForCausalLM("norm"))),
    "frozen_batch_norm": Case(module=lambda: Wrapped(SmallForCausalLM("frozen_norm"))),
    "draws_in_eval_mode": Case(module=lambda: Wrapped(SmallForCausalLM("draws"))),
    "gradient_accumulation": Case(arguments={"accumulate_grad_batches": 2}),
    "validation": Case(arguments={"val_check_interval": 4}),
    "bf16_mixed": Case(arguments={"precision": "bf16-mixed"}),
    "bf16_true": Case(arguments={"precision": "bf16-true"}),
    "two_optimizers": Case(module=TwoOptimizers),
    "probe_raises": Case(options={"embed_fn": raising_embed_fn}),
}
CALLBACKS = {"every_3": eager, "default": SigmaLightningCallback}


def train(case: Case, folder: Path, *callbacks: Any) -> dict[str, Any]:
    logger = Kept()
    arguments = {"logger": [logger], "log_every_n_steps": 1, **case.arguments}
    trainer = make_trainer(folder, *callbacks, **arguments)
    fit(trainer, case.module())
    rows = [(step, metrics) for step, metrics in logger.heard if not sigma_part(metrics)]
    return {**remains(trainer), "logged": rows, "steps": trainer.global_step}


@cache
def unmonitored(name: str) -> dict[str, Any]:
    with TemporaryDirectory() as folder:
        return train(CASES[name], Path(folder))


@pytest.mark.parametrize("callback", CALLBACKS)
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=shows("Lightning", "same weights", case=name.replace("_", " ")))
        for name in CASES
    ],
)
def test_training_is_bitwise_what_it_is_without_the_monitor(
    name: str, callback: str, tmp_path: Path
) -> None:
    case = CASES[name]
    watcher = CALLBACKS[callback](**case.options)
    assert differences(unmonitored(name), train(case, tmp_path, watcher)) == []
    # The comparison says something only if the monitor did, or tried, its work.
    assert watcher.active
    assert unmonitored(name)["steps"] == 30
    if name == "probe_raises":
        assert watcher.monitor.failures == 3
        assert watcher.monitor.checks == 0
    else:
        assert watcher.monitor.failures == 0
        least = 2 if callback == "default" else 8 if name == "two_optimizers" else 11
        assert len(checked_at(tmp_path)) == watcher.monitor.checks >= least


@pytest.mark.parametrize(
    "name", ["bf16_mixed", "gradient_accumulation", "explicit_dropout", "two_optimizers"]
)
def test_the_cases_are_different_trainings(name: str) -> None:
    assert differences(unmonitored(name)["logged"], unmonitored("attention_dropout")["logged"])


def test_frozen_batch_norm_keeps_its_statistics_and_its_mode(tmp_path: Path) -> None:
    model = SmallForCausalLM("frozen_norm")
    norm = model.body.norm
    norm.running_mean.fill_(0.25)
    fit(make_trainer(tmp_path, eager()), Wrapped(model))
    assert not norm.training
    assert model.body.dropout.training
    assert norm.num_batches_tracked == 0
    assert torch.equal(norm.running_mean, torch.full((32,), 0.25))


class OneDraw(pl.Callback):
    """What a careless monitor would do: one number from the global generator, once."""

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == 10:
            torch.rand(1)


def test_the_comparison_notices_a_careless_monitor(tmp_path: Path) -> None:
    found = differences(
        unmonitored("explicit_dropout"), train(CASES["explicit_dropout"], tmp_path, OneDraw())
    )
    assert "/torch" in found
    assert any(path.startswith("/parameters") for path in found)
    assert any(path.startswith("/logged") for path in found)
