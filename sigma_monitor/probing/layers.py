"""Where hidden states are read: a temporary hook on the module that produces them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from sigma_monitor.errors import InputError, ProbeError

__all__ = [
    "CallCount",
    "LayerSpec",
    "captured",
    "find_layers",
    "hidden_states",
    "is_sentence_transformer",
    "layer_list",
    "transformers_models",
    "without_adapter",
    "without_wrapper",
]

LayerSpec = str | int


def without_wrapper(model: nn.Module) -> nn.Module:
    """The module inside a compiled one or DDP, where a probe causes no graphs and no traffic."""
    while True:
        parallel = isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel))
        inner = getattr(model, "module" if parallel else "_orig_mod", None)
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def without_adapter(model: Any) -> nn.Module:
    """The model that PEFT wraps, or the model itself."""
    inner: nn.Module = model.get_base_model() if hasattr(model, "get_base_model") else model
    return inner


def is_sentence_transformer(model: nn.Module) -> bool:
    """Whether it is called with a mapping of features and adds `sentence_embedding` to them."""
    return any(kind.__name__ == "SentenceTransformer" for kind in type(model).__mro__)


def transformers_models(module: nn.Module) -> dict[str, nn.Module]:
    """The outermost transformers models inside `module`, by dotted name."""
    models = {name: m for name, m in module.named_modules() if name and _body_of(m) is not None}
    nested = {id(part) for m in models.values() for part in m.modules() if part is not m}
    return {name: m for name, m in models.items() if id(m) not in nested}


def layer_list(layers: LayerSpec | Sequence[LayerSpec]) -> list[LayerSpec]:
    """What `layers=` names, one or more."""
    return [layers] if isinstance(layers, (str, int)) else list(layers)


def find_layers(model: nn.Module, layers: LayerSpec | Sequence[LayerSpec]) -> dict[str, nn.Module]:
    """The modules whose outputs are the hidden states of `layers`, by metric name.

    Args:
        model: The root module, as it is called in training.
        layers: `"last"` (what the head reads: the output of the transformer body, or the sentence
            embeddings of sentence-transformers), the index of a block (negative from the end), the
            dotted name of any module, or a list of these.

    Raises:
        InputError: When a layer does not exist or cannot be found in this model.
    """
    return {str(layer): _find(model, layer) for layer in layer_list(layers)}


def _find(model: nn.Module, layer: LayerSpec) -> nn.Module:
    sentences = is_sentence_transformer(model)
    if layer == "last":
        return model if sentences else _body(model)
    if isinstance(layer, int):
        inner = next(iter(transformers_models(model).values()), model) if sentences else model
        blocks = _blocks(_body(inner))
        if not -len(blocks) <= layer < len(blocks):
            raise InputError(
                f"layers={layer}: the model has {len(blocks)} blocks, so the index lies between "
                f"{-len(blocks)} and {len(blocks) - 1}."
            )
        return blocks[layer]
    try:
        return model.get_submodule(layer)
    except AttributeError as error:
        raise InputError(
            f'layers={layer!r}: {error}. Pass the dotted name of a module, an index, or "last".'
        ) from error


def _body(model: nn.Module) -> nn.Module:
    """The part of a transformers model below its head; through PEFT where that wraps it."""
    body = _body_of(model)
    if body is None:
        names = ", ".join(name for name, _ in model.named_children())
        raise InputError(
            f'layers="last": {type(model).__name__} is not a transformers model, so its last '
            f"hidden layer is unknown. Pass layers= the name of the module to read (children: "
            f"{names or 'none'}), or embed_fn=."
        )
    return body


def _body_of(model: nn.Module) -> nn.Module | None:
    body = getattr(without_adapter(model), "base_model", None)
    return body if isinstance(body, nn.Module) else None


def _blocks(body: nn.Module) -> nn.ModuleList:
    depth = getattr(getattr(body, "config", None), "num_hidden_layers", None)
    lists = [module for module in body.modules() if isinstance(module, nn.ModuleList)]
    for candidate in lists:
        if len(candidate) == depth:
            return candidate
    raise InputError(
        f"layers by index: no list of {depth} blocks was found in {type(body).__name__}. Pass the "
        "dotted name of a module instead."
    )


@contextmanager
def captured(modules: dict[str, nn.Module]) -> Iterator[dict[str, Any]]:
    """Outputs of `modules` in the forward passes inside; no hook is left behind."""
    outputs: dict[str, Any] = {}

    def keep(name: str) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            outputs[name] = output  # returns None: any other value would replace the output

        return hook

    with ExitStack() as stack:
        for name, module in modules.items():
            handle = module.register_forward_hook(keep(name))
            stack.callback(handle.remove)
        yield outputs


class CallCount:
    """Counts the forward passes of a module that begin inside; no hook is left behind."""

    def __init__(self, module: nn.Module) -> None:
        self.made = 0
        self._module = module

    def __enter__(self) -> None:
        self._hook = self._module.register_forward_pre_hook(self._count)

    def __exit__(self, *_: object) -> None:
        self._hook.remove()

    def _count(self, _module: nn.Module, _inputs: Any) -> None:
        self.made += 1


def hidden_states(output: Any, layer: str) -> Tensor:
    """The tensor of hidden states in what a module returned; positions of an image are tokens.

    Raises:
        ProbeError: When there is none of two to four dimensions.
    """
    hidden = getattr(output, "last_hidden_state", None)
    if hidden is None and isinstance(output, Mapping):
        hidden = output.get("sentence_embedding")
    elif hidden is None:
        hidden = output[0] if isinstance(output, (tuple, list)) else output
    if not isinstance(hidden, torch.Tensor) or hidden.ndim not in (2, 3, 4):
        found = tuple(hidden.shape) if isinstance(hidden, torch.Tensor) else type(output).__name__
        raise ProbeError(
            f"layer {layer} gave {found}: expected hidden states of shape (examples, features), "
            "(examples, tokens, features) or (examples, features, height, width). Pass another "
            "module in layers=, or embed_fn=."
        )
    return hidden if hidden.ndim < 4 else hidden.flatten(2).transpose(1, 2)
