"""What the callbacks of all hosts do alike."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Protocol

from sigma_monitor.errors import RecordError, described
from sigma_monitor.integrations.harmless import Watcher
from sigma_monitor.monitor import SigmaMonitor
from sigma_monitor.ranks import exchanged
from sigma_monitor.snapshot import Snapshot

__all__ = ["Logging", "agree_on_probes", "goes_on", "is_idle", "new_metrics", "note_undelivered"]

_logger = logging.getLogger("sigma_monitor")


class Logging(Watcher, Protocol):
    """A callback that logs, and counts what a logger refused."""

    undelivered: int


def is_idle(monitor: SigmaMonitor, step: int, revision: int) -> bool:
    """Whether there is nothing to check, log or stop at `step`.

    Args:
        monitor: That of the callback.
        step: Of the training.
        revision: Of the monitor, when this callback last looked at it.
    """
    return not (
        monitor.cadence.due(step)
        or monitor.revision != revision
        or monitor.observed
        or monitor.should_stop
    )


def new_metrics(monitor: SigmaMonitor, snapshot: Snapshot | None) -> dict[int, dict[str, float]]:
    """Metrics by step: of what was observed since the last call, and of a check just made."""
    found: dict[int, dict[str, float]] = {}
    while monitor.observed:
        observation = monitor.observed.popleft()
        found.setdefault(observation.step, {}).update(observation.metrics())
    if snapshot is not None:
        found.setdefault(snapshot.step, {}).update(snapshot.metrics())
    return dict(sorted(found.items()))


def note_undelivered(callback: Logging, logger: str, step: int, error: Exception) -> None:
    """Count metrics that a logger refused: said once, and in the record each time."""
    callback.undelivered += 1
    reason = described(error)
    if callback.undelivered == 1:
        _logger.warning(
            "sigma_monitor: %s refused the metrics of step %d (%s); training goes on, the record "
            "has them, further refusals are counted silently",
            logger,
            step,
            reason,
        )
    callback.monitor.note("undelivered", step=step, logger=logger, error=reason)


def agree_on_probes(monitor: SigmaMonitor) -> None:
    """Leave every rank without a probe set where one of them has none; a collective.

    The model is then not checked; rows that are observed need no probe set.
    """
    have = exchanged(monitor.probes is not None)
    if monitor.probes is not None and not all(have):
        monitor.probes = None
        _logger.warning(
            "sigma_monitor: no checks of the model, since rank %d has no probe set",
            have.index(False),
        )


def goes_on(monitor: SigmaMonitor, saved: Mapping[str, Any] | None, step: int) -> bool:
    """Whether the run goes on from the state in a checkpoint; a collective.

    It does where every rank has one that can be read: one that began anew alone would check at
    other steps than the others.
    """
    read = bool(saved) and _is_loaded(monitor, saved)
    if all(exchanged(read)):
        monitor.go_on(step)
        return True
    if read:
        monitor.reset()
    return False


def _is_loaded(monitor: SigmaMonitor, saved: Any) -> bool:
    try:
        monitor.load_state_dict(saved)
    except RecordError as error:
        _logger.warning(
            "sigma_monitor: the checkpoint's state was not used, the baseline begins anew: %s",
            error,
        )
        return False
    return True
