"""When a stop that was asked for is due."""

from __future__ import annotations

from sigma_monitor.alert import Status
from sigma_monitor.watch import RunWatch

__all__ = ["StopRule"]

_UNMEASURED_STOPS = 3  # checks in a row without anything to measure that count as collapse


class StopRule:
    """One stop for each collapse: a run that is resumed after it was not resumed to stop at once.

    Args:
        wanted: Whether a stop was asked for at all.

    Attributes:
        armed: Whether the next collapse stops; again once the run is well.
    """

    def __init__(self, *, wanted: bool) -> None:
        self.wanted = wanted
        self.armed = True

    def reason(self, step: int, watch: RunWatch) -> str | None:
        """Why the run is to stop at this check; None when it is not.

        A collapse that held-out loss excuses does not stop, and does not arm again either.
        """
        if not self.wanted:
            return None
        unmeasured = watch.unmeasured_in_a_row
        if watch.status is not Status.COLLAPSED and not unmeasured:
            self.armed = True
        due = watch.collapsed or unmeasured >= _UNMEASURED_STOPS
        if not due or not self.armed:
            return None
        self.armed = False
        if watch.collapsed:
            return f"COLLAPSED at step {step}"
        return f"nothing could be measured in {unmeasured} checks up to step {step}"
