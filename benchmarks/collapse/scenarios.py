"""The trainings: what harms a model, and what only looks as if it did.

Each is a real `Trainer` with a real `SigmaCallback`; a callback or a subclass does the harm.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from ground import Ground, blocks_of
from measures import Measures
from torch.nn import functional as F
from transformers import Trainer, TrainerCallback

from sigma_monitor import ProbeSet, SigmaCallback
from sigma_monitor.demo import training
from sigma_monitor.demo.corpus import Block
from sigma_monitor.demo.own_text import EachGeneration, Texts, written_by
from sigma_monitor.demo.training import BATCH, AlignmentTrainer, Runaway
from sigma_monitor.monitor import RECORD
from sigma_monitor.monitor.options import CHANNELS

__all__ = ["SCENARIOS", "STEPS", "Run", "Scenario"]

STEPS = 200
ONSET = 48  # step at which a harm begins that does not begin with the run
GENERATION_STEPS = 40  # from one generation of model-made text to the next
CHECKS = 50
EXAMPLES = 96  # more than features, which the tracks of SIGMA need
WRITING_EVERY = 2  # checks
TEXTS = 256  # of a generation
RATE = 5e-4
SCRATCH_RATE = 2e-3
SCRATCH_STEPS = 400


@dataclass(frozen=True)
class Run:
    """One training of the bench."""

    ground: Ground
    seed: int
    folder: Path
    measures: Measures  # collects what the rivals see


@dataclass(frozen=True)
class Scenario:
    """A kind of training.

    `train` runs it; `onset` is the step at which harm begins, None for a healthy one.
    """

    name: str
    story: str
    onset: int | None
    train: Callable[[Run], None]
    channels: tuple[str, ...] = ()  # in which an alert would be rightly placed

    @property
    def harmful(self) -> bool:
        """Whether it should be told."""
        return self.onset is not None


class At(TrainerCallback):
    """Does something to optimiser and schedule at one step."""

    def __init__(self, step: int, act: Callable[..., None]) -> None:
        self.step, self.act = step, act

    def on_step_begin(self, args: Any, state: Any, control: Any, **parts: Any) -> None:
        if state.global_step == self.step:
            self.act(**parts)


def train(
    run: Run,
    model: Any,
    texts: Any,
    *callbacks: TrainerCallback,
    kind: type[Trainer] = Trainer,
    corpus: Any = None,
    steps: int = STEPS,
    rate: float = RATE,
    baseline: Any = "start",
    offset: int = 0,
) -> Path:
    """Train `model` on `texts`, watched; the path of the record.

    Args:
        offset: Steps that earlier generations of the same run had.
    """
    corpus = corpus or run.ground.corpus
    folder = run.folder / str(offset)
    probes = ProbeSet.from_dataset(
        corpus.held_out, n=EXAMPLES, seed=run.seed, source="held-out blocks"
    )
    watch = SigmaCallback(
        probes,
        every=max(steps, STEPS) // CHECKS,
        max_overhead=None,  # far more checks than 1 % of these seconds would pay for
        channels=CHANNELS,
        generation={"every": WRITING_EVERY},
        tokenizer=corpus.tokenizer,
        baseline=baseline,
        output_dir=folder,
    )
    run.measures.follow(watch.monitor, offset)
    training.train(
        model,
        texts,
        folder,
        callbacks=[watch, *callbacks],
        steps=steps,
        rate=rate,
        seed=run.seed,
        logging_steps=20,
        kind=kind,
    )
    record = folder / RECORD
    run.measures.close(record, offset)
    return record


def real(run: Run, number: int = 0, count: int = STEPS * BATCH) -> Texts:
    return Texts(blocks_of(run.ground.corpus, number, count, run.seed))


def carry_forward(temperature: float) -> Callable[[Run], None]:
    """Every generation goes on from the last one, on text that the last one wrote."""

    def scenario(run: Run) -> None:
        model, corpus = run.ground.model(), run.ground.corpus

        def renew(number: int, model: Any) -> list[Block]:
            real = blocks_of(corpus, number, TEXTS, run.seed)
            return written_by(model, real, 1000 * run.seed + number, temperature=temperature)

        texts = Texts(renew(0, model))
        train(run, model, texts, EachGeneration(texts, GENERATION_STEPS, renew))

    return scenario


def base_reset(run: Run) -> None:
    """Every generation begins with the same weights, on text that the last one wrote."""
    writer, corpus = run.ground.model(), run.ground.corpus
    baseline: Any = "start"
    for number in range(STEPS // GENERATION_STEPS):
        real = blocks_of(corpus, number, TEXTS, run.seed)
        seed = 1000 * run.seed + number
        texts = written_by(writer, real, seed, temperature=0.7, top_k=5)
        model = run.ground.model()
        offset = number * GENERATION_STEPS
        record = train(
            run, model, Texts(texts), steps=GENERATION_STEPS, baseline=baseline, offset=offset
        )
        # Later generations are compared with where the first one began.
        baseline = baseline if number else record
        writer = model


def stuck_loader(run: Run) -> None:
    texts = real(run)

    def stick(**_: Any) -> None:
        batch = texts.blocks[:BATCH]
        texts.blocks = [batch[i % BATCH] for i in range(len(texts))]

    train(run, run.ground.model(), texts, At(ONSET, stick))


def runaway_rate(run: Run) -> None:
    train(run, run.ground.model(), real(run), Runaway(at=ONSET))


def runaway_rate_from_scratch(run: Run) -> None:
    train(
        run,
        run.ground.drawn(run.seed),
        real(run, count=SCRATCH_STEPS * BATCH),
        Runaway(at=SCRATCH_STEPS * 3 // 4),
        steps=SCRATCH_STEPS,
        rate=SCRATCH_RATE,
        baseline="plateau",
    )


def runaway_decay(run: Run) -> None:
    def decay(optimizer: Any = None, **_: Any) -> None:
        for group in optimizer.param_groups:
            group["weight_decay"] = 0.1 / RATE  # a tenth of every weight at every step

    train(run, run.ground.model(), real(run), At(ONSET, decay))


class Reinforced(Trainer):
    """REINFORCE, with the share of one common token as reward."""

    TOKENS = 24

    def compute_loss(self, model: Any, inputs: dict[str, Any], *_: Any, **__: Any) -> torch.Tensor:
        prompts = inputs["input_ids"][:, :8]
        model.eval()
        with torch.no_grad():
            texts = model.generate(
                input_ids=prompts,
                attention_mask=torch.ones_like(prompts),
                do_sample=True,
                top_k=0,
                max_new_tokens=self.TOKENS,
                min_new_tokens=self.TOKENS,
                pad_token_id=0,
            )
        model.train()
        written = texts[:, 8:]
        favourite = inputs["input_ids"].flatten().mode().values
        reward = (written == favourite).float().mean(1)
        logits = model(input_ids=texts).logits[:, 7:-1]
        likelihood = -F.cross_entropy(logits.transpose(1, 2), written, reduction="none").sum(1)
        return -((reward - reward.mean()) / (reward.std() + 1e-6) * likelihood).mean()


def cheap_reward(run: Run) -> None:
    train(run, run.ground.model(), real(run), kind=Reinforced, rate=RATE)


def alignment(run: Run) -> None:
    train(run, run.ground.model(), real(run), kind=AlignmentTrainer)


def from_scratch(run: Run) -> None:
    train(
        run,
        run.ground.drawn(run.seed),
        real(run, count=SCRATCH_STEPS * BATCH),
        steps=SCRATCH_STEPS,
        rate=SCRATCH_RATE,
        baseline="plateau",
    )


def real_lineage(run: Run) -> None:
    texts = Texts(blocks_of(run.ground.corpus, 0, TEXTS, run.seed))

    def renew(number: int, _model: Any) -> list[Block]:
        return blocks_of(run.ground.corpus, number, TEXTS, run.seed)

    train(run, run.ground.model(), texts, EachGeneration(texts, GENERATION_STEPS, renew))


def accumulate(run: Run) -> None:
    """Another tenth of the text becomes model-made at each generation; half stays real."""
    texts = real(run)

    def renew(number: int, model: Any) -> list[Block]:
        kept = list(texts.blocks)
        places = range(number, len(kept), 10)  # others at each generation: the share grows
        beginnings = [kept[place] for place in places]
        made = written_by(model, beginnings, 1000 * run.seed + number, temperature=1.0)
        for place, block in zip(places, made, strict=True):
            kept[place] = block
        return kept

    train(run, run.ground.model(), texts, EachGeneration(texts, GENERATION_STEPS, renew))


def narrow_fine_tune(run: Run) -> None:
    corpus = run.ground.narrow
    blocks = blocks_of(corpus, 0, STEPS * BATCH, run.seed)
    train(run, run.ground.model(), Texts(blocks), corpus=corpus)


def continued(run: Run) -> None:
    train(run, run.ground.model(), real(run))


def rate_drop(run: Run) -> None:
    def drop(lr_scheduler: Any = None, **_: Any) -> None:
        lr_scheduler.base_lrs = [rate / 10 for rate in lr_scheduler.base_lrs]

    train(run, run.ground.model(), real(run), At(STEPS // 2, drop))


ANY = (*CHANNELS, "loss")

SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario("H1", "carry-forward chain, T = 1", 0, carry_forward(1.0), ("generation", "loss")),
        Scenario("H2", "carry-forward chain, T = 0.7", 0, carry_forward(0.7), ("generation",)),
        Scenario("H3", "base-reset chain, T = 0.7, top-k 5", 0, base_reset, ("generation",)),
        Scenario("H4", "one batch repeated", ONSET, stuck_loader, ANY),
        Scenario("H5", "learning rate x 100", ONSET, runaway_rate, ("representation", "loss")),
        Scenario(
            "H5s",
            "learning rate x 100, from scratch",
            SCRATCH_STEPS * 3 // 4,
            runaway_rate_from_scratch,
            ("representation", "loss"),
        ),
        Scenario("H6", "runaway weight decay", ONSET, runaway_decay, ANY),
        Scenario("H7", "REINFORCE on a cheap reward", 0, cheap_reward, ("generation",)),
        Scenario("H8", "alignment without negatives", 0, alignment, ("representation",)),
        Scenario("C1", "pretraining from scratch", None, from_scratch),
        Scenario("C2", "real-data lineage", None, real_lineage),
        Scenario("C3", "accumulate: half stays real", None, accumulate),
        Scenario("C4", "narrow-domain fine-tune", None, narrow_fine_tune),
        Scenario("C5", "continued training", None, continued),
        Scenario("C6", "learning-rate drop", None, rate_drop),
    )
}
