"""The fixed held-out examples: chosen once by seed, tokenised once, kept as tensors."""

from __future__ import annotations

import hashlib
import random
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from sigma_monitor.errors import InputError
from sigma_monitor.probing.guard import frozen_generators

__all__ = [
    "DEFAULT_EXAMPLES",
    "DEFAULT_MAX_LENGTH",
    "ProbeSet",
    "is_map_style",
    "padded",
    "tokenized",
    "unchanged",
]

DEFAULT_EXAMPLES = 128
DEFAULT_MAX_LENGTH = 128

Collate = Callable[[list[Any]], Any]


@dataclass(frozen=True, eq=False)
class ProbeSet:
    """Model inputs of the probe examples, on the CPU.

    Build it with `from_texts`, `from_dataset`, `from_dataloader` or `from_tensors`.

    Raises:
        InputError: When there is no example, or the tensors disagree on how many there are.
    """

    tensors: Mapping[str, Tensor]  # name -> (examples, ...), keyword arguments of the model
    held_out: bool = True  # False: the examples are trained on too
    source: str = "tensors"  # where they came from, for console and record
    fingerprint: str = field(init=False)  # of the content

    def __post_init__(self) -> None:
        """Check the shapes and take the fingerprint."""
        if not self.tensors:
            raise InputError("the probe set has no tensor: pass at least one, such as input_ids.")
        for name, value in self.tensors.items():
            if getattr(value, "ndim", 0) == 0:
                raise InputError(
                    f"the probe set's {name!r} is a {type(value).__name__} without examples: "
                    "expected a tensor of shape (examples, ...)."
                )
        sizes = {name: len(tensor) for name, tensor in self.tensors.items()}
        if len(set(sizes.values())) > 1 or 0 in sizes.values():
            raise InputError(
                f"the probe set holds {sizes} examples: every tensor needs the same number, at "
                "least one. Check the texts or the dataset it was built from."
            )
        mask = self.tensors.get("attention_mask")
        blank = 0 if mask is None else int((mask.flatten(1) == 0).all(1).sum())
        if blank:
            raise InputError(
                f"{blank} of {len(self)} probe examples are nothing but padding: drop them."
            )
        # Copies: what the caller does to the tensors afterwards must not reach the probe set.
        tensors = {name: tensor.detach().cpu().clone() for name, tensor in self.tensors.items()}
        object.__setattr__(self, "tensors", tensors)
        object.__setattr__(self, "fingerprint", _fingerprint(tensors))

    @classmethod
    def from_texts(
        cls,
        texts: Sequence[str],
        tokenizer: Any,
        *,
        n: int = DEFAULT_EXAMPLES,
        max_length: int = DEFAULT_MAX_LENGTH,
        seed: int = 0,
        held_out: bool = True,
    ) -> ProbeSet:
        """Tokenise `n` of `texts`, chosen by `seed`.

        Padding is on the right and masked; the tokenizer needs no padding token and is not changed.

        Args:
            texts: At least one text that is not empty.
            tokenizer: A transformers tokenizer, or any callable `texts -> {"input_ids": lists}`
                that takes `truncation` and `max_length`.
            n: Examples to keep; all of them when there are fewer.
            max_length: Tokens to keep of each.
            seed: Of the choice.
            held_out: Whether the texts stay out of training; recorded with every check.

        Raises:
            InputError: When there is no text, or one has no token.
        """
        if isinstance(texts, str):
            raise InputError("texts is one string: pass a list of texts, one per example.")
        chosen = [texts[index] for index in _choose(len(texts), n, seed, "texts")]
        return cls(tokenized(chosen, tokenizer, max_length), held_out, "texts")

    @classmethod
    def from_dataset(
        cls,
        dataset: Any,
        *,
        collate_fn: Collate | None = None,
        n: int = DEFAULT_EXAMPLES,
        max_length: int = DEFAULT_MAX_LENGTH,
        seed: int = 0,
        held_out: bool = True,
        source: str = "dataset",
    ) -> ProbeSet:
        """Take `n` examples of a map-style dataset, chosen by `seed`.

        Args:
            dataset: Anything with `len` and integer indexing whose items `collate_fn` takes.
            collate_fn: `list of items -> mapping of tensors`; it runs under fixed generators.
                Without one, the items themselves must be mappings of model inputs.
            n: Examples to keep; all of them when there are fewer.
            max_length: Tokens to keep of each.
            seed: Of the choice.
            held_out: Whether the examples stay out of training.
            source: Name for console and record.

        Raises:
            InputError: When the dataset is empty or has no length, or an item is no mapping.
        """
        if not is_map_style(dataset):
            raise InputError(
                f"{type(dataset).__name__} has no length or no indexing, so no probe example can "
                "be chosen by seed: pass a map-style dataset, or ProbeSet.from_texts."
            )
        with frozen_generators(seed):
            items = [dataset[index] for index in _choose(len(dataset), n, seed, "dataset")]
            batch = padded(items) if collate_fn is None else _collated(items, collate_fn)
        return cls(_model_inputs(batch, len(items), max_length), held_out, source)

    @classmethod
    def from_dataloader(
        cls,
        dataloader: Iterable[Any],
        *,
        n: int = DEFAULT_EXAMPLES,
        max_length: int = DEFAULT_MAX_LENGTH,
        seed: int = 0,
        held_out: bool = True,
    ) -> ProbeSet:
        """Take `n` examples of a dataloader.

        A loader over a map-style dataset is not iterated: its dataset is sampled by `seed` and
        collated with its `collate_fn`. Any other gives its first batches, under fixed generators.

        Raises:
            InputError: When no example comes, or a batch is no mapping of tensors.
        """
        dataset = getattr(dataloader, "dataset", None)
        if is_map_style(dataset):
            return cls.from_dataset(
                dataset,
                collate_fn=getattr(dataloader, "collate_fn", None),
                n=n,
                max_length=max_length,
                seed=seed,
                held_out=held_out,
                source="dataloader",
            )
        _check_count(n)
        rows: list[dict[str, Tensor]] = []
        with frozen_generators(seed), _frozen_generator(getattr(dataloader, "generator", None)):
            for batch in dataloader:
                tensors = _model_inputs(batch, None, max_length)
                size = min(len(tensor) for tensor in tensors.values())
                rows += [{k: tensor[i] for k, tensor in tensors.items()} for i in range(size)]
                if len(rows) >= n:
                    break
        if not rows:
            raise InputError("the dataloader gave no batch: pass one that holds examples.")
        return cls(padded(rows[:n]), held_out, "dataloader")

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], *, held_out: bool = True) -> ProbeSet:
        """Use ready model inputs, all of them.

        Args:
            tensors: Keyword argument of the model -> (examples, ...) tensor.
            held_out: Whether the examples stay out of training.
        """
        return cls(dict(tensors), held_out)

    def __len__(self) -> int:
        """Number of examples."""
        return len(next(iter(self.tensors.values())))

    def first(self, n: int) -> ProbeSet:
        """The first `n` examples: a random subset, since the order is random."""
        return ProbeSet(
            {name: tensor[:n] for name, tensor in self.tensors.items()}, self.held_out, self.source
        )

    def batch(self, number: int, size: int) -> dict[str, Tensor]:
        """Model inputs of one micro-batch of at most `size` examples, counted from 0."""
        rows = slice(number * size, (number + 1) * size)
        return {name: tensor[rows] for name, tensor in self.tensors.items()}


def tokenized(texts: Sequence[str], tokenizer: Any, max_length: int) -> dict[str, Tensor]:
    """Token ids of all texts in order, padded on the right, with their mask.

    Raises:
        InputError: When a text has no token.
    """
    with unchanged(tokenizer):
        encoded = tokenizer(list(texts), truncation=True, max_length=max_length)["input_ids"]
    ids = [torch.as_tensor(row)[:max_length] for row in encoded]
    empty = sum(len(row) == 0 for row in ids)
    if empty:
        raise InputError(f"{empty} of {len(ids)} probe texts have no token: drop empty texts.")
    return padded([{"input_ids": row} for row in ids])


def is_map_style(dataset: Any) -> bool:
    """Whether examples can be chosen by number."""
    return (
        hasattr(dataset, "__len__")
        and hasattr(dataset, "__getitem__")
        and not isinstance(dataset, IterableDataset)
    )


def _collated(items: list[Any], collate_fn: Collate) -> Any:
    """One batch of all items; joined from batches of one where `collate_fn` does not pad."""
    try:
        return collate_fn(items)
    except (TypeError, ValueError, RuntimeError):
        singles = [_model_inputs(collate_fn([item]), 1, sys.maxsize) for item in items]
        return padded([{name: value[0] for name, value in one.items()} for one in singles])


@contextmanager
def unchanged(tokenizer: Any) -> Iterator[None]:
    """A fast tokenizer keeps the truncation of its latest call, and is saved with it."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        yield
        return
    truncation, padding = backend.truncation, backend.padding
    try:
        yield
    finally:
        backend.no_truncation()
        backend.no_padding()
        if truncation is not None:
            backend.enable_truncation(**truncation)
        if padding is not None:
            backend.enable_padding(**padding)


@contextmanager
def _frozen_generator(generator: torch.Generator | None) -> Iterator[None]:
    """Leave the loader's own generator where it was: iterating draws from it."""
    state = None if generator is None else generator.get_state()
    try:
        yield
    finally:
        if generator is not None and state is not None:
            generator.set_state(state)


def _check_count(n: int) -> None:
    if n < 1:
        raise InputError(f"n={n}: a probe set needs at least one example; 128 is the default.")


def _choose(available: int, n: int, seed: int, what: str) -> list[int]:
    _check_count(n)
    if available < 1:
        raise InputError(f"the {what} for the probe set is empty: pass at least one example.")
    return random.Random(seed).sample(range(available), min(n, available))


def padded(items: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
    """Stack rows of unequal length, zeros on the right, with an attention mask where none is."""
    if not all(isinstance(item, Mapping) for item in items):
        raise InputError(
            f"a probe example is a {type(items[0]).__name__}: expected a mapping of model inputs, "
            "such as {'input_ids': [...]}. Pass collate_fn=, or ProbeSet.from_tensors."
        )
    rows = [
        {name: torch.as_tensor(item[name]) for name in item if _is_numeric(items[0].get(name))}
        for item in items
    ]
    if "input_ids" in rows[0] and "attention_mask" not in rows[0]:
        for row in rows:
            row["attention_mask"] = torch.ones_like(row["input_ids"])
    padding = {"labels": -100}
    return {
        name: torch.nn.utils.rnn.pad_sequence(
            [row[name] for row in rows], batch_first=True, padding_value=padding.get(name, 0)
        )
        if rows[0][name].ndim
        else torch.stack([row[name] for row in rows])
        for name in rows[0]
    }


def _is_numeric(value: Any) -> bool:
    """Whether a column becomes a tensor; texts and the like are left out, as collators do."""
    try:
        torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError):
        return False
    return True


def _model_inputs(batch: Any, size: int | None, max_length: int) -> dict[str, Tensor]:
    """The tensors of a collated batch, tokens beyond `max_length` cut off."""
    if not isinstance(batch, Mapping):
        raise InputError(
            f"a probe batch is a {type(batch).__name__}: expected a mapping of model inputs. Pass "
            "ProbeSet.from_tensors({name of the model's argument: tensor})."
        )
    tensors = {
        name: value
        for name, value in batch.items()
        if isinstance(value, Tensor) and value.ndim and size in (None, len(value))
    }
    ids = tensors.get("input_ids")
    if ids is None or ids.ndim != 2:
        return tensors
    length = ids.shape[1]
    return {
        name: tensor[:, :max_length] if tensor.ndim > 1 and tensor.shape[1] == length else tensor
        for name, tensor in tensors.items()
    }


def _fingerprint(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}:".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
