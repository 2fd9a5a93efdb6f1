"""What the trainings of the demo and those of `benchmarks/collapse` have in common."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from sigma_monitor.demo.corpus import BLOCK, Corpus

__all__ = ["BATCH", "RUNAWAY", "AlignmentTrainer", "Runaway", "small_llama", "train"]

BATCH = 16
RUNAWAY = 100.0  # times the learning rate


def small_llama(corpus: Corpus, seed: int) -> PreTrainedModel:
    """A Llama for the tokens of `corpus`, with weights drawn at random."""
    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(corpus.tokenizer),
            hidden_size=64,
            intermediate_size=176,
            num_hidden_layers=4,
            num_attention_heads=4,
            max_position_embeddings=2 * BLOCK,
            tie_word_embeddings=True,
        )
    )


def train(
    model: PreTrainedModel,
    texts: Any,
    out: Path,
    *,
    callbacks: list[TrainerCallback],
    steps: int,
    rate: float,
    seed: int,
    logging_steps: int,
    kind: type[Trainer] = Trainer,
) -> Trainer:
    """Train `model` on `texts` at a constant learning rate; the Trainer that did it."""
    arguments = TrainingArguments(
        str(out),
        max_steps=steps,
        per_device_train_batch_size=BATCH,
        learning_rate=rate,
        lr_scheduler_type="constant",
        logging_steps=logging_steps,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
        seed=seed,
    )
    trainer = kind(model, arguments, train_dataset=texts, callbacks=callbacks)
    trainer.remove_callback(PrinterCallback)  # it would print every log
    trainer.train()
    return trainer


class Runaway(TrainerCallback):
    """Multiplies the learning rate from one step on."""

    def __init__(self, at: int) -> None:
        self.at = at

    def on_step_begin(
        self, args: Any, state: Any, control: Any, lr_scheduler: Any = None, **_: Any
    ) -> None:
        """Raise the rate when the step has come."""
        if state.global_step == self.at:
            lr_scheduler.base_lrs = [rate * RUNAWAY for rate in lr_scheduler.base_lrs]


class AlignmentTrainer(Trainer):
    """Pulls the mean embeddings of both halves of a text together and pushes nothing apart."""

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        """One minus the cosine of the two halves."""
        left, right = (
            model.base_model(input_ids=half).last_hidden_state.mean(1)
            for half in inputs["input_ids"].split(BLOCK // 2, dim=1)
        )
        return 1 - F.cosine_similarity(left, right).mean()
