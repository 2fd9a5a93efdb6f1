"""Embeddings and texts of one generation in, everything that is said of them out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sigma_monitor.analysis.analyze import functionals
from sigma_monitor.errors import InputError, ZeroTraceError
from sigma_monitor.generation.diversity import (
    compression_ratio,
    distinct,
    distinct_without,
    repeated_share,
)
from sigma_monitor.lineage.watched import Watched
from sigma_monitor.snapshot import (
    COMPRESSION,
    DISTINCT_1,
    DISTINCT_2,
    EFFECTIVE_RANK,
    PARTICIPATION_RATIO,
    REPEATED,
    WITHIN_SHARE,
)
from sigma_monitor.spectrum import (
    PAPER_SETTINGS,
    Gram,
    GramStream,
    SigmaTracks,
    SpectralSummary,
    sigma_tracks,
    summarize,
)
from sigma_monitor.spectrum.conventions import checked_energy
from sigma_monitor.spectrum.exact import decompose
from sigma_monitor.spectrum.gram import Product
from sigma_monitor.spectrum.moments import MomentsWithout, moments_without
from sigma_monitor.spectrum.subspace import leading_directions, subspace_drift

__all__ = [
    "MEAN_WORDS",
    "UNIQUE_SHARE",
    "WORDS",
    "Measurement",
    "measure_rows",
    "measure_stream",
    "turned",
    "unit_rows",
    "with_diversity",
    "with_tracks",
]

UNIQUE_SHARE = "unique_share"
MEAN_WORDS = "words"

WORDS = 128  # of each document, its first, in which n-grams are counted: length is not variety

_ROUNDING = 16 * torch.finfo(torch.float64).eps

_DIRECTIONS = 8  # of the leading eigenspace whose rotation is followed


@dataclass(frozen=True, eq=False)
class Measurement:
    """What was measured of one generation. A spectrum is None where there is none: all rows agree.

    Within and between prompts there is a spectrum where prompts have several documents.
    """

    rows: int  # of the spectrum
    features: int
    centred: SpectralSummary | None
    uncentred: SpectralSummary | None
    watched: Mapping[str, Watched]  # what the verdict looks at
    directions: Tensor | None = None  # (k, m) leading ones of the centred rows
    noise: float | None = None  # subspace drift between two halves of these rows
    within: SpectralSummary | None = None  # of what documents differ by from the mean of a prompt
    between: SpectralSummary | None = None  # of the means of the prompts
    diversity: Mapping[str, float] | None = None  # of the texts
    tracks: SigmaTracks | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready builtins; infinities and NaN become strings."""
        share = self.watched.get(WITHIN_SHARE)
        return {
            "centred": _packed(self.centred),
            "uncentred": _packed(self.uncentred),
            "within_prompt": _packed(self.within),
            "between_prompt": _packed(self.between),
            WITHIN_SHARE: None if share is None else share.value,
            "diversity": None if self.diversity is None else dict(self.diversity),
            "spectrum": [] if self.centred is None else self.centred.shares.tolist(),
            "subspace_noise": self.noise,
            "tracks": None if self.tracks is None else dict(vars(self.tracks)),
        }


def measure_rows(rows: Tensor, groups: Tensor | None, *, confidence: float) -> Measurement:
    """The spectra of rows that are at hand, with the intervals of the documents.

    Args:
        rows: (n, m) embeddings.
        groups: (n,) prompt of each row, non-decreasing; None where no prompt repeats.
        confidence: Of the intervals.

    Raises:
        InputError: When a row is not finite.
    """
    gram = Gram.from_embeddings(rows)
    centred = _summary(gram, groups, confidence, center=True)
    if centred is None:
        return _without_spectrum(gram, _summary(gram, groups, confidence, center=False))
    without = centred.log_rank_without
    moments = moments_without(gram, center=True, groups=groups)
    watched = {
        EFFECTIVE_RANK: Watched(
            centred.effective_rank.value, None if without is None else np.exp(without)
        ),
        PARTICIPATION_RATIO: Watched(
            centred.participation_ratio.value, moments.participation_ratio
        ),
    }
    within = between = None
    if groups is not None:
        means, residuals = _split(rows.double(), groups)
        between = _summary(Gram.from_embeddings(means), None, confidence, center=True)
        within = _summary(Gram.from_embeddings(residuals), groups, confidence, center=False)
        watched[WITHIN_SHARE] = _within_share(residuals, groups, moments)
    parity = torch.arange(gram.n) if groups is None else groups
    halves = [_directions(rows[parity % 2 == half]) for half in (0, 1)]
    return Measurement(
        rows=gram.n,
        features=gram.m,
        centred=centred,
        uncentred=_summary(gram, groups, confidence, center=False),
        watched=watched,
        directions=_directions(rows),
        noise=turned(halves[0], halves[1]),
        within=within,
        between=between,
    )


def measure_stream(stream: GramStream, *, confidence: float) -> Measurement:
    """The spectra of rows that were not kept: no intervals, and nothing by prompt.

    Raises:
        InputError: When there was no row.
    """
    centred = _summary(stream, None, confidence, center=True)
    uncentred = _summary(stream, None, confidence, center=False)
    if centred is None:
        return _without_spectrum(stream, uncentred)
    watched = {
        EFFECTIVE_RANK: Watched(centred.effective_rank.value),
        PARTICIPATION_RATIO: Watched(centred.participation_ratio.value),
    }
    directions = decompose(stream, center=True).vectors[:, :_DIRECTIONS].T.contiguous()
    return Measurement(stream.n, stream.m, centred, uncentred, watched, directions.cpu())


def turned(one: Tensor | None, two: Tensor | None) -> float | None:
    """Subspace drift from (k, m) directions to others; None where it would say nothing.

    That is where the numbers of directions differ, since angles then only say how far the one space
    lies within the other (Ye and Lim 2016): of directions that were lost they say 0. So do they
    where the directions are all there are.
    """
    if one is None or two is None or len(one) != len(two) or len(one) == one.shape[1]:
        return None
    return subspace_drift(one, two)


def with_diversity(found: Measurement, texts: Sequence[str], groups: Tensor | None) -> Measurement:
    """`found` with how varied these texts are, without any model.

    Args:
        found: What is known of the generation.
        texts: Of the index set.
        groups: (texts,) prompt of each; None where it is documents that intervals are over.
    """
    words = [text.split()[:WORDS] for text in texts]
    diversity = {
        DISTINCT_1: distinct(words, 1),
        DISTINCT_2: distinct(words, 2),
        COMPRESSION: compression_ratio(texts),
        REPEATED: repeated_share(words, 4),
        UNIQUE_SHARE: len(set(texts)) / len(texts),
        MEAN_WORDS: sum(len(text.split()) for text in texts) / len(texts),
    }
    without = distinct_without(words, 2, None if groups is None else groups.tolist())
    watched = {DISTINCT_2: Watched(diversity[DISTINCT_2], np.asarray(without))}
    return replace(found, diversity=diversity, watched={**found.watched, **watched})


def with_tracks(found: Measurement, rows: Tensor, documents: int) -> Measurement:
    """`found` with SIGMA's tracks under the published settings.

    Args:
        found: What is known of the generation.
        rows: (n_A, m) embeddings of the index set, of unit length.
        documents: n, of the whole generation.

    Raises:
        InputError: When there are no more rows than features; as `sigma_tracks`.
    """
    n, m = rows.shape
    if n <= m:
        raise InputError(
            f"{n} rows of {m} features: the published tracks need more rows than features. Pass a "
            "larger sample, more documents, or an encoder with fewer features."
        )
    return replace(found, tracks=sigma_tracks(rows, documents, **PAPER_SETTINGS))


def unit_rows(rows: Tensor) -> Tensor:
    """Rows of unit length, in fp64; a zero row stays zero."""
    rows = rows.double()
    norms = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    return rows / torch.where(norms > 0, norms, 1.0)


def _summary(
    rows: Product, groups: Tensor | None, confidence: float, *, center: bool
) -> SpectralSummary | None:
    try:
        return summarize(rows, center=center, method="exact", confidence=confidence, groups=groups)
    except ZeroTraceError:
        return None


def _without_spectrum(rows: Product, uncentred: SpectralSummary | None) -> Measurement:
    """Of rows that all agree: one direction is left, if any."""
    watched = {EFFECTIVE_RANK: Watched(1.0), PARTICIPATION_RATIO: Watched(1.0)}
    return Measurement(rows.n, rows.m, None, uncentred, watched)


def _split(rows: Tensor, groups: Tensor) -> tuple[Tensor, Tensor]:
    """(prompts, m) means of the prompts, and (n, m) rows less the mean of theirs."""
    sizes = torch.unique_consecutive(groups, return_counts=True)[1]
    sums = torch.zeros(len(sizes), rows.shape[1], dtype=rows.dtype).index_add_(0, groups, rows)
    means = sums / sizes[:, None]
    residuals = rows - means[groups]
    # What rounding of the means leaves of documents that agree is nothing.
    residuals[residuals.abs() <= _ROUNDING * rows.abs().max()] = 0
    return means, residuals


def _within_share(residuals: Tensor, groups: Tensor, moments: MomentsWithout) -> Watched:
    """Energy about the means of the prompts, of that about the mean of all."""
    energy = torch.zeros(int(groups[-1]) + 1, dtype=torch.float64)
    energy.index_add_(0, groups, residuals.square().sum(1))
    # Where one prompt has nearly all of it, what is left of the traces is rounding.
    left = np.maximum(moments.trace, float(_ROUNDING) * moments.total)
    rest = np.clip((energy.sum() - energy).numpy(), 0, left)
    return Watched(float(energy.sum()) / moments.total, rest / left)


def _directions(rows: Tensor) -> Tensor | None:
    gram = Gram.from_embeddings(rows)
    try:
        checked_energy(gram, center=True)
    except ZeroTraceError:
        return None
    return leading_directions(gram, _DIRECTIONS)


def _packed(summary: SpectralSummary | None) -> dict[str, Any] | None:
    if summary is None:
        return None
    names = functionals("centred" if summary.center else "uncentred")
    return {name: getattr(summary, name).to_dict() for name in names}
