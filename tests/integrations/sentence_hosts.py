"""A tiny model of sentence-transformers and its data, made here."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import datasets
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.models import Pooling, Transformer
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from tests.integrations.models import VOCABULARY

WORDS = ["[PAD]", "[UNK]", *(f"w{number}" for number in range(VOCABULARY - 2))]
WIDTH = 32


def sentence_model(folder: Path) -> SentenceTransformer:
    """BERT with dropout below, the mean over tokens above."""
    folder.mkdir(parents=True)
    words = {word: number for number, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]")
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
    )
    BertModel(config).save_pretrained(folder)
    transformer = Transformer(str(folder), max_seq_length=32)
    return SentenceTransformer(modules=[transformer, Pooling(WIDTH)], device="cpu")


def pairs(n: int, seed: int) -> Any:
    draw = random.Random(seed)

    def texts() -> list[str]:
        return [" ".join(draw.choices(WORDS[2:], k=draw.randint(3, 9))) for _ in range(n)]

    return datasets.Dataset.from_dict({"anchor": texts(), "positive": texts()})
