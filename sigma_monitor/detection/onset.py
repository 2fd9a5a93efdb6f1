"""When an excursion began."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

__all__ = ["onset"]

_LEAST_SLACK = 0.05  # nats that a series may be off without an excursion
_SLACK_SHARE = 1 / 3  # of the move: a smaller drift before it was healthy, and is not its onset
_MOST = 0.5  # nats that one check adds at most, so that an outlier cannot place the onset


def onset(steps: Sequence[int], moves: Sequence[float], moved: float) -> int:
    """Step of the check after the lowest point of the running sum of (clipped move − slack).

    While nothing happens the sum falls; during an excursion it rises, so its lowest point is where
    that began.

    Args:
        steps: Of the latest checks, the last one within the excursion.
        moves: Nats from the baseline towards the side that is watched.
        moved: Nats by which the excursion is off, of the median that told it.

    Returns:
        The step at which it began, or the first of `steps` when it is older.
    """
    # Below what one check counts: else the sum of a deep fall would only fall too.
    slack = min(max(_LEAST_SLACK, _SLACK_SHARE * moved), _MOST / 2)
    sums = list(accumulate((min(max(m, 0.0), _MOST) - slack for m in moves), initial=0.0))
    # Of equal sums the latest; never the end itself, after which no check is left.
    lowest = min(range(len(moves) - 1, -1, -1), key=sums.__getitem__)
    return steps[lowest]
