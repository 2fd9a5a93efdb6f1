"""Text, tokenizer and blocks of tokens for the demo."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sigma_monitor.errors import InputError

__all__ = ["BLOCK", "Block", "Corpus", "load_corpus", "read_text"]

Block = dict[str, list[int]]

BLOCK = 64  # tokens of one training example
_VOCABULARY = 512
_HELD_OUT = 160  # blocks
_LEAST_BLOCKS = 1000


@dataclass(frozen=True)
class Corpus:
    """Blocks of token ids, ready for a language model."""

    tokenizer: Any
    train: list[Block]
    held_out: list[Block]


def read_text(path: Path | None) -> str:
    """The file at `path`, or the language reference that comes with Python.

    Raises:
        InputError: When the file cannot be read as UTF-8 text.
    """
    if path is None:
        from pydoc_data.topics import topics

        return "\n\n".join(topics.values())
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--text {path}: {error}. Pass a UTF-8 text file.") from error


def load_corpus(text: str, tokenizer: Any = None) -> Corpus:
    """Cut `text` into blocks; every sixth goes to the held-out part until that is full.

    Args:
        text: At least some 100 kB of it.
        tokenizer: A transformers tokenizer; None trains a byte-level BPE of 512 tokens on `text`.

    Raises:
        InputError: When the text is too short.
    """
    tokenizer = tokenizer or _trained_tokenizer(text)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    starts = range(0, len(ids) - BLOCK + 1, BLOCK)
    if len(starts) < _LEAST_BLOCKS:
        raise InputError(
            f"the text has {len(starts)} blocks of {BLOCK} tokens, fewer than {_LEAST_BLOCKS}: "
            "pass a longer one."
        )
    blocks = [
        {"input_ids": ids[start : start + BLOCK], "labels": ids[start : start + BLOCK]}
        for start in starts
    ]
    held_out = blocks[::6][:_HELD_OUT]
    chosen = {id(block) for block in held_out}
    return Corpus(tokenizer, [b for b in blocks if id(b) not in chosen], held_out)


def _trained_tokenizer(text: str) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCABULARY,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([text], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)  # type: ignore[no-untyped-call]
