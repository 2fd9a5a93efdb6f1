"""Probe examples from the host's own data, where the user has passed none."""

from __future__ import annotations

import logging
from typing import Any

from sigma_monitor.integrations.columns import with_columns
from sigma_monitor.probing import ProbeSet
from sigma_monitor.probing.probe_set import is_map_style

__all__ = ["default_probes", "has_examples"]

_logger = logging.getLogger("sigma_monitor")


def has_examples(loader: Any) -> bool:
    """Whether examples of the loader's dataset can be chosen by number."""
    return is_map_style(getattr(loader, "dataset", None))


def default_probes(
    evaluation: tuple[str, Any] | None,
    training: tuple[str, Any],
    *,
    seed: int,
    callback: str,
    remedy: str,
    tokenizer: Any = None,
) -> ProbeSet | None:
    """A sample of the evaluation data, or else of the training data, where it stays.

    No loader is iterated: its dataset is sampled and collated as the loader would do it.

    Args:
        evaluation: Name and loader of evaluation data that `has_examples`; None without any.
        training: Name and loader of the training data.
        seed: Of the choice.
        callback: The host's callback, for messages.
        remedy: How held-out data is passed to the host, for messages.
        tokenizer: For examples that are texts.

    Returns:
        None, after a warning, when there is no example that could be taken.
    """
    if evaluation is not None:
        return _sample(*evaluation, tokenizer, seed=seed, held_out=True)
    if not has_examples(training[1]):
        _logger.warning(
            "sigma_monitor: no checks of the model, since there is no map-style evaluation or "
            "training data to take probe examples from; only rows that you observe are watched. "
            "Pass %s(probes=ProbeSet.from_texts(...)).",
            callback,
        )
        return None
    _logger.warning(
        "sigma_monitor: no evaluation data, so the probe examples are a sample of the training "
        "data, which they stay part of (held_out=false). Pass %s or probes= to %s for held-out "
        "ones.",
        remedy,
        callback,
    )
    return _sample(*training, tokenizer, seed=seed, held_out=False)


def _sample(name: str, loader: Any, tokenizer: Any, *, seed: int, held_out: bool) -> ProbeSet:
    return ProbeSet.from_dataset(
        loader.dataset,
        collate_fn=with_columns(getattr(loader, "collate_fn", None), tokenizer),
        seed=seed,
        held_out=held_out,
        source=name,
    )
