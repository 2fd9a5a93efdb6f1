"""Delivery off the training's thread."""

import asyncio
import copy
import itertools
import multiprocessing
import threading
import time

import pytest

from sigma_monitor.sinks import Courier
from sigma_monitor.sinks.courier import _ROOM
from tests.snapshots import alert, snapshot

SOON = 10.0  # seconds in which a thread surely gets somewhere
OURS = ("courier.py", "isolated.py", "threading.py")


class Scripted:
    """Fails at the calls (from 0) in `bad`, waits in those in `hanging` until it is let go."""

    def __init__(self, bad=(), hanging=()):
        self.bad, self.hanging = set(bad), set(hanging)
        self.calls, self.kept, self.closed = 0, [], 0
        self.threads = set()
        self.at_rest = threading.Event()  # hangs now
        self.let_go = threading.Event()

    def log(self, metrics, step):
        self._take(step)

    def alert(self, alert):
        self._take(alert.kind)

    def close(self):
        self.closed += 1

    def _take(self, thing):
        self.threads.add(threading.get_ident())
        self.calls += 1
        if self.calls - 1 in self.hanging:
            self.at_rest.set()
            assert self.let_go.wait(60)
        if self.calls - 1 in self.bad:
            raise ConnectionResetError("service is gone")
        self.kept.append(thing)


@pytest.fixture(autouse=True)
def no_waits(monkeypatch):
    monkeypatch.setattr("sigma_monitor.sinks.courier._SHORTEST_WAIT", 0.001)


def served(sink, calls):
    """A courier whose thread has made so many calls."""
    end = time.monotonic() + SOON
    while sink.calls < calls:
        assert time.monotonic() < end
        time.sleep(0.001)


def test_everything_arrives_in_order_on_one_other_thread(messages):
    sink = Scripted()
    courier = Courier(sink)
    for step in range(50):
        courier.check(snapshot(step))
    courier.alert(alert("WARNING"))
    served(sink, 51)
    courier.close()
    assert sink.kept == [*range(50), "WARNING"]
    assert threading.get_ident() not in sink.threads
    assert len(sink.threads) == 1
    assert (courier.lost, courier.disabled, sink.closed) == (0, False, 1)
    assert messages() == []


def test_a_call_that_fails_is_made_again_and_nothing_is_lost(messages):
    sink = Scripted(bad={0, 1, 2})
    courier = Courier(sink)
    courier.alert(alert("WARNING"))
    served(sink, 4)
    courier.close()
    assert (sink.kept, courier.lost, messages()) == (["WARNING"], 0, [])


def test_a_call_that_fails_for_good_is_lost_and_the_next_one_arrives():
    sink = Scripted(bad=range(4))
    courier = Courier(sink)
    courier.alert(alert("WARNING"))
    courier.alert(alert("COLLAPSED"))
    served(sink, 5)
    courier.close()
    assert (sink.kept, courier.lost) == (["COLLAPSED"], 1)
    assert [lost.kind for lost, _ in courier.take_lost_alerts()] == ["WARNING"]


def test_three_calls_that_fail_for_good_disable(messages):
    sink = Scripted(bad=range(1000))
    courier = Courier(sink)
    for step in range(10):
        courier.check(snapshot(step))
    served(sink, 12)
    courier.close()
    assert (sink.calls, courier.lost, courier.disabled) == (12, 10, True)
    said = messages()
    assert sum("disabled after 3" in text for text in said) == 1
    assert sum("service is gone" in text for text in said) == 1
    assert "lost 10 calls" in said[-1]


def test_a_sink_that_hangs_costs_the_caller_nothing_and_loses_what_does_not_fit(messages):
    sink = Scripted(hanging={0})
    courier = Courier(sink)
    courier.check(snapshot(0))
    assert sink.at_rest.wait(SOON)
    for step in range(_ROOM + 5):
        courier.check(snapshot(step))
    assert courier.lost == 5
    courier.alert(alert("COLLAPSED"))  # there is room left for alerts
    assert courier.lost == 5
    assert sum("calls are waiting" in text for text in messages()) == 1
    sink.let_go.set()
    courier.close()
    assert sink.kept[:2] == [0, "COLLAPSED"]


def test_close_does_not_wait_for_a_sink_that_hangs_and_counts_what_it_left(messages):
    sink = Scripted(hanging={1})
    courier = Courier(sink)
    courier.check(snapshot(0))
    courier.alert(alert("WARNING"))
    courier.alert(alert("COLLAPSED"))
    assert sink.at_rest.wait(SOON)
    courier.close(time.monotonic() + 0.05)
    assert courier.lost == 2
    assert [lost.kind for lost, _ in courier.take_lost_alerts()] == ["WARNING", "COLLAPSED"]
    assert any("before the run ended" in text for text in messages())
    sink.let_go.set()
    courier._thread.join(SOON)
    assert sink.closed == 0  # it may be that of another run by now


def test_closing_cuts_the_waits_of_metrics_short(monkeypatch):
    monkeypatch.setattr("sigma_monitor.sinks.courier._SHORTEST_WAIT", 60.0)
    sink = Scripted(bad=range(1000))
    courier = Courier(sink)
    courier.check(snapshot())
    served(sink, 1)
    started = time.monotonic()
    courier.close(started + 50)
    assert time.monotonic() - started < SOON
    assert (sink.calls, courier.lost) == (2, 1)


def test_an_alert_has_its_attempts_while_the_sink_is_being_closed():
    sink = Scripted(bad={0, 1, 2}, hanging={0})
    courier = Courier(sink)
    courier.alert(alert("COLLAPSED"))
    assert sink.at_rest.wait(SOON)
    courier.finish(time.monotonic() + SOON)
    sink.let_go.set()
    courier.close(time.monotonic() + SOON)
    assert (sink.kept, courier.lost) == (["COLLAPSED"], 0)


def test_an_alert_waits_for_its_next_attempt_no_longer_than_closing_may_take(monkeypatch):
    monkeypatch.setattr("sigma_monitor.sinks.courier._SHORTEST_WAIT", 60.0)
    sink = Scripted(bad={0})
    courier = Courier(sink)
    courier.alert(alert("COLLAPSED"))
    served(sink, 1)
    courier.close(time.monotonic() + 1.0)
    assert (sink.kept, courier.lost) == (["COLLAPSED"], 0)


def test_alerts_go_first_at_closing_in_their_order():
    sink = Scripted(hanging={0})
    courier = Courier(sink)
    for step in range(3):
        courier.check(snapshot(step))
    courier.alert(alert("WARNING"))
    courier.check(snapshot(3))
    courier.alert(alert("COLLAPSED"))
    assert sink.at_rest.wait(SOON)
    courier.finish()
    sink.let_go.set()
    courier.close()
    assert sink.kept == [0, "WARNING", "COLLAPSED", 1, 2, 3]


def test_metrics_that_arrive_slowly_keep_no_alert_from_arriving():
    class Slow(Scripted):
        def log(self, metrics, step):
            super().log(metrics, step)
            self.at_rest.set()
            time.sleep(0.05)

    courier = Courier(sink := Slow())
    for step in range(100):
        courier.check(snapshot(step))
    courier.alert(alert("COLLAPSED"))
    assert sink.at_rest.wait(SOON)
    courier.close(time.monotonic() + 0.5)
    assert "COLLAPSED" in sink.kept
    assert courier.take_lost_alerts() == []
    assert courier.lost >= 80


def test_metrics_that_fail_keep_no_alert_from_its_attempts():
    sink = Scripted(bad=range(4), hanging={0})
    courier = Courier(sink)
    for step in range(50):
        courier.check(snapshot(step))
    courier.alert(alert("COLLAPSED"))
    assert sink.at_rest.wait(SOON)
    courier.finish()
    sink.let_go.set()
    courier.close()
    assert (sink.kept, courier.lost) == (["COLLAPSED", *range(1, 50)], 1)


def test_what_is_given_up_while_it_waits_for_another_attempt_gets_none(monkeypatch):
    """As on Ctrl-C in the midst of closing."""
    monkeypatch.setattr("sigma_monitor.sinks.courier._SHORTEST_WAIT", 60.0)
    sink = Scripted(bad=range(1000))
    courier = Courier(sink)
    courier.alert(alert("WARNING"))
    courier.alert(alert("COLLAPSED"))
    served(sink, 1)
    courier.close(time.monotonic())
    courier._thread.join(SOON)
    assert (sink.calls, courier.lost) == (1, 2)
    assert not courier._thread.is_alive()


@pytest.mark.parametrize("kind", [SystemExit, asyncio.CancelledError, KeyboardInterrupt])
def test_nothing_that_a_sink_raises_ends_its_thread(kind, messages):
    class Raising(Scripted):
        def log(self, metrics, step):
            if step == 0:
                raise kind
            super().log(metrics, step)

    sink = Raising()
    courier = Courier(sink)
    for step in range(3):
        courier.check(snapshot(step))
    courier.close(time.monotonic() + SOON)
    assert (sink.kept, courier.lost, sink.closed) == ([1, 2], 1, 1)
    assert sum(kind.__name__ in text for text in messages()) == 1


def test_in_a_forked_process_what_no_thread_takes_is_counted():
    courier = Courier(Scripted())
    courier.check(snapshot(0))
    served(courier.sink, 1)

    def child():
        for step in range(3):
            courier.alert(alert(step=step))
        courier.close(time.monotonic() + 60)
        assert courier.lost == 3
        assert len(courier.take_lost_alerts()) == 3

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(SOON)
    assert process.exitcode == 0
    courier.close()


def test_a_sink_that_closes_its_own_courier_does_not_wait_for_itself():
    """As the garbage collector does, where the sink holds the last reference to the monitor."""

    class Closing(Scripted):
        def alert(self, alert):
            courier.close(time.monotonic() + SOON)
            super().alert(alert)

    courier = Courier(sink := Closing())
    courier.alert(alert("WARNING"))
    courier._thread.join(SOON)
    assert (sink.kept, courier.lost, sink.closed) == (["WARNING"], 0, 1)


@pytest.fixture
def interrupted():
    """`interrupted(place, by)`: in the next threads `by` is called at that event of a profile.

    The garbage collector may call what closes a run anywhere, and a profile nearly so: wherever a
    function begins or ends. Returns an event that is set by then.
    """

    def interrupt(place, by):
        numbers, interrupted = itertools.count(), threading.Event()

        def profile(frame, event, argument):
            if frame.f_code.co_filename.endswith(OURS) and next(numbers) == place:
                by()
                interrupted.set()

        threading.setprofile(profile)
        return interrupted

    yield interrupt
    threading.setprofile(None)


def test_wherever_the_garbage_collector_closes_a_run_its_thread_comes_to_an_end(interrupted):
    for place in itertools.count():
        courier = Courier(sink := Scripted(bad={0}))
        reached = interrupted(place, lambda c=courier: c.close(time.monotonic() + SOON))
        courier.alert(alert("WARNING"))
        if not reached.wait(SOON if place < 100 else 0.05):  # it rests before
            courier.close(time.monotonic() + SOON)
            break
        courier._thread.join(SOON)
        assert not courier._thread.is_alive(), place
        assert (sink.kept, courier.lost, sink.closed) == (["WARNING"], 0, 1), place
    assert place >= 100


def test_a_call_belongs_to_what_was_bound_when_it_came():
    class InRun(Scripted):
        active = run = None

        def bind(self):
            if self.active is None:
                return None
            bound = copy.copy(self)
            bound.run = self.active
            return bound

        def _take(self, thing):
            if not self.let_go.wait(60):
                raise TimeoutError
            super()._take((self.run, thing))

    courier = Courier(sink := InRun())
    for sink.active, kind in ((None, "FLAPPING"), ("a", "WARNING"), ("b", "COLLAPSED")):
        courier.alert(alert(kind))
    sink.active = None
    courier.alert(alert("RECOVERED"))
    sink.let_go.set()
    courier.close()
    assert sink.kept == [
        (None, "FLAPPING"),
        ("a", "WARNING"),
        ("b", "COLLAPSED"),
        ("b", "RECOVERED"),
    ]


def test_a_sink_that_cannot_be_bound_is_said_and_its_failures_too(messages):
    class Unbound(Scripted):
        def bind(self):
            raise OSError("no run")

    courier = Courier(Unbound(bad=range(1000)))
    for step in range(2):
        courier.check(snapshot(step))
    served(courier.sink, 8)
    courier.close()
    said = messages()
    assert [sum(part in text for text in said) for part in ("no run", "service is gone")] == [1, 1]


def test_without_a_thread_a_sink_that_had_nothing_to_deliver_has_not_failed(monkeypatch, messages):
    def refuse(thread):
        raise RuntimeError("can't start new thread at interpreter shutdown")

    monkeypatch.setattr("threading.Thread.start", refuse)
    courier = Courier(Scripted())
    courier.close()
    assert (courier.lost, messages()) == (0, [])


def test_what_comes_after_the_end_is_counted():
    courier = Courier(sink := Scripted())
    courier.close()
    courier.alert(alert("WARNING"))
    assert (sink.kept, courier.lost) == ([], 1)
    assert [reason for _, reason in courier.take_lost_alerts()] == ["closed"]


def test_a_sink_that_hangs_in_close_is_not_waited_for():
    class Hanging(Scripted):
        def close(self):
            self.let_go.wait(60)

    sink = Hanging()
    courier = Courier(sink)
    started = time.monotonic()
    courier.close(started + 0.05)
    assert time.monotonic() - started < SOON
    sink.let_go.set()


def test_closing_twice_is_fine():
    sink = Scripted()
    courier = Courier(sink)
    courier.check(snapshot(0))
    courier.close()
    courier.close()
    assert sink.closed == 1
