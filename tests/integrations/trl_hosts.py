"""TRL's Trainers as the tests want them: tiny, on a CPU, from data and a tokenizer made here."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import torch
from peft import LoraConfig
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    PrinterCallback,
    Trainer,
    TrainerCallback,
)

from tests.integrations.hosts import QUIET
from tests.integrations.models import VOCABULARY, tiny_llama

SPECIAL = ["<pad>", "<eos>", "<unk>"]
WORDS = [f"w{i}" for i in range(VOCABULARY - len(SPECIAL))]
TIMED = ("step_time", "runtime", "samples_per_second", "steps_per_second")
CHAT = "{% for m in messages %}{{ m['content'] }} {% endfor %}"


def words_tokenizer() -> PreTrainedTokenizerFast:
    """One token for each word."""
    vocabulary = {word: i for i, word in enumerate([*SPECIAL, *WORDS])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
    )
    tokenizer.chat_template = CHAT
    return tokenizer


def writer_llama() -> LlamaForCausalLM:
    """A llama that knows how its texts end."""
    return tiny_llama(eos_token_id=1, pad_token_id=0)


def sentences(n: int, *, seed: int = 0) -> list[str]:
    """Random words, 4 to 8 in each."""
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=draw.randint(4, 8))) for _ in range(n)]


def examples(kind: str, n: int = 48, *, seed: int = 0) -> datasets.Dataset:
    """What a Trainer of this kind trains on."""
    first, second, third = (sentences(n, seed=seed * 3 + i) for i in range(3))
    if kind == "sft":
        columns = {"text": first}
    elif kind == "dpo":
        columns = {
            "prompt": first,
            "chosen": [f" {text}" for text in second],
            "rejected": [f" {text}" for text in third],
        }
    else:
        columns = {"prompt": first}
    return datasets.Dataset.from_dict(columns)


def variety(completions: Sequence[Any], **_: Any) -> list[float]:
    """A reward for different words, of texts or of conversations."""
    texts = [text if isinstance(text, str) else text[0]["content"] for text in completions]
    return [float(len(set(text.split()))) for text in texts]


def make_trl(
    kind: str,
    output_dir: Path,
    *callbacks: TrainerCallback,
    lora: bool = False,
    train: Any = None,
    held_out: Any = None,
    rewards: Sequence[Any] = (variety,),
    **arguments: Any,
) -> Trainer:
    """An SFT, DPO or GRPO Trainer of 12 short steps on a CPU, silent unless told otherwise."""
    import trl

    datasets.disable_progress_bars()
    config: dict[str, Any] = {
        **QUIET,
        "max_steps": 12,
        "per_device_eval_batch_size": 4,
        "bf16": False,
    }
    given: dict[str, Any] = {
        "model": writer_llama(),
        "train_dataset": examples(kind) if train is None else train,
        "eval_dataset": held_out,
        "processing_class": words_tokenizer(),
        "callbacks": list(callbacks),
    }
    if kind == "grpo":
        config |= {"num_generations": 4, "max_completion_length": 8}
        given["reward_funcs"] = list(rewards)
    if lora:
        given["peft_config"] = LoraConfig(r=4, lora_dropout=0.1, target_modules=["q_proj"])
    elif kind == "dpo":
        given["ref_model"] = writer_llama()
    name = kind.upper()
    args = getattr(trl, f"{name}Config")(str(output_dir), **{**config, **arguments})
    torch.manual_seed(0)  # LoRA draws its weights
    trainer: Trainer = getattr(trl, f"{name}Trainer")(args=args, **given)
    trainer.remove_callback(PrinterCallback)
    return trainer


def own_metrics(history: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The Trainer's own log, without ours and without what a clock measured."""
    entries = [e for e in history if not any(name.startswith("sigma/") for name in e)]
    return [{k: v for k, v in e.items() if not k.endswith(TIMED)} for e in entries]
