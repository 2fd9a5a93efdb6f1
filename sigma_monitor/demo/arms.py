"""The trainings of the demo: how each arm goes on from the common start."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from transformers import PreTrainedModel, Trainer, TrainerCallback

from sigma_monitor.demo.corpus import Block, Corpus
from sigma_monitor.demo.live import LiveLine
from sigma_monitor.demo.own_text import EachGeneration, Texts, written_by
from sigma_monitor.demo.training import RUNAWAY, AlignmentTrainer, Runaway, small_llama, train
from sigma_monitor.integrations.transformers import SigmaCallback
from sigma_monitor.monitor.options import CHANNELS
from sigma_monitor.probing import ProbeSet

__all__ = ["ARMS", "Arm", "pretrained", "train_arm"]

_LEARNING_RATE = 1e-3
_LOGGING_STEPS = 5
_PRETRAINING_STEPS = 400
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
        f"learning rate x {RUNAWAY:.0f} after a quarter of the steps",
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
    model = small_llama(corpus, seed)
    train(
        model,
        corpus.train,
        out / "start",
        callbacks=[LiveLine("a model from scratch")],
        steps=_PRETRAINING_STEPS,
        rate=_LEARNING_RATE,
        seed=seed,
        logging_steps=_LOGGING_STEPS,
    )
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
    trainer = train(
        model,
        texts,
        out,
        callbacks=callbacks,
        steps=steps,
        rate=_OWN_TEXT_RATE if arm.own_text else _LEARNING_RATE,
        seed=seed,
        logging_steps=_LOGGING_STEPS,
        kind=AlignmentTrainer if arm.align else Trainer,
    )
    logs = trainer.state.log_history
    return watch, [(int(entry["step"]), entry["loss"]) for entry in logs if "loss" in entry]
