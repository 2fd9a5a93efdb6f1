"""One generation read: its index set, and their embeddings or the product of all embeddings."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor

from sigma_monitor.analysis.files import tensor_of
from sigma_monitor.errors import InputError
from sigma_monitor.lineage.embed import CHUNK, Embedder
from sigma_monitor.lineage.sample import IndexSet, Sample, paired
from sigma_monitor.lineage.shared import agree, device_of_group, embed_shared, is_own, together
from sigma_monitor.probing import EncoderSpec
from sigma_monitor.spectrum import GramStream
from sigma_monitor.spectrum.gram import blocks, validated

__all__ = ["DEFAULT_SAMPLE", "Read", "Reader"]

T = TypeVar("T")

DEFAULT_SAMPLE: Final = 2000  # documents
_GIVEN = "given embeddings"  # in the place of an encoder's name


@dataclass(frozen=True, eq=False)
class Read:
    """What was read of a generation."""

    sample: Sample[Any]
    rows: Tensor | GramStream  # (sample, m) embeddings; of all documents where they are streamed
    texts: list[str] | None  # (sample,) None of embeddings

    @property
    def features(self) -> int:
        """M."""
        return self.rows.shape[1] if isinstance(self.rows, Tensor) else self.rows.m


@dataclass(frozen=True, eq=False)
class _First:
    """What all later generations must have in common with the first."""

    name: str
    sample: Sample[Any]
    features: int
    texts: bool  # or embeddings


class Reader:
    """Reads generations, each of which must compare with the first.

    Where there are several processes, each goes through all documents and embeds its share.

    Args:
        encoder: See `Embedder`; it is built when the first text comes.
        size: Documents of the index set; `"all"`: the spectra are of all documents, of which
            nothing is kept, and 2,000 are chosen for their diversity, whatever their prompts.
        seed: Of the index set.
        cache: See `Embedder`.
    """

    def __init__(
        self,
        encoder: EncoderSpec,
        size: int | Literal["all"],
        seed: int,
        cache: str | os.PathLike[str] | None,
    ) -> None:
        self._spec = encoder
        self._cache = cache
        self._streams = size == "all"
        self._size = DEFAULT_SAMPLE if size == "all" else size
        self._seed = seed
        self._embedder: Embedder | None = None
        self._first: _First | None = None

    @property
    def encoder(self) -> str:
        """Name of the encoder, once something was kept."""
        texts = self._first is not None and self._first.texts
        return self._embedder.name if texts and self._embedder is not None else _GIVEN

    def texts(self, name: str, documents: Iterator[tuple[str, str | None]]) -> Read:
        """A generation of documents with their prompts; a collective.

        Args:
            name: Of the generation, for messages.
            documents: Gone through once.

        Raises:
            InputError: On every process, when any cannot use the documents or embed them.
        """
        self._check_kind(name, texts=True)
        embedder = self._embedder = self._embedder or together(
            lambda: Embedder(self._spec, self._cache)
        )
        stream = self._stream(embedder.features) if self._streams else None
        sample = together(lambda: self._text_sample(name, documents, embedder, stream))
        agree((sample.documents, sample.prompts, _digest(sample.contents)), "documents")
        with _of(name):
            rows = embed_shared(embedder, sample.contents) if stream is None else _pooled(stream)
        return Read(sample, rows, sample.contents)

    def embeddings(self, name: str, rows: Any, prompts: Iterable[str] | None) -> Read:
        """A generation of embeddings, whole or in parts; a collective.

        Args:
            name: Of the generation, for messages.
            rows: (n, m) tensor or array, a list of them, or a function that gives these.
            prompts: Of the documents.

        Raises:
            InputError: On every process, when any cannot use them.
        """

        def read() -> tuple[Sample[int], Tensor | GramStream]:
            self._check_kind(name, texts=False)
            parts = self._parts(name, rows)
            index: IndexSet[int] = self._index()
            with _of(name):
                for number, prompt in paired(range(sum(map(len, parts))), prompts):
                    index.offer(number, prompt)
            sample = self._matching(name, index.sample(name))
            with _of(name):
                if not self._streams:
                    return sample, _taken(parts, sample.contents)
                return sample, _streamed(parts, self._stream(parts[0].shape[1]))

        sample, found = together(read)
        agree((sample.documents, sample.prompts), "embeddings")
        with _of(name):
            found = found if isinstance(found, Tensor) else _pooled(found)
        return Read(sample, found, None)

    def keep(self, name: str, read: Read) -> None:
        """What was read can be used: later generations must compare with the first of these.

        Args:
            name: Of the generation, for messages.
            read: What `texts` or `embeddings` gave.
        """
        self._first = self._first or _First(
            name, read.sample, read.features, read.texts is not None
        )

    def _text_sample(
        self,
        name: str,
        documents: Iterator[tuple[str, str | None]],
        embedder: Embedder,
        stream: GramStream | None,
    ) -> Sample[str]:
        """The index set; what goes by is embedded into `stream`, where there is one."""
        index: IndexSet[str] = self._index()
        for number, chunk in enumerate(iter(lambda: list(islice(documents, CHUNK)), [])):
            with _of(name):
                for text, prompt in chunk:
                    _check_text(text, prompt)
                    index.offer(text, prompt)
                if stream is not None and is_own(number):
                    stream.update(embedder.embed([text for text, _ in chunk]))
        return self._matching(name, index.sample(name))

    def _index(self) -> IndexSet[Any]:
        return IndexSet(self._size, self._seed, whole_prompts=not self._streams)

    def _check_kind(self, name: str, *, texts: bool) -> None:
        if self._first is not None and self._first.texts != texts:
            raise InputError(
                f"{name} and {self._first.name}: one is texts and the other embeddings. Pass all "
                "generations as one of them."
            )

    def _matching(self, name: str, sample: Sample[T]) -> Sample[T]:
        if self._first is not None:
            sample.check_matches(self._first.sample, name, self._first.name)
        return sample

    def _parts(self, name: str, rows: Any) -> list[Tensor]:
        rows = rows() if callable(rows) else rows
        given = rows if isinstance(rows, (list, tuple)) else [rows]
        with _of(name):
            parts = [
                validated(tensor_of(part) if isinstance(part, np.ndarray) else part, "rows")
                for part in given
            ]
        widths = {part.shape[1] for part in parts}
        if self._first is not None:
            widths.add(self._first.features)
        if len(widths) != 1:
            raise InputError(
                f"{name}: rows of {' and '.join(map(str, sorted(widths))) or 'no'} features. Embed "
                "all documents of all generations alike."
            )
        return parts

    def _stream(self, features: int) -> GramStream:
        return GramStream(features, device=device_of_group())


@contextmanager
def _of(name: str) -> Iterator[None]:
    """What is wrong inside is said to be of `name`."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{name}: {error}") from error


def _check_text(text: Any, prompt: Any) -> None:
    for what, value in (("document", text), ("prompt", "" if prompt is None else prompt)):
        if not isinstance(value, str):
            raise InputError(f"{value!r} is a {what} that is no text. Pass texts.")
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise InputError(
                f"a {what} has half of a surrogate pair at character {error.start + 1}, "
                f"as of an emoji that was cut in two: {value[: error.start + 1][-20:]!r}. "
                "Cut texts elsewhere."
            ) from error


def _digest(texts: Sequence[str]) -> str:
    content = hashlib.blake2b(digest_size=16)
    for text in texts:
        content.update(f"{len(text)}:{text}".encode(errors="surrogatepass"))
    return content.hexdigest()


def _pooled(stream: GramStream) -> GramStream:
    """The rows of all processes; a collective."""
    stream.all_reduce()
    return stream


def _streamed(parts: Sequence[Tensor], stream: GramStream) -> GramStream:
    """This process's share of the rows."""
    chunks = (part[block] for part in parts for block in blocks(*part.shape))
    for number, chunk in enumerate(chunks):
        if is_own(number):
            stream.update(chunk)
    return stream


def _taken(parts: Sequence[Tensor], numbers: Sequence[int]) -> Tensor:
    """(numbers, m) these rows of all parts together."""
    found = torch.empty(len(numbers), parts[0].shape[1], dtype=_widest(parts))
    wanted = torch.tensor(numbers)
    start = 0
    for part in parts:
        here = (wanted >= start) & (wanted < start + len(part))
        found[here] = part[wanted[here] - start].to(found)
        start += len(part)
    return found


def _widest(parts: Sequence[Tensor]) -> torch.dtype:
    dtype = parts[0].dtype
    for part in parts[1:]:
        dtype = torch.promote_types(dtype, part.dtype)
    return dtype
