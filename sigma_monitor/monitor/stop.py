"""When a stop that was asked for is due."""

from __future__ import annotations

from typing import Literal, Protocol, TypeAlias, get_args

from sigma_monitor.errors import InputError

__all__ = ["OnResume", "StopRule", "Watched"]

OnResume: TypeAlias = Literal["continue", "rearm", "stop"]

_UNMEASURED_STOPS = 3  # checks in a row without anything to measure that count as collapse


class Watched(Protocol):
    """What a stop is decided by: the layers and channels of a run, or rows that are observed."""

    @property
    def low(self) -> bool:
        """Whether a stop would be due, were there nothing to excuse it."""

    @property
    def reached(self) -> str | None:
        """What a stop is due to, in words; None when none is."""

    @property
    def unmeasured_in_a_row(self) -> int:
        """Checks in a row that had nothing to measure."""


class StopRule:
    """One stop for each collapse, or for each time a limit is reached.

    Args:
        wanted: Whether a stop was asked for at all.
        on_resume: Of a run that was stopped: `"continue"`: it was resumed on purpose, and stops
            once it has been well and collapses again. `"rearm"`: it stops at the next check that
            still says so. `"stop"`: at once.

    Attributes:
        armed: Whether the next collapse stops; again once the run is well.

    Raises:
        InputError: On an unknown `on_resume`.
    """

    def __init__(self, *, wanted: bool, on_resume: OnResume = "continue") -> None:
        if on_resume not in get_args(OnResume):
            raise InputError(f'on_resume={on_resume!r}: pass "continue", "rearm" or "stop".')
        self.wanted = wanted
        self.on_resume = on_resume
        self.armed = True

    def resume(self, *, armed: bool, stopped: bool) -> bool:
        """Go on from a saved state; whether the run is to stop at once.

        Args:
            armed: As it was saved.
            stopped: Whether the run had been stopped.
        """
        self.armed = armed or self.on_resume == "rearm"
        return self.wanted and stopped and self.on_resume == "stop"

    def reason(self, step: int, watch: Watched) -> str | None:
        """Why the run is to stop at this check; None when it is not.

        A collapse that held-out loss excuses does not stop, and does not arm again either.
        """
        if not self.wanted:
            return None
        unmeasured = watch.unmeasured_in_a_row
        if not watch.low and not unmeasured:
            self.armed = True
        reached = watch.reached
        due = reached is not None or unmeasured >= _UNMEASURED_STOPS
        if not due or not self.armed:
            return None
        self.armed = False
        if reached is not None:
            return f"{reached} at step {step}"
        return f"nothing could be measured in {unmeasured} checks up to step {step}"
