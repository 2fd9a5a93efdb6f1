"""sentence-transformers: its Trainer is handed a model that is none of transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sentence_transformers import (
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.losses import MultipleNegativesRankingLoss

from sigma_monitor import SigmaCallback
from tests.compatibility import shows
from tests.integrations.bitwise import differences, remains
from tests.integrations.hosts import eager, expected_metrics, record_of, sigma_entries
from tests.integrations.sentence_hosts import WIDTH, pairs, sentence_model

HOST = "SentenceTransformerTrainer"


def train(folder: Path, *callbacks: SigmaCallback) -> SentenceTransformerTrainer:
    model = sentence_model(folder / "model")
    trainer = SentenceTransformerTrainer(
        model=model,
        args=SentenceTransformerTrainingArguments(
            str(folder),
            max_steps=12,
            per_device_train_batch_size=8,
            logging_steps=4,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            use_cpu=True,
        ),
        train_dataset=pairs(48, 0),
        eval_dataset=pairs(32, 1),
        loss=MultipleNegativesRankingLoss(model),
        callbacks=list(callbacks),
    )
    trainer.train()
    return trainer


@shows(HOST, "same weights", "same numbers")
@pytest.mark.parametrize("layers", ["last", ["last", 0]], ids=["default", "a_block_too"])
def test_sentence_embeddings_are_watched_and_the_training_is_what_it_is(
    layers: Any, tmp_path: Path
) -> None:
    watcher = eager(layers=layers)
    alone, beside = train(tmp_path / "alone"), train(tmp_path / "beside", watcher)
    assert differences(remains(alone), remains(beside)) == []
    assert watcher.monitor.failures == 0
    snapshots = record_of(tmp_path / "beside").snapshots
    assert [snapshot.step for snapshot in snapshots] == [0, 3, 6, 9, 12]
    if layers == "last":
        assert {snapshot.rows for snapshot in snapshots} == {32}  # one for each sentence
    found = sigma_entries(beside.state.log_history)
    assert found == expected_metrics(tmp_path / "beside")
    assert all(1 < metrics["sigma/last/effective_rank"] <= WIDTH for _, metrics in found)
