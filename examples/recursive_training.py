"""Models that learn what models wrote, generation after generation, and which of them collapse.

Two recursions of the SIGMA paper (arXiv 2601.03385), θ_0 a small model that has learnt the real
text and D_k what θ_k writes to fixed prompts:

    base-reset      θ_k = FT(θ_0; D_{k−1})                  S1
    carry-forward   θ_k = FT(θ_{k−1}; D_{k−1})              S2
    accumulate      θ_k = FT(θ_{k−1}; real text, D_0 … D_{k−1})
    control         θ_k = FT(θ_{k−1}; real text)

Every D_k is a JSONL file of prompt and text. Printed beside it: its perplexity under θ_0, its
distinct-2, and at the end what `sigma-monitor chain` says of each arm against the control, which
`sigma-monitor report` makes a page of.

Run: python examples/recursive_training.py [--temperature 0.7] [--top-k 0] [--data FOLDER]

FOLDER holds stories260k/, a small model, and tinystories/; without it, and without
SIGMA_MONITOR_DATA naming it, a smaller model is trained first, on the text of Python's reference.
"""

import argparse
import contextlib
import copy
import json
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.utils import logging

from sigma_monitor import cli
from sigma_monitor.demo.corpus import BLOCK, load_corpus, read_text
from sigma_monitor.demo.training import small_llama
from sigma_monitor.generation.diversity import distinct

ARMS = ("base-reset", "carry-forward", "accumulate")
CONTROL = "control"
PROMPT = 12  # of the 64 tokens of a block
BATCH = 16
PRETRAINING_RATE = 2e-3


@dataclass(frozen=True)
class Settings:
    """How much is trained and written in a generation."""

    generations: int = 6
    temperature: float = 0.7
    top_k: int = 0  # 0: all tokens
    prompts: int = 96
    texts: int = 4  # to each prompt
    steps: int = 32
    rate: float = 1e-3
    adaptation: int = 120  # steps of a pretrained model on the real text
    pretraining: int = 800  # steps, where no pretrained model is given
    seed: int = 0


QUICK = {"prompts": 32, "texts": 2, "steps": 8, "adaptation": 8, "pretraining": 60}


@dataclass(frozen=True)
class Ground:
    """What all arms have in common."""

    start: PreTrainedModel  # θ_0
    tokenizer: object
    real: torch.Tensor  # (blocks, 64) tokens to train on
    prompts: torch.Tensor  # (prompts x texts, PROMPT) beginnings of held-out blocks
    first: torch.Tensor  # (prompts x texts, 64) D_0


def prepare(data: Path | None, settings: Settings) -> Ground:
    """The model and text below `data`, or a model trained on the text that comes with Python."""
    torch.manual_seed(settings.seed)
    if data:
        tokenizer = AutoTokenizer.from_pretrained(data / "stories260k")
        start = AutoModelForCausalLM.from_pretrained(data / "stories260k")
        lines = (data / "tinystories" / "tinystories_1000.jsonl").read_text("utf-8").splitlines()
        corpus = load_corpus("\n".join(json.loads(line)["text"] for line in lines), tokenizer)
    else:
        corpus = load_corpus(read_text(None))
        start = small_llama(corpus, settings.seed)
    real, held_out = (
        torch.tensor([block["input_ids"] for block in part])
        for part in (corpus.train, corpus.held_out)
    )
    steps, rate = (
        (settings.adaptation, settings.rate) if data else (settings.pretraining, PRETRAINING_RATE)
    )
    start = fine_tuned(start, real, steps, rate)
    prompts = held_out[: settings.prompts, :PROMPT].repeat_interleave(settings.texts, 0)
    first = written(start, prompts, settings)
    return Ground(start, corpus.tokenizer, real, prompts, first)


def fine_tuned(
    model: PreTrainedModel, blocks: torch.Tensor, steps: int, rate: float
) -> PreTrainedModel:
    """FT: a copy of `model`, trained on blocks drawn at random, at a rate that falls to zero."""
    model = copy.deepcopy(model).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps)
    for _ in range(steps):
        batch = blocks[torch.randint(len(blocks), (BATCH,))]
        model(input_ids=batch, labels=batch).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    return model.eval()


def written(model: PreTrainedModel, prompts: torch.Tensor, settings: Settings) -> torch.Tensor:
    """D_k: a block to each prompt, which it begins with."""
    new = BLOCK - PROMPT
    return model.generate(
        input_ids=prompts,
        attention_mask=torch.ones_like(prompts),
        do_sample=True,
        temperature=settings.temperature,
        top_k=settings.top_k,
        max_new_tokens=new,
        min_new_tokens=new,
        pad_token_id=0,
    )


@torch.no_grad()
def perplexity(model: PreTrainedModel, blocks: torch.Tensor) -> float:
    """Of what follows the prompts."""
    logits = model(blocks).logits[:, PROMPT - 1 : -1]
    return cross_entropy(logits.transpose(1, 2), blocks[:, PROMPT:]).exp().item()


def lineage(arm: str, ground: Ground, settings: Settings, folder: Path) -> list[dict[str, float]]:
    """Run one arm; perplexity and distinct-2 of every generation, whose texts are in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(settings.seed)
    model, blocks, pool, rows = ground.start, ground.first, ground.real, []
    for generation in range(settings.generations + 1):
        if generation:
            pool = torch.cat([pool, blocks])
            data = {CONTROL: ground.real, "accumulate": pool}.get(arm, blocks)
            parent = ground.start if arm == "base-reset" else model
            model = fine_tuned(parent, data, settings.steps, settings.rate)
            blocks = written(model, ground.prompts, settings)
        save(blocks, ground.tokenizer, folder / f"gen{generation}.jsonl")
        row = {
            "generation": generation,
            "perplexity": perplexity(ground.start, blocks[:: settings.texts]),
            "distinct_2": distinct(blocks[:, PROMPT:].tolist(), 2),
        }
        print(arm, *(f"{name} {value:.4g}" for name, value in row.items()), sep="  ", flush=True)
        rows.append(row)
    return rows


def save(blocks: torch.Tensor, tokenizer, path: Path) -> None:
    prompts, texts = (
        tokenizer.batch_decode(part, skip_special_tokens=True)
        for part in blocks.split([PROMPT, blocks.shape[1] - PROMPT], dim=1)
    )
    rows = [{"prompt": p, "text": t} for p, t in zip(prompts, texts, strict=True)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def judge(arm: str, folder: Path, generations: int) -> None:
    """`sigma-monitor chain` of an arm against the control, in ARM.json and as a page, ARM.html."""
    own, control = (
        [str(folder / name / f"gen{k}.jsonl") for k in range(generations + 1)]
        for name in (arm, CONTROL)
    )
    found = folder / f"{arm}.json"
    with found.open("w", encoding="utf-8") as file, contextlib.redirect_stdout(file):
        options = ["--prompt-key", "prompt", "--cache", str(folder / "embeddings"), "--json"]
        code = cli.main(["chain", *own, "--control", *control, *options])
    if code not in (0, 1):  # neither healthy nor collapsed: it has said what is wrong
        raise SystemExit(code)
    for verdict in json.loads(found.read_text(encoding="utf-8"))["verdicts"]:
        print(verdict["text"])
    if cli.main(["report", str(found), "-o", str(found.with_suffix(".html"))]):
        raise SystemExit(f"no page was made of {found}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    data = os.environ.get("SIGMA_MONITOR_DATA")
    parser.add_argument("--data", type=Path, default=Path(data) if data else None)
    parser.add_argument("--temperature", type=float, default=0.7)
    parser.add_argument("--top-k", type=int, default=0, help="0: all tokens")
    parser.add_argument("--generations", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/recursive"))
    parser.add_argument("--quick", action="store_true", help="too little of everything: seconds")
    given = parser.parse_args()
    much = QUICK if given.quick else {}
    settings = Settings(given.generations, given.temperature, given.top_k, seed=given.seed, **much)
    logging.set_verbosity_error()
    ground = prepare(given.data, settings)
    for arm in (CONTROL, *ARMS):
        lineage(arm, ground, settings, given.out / arm)
    for arm in ARMS:
        print(f"\n{arm}, against the control")
        judge(arm, given.out, given.generations)


if __name__ == "__main__":
    main()
