"""A training set of what the model itself writes, renewed generation after generation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers import TrainerCallback

from sigma_monitor.demo.corpus import BLOCK, Block

__all__ = ["EachGeneration", "Texts", "written_by"]

_PROMPT = 8  # tokens of a real block that a model-made one begins with
_AT_ONCE = 64


class Texts:
    """A training set whose blocks can be exchanged while it is used.

    Args:
        blocks: As many as there will be each time.
    """

    def __init__(self, blocks: list[Block]) -> None:
        self.blocks = blocks

    def __len__(self) -> int:
        return len(self.blocks)

    def __getitem__(self, index: int) -> Block:
        return self.blocks[index]


class EachGeneration(TrainerCallback):
    """Exchanges the blocks of a training set every so many steps.

    Args:
        texts: The training set.
        steps: Of one generation.
        renew: `(number of the generation, model) -> blocks`.
    """

    def __init__(self, texts: Texts, steps: int, renew: Callable[[int, Any], list[Block]]) -> None:
        self.texts, self.steps, self.renew = texts, steps, renew

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Renew at the end of a generation."""
        number, rest = divmod(state.global_step, self.steps)
        if not rest:
            self.texts.blocks = self.renew(number, model)


@torch.no_grad()
def written_by(
    model: Any, real: list[Block], seed: int, *, temperature: float, top_k: int = 0
) -> list[Block]:
    """Blocks that `model` writes after the first tokens of `real` ones.

    In generators of its own: the training around it goes on as if nothing had happened.
    """
    prompts = torch.tensor([block["input_ids"][:_PROMPT] for block in real])
    training = model.training
    model.eval()
    with torch.random.fork_rng(()):
        torch.manual_seed(seed)
        texts = [
            model.generate(
                input_ids=part,
                attention_mask=torch.ones_like(part),
                do_sample=True,
                temperature=temperature,
                top_k=top_k,
                top_p=1.0,
                max_new_tokens=BLOCK - _PROMPT,
                min_new_tokens=BLOCK - _PROMPT,
                pad_token_id=0,
            )
            for part in torch.split(prompts, _AT_ONCE)
        ]
    model.train(training)
    return [{"input_ids": ids, "labels": ids} for ids in torch.cat(texts).tolist()]
