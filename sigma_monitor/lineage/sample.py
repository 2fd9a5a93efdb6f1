"""The fixed index set: which documents of a corpus are measured, the same in every generation."""

from __future__ import annotations

import hashlib
import heapq
import reprlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import zip_longest
from typing import Generic, TypeVar

import torch
from torch import Tensor

from sigma_monitor.errors import InputError

__all__ = ["Chosen", "IndexSet", "Sample", "paired"]

T = TypeVar("T")

_MISSING = object()
_LEAST_EXAMPLES = 3  # two leave no standard error


@dataclass(frozen=True)
class Chosen(Generic[T]):
    """A document of the index set."""

    index: int  # in its generation, from 0
    content: T
    prompt: str | None


@dataclass(frozen=True)
class Sample(Generic[T]):
    """The index set of one generation, documents of one prompt together."""

    chosen: tuple[Chosen[T], ...]
    groups: Tensor | None  # (chosen,) prompt of each document; None where no prompt repeats
    documents: int  # of the whole generation
    prompts: str | None  # digest of all its prompts, in order

    @property
    def contents(self) -> list[T]:
        """What was chosen, in its order."""
        return [document.content for document in self.chosen]

    @property
    def examples(self) -> int:
        """Units of the jackknife: prompts where they repeat, documents otherwise."""
        return len(self.chosen) if self.groups is None else int(self.groups[-1]) + 1

    def check_matches(self, other: Sample[T], name: str, other_name: str) -> None:
        """Raise an InputError unless the two are of one index set.

        Args:
            other: Of the generation that came first.
            name: Of this generation, for the message.
            other_name: Of the other.
        """
        if self.documents != other.documents:
            raise InputError(
                f"{name} has {self.documents} documents and {other_name} {other.documents}: "
                "generations are compared document by document. Give all of them, and the "
                "control, the same number."
            )
        if self.prompts != other.prompts:
            raise InputError(
                f"{name} has other prompts than {other_name}{self._first_other(other)}: "
                "generations are compared prompt by prompt. Give all of them the same prompts in "
                "the same order."
            )

    def _first_other(self, other: Sample[T]) -> str:
        for here, there in zip(self.chosen, other.chosen, strict=False):
            if (here.index, here.prompt) != (there.index, there.prompt):
                ours, theirs = reprlib.repr(here.prompt), reprlib.repr(there.prompt)
                return f" (such as {ours} at document {here.index}, and {theirs} there)"
        return ""


class IndexSet(Generic[T]):
    """Chooses documents as they stream by, and keeps the chosen ones alone.

    Chosen are the documents whose numbers have the smallest hashes under the seed, so that the
    choice depends on seed and number of documents alone. With `whole_prompts` it is prompts that
    are hashed: a prompt is in with all its documents or not at all, until there are `size` of these
    or a few more.

    Memory: the chosen documents.

    Args:
        size: Documents to choose.
        seed: Of the hashes.
        whole_prompts: Whether documents that have prompts are chosen by these, and grouped.
    """

    def __init__(self, size: int, seed: int, *, whole_prompts: bool) -> None:
        self._size = size
        self._whole_prompts = whole_prompts
        self._key = str(seed).encode()
        self._units: dict[int, list[Chosen[T]]] = {}  # by hash
        self._worst: list[int] = []  # a heap of negated hashes
        self._kept = 0  # documents
        self._documents = 0  # that were offered
        self._prompts: hashlib.blake2b | None = None

    def offer(self, content: T, prompt: str | None = None) -> None:
        """The next document.

        Raises:
            InputError: When one prompt has more documents than are to be chosen.
        """
        index = self._documents
        self._documents += 1
        if prompt is not None:
            self._prompts = self._prompts or hashlib.blake2b(digest_size=16)
            self._prompts.update(f"{len(prompt)}:{prompt}".encode(errors="surrogatepass"))
        rank = self._hash(prompt if self._whole_prompts and prompt is not None else str(index))
        if rank not in self._units:
            if self._kept >= self._size and rank > -self._worst[0]:
                return
            self._units[rank] = []
            heapq.heappush(self._worst, -rank)
        unit = self._units[rank]
        unit.append(Chosen(index, content, prompt))
        self._kept += 1
        if len(unit) > self._size:
            raise InputError(
                f"the prompt {reprlib.repr(prompt)} has more than the {self._size} documents that "
                "are to be chosen. Pass a larger sample, or no prompts."
            )
        while self._kept - len(self._units[-self._worst[0]]) >= self._size:
            self._kept -= len(self._units.pop(-heapq.heappop(self._worst)))

    def sample(self, name: str) -> Sample[T]:
        """What was chosen, once all documents were offered.

        Args:
            name: Of the generation, for messages.

        Raises:
            InputError: When there are fewer than three documents, or prompts.
        """
        units = sorted(self._units.values(), key=lambda unit: unit[0].index)
        sizes = torch.tensor([len(unit) for unit in units], dtype=torch.long)
        repeated = bool((sizes > 1).any())
        groups = torch.arange(len(units)).repeat_interleave(sizes) if repeated else None
        if len(units) < _LEAST_EXAMPLES:
            raise self._too_few(name, len(units), repeated=repeated)
        digest = None if self._prompts is None else self._prompts.hexdigest()
        chosen = tuple(document for unit in units for document in unit)
        return Sample(chosen, groups, self._documents, digest)

    def _too_few(self, name: str, examples: int, *, repeated: bool) -> InputError:
        what = "prompt" if repeated else "document"
        counted = f"{examples or 'no'} {what}{'' if examples == 1 else 's'}"
        needed = (
            f"a spectrum with an interval needs {_LEAST_EXAMPLES} at least, and hundreds to mean "
            "something."
        )
        if not repeated:
            return InputError(f"{name} has {counted}: {needed}")
        if self._kept == self._documents:
            return InputError(f"{name} has {counted}: {needed} Pass more, or no prompts.")
        return InputError(
            f"the {self._kept} documents chosen of {name} are of {counted}: {needed} Pass a larger "
            "sample, or no prompts."
        )

    def _hash(self, key: str) -> int:
        data = key.encode(errors="surrogatepass")
        return int.from_bytes(hashlib.blake2b(data, digest_size=8, key=self._key).digest(), "big")


def paired(contents: Iterable[T], prompts: Iterable[str] | None) -> Iterator[tuple[T, str | None]]:
    """Contents with their prompts.

    Raises:
        InputError: When there are more of the one than of the other.
    """
    if prompts is None:
        yield from ((content, None) for content in contents)
        return
    for content, prompt in zip_longest(contents, prompts, fillvalue=_MISSING):
        if content is _MISSING or prompt is _MISSING:
            more, less = (
                ("prompts", "documents") if content is _MISSING else ("documents", "prompts")
            )
            raise InputError(
                f"there are more {more} than {less}: pass one prompt for each document, repeated "
                "where it has several."
            )
        yield content, prompt  # type: ignore[misc]
