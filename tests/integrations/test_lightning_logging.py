"""When Lightning trainings are checked, and where the metrics go: to every logger, once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import (
    EarlyStopping,
    ModelCheckpoint,
)
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor
from torch.utils.data import IterableDataset

from sigma_monitor import SigmaLightningCallback
from tests.compatibility import shows
from tests.integrations.hosts import record_of, record_path
from tests.integrations.lightning_hosts import (
    From,
    Kept,
    TwoOptimizers,
    Wrapped,
    checked_at,
    eager,
    fit,
    flatten,
    loader,
    make_trainer,
)
from tests.integrations.models import token_rows

RANK = "sigma/last/effective_rank"
EVERY_THIRD = list(range(0, 31, 3))


def logged(folder: Path, steps_each: int = 1) -> list[tuple[int, dict[str, float]]]:
    """What every logger should have got, from the record; the loss of step 1 is logged at 0."""
    return [
        (max(0, snapshot.step // steps_each - 1), snapshot.metrics())
        for snapshot in record_of(folder).snapshots
    ]


@shows("Lightning", "same numbers")
def test_every_logger_gets_the_metrics_once_at_the_step_of_the_loss(tmp_path: Path) -> None:
    first, second = Kept(), Kept()
    trainer = make_trainer(tmp_path, eager(), logger=[first, second], log_every_n_steps=1)
    fit(trainer)
    assert checked_at(tmp_path) == EVERY_THIRD
    assert first.sigma == second.sigma == logged(tmp_path)
    losses = [step for step, _ in first.of("train_loss")]
    assert losses == list(range(30))  # the loss of global step k is at k - 1, and so are we
    assert RANK in first.sigma[0][1]
    kinds = {type(value) for _, metrics in first.sigma for value in metrics.values()}
    assert kinds == {float}


def test_metrics_and_loss_share_a_row_of_a_csv_file(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path, name="run", version="")
    trainer = make_trainer(tmp_path, eager(every=5), logger=[logger], log_every_n_steps=5)
    fit(trainer)
    folder = tmp_path / "run"
    header, *lines = (folder / "metrics.csv").read_text().splitlines()
    rows = [dict(zip(header.split(","), line.split(","), strict=True)) for line in lines]
    ours = [int(row["step"]) for row in rows if row[RANK]]
    losses = [int(row["step"]) for row in rows if row["train_loss"]]
    assert ours == [0, *losses] == [0, 4, 9, 14, 19, 24, 29]
    assert checked_at(folder) == list(range(0, 31, 5))  # the record lies beside the logger's files


def test_with_gradient_accumulation_a_step_is_checked_once(tmp_path: Path) -> None:
    logger = Kept()
    trainer = make_trainer(
        tmp_path, eager(), logger=[logger], log_every_n_steps=1, accumulate_grad_batches=2
    )
    fit(trainer)
    assert trainer.global_step == 30
    assert checked_at(tmp_path) == EVERY_THIRD
    assert logger.sigma == logged(tmp_path)
    assert [step for step, _ in logger.of("train_loss")] == list(range(30))


def test_with_two_optimizers_no_check_is_missed_and_none_comes_twice(tmp_path: Path) -> None:
    logger = Kept()
    trainer = make_trainer(tmp_path, eager(), logger=[logger], log_every_n_steps=1)
    fit(trainer, TwoOptimizers())
    assert trainer.global_step == 30
    # At every second batch: three steps are never reached, and two would be too few.
    assert checked_at(tmp_path) == [0, 4, 8, 12, 16, 20, 24, 28, 30]
    assert logger.sigma == logged(tmp_path, steps_each=2)
    assert [step for step, _ in logger.of("train_loss")] == list(range(15))


class Witness:
    """An `embed_fn` that writes down when it is asked."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str, int, bool]] = []

    def __call__(self, module: Any, batch: dict[str, Tensor]) -> Tensor:
        trainer = module.trainer
        stage = str(trainer.state.stage.value)
        stepped = any(optimizer.state for optimizer in trainer.optimizers)
        self.seen.append((str(trainer.state.fn.value), stage, trainer.global_step, stepped))
        return module.model.model(batch["input_ids"]).last_hidden_state


def test_the_first_check_comes_before_the_first_step_and_none_outside_of_training(
    tmp_path: Path,
) -> None:
    witness = Witness()
    callback = eager(every=10, embed_fn=witness)
    trainer = make_trainer(tmp_path, callback, val_check_interval=4, num_sanity_val_steps=2)
    module = fit(trainer)
    assert witness.seen == [
        ("fit", "train", 0, False),
        ("fit", "train", 10, True),
        ("fit", "train", 20, True),
        ("fit", "train", 30, True),
    ]
    module.test_step = module.validation_step
    module.predict_step = lambda batch, batch_idx: None
    trainer.validate(module, loader(token_rows(8)))
    trainer.test(module, loader(token_rows(8)))
    trainer.predict(module, loader(token_rows(8)))
    assert len(witness.seen) == 4
    assert len([e for e in record_of(tmp_path).events if e["event"] == "closed"]) == 1


def test_fast_dev_run_is_left_alone(tmp_path: Path) -> None:
    witness = Witness()
    callback = eager(embed_fn=witness)
    fit(make_trainer(tmp_path, callback, fast_dev_run=3))
    assert witness.seen == []
    assert not record_path(tmp_path).exists()
    fit(make_trainer(tmp_path, callback))  # and it is not off for good
    assert checked_at(tmp_path) == EVERY_THIRD


class Stream(IterableDataset[dict[str, Tensor]]):
    """96 examples, and nobody knows."""

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        return iter(token_rows(96))


def test_a_run_of_unknown_length_is_checked_at_its_last_step(tmp_path: Path) -> None:
    logger = Kept()
    trainer = make_trainer(
        tmp_path,
        eager(every=10),
        logger=[logger],
        log_every_n_steps=1,
        max_steps=-1,
        max_epochs=2,
    )
    fit(trainer, train=loader(Stream()))
    assert trainer.global_step == 48
    assert checked_at(tmp_path) == [0, 10, 20, 30, 40, 48]
    assert logger.sigma == logged(tmp_path)
    assert logger.of("train_loss")[-1][0] == 47


class StepsTwice(Wrapped):
    """One optimiser, twice in each batch, which no estimate knows."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        for _ in range(2):
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(self.model(**batch).loss)
            optimizer.step()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=1e-3)


def test_a_run_that_is_longer_than_estimated_is_not_checked_at_every_step(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, eager(every=10), max_steps=-1, max_epochs=1)
    fit(trainer, StepsTwice())
    assert trainer.global_step == 48
    # 24 were estimated, which is why there is a check.
    assert checked_at(tmp_path) == [0, 10, 20, 24, 34, 44, 48]


@pytest.mark.parametrize(
    ("module", "arguments", "steps"),
    [
        (Wrapped, {"max_steps": 7}, 7),
        (Wrapped, {"max_steps": -1, "max_epochs": 2}, 48),
        (Wrapped, {"max_steps": -1, "max_epochs": 2, "accumulate_grad_batches": 5}, 10),
        (TwoOptimizers, {"max_steps": -1, "max_epochs": 1}, 48),
        (TwoOptimizers, {"max_steps": 30, "max_epochs": 1}, 30),
    ],
)
def test_the_cadence_knows_the_length_of_the_run(
    module: type[Wrapped], arguments: dict[str, Any], steps: int, tmp_path: Path
) -> None:
    callback = SigmaLightningCallback(every=1000, max_overhead=None)
    seen: list[Any] = []

    class Reads(pl.Callback):
        def on_train_batch_start(self, *_: Any) -> None:
            cadence = callback.monitor.cadence
            seen.append((cadence.max_steps, cadence.logging_steps))

    trainer = make_trainer(tmp_path, callback, Reads(), **arguments)
    fit(trainer, module())
    assert set(seen) == {(steps, 5)}
    assert checked_at(tmp_path) == [0, steps]
    assert trainer.global_step == steps


def test_early_stopping_can_monitor_a_metric(tmp_path: Path) -> None:
    stopper = EarlyStopping(RANK, mode="max", divergence_threshold=10.0, patience=99)
    trainer = make_trainer(
        tmp_path, From(10, flatten), eager(every=2), stopper, val_check_interval=2
    )
    fit(trainer)
    # Four features are left at step 10, which the check at step 12 is the first to see.
    assert trainer.global_step == checked_at(tmp_path)[-1] == 12


def test_a_checkpoint_can_monitor_a_metric_of_the_step_it_is_saved_at(tmp_path: Path) -> None:
    best = ModelCheckpoint(
        tmp_path / "best",
        monitor=RANK,
        mode="min",
        every_n_train_steps=3,
        filename="{step}",
    )
    trainer = make_trainer(tmp_path, From(20, flatten), eager(), best, enable_checkpointing=True)
    fit(trainer)
    ranks = {s.step: s.metrics()[RANK] for s in record_of(tmp_path).snapshots}
    saved = {step: rank for step, rank in ranks.items() if step}
    step = min(saved, key=lambda step: saved[step])
    assert step > 20
    assert best.best_model_path.endswith(f"step={step}.ckpt")
    assert float(best.best_model_score) == pytest.approx(ranks[step], rel=1e-6)  # in fp32


def test_a_metric_stays_until_the_next_check_over_epochs_and_validations(tmp_path: Path) -> None:
    """Neither callback finds its metric gone, which would end the training."""

    class Reads(pl.Callback):
        def __init__(self) -> None:
            self.found: list[tuple[str, float]] = []

        def read(self, hook: str, trainer: Any) -> None:
            if not trainer.sanity_checking:
                self.found.append((hook, float(trainer.callback_metrics[RANK])))

        def on_validation_end(self, trainer: Any, *_: Any) -> None:
            self.read("validation", trainer)

        def on_train_epoch_end(self, trainer: Any, *_: Any) -> None:
            self.read("epoch", trainer)

        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            self.read("batch", trainer)

    reads = Reads()
    callback = eager(every=1000)
    trainer = make_trainer(
        tmp_path, reads, callback, EarlyStopping(RANK, patience=9), max_steps=-1, max_epochs=3
    )
    fit(trainer)
    first, last = record_of(tmp_path).snapshots
    assert (first.step, last.step) == (0, 72)
    kinds = [hook for hook, _ in reads.found]
    assert {kind: kinds.count(kind) for kind in set(kinds)} == {
        "batch": 72,
        "validation": 3,
        "epoch": 3,
    }
    before, at_the_end = (pytest.approx(s.metrics()[RANK], rel=1e-6) for s in (first, last))
    *earlier, (_, value) = [found for found in reads.found if found[0] == "batch"]
    assert all(other == before for _, other in earlier)
    assert value == before  # `reads` stands before the monitor
    assert reads.found[-1] == ("epoch", at_the_end)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true", "64-true"])
def test_the_probe_runs_in_the_precision_of_the_trainer(precision: Any, tmp_path: Path) -> None:
    dtypes: list[tuple[torch.dtype, torch.dtype]] = []

    class Typed(Wrapped):
        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            output = self.model(**batch)
            dtypes.append((output.logits.dtype, torch.get_default_dtype()))
            return output.loss

    seen: list[tuple[torch.dtype, torch.dtype]] = []

    def embed(module: Any, batch: dict[str, Tensor]) -> Tensor:
        logits = module.model(input_ids=batch["input_ids"]).logits
        seen.append((logits.dtype, torch.get_default_dtype()))
        return logits

    callback = eager(every=5, embed_fn=embed)
    fit(make_trainer(tmp_path, callback, max_steps=10, precision=precision), Typed())
    assert callback.monitor.failures == 0
    assert set(seen) == set(dtypes)
    assert len(seen) == 3
