"""What every training of the bench starts from: models, tokenizer, text."""

from __future__ import annotations

import copy
import functools
import json
import sysconfig
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from sigma_monitor.demo.arms import pretrained
from sigma_monitor.demo.corpus import Block, Corpus, load_corpus, read_text
from sigma_monitor.demo.training import small_llama

__all__ = ["Ground", "blocks_of", "ground"]


@dataclass(frozen=True, eq=False)
class Ground:
    """A pretrained model, text like that of its pretraining, and text of another kind."""

    name: str  # of the model
    start: PreTrainedModel
    corpus: Corpus
    narrow: Corpus  # for the narrow-domain fine-tune

    def model(self) -> PreTrainedModel:
        """A copy of the pretrained model."""
        return copy.deepcopy(self.start)

    def drawn(self, seed: int) -> PreTrainedModel:
        """A model of about the same size with weights drawn at random."""
        return small_llama(self.corpus, seed)


@functools.cache
def ground(data: Path | None) -> Ground:
    """Real text and a real small model below `data`; without it Python's own text, and a model
    trained on that first.
    """
    if data is None:
        corpus = load_corpus(read_text(None))
        with tempfile.TemporaryDirectory() as folder:
            start = pretrained(corpus, Path(folder), seed=0)
        start.name_or_path = "pretrained-here"
        narrow = Path(sysconfig.get_path("stdlib"))
        code = "\n".join(path.read_text("utf-8") for path in sorted(narrow.glob("a*.py")))
        return Ground("from scratch", start, corpus, load_corpus(code, corpus.tokenizer))
    folder = data / "stories260k"
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    start = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
    lines = (data / "tinystories" / "tinystories_1000.jsonl").read_text("utf-8").splitlines()
    stories = "\n".join(json.loads(line)["text"] for line in lines)
    plays = (data / "tinyshakespeare" / "input.txt").read_text("utf-8")
    return Ground(
        "stories260k", start, load_corpus(stories, tokenizer), load_corpus(plays, tokenizer)
    )


def blocks_of(corpus: Corpus, number: int, count: int, seed: int) -> list[Block]:
    """The `number`-th stretch of `count` real blocks, in an order of `seed`; stretches do not
    overlap before the text is used up.
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(corpus.train), generator=generator).tolist()
    return [corpus.train[order[(number * count + i) % len(order)]] for i in range(count)]
