"""What a model writes, measured: its spectrum under a frozen encoder, and how much it repeats."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sigma_monitor.diversity import compression_ratio, distinct, repeated_share
from sigma_monitor.errors import InputError, ZeroTraceError
from sigma_monitor.estimate import Estimate
from sigma_monitor.probing import (
    Continuations,
    Encoder,
    EncoderSpec,
    ProbeSet,
    Writer,
    find_encoder,
)
from sigma_monitor.probing.guard import untouched
from sigma_monitor.snapshot import ENTROPY, TEXT_RANK
from sigma_monitor.spectrum import Gram, summarize
from sigma_monitor.spectrum.uncertainty import half_width, mean_standard_error

__all__ = [
    "Writing",
    "WritingProbe",
    "measure_writing",
]

_FUNCTIONALS = ("effective_rank", "participation_ratio", "log_det_per_dim")
_CONFIDENCE = 0.95
_LEAST_ENTROPY = 1e-6  # nats; a model that is this sure has none left


@dataclass(frozen=True, eq=False)
class Writing:
    """The texts of one check and what they measure."""

    texts: tuple[str, ...]
    encoder: str  # which gave the embeddings
    estimates: dict[str, Estimate]  # by key
    log_rank_without: NDArray[np.float64] | None  # (texts,) None: no spectrum, all texts are one
    entropies: NDArray[np.float64]  # (texts,) nats
    signature: tuple[float, ...] = ()  # of the encoder

    @property
    def log_rank(self) -> float:
        """Natural log of the effective rank of the centred embeddings; 0 when all are equal."""
        return math.log(self.estimates[TEXT_RANK].value)

    @property
    def log_entropy(self) -> float:
        """Natural log of the mean output entropy, which is taken as 1e-6 nats at least."""
        return math.log(max(float(self.entropies.mean()), _LEAST_ENTROPY))


class WritingProbe:
    """Lets the model write at every so many checks, and measures what it wrote.

    Args:
        every: Checks from one writing to the next; the first check always has one.
        encoder: See `find_encoder`; built at the first writing.
        relative_ridge: Of log det.
        **options: Keyword arguments of `Writer`.

    Raises:
        InputError: On an option that cannot be used.
    """

    def __init__(
        self,
        *,
        every: int = 5,
        encoder: EncoderSpec = "hashing",
        relative_ridge: float,
        **options: Any,
    ) -> None:
        if every < 1 or int(every) != every:
            raise InputError(f"generation every={every!r}: pass a number of checks from 1 on.")
        if not isinstance(encoder, str) and not callable(encoder):
            raise InputError(
                f"encoder={encoder!r}: pass a name, or a callable list of texts -> (texts, m)."
            )
        self.every = every
        try:
            self.writer = Writer(**options)
        except TypeError as error:
            raise InputError(
                f"generation={options!r}: {error}. Its options are every, examples, prompt_tokens, "
                "new_tokens, temperature, seed."
            ) from error
        self._spec = encoder
        self._relative_ridge = relative_ridge
        self.reset()

    def reset(self) -> None:
        """Begin a new run: another start, and so another frozen copy of it."""
        self._encoder: Encoder | None = None

    def due(self, check: int) -> bool:
        """Whether the model writes at this check, counted from 1."""
        return (check - 1) % self.every == 0

    def prepare(self, model: nn.Module, tokenizer: Any) -> None:
        """Build the encoder and let it embed, where it has not yet: what is done once in a run.

        Raises:
            InputError, ProbeError: As `find_encoder` and `Encoder.embed`.
        """
        if self._encoder is not None:
            return
        if tokenizer is None:
            raise InputError(
                "the generation channel needs a tokenizer to read what the model writes: pass "
                "tokenizer=, or Trainer(processing_class=)."
            )
        # Encoder and tokenizer are other people's code, which may draw random numbers.
        with untouched(model, seed=self.writer.seed):
            encoder = find_encoder(self._spec, model, tokenizer)
            _ = encoder.signature
            self._encoder = encoder

    def read(self, model: nn.Module, probes: ProbeSet, tokenizer: Any) -> Writing | None:
        """Let the model write; None when its logits were not finite.

        Raises:
            InputError, ProbeError: As `Writer.write` and `prepare`.
        """
        self.prepare(model, tokenizer)
        assert self._encoder is not None
        with untouched(model, seed=self.writer.seed):
            written = self.writer.write(model, probes)
            if not bool(torch.isfinite(written.entropies).all()):
                return None
            texts = _decoded(written.tokens, tokenizer)
            return measure_writing(
                written, texts, self._encoder, relative_ridge=self._relative_ridge
            )

    def identity(self) -> dict[str, Any]:
        """What makes two series of writings comparable, beside the weights of the encoder."""
        writer = self.writer
        return {
            "encoder": self._spec if isinstance(self._spec, str) else "own",
            "examples": writer.examples,
            "prompt_tokens": writer.prompt_tokens,
            "new_tokens": writer.new_tokens,
            "temperature": writer.temperature,
            "seed": writer.seed,
        }


def _decoded(tokens: Tensor, tokenizer: Any) -> list[str]:
    """As text, each up to the token that ends it."""
    end = getattr(tokenizer, "eos_token_id", None)
    rows = [row[: row.index(end)] if end in row else row for row in tokens.tolist()]
    return [str(tokenizer.decode(row, skip_special_tokens=True)) for row in rows]


def measure_writing(
    written: Continuations,
    texts: Sequence[str],
    encoder: Encoder,
    *,
    relative_ridge: float,
) -> Writing:
    """Embed what was written, and measure it.

    Args:
        written: Tokens and entropies.
        texts: The same, as text.
        encoder: Frozen.
        relative_ridge: Of log det.

    Raises:
        ProbeError: When the encoder gives no embeddings.
    """
    tokens = written.tokens.tolist()
    entropies = written.entropies.double().numpy()
    estimates = {
        ENTROPY: _mean_entropy(entropies),
        "distinct_1": Estimate.exact(distinct(tokens, 1)),
        "distinct_2": Estimate.exact(distinct(tokens, 2)),
        "compression_ratio": Estimate.exact(compression_ratio(texts)),
        "repeated_4gram_share": Estimate.exact(repeated_share(tokens, 4)),
    }
    try:
        summary = summarize(
            Gram.from_embeddings(encoder.embed(texts)),
            center=True,
            relative_ridge=relative_ridge,
            method="exact",
        )
    except ZeroTraceError:
        estimates[TEXT_RANK] = Estimate.exact(1.0)
        return Writing(tuple(texts), encoder.name, estimates, None, entropies, encoder.signature)
    estimates = {name: getattr(summary, name) for name in _FUNCTIONALS} | estimates
    without = summary.log_rank_without
    return Writing(tuple(texts), encoder.name, estimates, without, entropies, encoder.signature)


def _mean_entropy(entropies: NDArray[np.float64]) -> Estimate:
    """Mean over texts, with the interval of other prompts; of one text it has none."""
    mean = float(entropies.mean())
    if len(entropies) < 2:
        return Estimate.exact(mean)
    half = half_width(mean_standard_error(entropies), len(entropies), _CONFIDENCE)
    return Estimate(mean, mean - half, mean + half, "sampling")
