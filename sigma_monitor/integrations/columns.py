"""Model inputs from the columns of a dataset, where the host's collator gives none for the model.

TRL's collators put two texts into a batch for each preference, one row for all texts when they are
packed, and leave the prompts that GRPO samples from as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from sigma_monitor.errors import InputError
from sigma_monitor.probing.probe_set import DEFAULT_MAX_LENGTH, padded, unchanged

__all__ = ["with_columns"]

_READY = ("input_ids", "attention_mask", "labels")  # one entry for each token
_TOKENS = (  # columns that make one text when they are joined
    ("prompt_ids", "chosen_ids"),
    ("prompt_input_ids", "chosen_input_ids"),
    ("prompt_ids", "completion_ids"),
    ("chosen_ids",),
)
_PROMPT = "prompt"  # as text, or as a conversation


def with_columns(
    collate: Callable[[list[Any]], Any] | None, tokenizer: Any
) -> Callable[[list[Any]], Any]:
    """A collator that turns to the columns where `collate` gives no row for each example.

    Args:
        collate: The host's; None: the columns.
        tokenizer: For prompts that are text.
    """

    def collated(items: list[Any]) -> Any:
        batch = None if collate is None else collate(items)
        if _has_row_for_each(batch, len(items)):
            return batch
        found = _from_columns(items, tokenizer)
        return batch if found is None else found

    return collated


def _has_row_for_each(batch: Any, examples: int) -> bool:
    return isinstance(batch, Mapping) and any(
        isinstance(value, Tensor) and value.ndim and len(value) == examples
        for value in batch.values()
    )


def _from_columns(items: Sequence[Any], tokenizer: Any) -> dict[str, Tensor] | None:
    """Padded inputs; None when there is no column that is known."""
    if not all(isinstance(item, Mapping) for item in items):
        return None
    names = set.intersection(*(set(item) for item in items))
    if "input_ids" in names:
        return padded([{name: item[name] for name in _READY if name in names} for item in items])
    for columns in _TOKENS:
        if names.issuperset(columns):
            return _of_ids([[i for name in columns for i in item[name]] for item in items])
    if _PROMPT not in names or tokenizer is None:
        return None
    # The end of a prompt: what many have in common, such as instructions, is at its beginning.
    with unchanged(tokenizer):
        rows = [_prompt_ids(item[_PROMPT], tokenizer) for item in items]
    return _of_ids([row[-DEFAULT_MAX_LENGTH:] for row in rows])


def _of_ids(rows: Sequence[Sequence[int]]) -> dict[str, Tensor]:
    empty = sum(not row for row in rows)
    if empty:
        raise InputError(f"{empty} of {len(rows)} probe examples have no token: drop empty texts.")
    return padded([{"input_ids": row} for row in rows])


def _prompt_ids(prompt: Any, tokenizer: Any) -> list[int]:
    """Tokens of a text, or of a conversation that the model is to go on with."""
    if isinstance(prompt, str):
        return list(tokenizer(prompt)["input_ids"])
    encoded = tokenizer.apply_chat_template(
        prompt, add_generation_prompt=True, tokenize=True, return_dict=True
    )
    return list(encoded["input_ids"])
