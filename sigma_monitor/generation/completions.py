"""Texts that the training itself samples, several for each prompt, measured as they come."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sigma_monitor.errors import InputError, ZeroTraceError
from sigma_monitor.estimate import Estimate
from sigma_monitor.generation.diversity import distinct
from sigma_monitor.generation.writing import TextProbe, Writing, mean_over, measure_texts
from sigma_monitor.probing import EncoderSpec, ProbeSet
from sigma_monitor.probing.guard import untouched
from sigma_monitor.snapshot import GROUP_DISTINCT_2, GROUP_RANK, GROUP_UNIQUE, TEXT_RANK
from sigma_monitor.spectrum import Gram, summarize

__all__ = ["Completion", "CompletionProbe", "group_diversity", "grouped"]


@dataclass(frozen=True)
class Completion:
    """What was sampled for a prompt."""

    prompt: str  # or anything that tells one prompt from another
    tokens: tuple[int, ...]


class CompletionProbe(TextProbe):
    """Measures completions that were sampled for the training, which costs no sampling.

    A reading is of the newest completions of `prompts` prompts, none of which an earlier reading
    had: readings are as independent as the prompts, and always of the same number. There is none
    while fewer have come. The prompts change from one reading to the next, so a change is not
    paired: its standard error is that of two samples of prompts, and deletes a prompt with all its
    completions, which are not independent. Nothing is known of the likelihoods, so there is no
    output entropy.

    Args:
        every: Checks from one reading to the next.
        prompts: Prompts of a reading.
        new_tokens: Tokens of each completion that are read, its first: length is not variety.
        encoder: See `find_encoder`; built at the first check.
        relative_ridge: Of log det.

    Raises:
        InputError: On an option that cannot be used.
    """

    series = (TEXT_RANK,)

    def __init__(
        self,
        *,
        every: int = 1,
        prompts: int = 16,
        new_tokens: int = 256,
        encoder: EncoderSpec = "hashing",
        relative_ridge: float,
    ) -> None:
        for name, count, least in (("prompts", prompts, 3), ("new_tokens", new_tokens, 1)):
            if type(count) is not int or count < least:
                raise InputError(
                    f"{name}={count!r} of the generation: pass a number from {least} on."
                )
        self.prompts = prompts
        self.new_tokens = new_tokens
        super().__init__(every=every, encoder=encoder, relative_ridge=relative_ridge, seed=0)

    def reset(self) -> None:
        """Begin a new run."""
        super().reset()
        self._waiting: deque[list[tuple[int, ...]]] = deque(maxlen=self.prompts)

    def call_within(self, context: Callable[[], AbstractContextManager[Any]]) -> None:
        """The model is not called."""

    def offer(self, groups: Iterable[Sequence[Completion]]) -> None:
        """Give the completions of some prompts, by prompt, the oldest first."""
        for group in groups:
            self._waiting.append([completion.tokens[: self.new_tokens] for completion in group])

    def read(self, model: nn.Module, probes: ProbeSet, tokenizer: Any) -> Writing | None:
        """Measure what was offered since the last reading; None when it is too little yet.

        Raises:
            InputError, ProbeError: As `prepare` and `Encoder.embed`.
        """
        self.prepare(model, tokenizer)
        assert self._encoder is not None
        if len(self._waiting) < self.prompts:
            return None
        groups = list(self._waiting)
        self._waiting.clear()
        tokens = [completion for group in groups for completion in group]
        with untouched(model, seed=self.seed):
            texts = [str(tokenizer.decode(row, skip_special_tokens=True)) for row in tokens]
            embeddings = self._encoder.embed(texts)
            sizes = torch.tensor([len(group) for group in groups])
            writing = measure_texts(
                texts,
                tokens,
                embeddings,
                self._encoder,
                relative_ridge=self._relative_ridge,
                groups=torch.repeat_interleave(sizes),
            )
            by_group = group_diversity(groups, torch.split(embeddings, sizes.tolist()))
        return replace(writing, estimates=writing.estimates | by_group, paired=False)

    def identity(self) -> dict[str, Any]:
        """What makes two series of readings comparable, beside the weights of the encoder."""
        return {
            "source": "completions",
            "encoder": self.encoder_name,
            "prompts_read": self.prompts,
            "new_tokens": self.new_tokens,
        }


def grouped(completions: Sequence[Completion], size: int | None = None) -> list[list[Completion]]:
    """Completions of one prompt, which stand beside each other, together.

    Args:
        completions: In the order in which they were sampled.
        size: Completions of each prompt; it tells two groups of one prompt apart.
    """
    groups: list[list[Completion]] = []
    for completion in completions:
        last = groups[-1] if groups else []
        if last and last[-1].prompt == completion.prompt and len(last) != size:
            last.append(completion)
        else:
            groups.append([completion])
    return groups


def group_diversity(
    groups: Sequence[Sequence[Sequence[int]]], embeddings: Sequence[Tensor]
) -> dict[str, Estimate]:
    """How much the completions of one prompt differ, as means over prompts with their intervals.

    Args:
        groups: Tokens of the completions, by prompt.
        embeddings: (completions, m) of each group.

    Returns:
        `group_unique`, the share of different completions; `group_distinct_2`, distinct-2 of the
        group; `group_effective_rank`, of its uncentred embeddings, from 1 to the size of the group.
        Nothing when no prompt has two completions.
    """
    several = [i for i, group in enumerate(groups) if len(group) > 1]
    if not several:
        return {}
    values = {
        GROUP_UNIQUE: [len(set(map(tuple, groups[i]))) / len(groups[i]) for i in several],
        GROUP_DISTINCT_2: [distinct(groups[i], 2) for i in several],
        GROUP_RANK: [_effective_rank(embeddings[i]) for i in several],
    }
    return {name: mean_over(np.asarray(found)) for name, found in values.items()}


def _effective_rank(embeddings: Tensor) -> float:
    try:
        summary = summarize(
            Gram.from_embeddings(embeddings), center=False, method="exact", sampling=False
        )
    except ZeroTraceError:  # of empty texts
        return 1.0
    return float(summary.effective_rank)
