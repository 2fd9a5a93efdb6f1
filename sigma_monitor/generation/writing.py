"""What a model writes, measured: its spectrum under a frozen encoder, and how much it repeats."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sigma_monitor.errors import InputError, ZeroTraceError
from sigma_monitor.estimate import Estimate
from sigma_monitor.generation.diversity import compression_ratio, distinct, repeated_share
from sigma_monitor.probing import (
    Continuations,
    Encoder,
    EncoderSpec,
    ProbeSet,
    Writer,
    find_encoder,
)
from sigma_monitor.probing.guard import untouched
from sigma_monitor.snapshot import (
    COMPRESSION,
    DISTINCT_1,
    DISTINCT_2,
    ENTROPY,
    REPEATED,
    TEXT_RANK,
)
from sigma_monitor.spectrum import Gram, summarize
from sigma_monitor.spectrum.uncertainty import half_width, mean_standard_error

__all__ = [
    "TextProbe",
    "Writing",
    "WritingProbe",
    "mean_over",
    "measure_texts",
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
    # (prompts,) without the texts of each; None: no spectrum, all texts are one
    log_rank_without: NDArray[np.float64] | None
    entropies: NDArray[np.float64] | None  # (texts,) nats; None: the texts are all that is known
    signature: tuple[float, ...] = ()  # of the encoder
    paired: bool = True  # every check has the same prompts

    @property
    def log_rank(self) -> float:
        """Natural log of the effective rank of the centred embeddings; 0 when all are equal."""
        return math.log(self.estimates[TEXT_RANK].value)

    @property
    def log_entropy(self) -> float:
        """Natural log of the mean output entropy, which is taken as 1e-6 nats at least."""
        assert self.entropies is not None
        return math.log(max(float(self.entropies.mean()), _LEAST_ENTROPY))


class TextProbe(ABC):
    """Measures texts of the model at every so many checks, under one frozen encoder.

    Args:
        every: Checks from one reading to the next; the first check always has one.
        encoder: See `find_encoder`; built at the first reading.
        relative_ridge: Of log det.
        seed: Of the generators during a reading.

    Attributes:
        series: Keys of the estimates that are watched.

    Raises:
        InputError: On an option that cannot be used.
    """

    series: tuple[str, ...] = (TEXT_RANK, ENTROPY)

    def __init__(
        self, *, every: int, encoder: EncoderSpec, relative_ridge: float, seed: int
    ) -> None:
        if every < 1 or int(every) != every:
            raise InputError(f"generation every={every!r}: pass a number of checks from 1 on.")
        if not isinstance(encoder, str) and not callable(encoder):
            raise InputError(
                f"encoder={encoder!r}: pass a name, or a callable list of texts -> (texts, m)."
            )
        self.every = every
        self.seed = seed
        self._spec = encoder
        self._relative_ridge = relative_ridge
        self.reset()

    def reset(self) -> None:
        """Begin a new run: another start, and so another frozen copy of it."""
        self._encoder: Encoder | None = None

    def due(self, check: int) -> bool:
        """Whether there is a reading at this check, counted from 1."""
        return (check - 1) % self.every == 0

    @abstractmethod
    def call_within(self, context: Callable[[], AbstractContextManager[Any]]) -> None:
        """Call the model inside `context()` from now on, where it is called."""

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
        with untouched(model, seed=self.seed):
            encoder = find_encoder(self._spec, model, tokenizer)
            _ = encoder.signature
            self._encoder = encoder

    @abstractmethod
    def read(self, model: nn.Module, probes: ProbeSet, tokenizer: Any) -> Writing | None:
        """What the texts of this check measure; None when there is nothing to measure."""

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """What makes two series comparable, beside the weights of the encoder; JSON-ready."""

    @property
    def encoder_name(self) -> str:
        """Of the encoder as it was asked for."""
        return self._spec if isinstance(self._spec, str) else "own"


class WritingProbe(TextProbe):
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
        try:
            self.writer = Writer(**options)
        except TypeError as error:
            raise InputError(
                f"generation={options!r}: {error}. Its options are every, examples, prompt_tokens, "
                "new_tokens, temperature, seed."
            ) from error
        super().__init__(
            every=every, encoder=encoder, relative_ridge=relative_ridge, seed=self.writer.seed
        )

    def call_within(self, context: Callable[[], AbstractContextManager[Any]]) -> None:
        """Call the model inside `context()` from now on."""
        self.writer.context = context

    def read(self, model: nn.Module, probes: ProbeSet, tokenizer: Any) -> Writing | None:
        """Let the model write; None when its logits were not finite.

        Raises:
            InputError, ProbeError: As `Writer.write` and `prepare`.
        """
        self.prepare(model, tokenizer)
        assert self._encoder is not None
        with untouched(model, seed=self.seed):
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
            "encoder": self.encoder_name,
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
    return measure_texts(
        texts,
        written.tokens.tolist(),
        encoder.embed(texts),
        encoder,
        relative_ridge=relative_ridge,
        entropies=written.entropies.double().numpy(),
    )


def measure_texts(
    texts: Sequence[str],
    tokens: Sequence[Sequence[int]],
    embeddings: Tensor,
    encoder: Encoder,
    *,
    relative_ridge: float,
    entropies: NDArray[np.float64] | None = None,
    groups: Tensor | None = None,
) -> Writing:
    """What is the same of all texts, however they came about.

    Args:
        texts: Of one check.
        tokens: The same, as tokens.
        embeddings: (texts, m) of the encoder.
        encoder: Frozen.
        relative_ridge: Of log det.
        entropies: (texts,) of the output, nats.
        groups: (texts,) prompt of each, non-decreasing, where a prompt has more than one.
    """
    estimates = {} if entropies is None else {ENTROPY: mean_over(entropies)}
    estimates |= {
        DISTINCT_1: Estimate.exact(distinct(tokens, 1)),
        DISTINCT_2: Estimate.exact(distinct(tokens, 2)),
        COMPRESSION: Estimate.exact(compression_ratio(texts)),
        REPEATED: Estimate.exact(repeated_share(tokens, 4)),
    }
    without = None
    try:
        summary = summarize(
            Gram.from_embeddings(embeddings),
            center=True,
            relative_ridge=relative_ridge,
            method="exact",
            groups=groups,
        )
        without = summary.log_rank_without
        estimates = {name: getattr(summary, name) for name in _FUNCTIONALS} | estimates
    except ZeroTraceError:
        estimates[TEXT_RANK] = Estimate.exact(1.0)
    return Writing(tuple(texts), encoder.name, estimates, without, entropies, encoder.signature)


def mean_over(values: NDArray[np.float64]) -> Estimate:
    """Mean over prompts, with the interval of other prompts; of one prompt it has none."""
    mean = float(values.mean())
    if len(values) < 2:
        return Estimate.exact(mean)
    half = half_width(mean_standard_error(values), len(values), _CONFIDENCE)
    return Estimate(mean, mean - half, mean + half, "sampling")
