"""When a check is due: as often as asked for, as seldom as the budget demands."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from statistics import median
from typing import Any, Literal

from sigma_monitor.errors import InputError

__all__ = ["Cadence"]

_AUTO_CHECKS = 100  # of a run whose length is known
_AUTO_EVERY = 50  # steps, where it is not
_MOST_SNAP_COST = 1.25  # a coarser spacing may cost at most this much delay
_LEAST_AFFORDABLE = 20  # checks that the budget should pay for, before the probe set shrinks
_COSTS_KEPT = 3
_EARLY_DIVISOR = 8  # a confirmation comes after an eighth of the spacing
_EARLY_IN_A_ROW = 10  # confirmations of one excursion
_EARLY_SHARE = 0.2  # of all checks
_KEPT_CHECKS = 5  # that the budget must still pay for afterwards
_SELDOM = 10**6  # steps: the spacing where calls without anything to do use up the budget
_UNSEEN = 1.0  # of what a call without anything to do can time itself, passes around its clock
_TIMED_STEPS = 5  # training steps whose time is taken before the budget is applied


class Cadence:
    """Spacing of checks in steps.

    A check runs before the first step, at the last, and in between every `every` steps, stretched
    so that checks take at most `max_overhead` of the run's wall time. The spacing is decided only
    at checks: all ranks of a distributed run meet there.

    Args:
        every: The shortest spacing in steps, or `"auto"`: a hundredth of the run.
        max_overhead: Largest share of wall time; None switches the budget off.

    Raises:
        InputError: When `every` is not a positive integer or `max_overhead` not a share.
    """

    def __init__(
        self, *, every: int | Literal["auto"] = "auto", max_overhead: float | None = 0.01
    ) -> None:
        if every != "auto" and not _is_count(every):
            raise InputError(f'every={every!r}: pass a number of steps from 1 on, or "auto".')
        if max_overhead is not None and not 0 < max_overhead <= 1:
            raise InputError(
                f"max_overhead={max_overhead!r}: pass a share of wall time such as 0.01, or None "
                "for no budget."
            )
        self.every = every
        self.max_overhead = max_overhead
        self.max_steps: int | None = None
        self.logging_steps: int | None = None
        self.reset()

    def reset(self) -> None:
        """Begin a new run of the same length."""
        self.spacing: int | None = None  # in force; None before the first check
        self.last_step: int | None = None
        self.next_step: int | None = None
        self._clock: float | None = None  # training was timed up to here, None while it pauses
        self._clock_step = 0
        self._first_step: int | None = None  # of the first check
        self._training_seconds = 0.0
        self._training_steps = 0
        self._check_seconds = 0.0
        self._beside_seconds = 0.0  # of what is measured beside the checks
        self._idle_seconds = 0.0  # of calls that had nothing to do, part of those of the checks
        self._step_seconds = 0.0  # of the latest steps
        self._costs: list[float] = []  # of the latest checks
        self._extra = 0.0  # seconds a check that some have beside the usual cost, spread over all
        self._checks = 0
        self._planned = False
        self._early = 0  # checks that came early to confirm an excursion
        self._early_in_a_row = 0

    @property
    def clock(self) -> float | None:
        """Up to when all time is accounted for; None before the first check."""
        return self._clock

    @property
    def shortest(self) -> int:
        """The spacing that was asked for, in steps."""
        if self.every != "auto":
            return int(self.every)
        return _AUTO_EVERY if self.max_steps is None else max(1, self.max_steps // _AUTO_CHECKS)

    @property
    def stretched(self) -> bool:
        """Whether the budget holds the checks further apart than asked for."""
        return self.spacing is not None and self.spacing > self.shortest * _MOST_SNAP_COST

    def overhead_with(self, seconds: float = 0.0) -> float | None:
        """Share of wall time in checks and observations, one of `seconds` that goes on included.

        None before any training time was seen.
        """
        return self._share(seconds, self._training_seconds)

    def overhead_between(self, seconds: float) -> float | None:
        """The same between two checks, after `seconds` of measuring that `spend` does not know."""
        running = 0.0 if self._clock is None else time.perf_counter() - self._clock - seconds
        return self._share(seconds, self._training_seconds + max(0.0, running))

    def _share(self, seconds: float, training: float) -> float | None:
        measuring = self._check_seconds + self._beside_seconds + seconds
        return measuring / (training + measuring) if training > 0 else None

    @property
    def expected_checks(self) -> int | None:
        """How many checks the run will have, those made included; None: length unknown."""
        if self.max_steps is None:
            return None
        spacing = self.spacing or self.shortest
        if self.last_step is None:
            return self.max_steps // spacing + 1
        return self._checks + max(0, self.max_steps - self.last_step) // spacing

    def due(self, step: int) -> bool:
        """Whether a check belongs at `step`; a step that was seen is never due again."""
        if self.last_step is None:
            return True
        if step <= self.last_step:
            return False
        last = self.max_steps is not None and self.last_step < self.max_steps <= step
        return last or self.next_step is None or step >= self.next_step

    def can_wait(self, step: int) -> bool:
        """Whether the check that is due at `step` may come a step later, the host being busy now.

        Once only; and never the first check, the last, one that comes early to confirm an
        excursion, or one at a spacing that was asked for. All ranks find the same.
        """
        if self.every != "auto" or self.last_step is None or self.spacing is None:
            return False
        early = step - self.last_step < self.spacing
        last = self.max_steps is not None and step >= self.max_steps
        return step == self.next_step and not early and not last

    def bring_forward(self, step: int) -> None:
        """Let the check that is due within half a spacing come at `step`, where it is needed.

        A spacing that was asked for is kept. All ranks find the same.
        """
        if self.every != "auto" or self.last_step is None or self.spacing is None:
            return
        if self.next_step is not None and 2 * (step - self.last_step) >= self.spacing:
            self.next_step = min(self.next_step, step)

    def begin(self, step: int) -> None:
        """Count the training time up to now, at `step`."""
        now = time.perf_counter()
        if self._clock is not None and step > self._clock_step:
            seconds, steps = now - self._clock, step - self._clock_step
            self._training_seconds += seconds
            self._training_steps += steps
            self._step_seconds = seconds / steps
        self._clock, self._clock_step = now, step

    def finish(
        self,
        step: int,
        seconds: float,
        once: float = 0.0,
        *,
        extra: float = 0.0,
        extra_every: int = 1,
    ) -> None:
        """The check at `step` took `seconds`: decide when the next one is due.

        Args:
            step: Training step.
            seconds: What a check like this costs each time.
            once: Seconds spent once, which no later check will need.
            extra: Seconds of what only some checks do.
            extra_every: Checks from one of these to the next.
        """
        if self._first_step is None:
            self._first_step = step
        self._checks += 1
        self._check_seconds += seconds + once + extra
        if extra:
            self._extra = extra / extra_every
        self._costs = [*self._costs, seconds][-_COSTS_KEPT:]
        self.last_step = step
        self.go_on(step)
        self._respace()

    def apply_budget(
        self, step: int, *, smaller: float | None = None, needed: bool = False
    ) -> bool:
        """At the first due step with training behind it: space the checks as the budget allows.

        This can postpone the check that is due at `step`.

        Args:
            step: Training step.
            smaller: Share of the cost that checks of a smaller probe set would have, if there
                may be one.
            needed: The smaller one is to be used whatever the budget pays for.

        Returns:
            Whether the smaller probe set is to be used: the budget would pay for fewer than
            20 checks of the run otherwise, and for fewer than were asked for.
        """
        self.begin(step)
        self._planned = True
        wanted = _LEAST_AFFORDABLE
        if self.max_steps is not None:
            wanted = min(wanted, self.max_steps // self.shortest + 1)
        few = self._checks + self.affordable_checks() < wanted
        shrink = smaller is not None and (needed or few)
        self._respace(smaller if shrink and smaller is not None else 1.0)
        return shrink

    def _respace(self, cost_share: float = 1.0) -> None:
        """Decide anew when the next check is due, at this share of the usual cost."""
        if self.last_step is not None:
            self.spacing = self._affordable_spacing(cost_share)
            # What the budget pays for is spread over what is left of the run.
            base = self._clock_step if self.stretched else self.last_step
            self.next_step = self._snapped(base + self.spacing)

    def confirm_early(self, *, wanted: bool) -> None:
        """After `finish`: let the next check come soon, to confirm an excursion.

        What it costs is taken from the checks to come, so that the mean stays within the budget;
        under a budget the length of the run must be known for that, or nothing comes early. An
        `every` that was asked for stays the shortest spacing.
        """
        if not wanted:
            self._early_in_a_row = 0
            return
        if self.last_step is None or self.spacing is None or self.next_step is None:
            return
        soon = max(1 if self.every == "auto" else int(self.every), self.spacing // _EARLY_DIVISOR)
        if (
            soon < self.spacing
            and not self.untimed
            and (self.max_overhead is None or self.max_steps is not None)
            and self._early_in_a_row < _EARLY_IN_A_ROW
            and self._early <= _EARLY_IN_A_ROW + _EARLY_SHARE * self._checks
            and self.affordable_checks() > _KEPT_CHECKS
        ):
            self.next_step = min(self.next_step, self.last_step + soon)
            self._early += 1
            self._early_in_a_row += 1

    def spend(self, step: int, seconds: float) -> None:
        """Count `seconds` that were spent at `step` just now, beside the checks.

        They are in the overhead that is shown, and neither training time nor paid by the budget.
        """
        self._beside_seconds += seconds
        if self._clock is None:
            self.go_on(step)
            return
        self._clock += seconds
        if self.last_step is None:  # without checks nothing else counts the training time
            self.begin(step)

    def charge(self, seconds: float, *, once: bool = False) -> None:
        """Count `seconds` that have just passed as a cost of the checks, paid by the budget.

        Args:
            seconds: Of what a host does for a check, such as logging.
            once: No later check will need it.
        """
        self._check_seconds += seconds
        if not once and self._costs:
            self._costs[-1] += seconds
        if self._clock is not None:
            self._clock += seconds

    def pass_by(self, seconds: float) -> None:
        """Count a call that had nothing to do, in which `seconds` passed by its own clock.

        The budget pays for these, and for those to come. Being called takes as long again (0.8 to
        1.7 times as long in `benchmarks/overhead.py`), which is counted too. Before the first check
        nothing is.
        """
        if self._clock is not None:
            self._clock += seconds
            seconds *= 1 + _UNSEEN
            self._check_seconds += seconds
            self._idle_seconds += seconds

    def go_on(self, step: int) -> None:
        """Training goes on at `step`; what came before is not training time."""
        self._clock, self._clock_step = time.perf_counter(), step

    @property
    def untimed(self) -> bool:
        """Whether the budget cannot be applied yet, for want of any training time."""
        return self.max_overhead is not None and self._training_steps == 0

    @property
    def planned(self) -> bool:
        """Whether the budget has been applied, or there is none."""
        return self.max_overhead is None or self._planned

    def affordable_checks(self, cost_share: float = 1.0) -> float:
        """Further checks that the budget pays for until the end, each at this share of the cost.

        The time the rest of the run will take is judged by the latest steps. Infinite without a
        budget, or before the length of the run and of a step are known.
        """
        if self.max_overhead is None or self.max_steps is None or self.untimed:
            return math.inf
        first = self._first_step or 0
        left = self.max_steps - first - self._training_steps
        run = self._training_seconds + left * self._step_seconds
        payable = self.max_overhead * run - self._check_seconds - left * self._idle_share
        cost = self._cost * cost_share
        return payable / cost if cost > 0 else math.inf

    @property
    def _idle_share(self) -> float:
        """Seconds that calls without anything to do take at each step."""
        return self._idle_seconds / self._training_steps

    @property
    def _cost(self) -> float:
        """Seconds of a usual check: one that took long by chance must not postpone the next."""
        return median(self._costs) + self._extra

    def _affordable_spacing(self, cost_share: float) -> int:
        if self.max_overhead is None:
            return self.shortest
        if self.untimed:
            return max(self.shortest, _TIMED_STEPS)
        if self.max_steps is not None:
            left = self.max_steps - self._clock_step
            if left <= 0:
                return self.spacing or self.shortest
            # The margin keeps rounding from taking a check away.
            payable = math.floor(min(left, max(1, self.affordable_checks(cost_share))) + 1e-9)
            affordable = math.ceil(left / payable)
        else:
            cost = self._cost * cost_share
            payable_a_step = self.max_overhead * self._step_seconds - self._idle_share
            affordable = math.ceil(cost / payable_a_step) if payable_a_step > 0 else _SELDOM
        return max(self.shortest, affordable)

    def _snapped(self, step: int) -> int:
        """The next logging step, where waiting for it costs at most a quarter of the spacing.

        A spacing that was asked for and that the budget allows is kept as it is.
        """
        if self.last_step is None or self.spacing is None or not self.logging_steps:
            return step
        if self.every != "auto" and not self.stretched:
            return step
        snapped = math.ceil(step / self.logging_steps) * self.logging_steps
        return snapped if snapped - self.last_step <= _MOST_SNAP_COST * self.spacing else step

    def state_dict(self) -> dict[str, Any]:
        """JSON-serialisable builtins."""
        return {
            "last_step": self.last_step,
            "next_step": self.next_step,
            "spacing": self.spacing,
            "first_step": self._first_step,
            "training_seconds": self._training_seconds,
            "training_steps": self._training_steps,
            "check_seconds": self._check_seconds,
            "beside_seconds": self._beside_seconds,
            "idle_seconds": self._idle_seconds,
            "step_seconds": self._step_seconds,
            "costs": list(self._costs),
            "extra": self._extra,
            "checks": self._checks,
            "planned": self._planned,
            "early": self._early,
            "early_in_a_row": self._early_in_a_row,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict()`."""
        self.last_step, self.next_step, self.spacing, self._first_step = (
            None if state[name] is None else int(state[name])
            for name in ("last_step", "next_step", "spacing", "first_step")
        )
        self._training_seconds = float(state["training_seconds"])
        self._training_steps = int(state["training_steps"])
        self._check_seconds = float(state["check_seconds"])
        self._beside_seconds = float(state["beside_seconds"])
        self._idle_seconds = float(state["idle_seconds"])
        self._step_seconds = float(state["step_seconds"])
        self._costs = [float(cost) for cost in state["costs"]]
        self._extra = float(state["extra"])
        self._planned = bool(state["planned"])
        self._checks, self._early, self._early_in_a_row = (
            int(state[name]) for name in ("checks", "early", "early_in_a_row")
        )


def _is_count(value: object) -> bool:
    return isinstance(value, int) and value >= 1
