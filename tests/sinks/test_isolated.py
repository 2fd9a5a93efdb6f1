"""The wall between a failing sink and the training."""

import asyncio
from unittest.mock import Mock

import pytest

from sigma_monitor.sinks import Isolated
from tests.snapshots import alert, observation, snapshot


class Patchy:
    """Keeps what it is given, and fails at the calls whose numbers (from 0) are `bad`."""

    def __init__(self, bad=(), *, close_fails=False):
        self.bad, self.close_fails = set(bad), close_fails
        self.calls, self.kept, self.closed = 0, [], 0

    def log(self, metrics, step):
        self._take(step)

    def alert(self, alert):
        self._take(alert.kind)

    def close(self):
        self.closed += 1
        if self.close_fails:
            raise OSError("cannot close")

    def _take(self, thing):
        self.calls += 1
        if self.calls - 1 in self.bad:
            raise ConnectionResetError("service is gone")
        self.kept.append(thing)


class Noting(Patchy):
    def note(self, event, details):
        self._take((event, details))


class AlertsOnly(Patchy):
    alerts_only = True


def test_everything_is_delivered_in_order_and_nothing_said(messages):
    sink = Noting()
    isolated = Isolated(sink)
    isolated.check(snapshot(1))
    isolated.alert(alert("WARNING"))
    isolated.note("closed", {"checks": 1})
    isolated.close()
    assert sink.kept == [1, "WARNING", ("closed", {"checks": 1})]
    assert (isolated.lost, isolated.disabled, sink.closed) == (0, False, 1)
    assert messages() == []


def test_a_failure_is_reported_once_and_every_one_counted(messages):
    isolated = Isolated(Patchy({0, 2, 4, 6}))
    for step in range(8):
        isolated.check(snapshot(step))
    assert isolated.lost == 4
    assert isolated.sink.kept == [1, 3, 5, 7]
    assert len(messages()) == 1
    assert all(part in messages()[0] for part in ("Patchy", "ConnectionResetError", "is gone"))


def test_three_failures_in_a_row_disable_and_what_follows_is_counted(messages):
    sink = Patchy({0, 1, 2})
    isolated = Isolated(sink)
    for step in range(10):
        isolated.check(snapshot(step))
        assert isolated.disabled is (step >= 2)
    isolated.alert(alert())
    assert sink.calls == 3
    assert isolated.lost == 11
    assert ["disabled after 3" in message for message in messages()] == [False, True]


def test_a_success_begins_the_count_anew():
    isolated = Isolated(Patchy({0, 1, 3, 4, 6, 7}))
    for step in range(9):
        isolated.check(snapshot(step))
    assert not isolated.disabled
    assert isolated.lost == 6


def test_alerts_snapshots_and_notes_share_one_count():
    isolated = Isolated(Noting({0, 1, 2}))
    isolated.check(snapshot())
    isolated.alert(alert())
    isolated.note("failed", {})
    assert isolated.disabled


def test_a_sink_without_notes_is_not_asked_and_loses_nothing():
    isolated = Isolated(Patchy({0}))
    isolated.note("started", {})
    assert (isolated.lost, isolated.sink.calls) == (0, 0)


def test_close_never_raises_and_says_what_was_lost(messages):
    isolated = Isolated(Patchy({0, 1, 2}, close_fails=True))
    for step in range(5):
        isolated.check(snapshot(step))
    isolated.close()
    isolated.close()
    assert isolated.sink.closed == 2  # disabled or not, it may hold something
    assert "Patchy lost 5 calls" in messages()[-1]


def test_a_failing_close_alone_is_reported(messages):
    Isolated(Patchy(close_fails=True)).close()
    assert len(messages()) == 1
    assert "cannot close" in messages()[0]


class Raising(Patchy):
    def __init__(self, error):
        super().__init__()
        self.error = error

    def log(self, metrics, step):
        raise self.error

    close = property(lambda self: self.log({}, 0))


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_what_a_handler_of_signals_raises_is_not_swallowed(kind):
    isolated = Isolated(Raising(kind()))
    for call in (lambda: isolated.check(snapshot()), isolated.close):
        with pytest.raises(kind):
            call()


class Unspeakable(Exception):
    def __str__(self):
        raise RuntimeError("not even that")


@pytest.mark.parametrize("error", [asyncio.CancelledError(), Unspeakable()])
def test_whatever_else_a_sink_raises_is_a_failure(error, messages):
    isolated = Isolated(Raising(error))
    isolated.check(snapshot())
    isolated.close()
    assert isolated.lost == 1
    assert type(error).__name__ in messages()[0]


def test_what_one_check_brings_is_one_failure_at_most():
    isolated = Isolated(Patchy(range(9)))
    for step in range(3):
        assert not isolated.disabled
        isolated.check(snapshot(step), [alert("WARNING"), alert("STOPPED")])
    assert (isolated.disabled, isolated.lost) == (True, 9)


class Vital(Patchy):
    vital = True


def test_a_vital_sink_is_never_disabled_and_its_recovery_is_told_once(messages):
    isolated = Isolated(Vital({0, 1, 2, 3, 5}))
    for step in range(8):
        isolated.check(snapshot(step))
    isolated.close()
    assert isolated.sink.kept == [4, 6, 7]
    assert (isolated.lost, isolated.disabled) == (5, False)
    expected = ("service is gone", "works again; it has lost 4 calls", "lost 5 calls in this run")
    for part, text in zip(expected, messages(), strict=True):
        assert part in text


class Whole(Patchy):
    """Takes snapshots and observations rather than their metrics."""

    def check(self, snapshot):
        self._take(snapshot)

    def observe(self, observation):
        self._take(observation)


def test_metrics_and_step_are_what_a_plain_sink_gets():
    class Plain(Patchy):
        def log(self, metrics, step):
            self._take((metrics, step))

    isolated = Isolated(Plain())
    isolated.check(snapshot(7))
    isolated.observe(observation(8))
    assert isolated.sink.kept == [
        (snapshot(7).metrics(), 7),
        (observation(8).metrics(), 8),
    ]


def test_a_sink_that_takes_all_that_was_measured_gets_that_alone():
    isolated = Isolated(Whole())
    isolated.check(snapshot(7))
    isolated.observe(observation(8))
    assert isolated.sink.kept == [snapshot(7), observation(8)]


def test_alerts_that_were_lost_can_be_taken_once():
    isolated = Isolated(Patchy({0, 1, 2}))
    isolated.check(snapshot())
    for kind in ("WARNING", "COLLAPSED", "RECOVERED"):
        isolated.alert(alert(kind))
    lost = isolated.take_lost_alerts()
    assert [(a.kind, reason) for a, reason in lost] == [
        ("WARNING", "ConnectionResetError: service is gone"),
        ("COLLAPSED", "ConnectionResetError: service is gone"),
        ("RECOVERED", "disabled"),
    ]
    assert isolated.take_lost_alerts() == []


def test_metrics_are_no_loss_to_a_sink_of_alerts():
    sink = AlertsOnly(bad=range(9))
    isolated = Isolated(sink)
    isolated.check(snapshot(1))
    isolated.observe(observation(1))
    isolated.alert(alert())
    assert (sink.calls, isolated.lost) == (1, 1)


# --- which alerts


class MetricsOnly(Patchy):
    metrics_only = True


class Marking(MetricsOnly):
    def mark(self, alert):
        self._take(("mark", alert.kind))


class WithBaselines(Patchy):
    baselines = True


def test_a_baseline_is_no_news_and_no_loss_to_a_sink_that_does_not_ask_for_it():
    isolated = Isolated(Patchy(bad=range(9)))
    isolated.alert(alert("BASELINE", "info"))
    assert (isolated.sink.calls, isolated.lost) == (0, 0)
    asking = Isolated(WithBaselines())
    asking.alert(alert("BASELINE", "info"))
    assert asking.sink.kept == ["BASELINE"]


def test_an_alert_is_no_loss_to_a_sink_of_metrics():
    isolated = Isolated(MetricsOnly(bad={0, 1, 2}))
    for step in range(4):
        isolated.check(snapshot(step))
        isolated.alert(alert())
    assert (isolated.disabled, isolated.sink.calls, isolated.lost) == (True, 3, 4)
    assert isolated.take_lost_alerts() == []


def test_a_sink_that_marks_what_alerts_are_about_gets_all_of_them():
    isolated = Isolated(Marking({1}))
    for kind in ("BASELINE", "WARNING", "COLLAPSED"):
        isolated.alert(alert(kind))
    assert isolated.sink.kept == [("mark", "BASELINE"), ("mark", "COLLAPSED")]
    assert isolated.lost == 1
    assert isolated.take_lost_alerts() == []  # which others may have sent


def test_what_a_mock_or_a_broken_property_answers_is_no_wish():
    class Broken(Patchy):
        @property
        def alerts_only(self):
            raise OSError("no answer")

        inline = check = observe = note = mark = alerts_only

    mock = Mock()
    for sink in (mock, Broken()):
        isolated = Isolated(sink)
        isolated.check(snapshot())
        isolated.alert(alert())
        isolated.note("closed", {})
        assert isolated.lost == 0
    assert len(mock.check.mock_calls) == len(mock.alert.mock_calls) == 1
