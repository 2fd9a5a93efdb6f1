"""The trainings of the demo: how each arm goes on from the common start."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

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

from sigma_monitor.demo.corpus import BLOCK, Block, Corpus
from sigma_monitor.demo.live import LiveLine
from sigma_monitor.demo.own_text import EachGeneration, Texts, written_by
from sigma_monitor.integrations.transformers import SigmaCallback
from sigma_monitor.options import CHANNELS
from sigma_monitor.probing import ProbeSet

__all__ = ["ARMS", "Arm", "Runaway", "pretrained", "train_arm"]

_BATCH = 16
_LEARNING_RATE = 1e-3
_PRETRAINING_STEPS = 400
_RUNAWAY = 100.0  # times the learning rate
_RUNAWAY_AT = 0.25  # share of the steps
_GENERATIONS = 5  # of model-made text
_TEXTS = 256  # of each
_TEMPERATURE = 0.7
_OWN_TEXT_RATE = 3e-4  # slow enough for the text to narrow before held-out loss has risen by 5 %
_CHECKS = 60  # of one arm
_WRITING_EVERY = 2  # checks


@dataclass(frozen=True)
class Arm:
    """One training that goes on from the common start."""

    name: str
    story: str
    expected: Literal["HEALTHY", "COLLAPSED"]
    stop: bool = False
    runaway: bool = False
    align: bool = False
    own_text: bool = False


ARMS = (
    Arm("healthy", "training goes on as before", "HEALTHY"),
    Arm(
        "learning-rate runaway",
        f"learning rate x {_RUNAWAY:.0f} after a quarter of the steps",
        "COLLAPSED",
        stop=True,
        runaway=True,
    ),
    Arm(
        "alignment without negatives",
        "two halves of a text pulled together, nothing pushed apart",
        "COLLAPSED",
        align=True,
    ),
    Arm(
        "its own samples",
        f"each generation learns what the last one wrote, at T = {_TEMPERATURE}",
        "COLLAPSED",
        own_text=True,
    ),
)


def pretrained(corpus: Corpus, out: Path, seed: int) -> PreTrainedModel:
    """A small Llama trained from scratch on the corpus."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(corpus.tokenizer),
        hidden_size=64,
        intermediate_size=176,
        num_hidden_layers=4,
        num_attention_heads=4,
        max_position_embeddings=2 * BLOCK,
        tie_word_embeddings=True,
    )
    model = LlamaForCausalLM(config)
    arguments = _arguments(out / "start", _PRETRAINING_STEPS, seed, _LEARNING_RATE)
    trainer = _trainer(Trainer, model, arguments, corpus.train, [LiveLine("a model from scratch")])
    trainer.train()
    return model


def train_arm(
    arm: Arm, start: PreTrainedModel, corpus: Corpus, out: Path, *, steps: int, seed: int
) -> tuple[SigmaCallback, list[tuple[int, float]]]:
    """Train a copy of `start` the way of `arm`, watched.

    Returns:
        The callback, which knows how it went, and step and training loss of every log.
    """
    model = copy.deepcopy(start)
    probes = ProbeSet.from_dataset(corpus.held_out, seed=seed, source="held-out blocks")
    watch = SigmaCallback(
        probes,
        every=max(1, steps // _CHECKS),
        max_overhead=None,  # far more checks than 1 % of these seconds would pay for
        channels=CHANNELS,
        generation={"every": _WRITING_EVERY},
        tokenizer=corpus.tokenizer,
        baseline="start",
        stop_on_collapse=arm.stop,
    )
    callbacks: list[TrainerCallback] = [watch, LiveLine(arm.name, watch)]
    if arm.runaway:
        callbacks.append(Runaway(at=round(steps * _RUNAWAY_AT)))
    texts: Any = corpus.train
    if arm.own_text:

        def renew(number: int, model: Any) -> list[Block]:
            real = corpus.train[number * _TEXTS :][:_TEXTS]
            return written_by(model, real, seed + number, temperature=_TEMPERATURE)

        texts = Texts(renew(0, model))
        callbacks.append(EachGeneration(texts, max(1, steps // _GENERATIONS), renew))
    kind = _AlignmentTrainer if arm.align else Trainer
    rate = _OWN_TEXT_RATE if arm.own_text else _LEARNING_RATE
    trainer = _trainer(kind, model, _arguments(out, steps, seed, rate), texts, callbacks)
    trainer.train()
    logs = trainer.state.log_history
    return watch, [(int(entry["step"]), entry["loss"]) for entry in logs if "loss" in entry]


class Runaway(TrainerCallback):
    """Multiplies the learning rate from one step on."""

    def __init__(self, at: int) -> None:
        self.at = at

    def on_step_begin(
        self, args: Any, state: Any, control: Any, lr_scheduler: Any = None, **_: Any
    ) -> None:
        """Raise the rate when the step has come."""
        if state.global_step == self.at:
            lr_scheduler.base_lrs = [rate * _RUNAWAY for rate in lr_scheduler.base_lrs]


class _AlignmentTrainer(Trainer):
    """Pulls the mean embeddings of both halves of a text together and pushes nothing apart."""

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        left, right = (
            model.base_model(input_ids=half).last_hidden_state.mean(1)
            for half in inputs["input_ids"].split(BLOCK // 2, dim=1)
        )
        return 1 - F.cosine_similarity(left, right).mean()


def _trainer(
    kind: Callable[..., Trainer],
    model: PreTrainedModel,
    arguments: TrainingArguments,
    texts: Any,
    callbacks: list[TrainerCallback],
) -> Trainer:
    trainer = kind(model, arguments, train_dataset=texts, callbacks=callbacks)
    trainer.remove_callback(PrinterCallback)  # the live line replaces it
    return trainer


def _arguments(out: Path, steps: int, seed: int, rate: float) -> TrainingArguments:
    return TrainingArguments(
        str(out),
        max_steps=steps,
        per_device_train_batch_size=_BATCH,
        learning_rate=rate,
        lr_scheduler_type="constant",
        logging_steps=5,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
        seed=seed,
    )
