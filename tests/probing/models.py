"""Models of every shape a probe meets, small enough to be drawn anew in each test."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import PreTrainedModel

VOCABULARY = 50
WIDTH = 16
LAYERS = 2

_SMALL = {"vocab_size": VOCABULARY, "bos_token_id": None, "eos_token_id": None}
_LLAMA = {
    **_SMALL,
    "hidden_size": WIDTH,
    "intermediate_size": 32,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
_CONFIGS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", "LlamaForCausalLM", _LLAMA),
    "granite": ("GraniteConfig", "GraniteForCausalLM", {**_LLAMA, "logits_scaling": 4.0}),
    "cohere": ("CohereConfig", "CohereForCausalLM", {**_LLAMA, "logit_scale": 0.0625}),
    "gpt2": (
        "GPT2Config",
        "GPT2LMHeadModel",
        {**_SMALL, "n_positions": 64, "n_embd": WIDTH, "n_layer": LAYERS, "n_head": 2},
    ),
    "bert": (
        "BertConfig",
        "BertModel",
        {
            "vocab_size": VOCABULARY,
            "hidden_size": WIDTH,
            "intermediate_size": 32,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": 2,
            "max_position_embeddings": 64,
        },
    ),
    "t5": (
        "T5Config",
        "T5ForConditionalGeneration",
        {
            "vocab_size": VOCABULARY,
            "d_model": WIDTH,
            "d_kv": 8,
            "d_ff": 32,
            "num_layers": LAYERS,
            "num_heads": 2,
        },
    ),
}


def tiny(kind: str, **config: Any) -> PreTrainedModel:
    """A transformers model of width 16 and two layers, in evaluation mode, always the same."""
    config_class, model_class, fields = _CONFIGS[kind]
    with torch.random.fork_rng(()):
        torch.manual_seed(0)
        model = getattr(transformers, model_class)(
            getattr(transformers, config_class)(**{**fields, **config})
        )
        for module in model.modules():  # a draw wide enough that the logits differ
            if isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight)
    return model.eval()


def token_ids(examples: int = 6, length: int = 9, seed: int = 0) -> Tensor:
    """(examples, length), none of them the padding token 0."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(1, VOCABULARY, (examples, length), generator=generator)


def padded(lengths: list[int], *, left: bool = False, seed: int = 0) -> dict[str, Tensor]:
    """`input_ids` and `attention_mask` of examples of these lengths; the same tokens either way."""
    width = max(lengths)
    tokens = token_ids(len(lengths), width, seed)
    ids, mask = torch.zeros_like(tokens), torch.zeros_like(tokens)
    for row, length in enumerate(lengths):
        place = slice(width - length, width) if left else slice(length)
        ids[row, place] = tokens[row, :length]
        mask[row, place] = 1
    return {"input_ids": ids, "attention_mask": mask}


class Plain(nn.Module):
    """No transformers model: an embedding and a block, tokens in, logits out."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(()):
            torch.manual_seed(0)
            self.embed = nn.Embedding(VOCABULARY, WIDTH)
            self.block = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Dropout(0.5))
            self.norm = nn.BatchNorm1d(WIDTH)
            self.head = nn.Linear(WIDTH, VOCABULARY)

    def forward(self, input_ids: Tensor) -> Tensor:
        hidden = self.block(self.embed(input_ids))
        return self.head(self.norm(hidden.transpose(1, 2)).transpose(1, 2))


def hooks_of(model: nn.Module) -> int:
    """How many hooks of any kind hang on the modules of a model."""
    kinds = [name for name in vars(nn.Module()) if name.endswith("_hooks")]
    assert "_forward_hooks" in kinds
    return sum(len(getattr(module, kind)) for module in model.modules() for kind in kinds)
