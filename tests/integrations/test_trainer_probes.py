"""Where the probe examples come from, and that taking them costs the training nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from torch import Tensor
from torch.utils.data import IterableDataset
from transformers import Trainer, TrainerCallback

from sigma_monitor import ProbeSet, SigmaCallback
from sigma_monitor.errors import InputError
from tests.integrations.bitwise import differences, remains
from tests.integrations.conftest import Stories
from tests.integrations.hosts import (
    eager,
    events_of,
    expected_metrics,
    make_trainer,
    our_warnings,
    record_of,
    record_path,
    sigma_entries,
)
from tests.integrations.models import Rows, SmallForCausalLM, token_rows

LAST = 12


def run(folder: Path, *callbacks: TrainerCallback, **arguments: Any) -> Trainer:
    trainer = make_trainer(folder, *callbacks, **{"max_steps": LAST, **arguments})
    trainer.train()
    assert trainer.state.global_step == trainer.args.max_steps
    return trainer


def rows_of(probes: ProbeSet) -> set[tuple[int, ...]]:
    return {tuple(row) for row in probes.tensors["input_ids"].tolist()}


def token_tuples(rows: Rows) -> set[tuple[int, ...]]:
    return {tuple(row["input_ids"].tolist()) for row in rows}


class Stream(IterableDataset[dict[str, Tensor]]):
    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        return iter(token_rows(96))


class StreamOfKnownLength(Stream):
    def __len__(self) -> int:
        return 96


def hub_stream() -> Any:
    return datasets.Dataset.from_list(
        [{name: row.tolist() for name, row in item.items()} for item in token_rows(96)]
    ).to_iterable_dataset()


def test_evaluation_data_is_held_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    callback = eager()
    run(tmp_path, callback)
    (started,) = events_of(tmp_path, "started")
    assert (started["held_out"], started["probes"], started["examples"]) == (
        True,
        "eval_dataset",
        32,
    )
    assert {s.conventions["held_out"] for s in record_of(tmp_path).snapshots} == {True}
    assert callback.monitor.probes is not None
    assert rows_of(callback.monitor.probes) == token_tuples(token_rows(32, seed=1))
    assert our_warnings(caplog) == []


def test_the_default_is_128_examples_of_at_most_128_tokens(tmp_path: Path) -> None:
    callback = eager()
    held_out = token_rows(150, length=130)
    run(tmp_path, callback, held_out=held_out, train=token_rows(96, length=8), max_steps=2)
    assert callback.monitor.probes is not None
    assert callback.monitor.probes.tensors["input_ids"].shape == (128, 128)
    assert len(rows_of(callback.monitor.probes)) == 128


@pytest.mark.parametrize("examples", [96, 200])
def test_without_evaluation_data_training_data_serves_and_stays_in_training(
    examples: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train = token_rows(examples)
    callback = eager()
    watched = run(tmp_path / "watched", callback, train=train, held_out=None)
    (warning,) = our_warnings(caplog)
    assert "held_out=false" in warning
    assert "eval_dataset=" in warning
    assert "probes=" in warning
    (started,) = events_of(tmp_path / "watched", "started")
    assert started["held_out"] is False
    assert started["probes"] == "train_dataset"
    assert {s.conventions["held_out"] for s in record_of(tmp_path / "watched").snapshots} == {False}
    assert callback.monitor.probes is not None
    assert rows_of(callback.monitor.probes) <= token_tuples(train)
    assert len(callback.monitor.probes) == min(128, examples)
    assert len(watched.train_dataset) == examples

    plain = run(tmp_path / "plain", train=train, held_out=None)
    assert differences(remains(plain), remains(watched)) == []


def test_of_several_evaluation_sets_the_first_is_taken_and_named(tmp_path: Path) -> None:
    first, second = token_rows(20, seed=2), token_rows(24, seed=3)
    callback = eager()
    trainer = run(
        tmp_path,
        callback,
        held_out={"news": first, "poems": second},
        eval_strategy="steps",
        eval_steps=6,
    )
    assert callback.monitor.probes is not None
    assert rows_of(callback.monitor.probes) == token_tuples(first)
    (started,) = events_of(tmp_path, "started")
    assert started["probes"] == "eval_dataset['news']"
    assert started["held_out"] is True
    evaluated = [e["step"] for e in trainer.state.log_history if "eval_poems_loss" in e]
    assert evaluated == [6, 12]


@pytest.mark.parametrize(
    "stream", [Stream, StreamOfKnownLength, hub_stream], ids=["torch", "known_length", "datasets"]
)
def test_a_stream_without_evaluation_data_switches_the_checks_off(
    stream: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    callback = eager()
    watched = run(tmp_path / "watched", callback, train=stream(), held_out=None)
    (warning,) = our_warnings(caplog)
    assert "probes=" in warning
    assert "ProbeSet.from_texts" in warning
    assert (callback.active, callback.monitor.failures) == (True, 0)
    assert not record_path(tmp_path / "watched").exists()
    assert sigma_entries(watched.state.log_history) == []

    plain = run(tmp_path / "plain", train=stream(), held_out=None)
    assert differences(remains(plain), remains(watched)) == []


@pytest.mark.parametrize("source", ["eval_dataset", "probes"])
def test_a_stream_with_other_probes_is_watched(
    source: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    held_out = token_rows(16, seed=1)
    callback = eager(probes=ProbeSet.from_dataset(held_out) if source == "probes" else None)
    watched = run(
        tmp_path / "watched",
        callback,
        train=Stream(),
        held_out=held_out if source == "eval_dataset" else None,
    )
    assert our_warnings(caplog) == []
    assert sigma_entries(watched.state.log_history) == expected_metrics(tmp_path / "watched")
    assert callback.monitor.checks >= 4
    plain = run(tmp_path / "plain", train=Stream(), held_out=held_out)
    assert differences(remains(plain), remains(watched)) == []


def test_probes_of_the_user_win(tmp_path: Path) -> None:
    probes = ProbeSet.from_dataset(token_rows(10, seed=4), held_out=False)
    callback = eager(probes=probes)
    run(tmp_path, callback)
    assert callback.monitor.probes is probes
    assert {s.examples for s in record_of(tmp_path).snapshots} == {10}


@pytest.mark.parametrize(
    "build",
    [
        lambda: ProbeSet.from_tensors({"input_ids": torch.zeros(0, 8, dtype=torch.long)}),
        lambda: ProbeSet.from_tensors({}),
        lambda: ProbeSet.from_dataset([]),
        lambda: ProbeSet.from_texts([], lambda texts, **_: {"input_ids": [[1]]}),
        lambda: ProbeSet.from_dataloader([]),
    ],
    ids=["no_rows", "no_tensor", "dataset", "texts", "dataloader"],
)
def test_an_empty_probe_set_is_refused_at_construction(build: Any) -> None:
    with pytest.raises(InputError, match=r"(?i)(empty|no batch|no tensor|at least one)"):
        SigmaCallback(probes=build())


def test_an_empty_evaluation_set_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run(tmp_path, eager(), held_out=[])
    (warning,) = our_warnings(caplog)
    assert "empty" in warning or "no evaluation data" in warning


def unequal(n: int, seed: int) -> Rows:
    """Rows of 5 to 16 tokens."""
    lengths = [5 + (7 * index) % 12 for index in range(n)]
    return [
        {name: value[:length] for name, value in row.items()}
        for row, length in zip(token_rows(n, seed=seed), lengths, strict=True)
    ]


def padded(items: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """What a user without a padding token writes."""
    from torch.nn.utils.rnn import pad_sequence

    ids = [item["input_ids"] for item in items]
    return {
        "input_ids": pad_sequence(ids, batch_first=True),
        "attention_mask": pad_sequence([torch.ones_like(row) for row in ids], batch_first=True),
        "labels": pad_sequence(ids, batch_first=True, padding_value=-100),
    }


def test_rows_of_unequal_length_with_a_collator(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    callback = eager()
    held_out = unequal(32, seed=1)
    run(tmp_path, callback, train=unequal(96, 0), held_out=held_out, data_collator=padded)
    assert our_warnings(caplog) == []
    assert callback.monitor.failures == 0
    tokens = sum(len(row["input_ids"]) - 1 for row in held_out)  # without padding and first token
    assert {s.rows for s in record_of(tmp_path).snapshots} == {tokens}


def test_rows_of_unequal_length_one_at_a_time(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Batches of one need no padding, so the Trainer's default collator serves such a training."""
    callback = eager()
    held_out = unequal(32, seed=1)
    run(
        tmp_path,
        callback,
        train=unequal(96, 0),
        held_out=held_out,
        per_device_train_batch_size=1,
        per_device_eval_batch_size=1,
    )
    assert our_warnings(caplog) == []
    assert callback.active
    tokens = sum(len(row["input_ids"]) - 1 for row in held_out)
    assert {s.rows for s in record_of(tmp_path).snapshots} == {tokens}


def test_a_tokenizer_without_padding_token(
    stories: Stories, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert stories.tokenizer.pad_token is None
    texts = ["Once upon a time", "A much longer sentence about a little girl called Lily.", "The"]
    probes = ProbeSet.from_texts(texts, stories.tokenizer)
    assert stories.tokenizer.pad_token is None
    callback = eager(probes=probes)
    run(
        tmp_path,
        callback,
        model=stories.model(),
        train=stories.train[:96],
        held_out=None,
        max_steps=3,
    )
    assert our_warnings(caplog) == []
    tokens = sum(len(stories.tokenizer(text)["input_ids"]) - 1 for text in texts)
    assert {s.rows for s in record_of(tmp_path).snapshots} == {tokens}
    assert callback.monitor.checks == 2


def test_columns_the_model_does_not_take_are_left_out(tmp_path: Path) -> None:
    rows = [
        {"text": "a text", **{name: value.tolist() for name, value in row.items()}}
        for row in token_rows(32)
    ]
    dataset = datasets.Dataset.from_list(rows)
    callback = eager()
    run(tmp_path, callback, train=dataset, held_out=dataset)
    assert callback.monitor.failures == 0
    assert callback.monitor.probes is not None
    assert "text" not in callback.monitor.probes.tensors


class Counted:
    """A loader that counts how often it is iterated."""

    def __init__(self, loader: Any, trainer: CountsIterations) -> None:
        self._loader = loader
        self._trainer = trainer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Any]:
        self._trainer.iterations += 1
        return iter(self._loader)


class CountsIterations(Trainer):
    """Of its evaluation loaders; one more of the training loader would change the training."""

    iterations = 0
    asked = 0

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
        self.asked += 1
        return Counted(super().get_eval_dataloader(eval_dataset), self)


def test_loaders_of_the_host_are_asked_for_and_never_iterated(tmp_path: Path) -> None:
    callback = eager()
    trainer = run(tmp_path, callback, kind=CountsIterations)
    assert callback.monitor.checks >= 4
    assert (trainer.asked, trainer.iterations) == (1, 0)
    trainer.evaluate()
    assert (trainer.asked, trainer.iterations) == (2, 1)


def test_a_model_that_is_not_of_transformers_is_watched_by_embed_fn(tmp_path: Path) -> None:
    callback = eager(embed_fn=lambda model, batch: model.body(batch["input_ids"]))
    run(tmp_path, callback, model=SmallForCausalLM())
    assert callback.monitor.failures == 0
    assert callback.monitor.checks >= 4
