"""Where Lightning's probe examples come from, and which model inside the module is watched."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from sigma_monitor import ProbeSet
from tests.integrations.bitwise import differences
from tests.integrations.hosts import (
    events_of,
    our_warnings,
    record_of,
    record_path,
)
from tests.integrations.lightning_hosts import (
    Wrapped,
    checked_at,
    eager,
    fit,
    loader,
    make_trainer,
    remains,
    rows_of,
    token_tuples,
)
from tests.integrations.models import VOCABULARY, tiny_llama, token_rows

LAST = 6
CHECKED = [0, 3, 6]


def run(folder: Path, *callbacks: Any, module: Any = None, **data: Any) -> Any:
    trainer = make_trainer(folder, *callbacks, max_steps=LAST)
    fit(trainer, module, **data)
    assert trainer.global_step == LAST
    return trainer


def started(folder: Path) -> tuple[bool, str, int]:
    (event,) = events_of(folder, "started")
    return event["held_out"], event["probes"], event["examples"]


def test_validation_data_is_held_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    callback = eager()
    run(tmp_path, callback)
    assert started(tmp_path) == (True, "val_dataloader", 32)
    assert rows_of(callback.monitor.probes) == token_tuples(token_rows(32, seed=1))
    assert our_warnings(caplog) == []


class ValidatesInAHook(Wrapped):
    """Its validation data costs a random number."""

    def val_dataloader(self) -> DataLoader[Any]:
        torch.rand(1)
        return loader(token_rows(32, seed=1))


@pytest.mark.parametrize(
    "arguments",
    [
        {"num_sanity_val_steps": 0, "check_val_every_n_epoch": 5},
        {"limit_val_batches": 0},
    ],
    ids=["validates_late", "never_validates"],
)
@pytest.mark.parametrize("way", ["loader", "hook"])
def test_validation_data_that_is_not_in_use_yet_serves_all_the_same(
    way: str, arguments: dict[str, Any], tmp_path: Path
) -> None:
    def trained(folder: Path, *callbacks: Any) -> Any:
        trainer = make_trainer(folder, *callbacks, max_steps=LAST, **arguments)
        if way == "loader":
            fit(trainer)
        else:
            fit(trainer, ValidatesInAHook(), held_out=None)
        return trainer

    watched = trained(tmp_path / "watched", eager())
    assert started(tmp_path / "watched") == (True, "val_dataloader", 32)
    assert differences(remains(trained(tmp_path / "plain")), remains(watched)) == []


def test_without_validation_data_training_data_serves_and_stays_in_training(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    callback = eager()
    watched = run(tmp_path / "watched", callback, held_out=None)
    (warning,) = our_warnings(caplog)
    assert all(part in warning for part in ("held_out=false", "validation loader", "probes="))
    assert started(tmp_path / "watched") == (False, "train_dataloader", 96)
    assert rows_of(callback.monitor.probes) == token_tuples(token_rows(96))

    plain = run(tmp_path / "plain", held_out=None)
    assert differences(remains(plain), remains(watched)) == []


class Stream(IterableDataset[dict[str, Tensor]]):
    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        return iter(token_rows(96))


def test_of_several_validation_loaders_the_first_that_can_be_sampled_is_taken(
    tmp_path: Path,
) -> None:
    callback = eager()
    held_out = {
        "stream": loader(Stream()),
        "poems": [loader(token_rows(20, seed=2)), loader(token_rows(24, seed=3))],
    }
    run(tmp_path, callback, held_out=held_out)
    assert started(tmp_path) == (True, "val_dataloader['poems'][0]", 20)
    assert rows_of(callback.monitor.probes) == token_tuples(token_rows(20, seed=2))


def test_a_stream_without_validation_data_switches_the_checks_off(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    callback = eager()
    run(tmp_path, callback, train=loader(Stream()), held_out=None)
    (warning,) = our_warnings(caplog)
    assert "SigmaLightningCallback(probes=ProbeSet.from_texts" in warning
    assert (callback.active, callback.monitor.failures) == (True, 0)
    assert not record_path(tmp_path).exists()


def test_examples_that_are_no_mapping_switch_the_monitor_off(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Tuples(Wrapped):
        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            return self.model(input_ids=batch[0], labels=batch[0]).loss

    ids = torch.stack([row["input_ids"] for row in token_rows(96)])
    callback = eager()
    run(tmp_path, callback, module=Tuples(), train=loader(TensorDataset(ids, ids)), held_out=None)
    warning = our_warnings(caplog)[-1]
    assert "switched off, training goes on" in warning
    assert "ProbeSet.from_tensors" in warning
    assert not callback.active


class Counted(DataLoader[Any]):
    """A loader that counts how often it is iterated."""

    iterations = 0

    def __iter__(self) -> Any:
        type(self).iterations += 1
        return super().__iter__()


def test_loaders_of_the_host_are_not_iterated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def iterations(*callbacks: Any) -> int:
        monkeypatch.setattr(Counted, "iterations", 0)
        train, held_out = (Counted(token_rows(n, seed=n), batch_size=4) for n in (96, 32))
        run(tmp_path, *callbacks, train=train, held_out=held_out)
        return Counted.iterations

    assert iterations(eager()) == iterations() > 0
    assert checked_at(tmp_path) == CHECKED


def test_probes_of_the_user_win_and_serve_a_second_run(tmp_path: Path) -> None:
    probes = ProbeSet.from_dataset(token_rows(10, seed=4), held_out=False)
    callback = eager(probes=probes)
    for folder in (tmp_path / "0", tmp_path / "1"):
        run(folder, callback)
        assert callback.monitor.probes is probes
        assert {s.examples for s in record_of(folder).snapshots} == {10}
        assert checked_at(folder) == CHECKED


def test_a_second_run_takes_its_own_data(tmp_path: Path) -> None:
    callback = eager()
    for examples in (32, 20):
        run(tmp_path / str(examples), callback, held_out=loader(token_rows(examples, seed=1)))
        assert started(tmp_path / str(examples)) == (True, "val_dataloader", examples)


class Distilled(Wrapped):
    """Two transformers models."""

    def __init__(self) -> None:
        super().__init__()
        self.teacher = tiny_llama()

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.model(input_ids).logits


class Homemade(Wrapped):
    """No transformers model."""

    def __init__(self) -> None:
        super().__init__(nn.Embedding(VOCABULARY, 8))
        self.head = nn.Linear(8, VOCABULARY)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.head(self.model(input_ids))

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        logits = self(batch["input_ids"])
        return nn.functional.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten())

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        pass


@pytest.mark.parametrize("layers", ["last", 0, ["model", "last"]])
@pytest.mark.parametrize(("module", "held"), [(Distilled, "model, teacher"), (Homemade, "none")])
def test_where_one_model_is_asked_for_and_there_is_not_one_an_embed_fn_is_asked_for(
    module: type[Wrapped],
    held: str,
    layers: Any,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    callback = eager(layers=layers)
    run(tmp_path, callback, module=module())
    (warning,) = our_warnings(caplog)
    assert f"{module.__name__} holds {held}. Pass embed_fn=" in warning
    assert "switched off, training goes on" in warning
    assert not callback.active
    assert not record_path(tmp_path).exists()


@pytest.mark.parametrize(
    ("module", "options", "layer"),
    [
        (Distilled, {"embed_fn": lambda module, batch: module(batch["input_ids"])}, "last"),
        (Distilled, {"layers": "model.model.layers.1"}, "model.model.layers.1"),
        (Homemade, {"embed_fn": lambda module, batch: module.model(batch["input_ids"])}, "last"),
        (Homemade, {"layers": "model"}, "model"),
    ],
)
def test_the_module_itself_is_watched_by_embed_fn_or_by_names(
    module: type[Wrapped], options: dict[str, Any], layer: str, tmp_path: Path
) -> None:
    callback = eager(**options)
    run(tmp_path, callback, module=module())
    assert callback.monitor.failures == 0
    assert checked_at(tmp_path) == CHECKED
    assert set(record_of(tmp_path).snapshots[0].layers) == {layer}


def test_the_model_inside_is_watched_as_a_transformers_trainer_would(tmp_path: Path) -> None:
    """Names count from the model, and the loss of its head is measured."""
    model = tiny_llama()
    model.name_or_path = "somewhere"  # as of a model that was loaded
    callback = eager(layers=["last", 0, "model.norm"])
    run(tmp_path, callback, module=Wrapped(model))
    first = record_of(tmp_path).snapshots[0]
    assert set(first.layers) == {"last", "0", "model.norm"}
    assert first.loss is not None
    assert events_of(tmp_path, "started")[0]["baseline"] == "start"
