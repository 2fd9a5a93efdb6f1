"""Held-out loss by example: the head alone, applied to hidden states that were read anyway."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sigma_monitor.probing.device import out_of_memory
from sigma_monitor.probing.layers import without_adapter

__all__ = ["LossReader", "TokenLosses", "language_head"]

_LOGIT_BYTES = 64 * 2**20
# bf16 rounds to 0.4 %; a head that is scaled or capped after the product is off by more.
_HEAD_TOLERANCE = 0.01
_IGNORED_LABEL = -100


@dataclass(frozen=True)
class TokenLosses:
    """Token cross-entropy of each probe example."""

    sums: tuple[float, ...]  # (examples,) nats, over the tokens of the example
    tokens: tuple[int, ...]  # (examples,) tokens that were predicted, one at least in all

    @property
    def mean(self) -> float:
        """Over all tokens, nats."""
        return sum(self.sums) / sum(self.tokens)

    def first(self, n: int) -> TokenLosses | None:
        """Those of the first `n` examples; None when nothing was predicted in them."""
        return TokenLosses(self.sums[:n], self.tokens[:n]) if sum(self.tokens[:n]) else None

    @classmethod
    def joined(cls, parts: Sequence[tuple[Tensor, Tensor] | None]) -> TokenLosses | None:
        """Micro-batches in order; None when one has no losses, or nothing was predicted in any.

        Args:
            parts: What `LossReader` gave of each.
        """
        known = [part for part in parts if part is not None]
        if len(known) < len(parts):
            return None
        sums = torch.cat([sums for sums, _ in known]).tolist()
        tokens = torch.cat([tokens for _, tokens in known]).tolist()
        return cls(tuple(sums), tuple(tokens)) if sum(tokens) else None


class LossReader:
    """Reads the token cross-entropy of each example, micro-batch by micro-batch."""

    def __init__(self) -> None:
        self.possible = True
        self.compared = False  # with the model's own logits

    def read(
        self, model: nn.Module, hidden: Tensor, logits: Any, inputs: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor] | None:
        """Sums and tokens of a micro-batch; None once the head cannot be applied by itself."""
        try:
            placed = {name: tensor.to(hidden.device) for name, tensor in inputs.items()}
            found = self._read(model, hidden, logits, placed) if self.possible else None
        except (RuntimeError, TypeError) as error:  # packed, sharded or offloaded weights
            if isinstance(error, RuntimeError) and out_of_memory(error):
                raise
            found = None
        self.possible = found is not None
        return found

    def _read(
        self, model: nn.Module, hidden: Tensor, logits: Any, inputs: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor] | None:
        head = language_head(model)
        ids = inputs.get("labels", inputs.get("input_ids"))
        if head is None or ids is None or ids.shape != hidden.shape[:2] or ids.shape[1] < 2:
            return None
        if isinstance(logits, Tensor):
            logits = logits.to(hidden.device)
        if not self.compared and not _head_gives(head, hidden, logits):
            return None
        self.compared = True
        labels = _labels(ids, inputs.get("attention_mask"))
        losses = _cross_entropy(head, hidden[:, :-1], labels[:, 1:])
        wide = torch.float32 if hidden.device.type == "mps" else torch.float64  # no fp64 there
        return losses.sum(1, dtype=wide), (labels[:, 1:] != _IGNORED_LABEL).sum(1)


def language_head(model: nn.Module) -> nn.Linear | None:
    """The language head of a causal model."""
    get = getattr(model, "get_output_embeddings", None)
    head = get() if callable(get) else None
    architecture = type(without_adapter(model)).__name__
    causal = "CausalLM" in architecture or "LMHead" in architecture
    return head if causal and isinstance(head, nn.Linear) else None


def _head_gives(head: nn.Linear, hidden: Tensor, logits: Any) -> bool:
    """Whether the head alone reproduces the model's logits at the last position."""
    if not isinstance(logits, Tensor) or logits.ndim != 3:
        return False
    ours = _apply_head(head, hidden[:, -1]).float()
    theirs = logits[:, -1].float()
    if ours.shape != theirs.shape:
        return False
    error = torch.linalg.vector_norm(ours - theirs)
    # NaN compares false: a model that gives NaN keeps its (NaN) loss.
    return not bool(error > _HEAD_TOLERANCE * torch.linalg.vector_norm(theirs))


def _labels(ids: Tensor, mask: Tensor | None) -> Tensor:
    """Token ids, with what is not to be predicted ignored."""
    if mask is None or mask.shape != ids.shape:
        return ids
    labels = torch.where(mask != 0, ids, _IGNORED_LABEL)
    # Nothing is to be predicted from padding that stands before a text.
    labels[:, 1:] = torch.where(mask[:, :-1] != 0, labels[:, 1:], _IGNORED_LABEL)
    return labels


def _cross_entropy(head: nn.Linear, hidden: Tensor, labels: Tensor) -> Tensor:
    """(examples, tokens) nats; 0 where the label is ignored."""
    states, targets = hidden.reshape(-1, hidden.shape[-1]), labels.reshape(-1)
    block = max(1, _LOGIT_BYTES // (4 * _vocabulary(head)))
    losses = [
        F.cross_entropy(
            _apply_head(head, states[start : start + block]).float(),
            targets[start : start + block],
            ignore_index=_IGNORED_LABEL,
            reduction="none",
        )
        for start in range(0, len(targets), block)
    ]
    return torch.cat(losses).view(labels.shape)


def _apply_head(head: nn.Linear, states: Tensor) -> Tensor:
    return F.linear(states.to(head.weight.dtype), head.weight, head.bias)


def _vocabulary(head: nn.Linear) -> int:
    return head.weight.shape[0]
