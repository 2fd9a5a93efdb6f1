"""`Lineage`: generations in, verdicts out."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from sigma_monitor.errors import InputError
from sigma_monitor.lineage.corpus import Corpus
from sigma_monitor.lineage.measure import (
    Measurement,
    measure_rows,
    measure_stream,
    unit_rows,
    with_diversity,
    with_tracks,
)
from sigma_monitor.lineage.reading import DEFAULT_SAMPLE, Read, Reader
from sigma_monitor.lineage.report import Generation, LineageReport
from sigma_monitor.lineage.sample import paired
from sigma_monitor.lineage.verdict import Limits, ReferenceKind, Verdict, judge
from sigma_monitor.probing import EncoderSpec

__all__ = ["Lineage"]

_PAPER_ENCODER = "all-MiniLM-L6-v2"

_UNRELIABLE = (
    "No control: ratios are to the chain's own beginning, and such alarms are unreliable, since "
    "healthy generations leave it too. Pass matched generations on real data (--control, or "
    "add_control)."
)
_NO_INTERVALS = (
    "All documents were streamed and no embedding kept: spectra have no intervals, and limits "
    "alone decide on them."
)

_NOTHING_UNOBSERVED = (
    "All documents are in the index set: Track I bounds nothing (beta = 0) and drifts as Track II. "
    "Pass a smaller --sample for the published setting."
)


@dataclass(frozen=True, eq=False)
class _Added:
    """A generation that was measured."""

    name: str  # for messages
    source: str | None
    documents: int
    sampled: int
    found: Measurement


class Lineage:
    """A chain of generations, and what became of them.

    Each generation is measured as it is added, over one fixed index set of its documents, under one
    frozen encoder; what is kept of it is small. A verdict compares it with the control generation
    of the same number, which was made in the same way from real data::

        lineage = Lineage()
        for number, (made, real) in enumerate(pipeline):
            lineage.add(number, made)
            lineage.add_control(number, real)
        print(lineage.report().table())

    Without a control the first generation is the reference, and a note says what that is worth.

    Where `torch.distributed` runs, every process makes the same calls with the same documents, each
    embeds its share of them, and all have the same results.

    Args:
        encoder: `"hashing"` (character n-grams, no download), the name of a sentence-transformers
            model, or a callable `list of n texts -> (n, m)`.
        sample: Documents of the index set, all where a generation has fewer. Or `"all"`: the
            product of all embeddings is accumulated and no row is kept, so that spectra have no
            intervals and there is nothing by prompt; diversity is of 2,000 documents, chosen one by
            one.
        preset: `"paper"`: rows of unit length, and SIGMA's tracks with δ = 1e-3 and ρ = 1.
        seed: Of the index set.
        cache: Folder for embeddings, which are found again by the content of the documents.
        confidence: Of the intervals.
        warning: Ratio to the reference at which a generation is WARNING; so it is at the inverse.
        collapsed: Ratio at which it is COLLAPSED.

    Raises:
        InputError: On an option that cannot be used.
    """

    def __init__(
        self,
        encoder: EncoderSpec = "hashing",
        *,
        sample: int | Literal["all"] = DEFAULT_SAMPLE,
        preset: Literal["paper"] | None = None,
        seed: int = 0,
        cache: str | os.PathLike[str] | None = None,
        confidence: float = 0.95,
        warning: float = 0.80,
        collapsed: float = 0.50,
    ) -> None:
        if sample != "all" and (type(sample) is not int or sample < 3):
            raise InputError(f'sample={sample!r}: pass a number of documents from 3 on, or "all".')
        if preset not in (None, "paper"):
            raise InputError(f'preset={preset!r}: pass "paper" or None.')
        if preset == "paper" and sample == "all":
            raise InputError(
                'preset="paper" with sample="all": the published tracks are of an index set. Pass '
                "a number of documents."
            )
        if not 0 < confidence < 1:
            raise InputError(f"confidence={confidence!r}: it must lie between 0 and 1.")
        if type(seed) is not int:
            raise InputError(f"seed={seed!r}: pass a whole number.")
        self._limits = Limits(warning, collapsed)
        self._reader = Reader(encoder, sample, seed, cache)
        self._streams = sample == "all"
        self._preset = preset
        self._seed = seed
        self._confidence = confidence
        self._generations: dict[int, _Added] = {}
        self._controls: dict[int, _Added] = {}

    def add(
        self,
        generation: int,
        texts: Iterable[str],
        prompts: Iterable[str] | None = None,
        *,
        source: str | None = None,
    ) -> None:
        """Measure a generation; where there are several processes, a collective.

        Args:
            generation: Its number, from 0.
            texts: Its documents, gone through once.
            prompts: What each was written to, the same in every generation and in the same order. A
                prompt can have several documents: spectra within and between prompts are then
                measured too, and it is prompts that intervals are over.
            source: Where they come from, for the report.

        Raises:
            InputError: When this generation is there already; when it has another number of
                documents or other prompts than those before, fewer than three documents, or one
                that is no text; when the encoder gives no embeddings.
        """
        self._add_texts("generation", generation, texts, prompts, source)

    def add_control(
        self,
        generation: int,
        texts: Iterable[str],
        prompts: Iterable[str] | None = None,
        *,
        source: str | None = None,
    ) -> None:
        """Measure what `generation` is compared with, the same on real data; see `add`.

        Raises:
            InputError: As `add`.
        """
        self._add_texts("control", generation, texts, prompts, source)

    def add_embeddings(
        self,
        generation: int,
        rows: Any,
        prompts: Iterable[str] | None = None,
        *,
        control: bool = False,
        source: str | None = None,
    ) -> None:
        """Measure a generation of which there are embeddings; see `add`.

        Args:
            generation: Its number, from 0.
            rows: (n, m) tensor or array, one row for each document, or a list of such parts. Of
                what is mapped into memory, the index set alone is loaded.
            prompts: As of `add`.
            control: Whether it is the control of that generation.
            source: As of `add`.

        Raises:
            InputError: As `add`; on rows of another width, or that are not finite.
        """
        self._add(
            "control" if control else "generation",
            generation,
            source,
            lambda name: self._reader.embeddings(name, rows, prompts),
        )

    def add_corpus(self, generation: int, corpus: Corpus, *, control: bool = False) -> None:
        """Measure a generation that lies in files; see `add` and `open_corpus`.

        Args:
            generation: Its number, from 0.
            corpus: Where it lies.
            control: Whether it is the control of that generation.

        Raises:
            InputError: As `add`; on a file that cannot be read.
        """

        def read(name: str) -> Read:
            if corpus.arrays:
                return self._reader.embeddings(name, corpus.rows, None)
            return self._reader.texts(name, corpus.documents())

        self._add("control" if control else "generation", generation, corpus.source, read)

    def verdicts(self) -> tuple[Verdict, ...]:
        """One for each generation, in order.

        Raises:
            InputError: When there is no generation, one of them has no control while others do, or
                all documents of a reference agree.
        """
        if not self._generations:
            raise InputError("this lineage has no generation: add one.")
        reference = self._reference
        verdicts = []
        for number in sorted(self._generations):
            before = self._before(number)
            if before.found.centred is None:
                raise InputError(
                    f"{before.name}: all of its documents are embedded alike, so that there is no "
                    "spectrum to compare with. Pass another reference."
                )
            found = self._generations[number].found
            verdicts.append(
                judge(
                    number,
                    found,
                    before.found,
                    reference,
                    limits=self._limits,
                    confidence=self._confidence,
                )
            )
        return tuple(verdicts)

    def report(self) -> LineageReport:
        """Everything, frozen and serialisable.

        Raises:
            InputError: As `verdicts`.
        """
        verdicts = self.verdicts()
        first = self._generations[min(self._generations)]
        return LineageReport(
            encoder=self._reader.encoder,
            features=first.found.features,
            documents=first.documents,
            sampled="all" if self._streams else first.sampled,
            seed=self._seed,
            preset=self._preset,
            confidence=self._confidence,
            limits=self._limits,
            reference=self._reference,
            generations=_packed(self._generations),
            controls=_packed(self._controls),
            verdicts=verdicts,
            notes=tuple(self._notes()),
        )

    @property
    def _reference(self) -> ReferenceKind:
        return "control" if self._controls else "generation 0"

    def _before(self, number: int) -> _Added:
        if not self._controls:
            return self._generations[min(self._generations)]
        if number not in self._controls:
            raise InputError(
                f"generation {number} has no control, and others have: add the control of every "
                "generation, or of none."
            )
        return self._controls[number]

    def _notes(self) -> list[str]:
        notes = [] if self._controls else [_UNRELIABLE]
        if self._streams:
            notes.append(_NO_INTERVALS)
        encoder = self._reader.encoder
        if self._preset == "paper" and not encoder.endswith(_PAPER_ENCODER):
            notes.append(
                f"SIGMA was published with {_PAPER_ENCODER}; its formulas are of {encoder} here."
            )
        first = self._generations[min(self._generations)]
        if self._preset == "paper" and first.sampled == first.documents:
            notes.append(_NOTHING_UNOBSERVED)
        return notes

    def _add_texts(
        self,
        kind: Literal["generation", "control"],
        number: int,
        texts: Iterable[str],
        prompts: Iterable[str] | None,
        source: str | None,
    ) -> None:
        if isinstance(texts, str) or isinstance(prompts, str):
            raise InputError(f"{kind} {number}: pass a list of texts, not one text.")
        self._add(
            kind, number, source, lambda name: self._reader.texts(name, paired(texts, prompts))
        )

    def _add(
        self,
        kind: Literal["generation", "control"],
        number: int,
        source: str | None,
        read: Callable[[str], Read],
    ) -> None:
        place = self._controls if kind == "control" else self._generations
        name = f"{kind} {number}" + ("" if source is None else f" ({source})")
        if type(number) is not int or number < 0:
            raise InputError(f"{name}: pass a number from 0 on.")
        if number in place:
            raise InputError(f"{name} was added before: give each its own number.")
        found = read(name)
        measured = self._measured(name, found)
        self._reader.keep(name, found)
        sample = found.sample
        place[number] = _Added(name, source, sample.documents, len(sample.chosen), measured)

    def _measured(self, name: str, read: Read) -> Measurement:
        groups = read.sample.groups
        try:
            if isinstance(read.rows, Tensor):
                rows = unit_rows(read.rows) if self._preset == "paper" else read.rows
                found = measure_rows(rows, groups, confidence=self._confidence)
                if self._preset == "paper":
                    found = with_tracks(found, rows, read.sample.documents)
            else:
                found = measure_stream(read.rows, confidence=self._confidence)
        except InputError as error:
            raise InputError(f"{name}: {error}") from error
        if read.texts is None:
            return found
        return with_diversity(found, read.texts, groups)


def _packed(lineage: Mapping[int, _Added]) -> tuple[Generation, ...]:
    numbers = sorted(lineage)
    generations = []
    for number in numbers:
        added = lineage[number]
        tracks, first = added.found.tracks, lineage[numbers[0]].found.tracks
        drift = None if tracks is None or first is None else tracks.drift(first)
        generations.append(Generation(number, added.source, added.found, drift))
    return tuple(generations)
