"""Models and data small enough to train in a test."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
)
from transformers.modeling_outputs import CausalLMOutput

VOCABULARY = 64
LENGTH = 16

Rows = list[dict[str, Tensor]]


def token_rows(n: int, *, length: int = LENGTH, seed: int = 0) -> Rows:
    """`n` examples of random tokens, with labels."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, VOCABULARY, (n, length), generator=generator)
    return [{"input_ids": row, "labels": row} for row in ids]


def shakespeare_rows(data: Path, tokenizer: Any, *, n: int, length: int = 32) -> Rows:
    """The first `n` blocks of the text, with labels."""
    text = (data / "tinyshakespeare" / "input.txt").read_text()[: n * length * 4]
    ids = torch.tensor(tokenizer(text)["input_ids"][: n * length])
    return [{"input_ids": row, "labels": row} for row in ids.view(n, length)]


class Letters:
    """As much of a tokenizer as the generation channel needs: one sign for each token."""

    eos_token_id = None

    def decode(self, ids: list[int], *, skip_special_tokens: bool = False) -> str:
        return "".join(chr(0x100 + token) for token in ids)


def tiny_llama(**config: Any) -> LlamaForCausalLM:
    """Two layers of width 32, drawn from a fixed seed."""
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            **{
                "vocab_size": VOCABULARY,
                "hidden_size": 32,
                "intermediate_size": 64,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "num_key_value_heads": 2,
                "max_position_embeddings": 64,
                "attention_dropout": 0.1,
                "bos_token_id": None,
                "eos_token_id": None,
                **config,
            }
        )
    )


def tiny_gpt2() -> GPT2LMHeadModel:
    """Explicit dropout modules on embeddings, residuals and attention."""
    torch.manual_seed(0)
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=VOCABULARY, n_positions=64, n_embd=32, n_layer=2, n_head=4, resid_pdrop=0.1
        )
    )


def tiny_bert() -> BertForMaskedLM:
    """An encoder, with dropout."""
    torch.manual_seed(0)
    return BertForMaskedLM(
        BertConfig(
            vocab_size=VOCABULARY,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=64,
        )
    )


def tiny_t5() -> T5ForConditionalGeneration:
    """An encoder-decoder, with dropout."""
    torch.manual_seed(0)
    return T5ForConditionalGeneration(
        T5Config(
            vocab_size=VOCABULARY,
            d_model=32,
            d_kv=8,
            d_ff=64,
            num_layers=2,
            num_heads=4,
            decoder_start_token_id=0,
            pad_token_id=0,
        )
    )


def lora() -> PeftModel:
    """A llama that is frozen but for its adapters, which have dropout."""
    model = tiny_llama()
    model.config.use_cache = False
    model.enable_input_require_grads()  # or checkpointing would leave the adapters no gradient
    return get_peft_model(model, LoraConfig(r=4, lora_dropout=0.1, target_modules=["q_proj"]))


class SmallConfig(PretrainedConfig):
    model_type = "small_test_model"


class _Body(nn.Module):
    """Embedding, an optional BatchNorm, dropout; what can go wrong is switched on by name."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.embed = nn.Embedding(VOCABULARY, 32)
        self.norm = nn.BatchNorm1d(32) if "norm" in kind else nn.Identity()
        self.mix = nn.Linear(32, 32)
        self.dropout = nn.Dropout(0.1)

    def forward(self, input_ids: Tensor) -> Tensor:
        hidden = self.embed(input_ids)
        if self.kind == "draws":  # from all three generators, in evaluation mode too
            hidden = hidden + 0.1 * torch.randn_like(hidden) + random.random() + np.random.rand()
        if self.kind == "raises" and not self.training:
            torch.rand(3)
            raise RuntimeError("no evaluation mode here")
        hidden = self.norm(hidden.transpose(1, 2)).transpose(1, 2)
        return self.dropout(torch.tanh(self.mix(hidden)))


class SmallForCausalLM(PreTrainedModel):
    """`kind`: plain, norm, frozen_norm, draws, raises."""

    config_class = SmallConfig
    base_model_prefix = "body"

    def __init__(self, kind: str = "plain") -> None:
        super().__init__(SmallConfig())
        torch.manual_seed(0)
        self.body = _Body(kind)
        self.head = nn.Linear(32, VOCABULARY)
        if kind == "frozen_norm":
            # The Trainer calls `model.train()` before every step; a user keeps a module out of it:
            norm = self.body.norm.eval()
            norm.train = lambda mode=True: norm

    def forward(self, input_ids: Tensor, labels: Tensor | None = None) -> CausalLMOutput:
        logits = self.head(self.body(input_ids))
        loss = None
        if labels is not None:
            loss = nn.functional.cross_entropy(
                logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
            )
        return CausalLMOutput(loss=loss, logits=logits)
