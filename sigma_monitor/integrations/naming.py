"""Names that tell several callbacks of one host apart."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Collection

from sigma_monitor.ranks import is_main

__all__ = ["distinct_name"]

_logger = logging.getLogger("sigma_monitor")


def distinct_name(asked: str, taken: Collection[str]) -> str:
    """`asked`, or where that is taken the first free one of `asked_2`, `asked_3`, ...

    Args:
        asked: Of a callback.
        taken: By those that its Trainer had before.
    """
    if asked not in taken:
        return asked
    numbered = (f"{asked}_{number}" for number in itertools.count(2))
    name = next(other for other in numbered if other not in taken)
    if is_main():
        _logger.warning(
            "sigma_monitor: this Trainer has two callbacks of the name %r, so that the metrics and "
            "the record of the later one go by %r; pass name= to choose",
            asked,
            name,
        )
    return name
