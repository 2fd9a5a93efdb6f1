"""Frozen encoders: texts in, embeddings out, the same at every check."""

from __future__ import annotations

import copy
import functools
import hashlib
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from sigma_monitor.errors import InputError, ProbeError
from sigma_monitor.probing.forward import Probe
from sigma_monitor.probing.layers import without_wrapper
from sigma_monitor.probing.probe_set import ProbeSet, tokenized

__all__ = [
    "Encoder",
    "EncoderSpec",
    "find_encoder",
    "hashing_encoder",
    "named_encoder",
    "start_encoder",
]

Embed: TypeAlias = Callable[[Sequence[str]], Any]
EncoderSpec: TypeAlias = str | Embed

_HASHED_FEATURES = 2**16
_PROJECTED_FEATURES = 256
# Share of the features in which one n-gram has a weight. The usual 1/sqrt(hashed features) leaves
# one n-gram in e without any, and a text hangs on few: its spaces have a tenth of its energy.
_DENSITY = 1 / 16
_MAX_LENGTH = 512


# Of different length, case and style, so that hardly two encoders see them alike.
_PASSAGES = (
    "The cat sat on the mat.",
    "def area(radius): return 3.14159 * radius ** 2",
    "Once upon a time there was a girl who did not want to sleep, and a moon that could not.",
    "NOTICE: 12 items were returned on 2024-02-29; see section 4 (b).",
)


class Encoder:
    """A function of texts, with what identifies it.

    Args:
        name: Of the function.
        embed: `list of n texts -> (n, m)`.
    """

    def __init__(self, name: str, embed: Embed) -> None:
        self.name = name
        self._embed = embed

    @functools.cached_property
    def signature(self) -> tuple[float, ...]:
        """Inner products of the embeddings of fixed texts.

        They tell two functions of one name apart, such as two lambdas or two revisions of weights.
        """
        rows = self.embed(_PASSAGES)
        return tuple((rows @ rows.T).flatten().tolist())

    def embed(self, texts: Sequence[str]) -> Tensor:
        """(n, m) fp64 embeddings of n texts, on the CPU.

        Raises:
            ProbeError: When the function gives another shape, or a value that is not finite.
        """
        rows = _matrix(self._embed(list(texts))).detach().cpu().double()
        if rows.ndim != 2 or len(rows) != len(texts):
            raise ProbeError(
                f"encoder {self.name} gave {tuple(rows.shape)} for {len(texts)} texts: expected "
                "one row for each."
            )
        if not bool(torch.isfinite(rows).all()):
            raise ProbeError(f"encoder {self.name} gave NaN or infinity: pass another encoder=.")
        return rows


def _matrix(rows: Any) -> Tensor:
    """What an encoder gives as a tensor: it may be an array, or a list of numbers or tensors."""
    if isinstance(rows, list) and rows and isinstance(rows[0], Tensor):
        return torch.stack(rows)
    return rows if isinstance(rows, Tensor) else torch.as_tensor(np.asarray(rows))


def find_encoder(spec: EncoderSpec, model: nn.Module, tokenizer: Any) -> Encoder:
    """The encoder that was asked for.

    Args:
        spec: `"hashing"`; `"start"`, the model as it is now; the name or the folder of a
            sentence-transformers model; or any callable `list of n texts -> (n, m)`.
        model: For `"start"`.
        tokenizer: Likewise.

    Raises:
        InputError: When sentence-transformers is asked for and not installed.
    """
    return start_encoder(model, tokenizer) if spec == "start" else named_encoder(spec)


def named_encoder(spec: EncoderSpec) -> Encoder:
    """An encoder that needs no model of the training; see `find_encoder`.

    Raises:
        InputError: When sentence-transformers is asked for and not installed.
    """
    if not isinstance(spec, str):
        return Encoder(getattr(spec, "__qualname__", type(spec).__qualname__), spec)
    if spec == "hashing":
        return hashing_encoder()
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise InputError(
            f'encoder={spec!r}: this is neither "hashing" nor "start", so it would be a '
            'sentence-transformers model, which needs pip install "sigma-monitor[encoders]".'
        ) from error
    return Encoder(spec, SentenceTransformer(spec).encode)


def hashing_encoder(features: int = _PROJECTED_FEATURES) -> Encoder:
    """Character n-grams, hashed and projected at random: no download, no training.

    scikit-learn's `HashingVectorizer` on character 1- to 4-grams, rows of unit length, and its
    sparse random projection with a fixed seed. It knows spelling and style, not meaning; texts that
    grow alike grow close.

    Args:
        features: Of the embeddings.
    """
    from sklearn.feature_extraction.text import HashingVectorizer
    from sklearn.pipeline import make_pipeline
    from sklearn.random_projection import SparseRandomProjection

    pipeline = make_pipeline(
        HashingVectorizer(
            analyzer="char", ngram_range=(1, 4), n_features=_HASHED_FEATURES, lowercase=False
        ),
        SparseRandomProjection(features, density=_DENSITY, random_state=0, dense_output=True),
    )
    pipeline.fit([""])  # the projection depends on the number of features alone
    return Encoder(f"hashing-{features}", pipeline.transform)


def start_encoder(model: nn.Module, tokenizer: Any) -> Encoder:
    """A frozen copy of the model as it is now: mean-pooled hidden states of the last layer.

    It takes as much memory as the model's weights, and does not come back on a resume.

    Args:
        model: Of transformers.
        tokenizer: Its tokenizer.
    """
    frozen = copy.deepcopy(without_wrapper(model)).eval().requires_grad_(False)
    positions = getattr(getattr(frozen, "config", None), "max_position_embeddings", None)
    length = min(_MAX_LENGTH, positions or _MAX_LENGTH)
    probe = Probe(pooling="mean")

    def embed(texts: Sequence[str]) -> Tensor:
        # A text without any token has no embedding: a space stands for it.
        filled = [text or " " for text in texts]
        probes = ProbeSet.from_tensors(tokenized(filled, tokenizer, length))
        (rows,) = probe.read(frozen, probes).layers.values()
        return rows.embeddings

    # The sums of all parameters tell one state of training from another.
    sums = [float(parameter.detach().double().sum()) for parameter in frozen.parameters()]
    digest = hashlib.sha256(np.asarray(sums).tobytes()).hexdigest()[:12]
    return Encoder(f"start-{digest}", embed)
