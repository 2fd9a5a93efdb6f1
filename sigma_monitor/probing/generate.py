"""What a model writes to the first tokens of the probe examples; the model is left as found."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sigma_monitor.errors import InputError, ProbeError
from sigma_monitor.probing.device import device_of, out_of_memory
from sigma_monitor.probing.guard import untouched
from sigma_monitor.probing.layers import without_adapter, without_wrapper
from sigma_monitor.probing.probe_set import ProbeSet

__all__ = ["Continuations", "Writer"]

_MICRO_BATCH = 64


@dataclass(frozen=True, eq=False)
class Continuations:
    """Text, as tokens, that a model wrote."""

    tokens: Tensor  # (examples, new tokens) on the CPU, prompts left out
    entropies: Tensor  # (examples,) mean entropy of the next token at temperature 1, nats


class Writer:
    """Continues the beginnings of probe examples.

    All prompts have one length and nothing stops early, so that every rank of a sharded model makes
    the same number of forward passes, and no padding is needed. Prompt and continuation together
    are no longer than the probe examples: a longer text can rewrite a dynamic rotary embedding.

    Args:
        examples: Probe examples to continue, the first ones that are long enough.
        prompt_tokens: Tokens of each that are given; at most half of the probe length.
        new_tokens: Tokens to write.
        temperature: Of sampling; 0 takes the likeliest token.
        seed: Of the generator that samples, the same at every check: what differs is the model's.

    Attributes:
        context: Entered around every call of the model, as that of `Probe`.

    Raises:
        InputError: On a count below 1 or a temperature that is negative or not finite.
    """

    def __init__(
        self,
        *,
        examples: int = 64,
        prompt_tokens: int = 16,
        new_tokens: int = 48,
        temperature: float = 1.0,
        seed: int = 0,
    ) -> None:
        counts = {"examples": examples, "prompt_tokens": prompt_tokens, "new_tokens": new_tokens}
        for name, count in counts.items():
            if type(count) is not int or count < 1:
                raise InputError(f"{name}={count!r} of the generation: pass a number from 1 on.")
        if not 0 <= temperature < float("inf"):
            raise InputError(
                f"temperature={temperature!r}: pass 0 for the likeliest token, or more to sample."
            )
        self.examples = examples
        self.prompt_tokens = prompt_tokens
        self.new_tokens = new_tokens
        self.temperature = temperature
        self.seed = seed
        self.context: Callable[[], AbstractContextManager[Any]] = nullcontext
        self.micro_batch = _MICRO_BATCH

    def write(self, model: nn.Module, probes: ProbeSet) -> Continuations:
        """Let the model write, in micro-batches that halve when memory runs out.

        Raises:
            InputError: When the probe set has no `input_ids` of two tokens or more, or the model
                is an encoder-decoder.
            ProbeError: When the model gives no logits, or one text alone exceeds the memory.

        Cost: `new_tokens` forward passes of one token each, after one of the prompts.
        """
        model = without_wrapper(model)
        if getattr(getattr(model, "config", None), "is_encoder_decoder", False):
            raise InputError(
                f"{type(model).__name__} is an encoder-decoder, whose writing is not read yet: "
                'pass channels=("representation",).'
            )
        prompts, new_tokens = self._prompts(probes)
        with untouched(model, seed=self.seed):
            while True:
                try:
                    return self._write(model, prompts.to(device_of(model)), new_tokens)
                except RuntimeError as error:
                    if not out_of_memory(error):
                        raise
                    if self.micro_batch == 1:
                        raise ProbeError(
                            "one text alone exceeds the memory: pass fewer new tokens."
                        ) from error
                self.micro_batch //= 2

    def _prompts(self, probes: ProbeSet) -> tuple[Tensor, int]:
        """(examples, tokens) prompts, and the number of tokens to write."""
        ids = probes.tensors.get("input_ids")
        if ids is None or ids.ndim != 2 or ids.shape[1] < 2:
            raise InputError(
                "the probe set has no input_ids of two tokens or more, so there is nothing to "
                'continue: pass such probes, or channels=("representation",).'
            )
        mask = probes.tensors.get("attention_mask")
        mask = torch.ones_like(ids) if mask is None or mask.shape != ids.shape else mask
        lengths = (mask != 0).sum(1)
        # At least half of the examples are as long as the prompt.
        length = min(self.prompt_tokens, ids.shape[1] // 2, int(lengths.median()))
        first = (mask != 0).int().argmax(1)
        starts = first[lengths >= length][: self.examples]
        kept = ids[lengths >= length][: self.examples]
        prompts = kept.gather(1, starts[:, None] + torch.arange(length))
        return prompts, min(self.new_tokens, ids.shape[1] - length)

    def _write(self, model: nn.Module, prompts: Tensor, new_tokens: int) -> Continuations:
        generator = torch.Generator(prompts.device).manual_seed(self.seed)
        parts = [
            self._continued(model, part, new_tokens, generator)
            for part in torch.split(prompts, self.micro_batch)
        ]
        return Continuations(
            torch.cat([tokens for tokens, _ in parts]).cpu(),
            torch.cat([entropies for _, entropies in parts]).cpu(),
        )

    def _continued(
        self, model: nn.Module, prompts: Tensor, new_tokens: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        options = _accepted_options(model)
        text, new, cache = prompts, prompts, None
        entropies = torch.zeros(len(prompts), device=prompts.device)
        for _ in range(new_tokens):
            if cache is not None:
                options["past_key_values"] = cache
            with self.context():
                output = model(input_ids=text if cache is None else new, **options)
            logits = getattr(output, "logits", None)
            if not isinstance(logits, Tensor) or logits.ndim != 3:
                raise ProbeError(
                    f"{type(model).__name__} gives no logits, so it cannot write: pass "
                    'channels=("representation",).'
                )
            likelihood = torch.log_softmax(logits[:, -1].float(), dim=-1)
            entropies += torch.special.entr(likelihood.exp()).sum(-1)
            new = self._sampled(likelihood, generator)
            text = torch.cat([text, new], dim=1)
            cache = getattr(output, "past_key_values", None)
        return text[:, prompts.shape[1] :], entropies / new_tokens

    def _sampled(self, likelihood: Tensor, generator: torch.Generator) -> Tensor:
        """(examples, 1) next tokens."""
        if self.temperature == 0:
            return likelihood.argmax(-1, keepdim=True)
        # Relative to the likeliest, so that a temperature near 0 leaves one token within fp32.
        relative = likelihood - likelihood.max(-1, keepdim=True).values
        least = torch.finfo(relative.dtype).tiny
        chances = torch.softmax(relative / max(self.temperature, least), dim=-1)
        # A model that gives NaN must not end the check: its entropies say so.
        sound = torch.isfinite(chances).all(-1, keepdim=True)
        return torch.multinomial(torch.where(sound, chances, 1.0), 1, generator=generator)


def _accepted_options(model: nn.Module) -> dict[str, Any]:
    """A cache, and one logit at most, where the model's forward takes them."""
    parameters = set(inspect.signature(model.forward).parameters)
    parameters |= set(inspect.signature(without_adapter(model).forward).parameters)
    options = {"use_cache": True, "logits_to_keep": 1}
    return {name: value for name, value in options.items() if name in parameters}
