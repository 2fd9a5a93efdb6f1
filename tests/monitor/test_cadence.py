"""When checks are due, and what share of the wall time they take, by a clock that we turn."""

import json
import logging
import math
from itertools import pairwise

import pytest
import torch

from sigma_monitor import ProbeSet, SigmaMonitor
from sigma_monitor.errors import InputError
from sigma_monitor.monitor.cadence import Cadence
from tests.clock import stop_the_clock

BUDGET = 0.01


@pytest.fixture
def clock(monkeypatch):
    return stop_the_clock(monkeypatch)


class Run:
    """A training whose steps and checks take as long as they are told to, in seconds."""

    def __init__(self, clock, cadence, *, step=1.0, check=0.001):
        self.clock, self.cadence = clock, cadence
        self.step_seconds = step if callable(step) else lambda _: step
        self.check_seconds = check if callable(check) else lambda _: check
        self.checks = []

    def advance(self, last, first=0):
        for step in range(first, last + 1):
            if step:
                self.clock.advance(self.step_seconds(step))
            if self.cadence.due(step):
                self.cadence.begin(step)
                cost = self.check_seconds(step)
                self.clock.advance(cost)
                self.cadence.finish(step, cost)
                self.checks.append(step)
            assert not self.cadence.due(step)
        return self.checks


def cadence_of(max_steps=None, *, logging_steps=None, **arguments):
    cadence = Cadence(**arguments)
    cadence.max_steps, cadence.logging_steps = max_steps, logging_steps
    return cadence


def gaps(checks):
    return [b - a for a, b in pairwise(checks)]


@pytest.mark.parametrize("max_steps", [1, 3, 7, 99, 1000, 1234])
@pytest.mark.parametrize("budget", [None, BUDGET])
@pytest.mark.parametrize("every", ["auto", 1, 40])
@pytest.mark.parametrize("check", [0.0, 0.5, 400.0])
def test_a_check_is_due_at_the_first_step_and_at_the_last(clock, max_steps, budget, every, check):
    cadence = cadence_of(max_steps, every=every, max_overhead=budget)
    checks = Run(clock, cadence, check=check).advance(max_steps)
    assert checks[0] == 0
    assert checks[-1] == max_steps


def test_the_first_call_is_due_wherever_the_run_begins():
    assert cadence_of(100).due(37)


@pytest.mark.parametrize(
    ("max_steps", "every"), [(None, 50), (1, 1), (99, 1), (100, 1), (250, 2), (100_000, 1000)]
)
def test_auto_is_a_hundredth_of_the_run_and_at_least_one_step(clock, max_steps, every):
    cadence = cadence_of(max_steps, max_overhead=None)
    assert cadence.shortest == every
    last = max_steps or 1000
    assert Run(clock, cadence).advance(last) == sorted({*range(0, last + 1, every), last})


def test_without_a_budget_every_check_happens_whatever_it_costs(clock):
    cadence = cadence_of(90, every=7, max_overhead=None)
    assert Run(clock, cadence, check=1e6).advance(90) == [*range(0, 90, 7), 90]
    assert not cadence.stretched
    assert cadence.affordable_checks() == math.inf


def test_an_explicit_spacing_holds_where_the_budget_allows_it(clock):
    cadence = cadence_of(1000, every=100)
    assert Run(clock, cadence, check=0.9).advance(1000) == list(range(0, 1001, 100))
    assert not cadence.stretched


@pytest.mark.parametrize("max_steps", [None, 4000])
def test_the_budget_stretches_the_spacing_and_says_so(clock, max_steps):
    cadence = cadence_of(max_steps, every=10)
    checks = Run(clock, cadence, check=1.0).advance(4000)
    # 1 s per check at 1 % of steps of 1 s: one in 100. The run's end costs up to two intervals.
    assert all(100 <= gap <= 106 for gap in gaps(checks)[1:-1])
    assert cadence.stretched


def test_the_spacing_relaxes_when_checks_get_cheaper_and_stretches_when_they_get_dearer(clock):
    cadence = cadence_of(every=10)
    dear = Run(clock, cadence, check=lambda step: 1.0 if 3000 < step <= 6000 else 0.2)
    checks = dear.advance(9000)

    def spacing(first, last):
        inside = gaps([step for step in checks if first < step <= last])
        return sum(inside) / len(inside)

    # One check per cost / 1 % steps; the first check of each stretch still has the old spacing.
    assert spacing(0, 3000) == pytest.approx(20, rel=0.05)
    assert spacing(3100, 6000) == pytest.approx(100, rel=0.05)
    assert spacing(6100, 9000) == pytest.approx(20, rel=0.05)


RATIOS = [0.3, 1.0, 3.0, 10.0, 30.0]  # cost of a check in training steps


@pytest.fixture
def share_of(clock):
    """Number of checks, and their share of the wall time of a run with a real monitor."""

    def run(max_steps, *, step=1.0, check, known=True, logging_steps=None):
        examples = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
        spent = []

        def embed(model, batch):
            spent.append(check(now) if callable(check) else check)
            clock.advance(spent[-1])
            return examples

        monitor = SigmaMonitor(
            ProbeSet.from_tensors({"index": torch.arange(4)}),
            max_steps=max_steps if known else None,
            max_overhead=BUDGET,
            embed_fn=embed,
            sinks=[],
        )
        monitor.cadence.logging_steps = logging_steps
        begun, model = clock.now, torch.nn.Identity()
        for now in range(max_steps + 1):
            if now:
                clock.advance(step(now) if callable(step) else step)
            monitor.step(model, now)
        assert monitor.failures == 0
        return monitor.checks, sum(spent) / (clock.now - begun), monitor

    return run


@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("known", [True, False], ids=["known_length", "unknown_length"])
def test_checks_keep_to_the_budget_with_the_first_and_the_last_counted(share_of, ratio, known):
    checks, share, _ = share_of(10_000, check=ratio, known=known)
    # The first check and the last are not refused, and a whole one is the least there is.
    assert share <= BUDGET * (1.1 if checks >= 20 else checks / (checks - 1))
    # What may be spent is spent, or the spacing is what was asked for.
    assert share >= 0.8 * BUDGET or checks == (101 if known else 201)


def test_the_share_that_is_logged_is_the_share_that_was_taken(share_of):
    _, share, monitor = share_of(1000, check=0.5)
    # The cadence counts in its checks, the clock in the forward pass alone.
    assert monitor.last_snapshot.overhead == pytest.approx(share)


def test_a_run_too_short_for_its_budget_gets_the_first_check_and_the_last(share_of):
    assert share_of(500, check=30.0)[0] == 2


@pytest.mark.parametrize("logging_steps", [10, 100])
def test_snapping_to_the_log_keeps_to_the_budget(share_of, logging_steps):
    checks, share, _ = share_of(5_000, check=1.0, logging_steps=logging_steps)
    assert checks >= 20
    assert share <= 1.1 * BUDGET


@pytest.mark.parametrize(
    ("step", "check"),
    [
        (1.0, lambda now: 1.0 if now <= 5000 else 2.0),
        (lambda now: 10.0 if now <= 5 else 1.0, 2.0),
        (lambda now: 1.0 if now <= 5000 else 0.5, 2.0),
        (lambda now: 1.0 if now <= 5000 else 0.2, 2.0),
    ],
    ids=["dearer_checks", "slow_first_steps", "steps_twice_as_fast", "steps_5_times_as_fast"],
)
def test_the_budget_holds_when_the_times_change_on_the_way(share_of, step, check):
    checks, share, _ = share_of(10_000, step=step, check=check)
    assert checks >= 20
    assert share <= 1.1 * BUDGET


@pytest.mark.parametrize(
    ("spacing", "logging_steps", "snapped"),
    [
        (10, 5, 10),  # on a logging step as it is
        (8, 5, 10),  # 25 % later
        (7, 5, 7),  # would be 43 % later
        (90, 100, 100),
        (70, 100, 70),
        (13, None, 13),
    ],
)
def test_checks_wait_for_the_log_where_that_costs_at_most_a_quarter(
    clock, spacing, logging_steps, snapped
):
    cadence = cadence_of(100 * spacing, logging_steps=logging_steps, max_overhead=None)
    assert Run(clock, cadence).advance(2 * spacing)[1] == snapped


def test_a_spacing_that_was_asked_for_does_not_wait_for_the_log(clock):
    cadence = cadence_of(1000, every=8, logging_steps=5, max_overhead=None)
    assert Run(clock, cadence).advance(30) == [0, 8, 16, 24]


def test_no_wait_for_the_log_is_longer_than_a_quarter(clock):
    for spacing in range(1, 40):
        cadence = cadence_of(100 * spacing, logging_steps=7, max_overhead=None)
        checks = Run(clock, cadence).advance(100 * spacing)
        assert max(gaps(checks)) <= 1.25 * spacing
        # The last check comes when the run ends.
        assert all(b - a == spacing or b % 7 == 0 for a, b in pairwise(checks[:-1]))


def test_a_step_that_was_seen_is_never_due_again(clock):
    cadence = cadence_of(100, every=10)
    Run(clock, cadence).advance(60)
    assert not any(cadence.due(step) for step in range(61))
    assert cadence.due(70)


@pytest.mark.parametrize("max_steps", [None, 500])
@pytest.mark.parametrize("cut", [0, 3, 5, 130, 333])
def test_a_run_continued_from_its_state_checks_where_the_unbroken_one_does(clock, max_steps, cut):
    def cadence():
        return cadence_of(max_steps, every=3, logging_steps=10)

    expected = Run(clock, cadence(), check=0.3).advance(500)
    first, second = (Run(clock, cadence(), check=0.3) for _ in range(2))
    first.advance(cut)
    second.cadence.load_state_dict(json.loads(json.dumps(first.cadence.state_dict())))
    second.cadence.go_on(cut)
    second.advance(500, first=cut + 1)
    assert first.checks + second.checks == expected


def test_reset_begins_anew_and_keeps_the_length(clock):
    cadence = cadence_of(300)
    before = Run(clock, cadence, check=0.5).advance(300)
    cadence.reset()
    assert cadence.overhead_with() is None
    assert Run(clock, cadence, check=0.5).advance(300) == before


def test_time_while_training_pauses_is_not_training_time(clock):
    cadence = cadence_of(100, every=1, max_overhead=None)
    run = Run(clock, cadence, step=1.0, check=1.0)
    run.advance(10)
    clock.advance(1e6)
    cadence.go_on(10)
    run.advance(20, first=11)
    assert cadence.overhead_with() == pytest.approx(21 / 41)


def test_the_share_is_unknown_before_any_training(clock):
    cadence = cadence_of(100)
    assert cadence.overhead_with(1.0) is None
    Run(clock, cadence, check=1.0).advance(0)
    assert cadence.overhead_with() is None
    assert cadence.untimed


@pytest.mark.parametrize("every", [0, -1, 2.5, "often", None])
def test_a_spacing_that_is_no_number_of_steps_is_refused(every):
    with pytest.raises(InputError, match=f"every={every!r}"):
        Cadence(every=every)


@pytest.mark.parametrize("share", [0, -0.1, 1.5, math.nan, math.inf])
def test_a_budget_that_is_no_share_is_refused(share):
    with pytest.raises(InputError, match=f"max_overhead={share!r}"):
        Cadence(max_overhead=share)


def test_the_budget_is_said_once_when_it_stretches_an_explicit_spacing(clock, caplog):
    caplog.set_level(logging.WARNING, "sigma_monitor")
    monitor = SigmaMonitor(
        ProbeSet.from_tensors({"index": torch.arange(8)}),
        every=1,
        max_steps=300,
        embed_fn=lambda model, batch: (clock.advance(0.1), torch.eye(8))[1],
        sinks=[],
    )
    for step in range(301):
        clock.advance(1.0)
        monitor.step(torch.nn.Identity(), step)
    # 1 % of 300 s pays for 30 checks of 0.1 s, so there are 29 intervals.
    assert ["a check every 11 steps" in r.getMessage() for r in caplog.records] == [True]


# Confirmation


def hurried(clock, cadence, last, *, off, **seconds):
    """Checks of a run in which the steps of `off` are excursions."""
    run, finish = Run(clock, cadence, **seconds), cadence.finish

    def confirmed(step, cost):
        finish(step, cost)
        cadence.confirm_early(wanted=step in off)

    cadence.finish = confirmed
    return run.advance(last)


def test_an_excursion_brings_the_next_checks_soon_and_calm_ends_that(clock):
    checks = hurried(clock, cadence_of(1000, every="auto"), 1000, off=range(400, 406))
    after = [step for step in checks if step >= 400]
    # A spacing of ten, an eighth of it while it is off: 400, ..., 406, which is calm again.
    assert after[:8] == [*range(400, 407), 416]
    assert gaps(checks)[:40] == [10] * 40
    assert set(gaps(after[7:-1])) == {10}


def test_nothing_comes_early_under_a_budget_for_a_run_of_unknown_length(clock):
    """There are no checks to come of which it is known that they can pay for it."""
    seconds = {"step": 0.125, "check": 0.5}  # exact in binary, so that no rounding shows
    off = range(2000, 10_001)
    early = hurried(clock, cadence_of(every="auto"), 10_000, off=off, **seconds)
    plain = Run(clock, cadence_of(every="auto"), **seconds).advance(10_000)
    assert early == plain
    unlimited = cadence_of(every="auto", max_overhead=None)
    assert len(hurried(clock, unlimited, 10_000, off=off, **seconds)) > 10_000 // 50 + 1


def test_no_more_than_ten_confirmations_in_a_row(clock):
    cadence = cadence_of(100_000, every="auto", max_overhead=None)
    checks = hurried(clock, cadence, 20_000, off=range(8000, 100_000))
    after = [step for step in checks if step >= 8000]
    assert gaps(after) == [1000 // 8] * 10 + [1000] * (len(after) - 11)


def test_an_every_that_was_asked_for_stays_the_shortest_spacing(clock):
    plain = hurried(clock, cadence_of(1000, every=7), 1000, off=())
    assert hurried(clock, cadence_of(1000, every=7), 1000, off=range(300, 700)) == plain


@pytest.mark.parametrize("off", [range(300, 400), range(10**6), range(0, 10**6, 3)])
def test_confirmations_stay_within_the_budget(clock, off):
    cadence = cadence_of(20_000, every="auto", max_overhead=BUDGET)
    checks = hurried(clock, cadence, 20_000, off=off, step=0.1, check=0.5)
    assert len(checks) >= 20
    assert cadence.overhead_with() <= BUDGET
    assert checks[-1] == 20_000


def test_a_confirmation_needs_a_budget_that_was_timed_and_has_room(clock):
    for max_steps in (20, 60):
        cadence = cadence_of(max_steps, every="auto", max_overhead=BUDGET)
        plain = cadence_of(max_steps, every="auto", max_overhead=BUDGET)
        checks = hurried(clock, cadence, max_steps, off=range(10**6), step=0.1, check=0.5)
        assert checks == Run(clock, plain, step=0.1, check=0.5).advance(max_steps)


def test_what_only_some_checks_do_is_spread_over_all(clock):
    """A writing of 2 s at every fifth check of 0.5 s costs 0.9 s a check."""
    plain = cadence_of(50_000, every="auto", max_overhead=BUDGET)
    writing = cadence_of(50_000, every="auto", max_overhead=BUDGET)
    expected = Run(clock, plain, step=0.1, check=0.9).advance(50_000)
    finish = writing.finish

    def both(step, cost):
        extra = 2.0 if not writing._checks % 5 else 0.0
        clock.advance(extra)
        finish(step, cost, extra=extra, extra_every=5)

    writing.finish = both
    found = Run(clock, writing, step=0.1, check=0.5).advance(50_000)
    assert writing.overhead_with() <= BUDGET * 1.05
    assert len(found) == pytest.approx(len(expected), rel=0.1)


def test_confirmation_survives_a_resume(clock):
    cadence = cadence_of(1000, every="auto")
    hurried(clock, cadence, 405, off=range(400, 421))
    other = cadence_of(1000, every="auto")
    other.load_state_dict(json.loads(json.dumps(cadence.state_dict())))
    assert other.state_dict() == cadence.state_dict()
    assert other.next_step == 406


def test_beyond_its_last_step_a_run_is_checked_no_more_often_than_before(clock):
    cadence = cadence_of(100, every="auto")
    checks = Run(clock, cadence, check=0.2).advance(400)
    assert 100 in checks
    assert min(gaps([c for c in checks if c >= 100])) >= min(gaps(checks[:-1]))
    assert cadence.overhead_with() <= BUDGET * 1.3


@pytest.mark.parametrize(("every", "shrinks"), [(10, False), (2, True)])
def test_a_probe_set_is_not_cut_where_every_check_that_was_asked_for_is_paid(clock, every, shrinks):
    """1 s of checks is paid: 16 of 0.06 s, of 11 or of 51 that are wanted."""
    cadence = cadence_of(100, every=every)
    Run(clock, cadence, check=0.06).advance(0)
    clock.advance(1.0)
    assert cadence.apply_budget(1, smaller=0.5) is shrinks
    assert cadence.planned


def test_a_smaller_probe_set_that_is_needed_is_used_whatever_is_paid(clock):
    cadence = cadence_of(10_000)
    Run(clock, cadence).advance(0)
    clock.advance(1.0)
    assert cadence.apply_budget(1, smaller=0.5, needed=True)


@pytest.mark.parametrize("max_overhead", [None, BUDGET])
def test_the_expected_checks_are_those_made_and_those_to_come(clock, max_overhead):
    cadence = cadence_of(1000, every=20, max_overhead=max_overhead)
    assert cadence.expected_checks == 51
    Run(clock, cadence).advance(500)
    assert cadence.expected_checks == 51
    cadence.spacing = 100
    assert cadence.expected_checks == 26 + 5


def test_a_check_that_is_due_can_wait_once(clock):
    cadence = cadence_of(1000, max_overhead=None)
    assert not cadence.can_wait(0)  # the first
    Run(clock, cadence).advance(0)
    assert cadence.due(10)
    assert cadence.can_wait(10)
    assert cadence.due(11)
    assert not cadence.can_wait(11)
    Run(clock, cadence).advance(990, first=11)
    cadence.next_step = 1000
    assert not cadence.can_wait(1000)  # the last


def test_neither_an_early_check_nor_one_asked_for_waits(clock):
    cadence = cadence_of(10_000, max_overhead=None)
    Run(clock, cadence).advance(0)
    cadence.confirm_early(wanted=True)
    assert cadence.next_step < 100
    assert not cadence.can_wait(cadence.next_step)
    asked = cadence_of(1000, every=10, max_overhead=None)
    Run(clock, asked).advance(0)
    assert not asked.can_wait(10)


@pytest.mark.parametrize(
    ("every", "step", "comes"), [("auto", 49, False), ("auto", 50, True), (100, 50, False)]
)
def test_a_check_comes_forward_by_half_a_spacing_at_most(clock, every, step, comes):
    cadence = cadence_of(10_000, every=every, max_overhead=None)
    cadence.bring_forward(0)
    Run(clock, cadence).advance(0)
    cadence.bring_forward(step)
    assert cadence.due(step) is comes
    assert cadence.due(100)


def test_what_a_host_does_for_a_check_is_a_cost_of_it_and_no_training(clock):
    """In binary fractions of a second."""
    cadence = cadence_of(100, max_overhead=0.5)
    clock.advance(0.5)
    cadence.charge(0.5, once=True)  # the choice of a probe set
    cadence.begin(0)
    clock.advance(0.25)
    cadence.finish(0, 0.25)
    clock.advance(0.25)
    cadence.charge(0.25)
    clock.advance(9.0)
    cadence.begin(1)
    assert cadence.overhead_with() == 1 / 10


@pytest.mark.parametrize("logging", [0.0, 0.03, 0.1])
def test_logging_is_paid_over_the_whole_run_and_not_by_its_end(clock, logging):
    """Checks that cost 10 ms and are logged in `logging` s, between steps of 50 ms."""
    cadence = cadence_of(2000)
    checks = []
    for step in range(2001):
        if step:
            clock.advance(0.05)
        if cadence.due(step) and not cadence.planned and cadence.last_step is not None:
            cadence.apply_budget(step)
        if cadence.due(step):
            cadence.begin(step)
            clock.advance(0.01)
            cadence.finish(step, 0.01)
            clock.advance(logging)
            cadence.charge(logging)
            checks.append(step)
    assert max(gaps(checks[2:])) <= 1.5 * min(gaps(checks[2:-1]))
    assert cadence.overhead_with() <= 0.01 * 1.25


@pytest.mark.parametrize(("length", "most"), [(2000, 0.0101), (None, 0.0105)])
def test_calls_without_anything_to_do_are_paid_by_the_budget_too(clock, length, most):
    """Checks of 60 ms between steps of 50 ms, with 0.1 ms at each step in calls that do nothing."""
    cadence, idle = cadence_of(length), 0.0001
    started, training = clock.now, 0.0
    for step in range(2001):
        if step:
            clock.advance(0.05)
            training += 0.05
        if cadence.due(step) and not cadence.planned and cadence.last_step is not None:
            cadence.apply_budget(step)
        if cadence.due(step):
            cadence.begin(step)
            clock.advance(0.06)
            cadence.finish(step, 0.06)
        else:
            clock.advance(idle)
            cadence.pass_by(idle / 2)  # as much again passes around it
    taken = 1 - training / (clock.now - started)
    assert 0.008 < taken <= most
    assert cadence.overhead_with() == pytest.approx(taken, rel=0.01)


def test_where_idle_calls_alone_take_the_budget_no_check_is_added(clock):
    cadence = cadence_of()
    checks = []
    for step in range(5001):
        clock.advance(0.001)
        if cadence.due(step):
            cadence.begin(step)
            clock.advance(0.001)
            cadence.finish(step, 0.001)
            checks.append(step)
        else:
            clock.advance(0.0001)
            cadence.pass_by(0.00005)
    assert len(checks) == 2  # the second found out


def test_the_account_of_idle_calls_survives_a_resume(clock):
    cadence = cadence_of(2000)
    Run(clock, cadence).advance(100)
    cadence.pass_by(0.5)
    resumed = cadence_of(2000)
    resumed.load_state_dict(json.loads(json.dumps(cadence.state_dict())))
    assert resumed.state_dict() == cadence.state_dict()
    assert resumed.affordable_checks() == cadence.affordable_checks()
