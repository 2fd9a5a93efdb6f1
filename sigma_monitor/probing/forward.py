"""The guarded forward pass: one probe set through the model, rows and held-out loss out."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sigma_monitor.errors import InputError, ProbeError
from sigma_monitor.probing.device import device_of, out_of_memory
from sigma_monitor.probing.guard import seed_generators, untouched
from sigma_monitor.probing.layers import (
    CallCount,
    LayerSpec,
    captured,
    find_layers,
    hidden_states,
    is_sentence_transformer,
    without_adapter,
    without_wrapper,
)
from sigma_monitor.probing.losses import LossReader, TokenLosses, language_head
from sigma_monitor.probing.pooling import Pooling, Rows, check_pooling, pool
from sigma_monitor.probing.probe_set import ProbeSet
from sigma_monitor.probing.split import Part, Share, can_split, from_all_ranks, waits_for_ranks
from sigma_monitor.ranks import exchanged, rank_and_size

__all__ = ["EmbedFn", "Probe", "Reading"]

EmbedFn = Callable[[nn.Module, dict[str, Tensor]], Tensor]

_LAST = "last"
_MICRO_BATCH = 32
_NOT_PASSED = ("labels", "return_loss", "use_cache")


@dataclass(frozen=True, eq=False)
class Reading:
    """What one pass over the probe set gave."""

    layers: Mapping[str, Rows]
    finite: float  # share of examples whose embeddings are finite at every layer
    losses: TokenLosses | None  # held-out loss; None where the head cannot be applied by itself

    @property
    def loss(self) -> float | None:
        """Mean token cross-entropy, nats."""
        return None if self.losses is None else self.losses.mean

    def first(self, n: int) -> Reading:
        """What the first `n` examples alone gave."""
        layers = {name: rows.first(n) for name, rows in self.layers.items()}
        losses = None if self.losses is None else self.losses.first(n)
        return Reading(layers, self.finite, losses)


class Probe:
    """Reads `layers` of a model on a probe set, and leaves both as found.

    Args:
        layers: `"last"`, the index of a block, a module's dotted name, or a list of these.
        pooling: `"tokens"`, `"mean"` or `"last"`.
        embed_fn: `(model, batch) -> (examples, m) or (examples, tokens, m)` for models whose hidden
            states no hook can find; replaces `layers`.
        seed: Of the generators during the pass, for models that draw in evaluation mode.

    Attributes:
        context: Entered around every call of the model, and around nothing else: the precision of
            a host that does not patch it onto the model's `forward`.

    Raises:
        InputError: On an unknown pooling, or no layer.
    """

    def __init__(
        self,
        *,
        layers: LayerSpec | Sequence[LayerSpec] = "last",
        pooling: Pooling = "tokens",
        embed_fn: EmbedFn | None = None,
        seed: int = 0,
    ) -> None:
        check_pooling(pooling)
        if isinstance(layers, Sequence) and not layers:
            raise InputError(f'layers={layers!r} names no layer: pass "last", an index, or a list.')
        self.layers = layers
        self.pooling = pooling
        self.embed_fn = embed_fn
        self.seed = seed
        self.context: Callable[[], AbstractContextManager[Any]] = nullcontext
        self.micro_batch = _MICRO_BATCH

    def read(self, model: nn.Module, probes: ProbeSet) -> Reading:
        """One pass over `probes`, in micro-batches that halve when memory runs out.

        The model is called as training calls it, through its root, without gradients, cache or
        labels. Held-out loss costs the head only, applied to the hidden states in blocks of at most
        64 MiB of logits; it is None where the head alone does not give the model's own logits.

        On several ranks a collective: each reads its share, all get the whole. One that raises is
        to tell the others, see `ranks.failed`.

        Raises:
            InputError: When a layer does not exist.
            ProbeError: When a layer gave no hidden states, or one example alone exceeds the memory.
        """
        model = without_wrapper(model)
        with untouched(model, seed=self.seed):
            if self.embed_fn is None:
                find_layers(_read_part(model), self.layers)
            split, waits = can_split(model, probes.fingerprint), waits_for_ranks(model)
            rank, ranks = rank_and_size() if split else (0, 1)
            while True:
                share = Share.of(len(probes), self.micro_batch, rank=rank, ranks=ranks)
                parts = self._pass(model, probes, share, waits=waits)
                if not any(exchanged(parts is None)):
                    break
                parts = None  # what another rank has read is read again
                self.micro_batch //= 2
            assert parts is not None
            return _joined(from_all_ranks(parts, share.total) if split else parts)

    def _pass(
        self, model: nn.Module, probes: ProbeSet, share: Share, *, waits: bool
    ) -> list[Part] | None:
        """The micro-batches of a share; None when memory ran out.

        The other ranks of a sharded model wait in their forward passes for this one: it makes all
        of its own, also after a failure, unless that was in the middle of one.
        """
        losses, parts = LossReader(), []
        failure: Exception | None = None
        fits = True
        for number in share.own:
            batch_number = min(number, share.total - 1)
            batch = probes.batch(batch_number, share.size)
            seed_generators(self.seed + batch_number)
            calls = CallCount(_read_part(model))
            try:
                with calls:
                    parts.append(self._read_batch(model, batch, losses))
            except Exception as error:
                if not isinstance(error, RuntimeError) or not out_of_memory(error):
                    failure = failure or error
                elif self.micro_batch == 1:
                    failure = failure or _too_long(error)
                else:
                    fits = False
                if not waits:
                    break
                if not calls.made:
                    self._stand_in(model, batch)
        if failure is not None:
            raise failure
        return parts if fits else None

    def _stand_in(self, model: nn.Module, batch: dict[str, Tensor]) -> None:
        """The forward pass that the other ranks wait in, and nothing more."""
        with suppress(Exception), self.context():
            model = _read_part(model)
            inputs = {name: tensor.to(device_of(model)) for name, tensor in batch.items()}
            model(**_accepted(model, inputs))

    def _read_batch(self, model: nn.Module, batch: dict[str, Tensor], losses: LossReader) -> Part:
        device = device_of(model)
        # A copy: a model that writes into its inputs must not reach the probe set.
        inputs = {name: tensor.to(device, copy=True) for name, tensor in batch.items()}
        if self.embed_fn is None and is_sentence_transformer(model):
            inputs = _first_text(inputs)
        call = self._call_model if self.embed_fn is None else self._call_embed_fn
        states, measured = call(model, inputs, losses)
        layers = {
            name: pool(hidden, _mask_of(model, inputs, hidden), self.pooling)
            for name, hidden in states.items()
        }
        return Part(layers, measured)

    def _call_embed_fn(
        self, model: nn.Module, inputs: dict[str, Tensor], _losses: LossReader
    ) -> tuple[dict[str, Tensor], None]:
        assert self.embed_fn is not None
        with self.context():
            embedded = self.embed_fn(model, inputs)
        return {"last": hidden_states(embedded, "embed_fn").detach()}, None

    def _call_model(
        self, model: nn.Module, inputs: dict[str, Tensor], losses: LossReader
    ) -> tuple[dict[str, Tensor], tuple[Tensor, Tensor] | None]:
        sentences, model = is_sentence_transformer(model), _read_part(model)
        modules = find_layers(model, self.layers)
        before_head = find_layers(model, _LAST) if language_head(model) is not None else {}
        with captured(before_head | modules) as outputs, self.context():
            result = model(dict(inputs)) if sentences else model(**_accepted(model, inputs))
        missing = [name for name in modules if name not in outputs]
        if missing:
            raise ProbeError(
                f"layer {missing[0]} was not used in the forward pass: pass another one in layers=."
            )
        hidden = {name: hidden_states(output, name) for name, output in outputs.items()}
        measured = None
        if _LAST in hidden and hidden[_LAST].ndim == 3:
            logits = getattr(result, "logits", None)
            measured = losses.read(model, hidden[_LAST], logits, inputs)
        return {name: hidden[name] for name in modules}, measured


def _too_long(cause: RuntimeError) -> ProbeError:
    error = ProbeError(
        "one probe example alone exceeds the memory: pass shorter probes (max_length=)."
    )
    error.__cause__ = cause
    return error


def _joined(parts: Sequence[Part]) -> Reading:
    """The micro-batches of the whole probe set, in order, as one reading."""
    layers = {name: _rows_of([part.layers[name] for part in parts]) for name in parts[0].layers}
    finite = torch.stack([rows.finite.cpu() for rows in layers.values()]).all(0)
    losses = TokenLosses.joined([part.losses for part in parts])
    return Reading(layers, float(finite.double().mean()), losses)


def _rows_of(parts: Sequence[Rows]) -> Rows:
    groups: list[Tensor] = []
    offset = 0
    for part in parts:
        if part.groups is not None:
            groups.append(part.groups + offset)
        offset += len(part.finite)
    return Rows(
        embeddings=torch.cat([part.embeddings for part in parts]),
        groups=torch.cat(groups) if groups else None,
        pooled=torch.cat([part.pooled for part in parts]),
        finite=torch.cat([part.finite for part in parts]),
    )


def _accepted(model: nn.Module, inputs: Mapping[str, Tensor]) -> dict[str, Any]:
    """The inputs the model's forward names, without labels and cache, one logit at most."""
    parameters = dict(inspect.signature(model.forward).parameters)
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    if takes_any:  # an adapter hands on what the model inside it names
        parameters |= inspect.signature(without_adapter(model).forward).parameters
    kwargs: dict[str, Any] = {
        name: tensor
        for name, tensor in inputs.items()
        if name not in _NOT_PASSED and (takes_any or name in parameters)
    }
    if "use_cache" in parameters:
        kwargs["use_cache"] = False
    if "logits_to_keep" in parameters:
        kwargs["logits_to_keep"] = 1
    return kwargs


def _first_text(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """The features of an example's first text, where a collator has made columns of several.

    It names them `anchor_input_ids`, `anchor_attention_mask`, `positive_input_ids` and so on.
    """
    for name in inputs:
        prefix, found, rest = name.rpartition("input_ids")
        if found and not rest:
            return {
                key.removeprefix(prefix): tensor
                for key, tensor in inputs.items()
                if key.startswith(prefix)
            }
    return inputs


def _mask_of(model: nn.Module, inputs: Mapping[str, Tensor], hidden: Tensor) -> Tensor | None:
    """Which tokens are not padding; a speech encoder makes one of many samples, and says which."""
    mask = inputs.get("attention_mask")
    shorten = getattr(without_adapter(model), "_get_feature_vector_attention_mask", None)
    if mask is None or shorten is None or hidden.ndim != 3 or mask.shape == hidden.shape[:2]:
        return mask
    shortened: Tensor = shorten(hidden.shape[1], mask)
    return shortened


def _read_part(model: Any) -> nn.Module:
    """An encoder-decoder is read at its encoder, which needs no decoder inputs."""
    pair = getattr(getattr(model, "config", None), "is_encoder_decoder", False)
    if not pair or is_sentence_transformer(model):
        return model  # type: ignore[no-any-return]
    encoder: nn.Module = model.get_encoder()
    return encoder
