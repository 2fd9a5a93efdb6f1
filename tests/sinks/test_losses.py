"""What is told of calls that did not arrive, by an outlet without any training."""

import errno
import json
import signal
import threading
import time

import pytest

from sigma_monitor.sinks import JsonlSink
from sigma_monitor.sinks.outlet import Outlet
from tests.snapshots import alert, observation, snapshot

HANGS = 60.0  # seconds


class Plain:
    """A sink that hangs, or fails, at the kinds of alert it is told to."""

    def __init__(self, *, inline=False, hangs=(), bad=()):
        self.inline, self.hangs, self.bad = inline, hangs, bad
        self.kept, self.noted = [], []
        self.let_go = threading.Event()

    def log(self, metrics, step):
        pass

    def alert(self, alert):
        if alert.kind in self.hangs:
            self.let_go.wait(HANGS)
        if alert.kind in self.bad:
            raise ConnectionResetError("service is gone")
        self.kept.append(alert.kind)

    def note(self, event, details):
        self.noted.append((event, details))

    def close(self):
        pass

    def told(self, event):
        return [details for name, details in self.noted if name == event]


def test_a_record_that_cannot_be_written_for_a_while_goes_on(tmp_path, monkeypatch, messages):
    append, full = JsonlSink._append, False

    def where_there_is_room(sink, kind, body):
        if full:
            raise OSError(errno.ENOSPC, "No space left on device")
        append(sink, kind, body)

    monkeypatch.setattr(JsonlSink, "_append", where_there_is_room)
    outlet = Outlet([JsonlSink(tmp_path / "record.jsonl")], None)
    for step in range(90, 120):
        full = 100 <= step < 110
        outlet.deliver(snapshot(step), [alert("WARNING", step=step)] if step == 105 else [])
    outlet.close({})
    lines = [json.loads(line) for line in (tmp_path / "record.jsonl").read_text().splitlines()]
    steps = [line["step"] for line in lines if line["type"] == "check"]
    assert steps == [*range(90, 100), *range(110, 120)]
    assert lines[-1]["lost"] == {"JsonlSink": 10 + 1}
    (told,) = [line for line in lines if line.get("event") == "undelivered"]
    assert (told["sink"], told["alert"], told["step"]) == ("JsonlSink", "WARNING", 105)
    assert [part in "".join(messages()) for part in ("No space", "works again")] == [True, True]


def test_two_sinks_of_a_class_are_told_apart():
    record = Plain(inline=True)
    outlet = Outlet([Plain(bad=["COLLAPSED"]), Plain(bad=["WARNING", "COLLAPSED"]), record], None)
    for kind in ("WARNING", "COLLAPSED"):
        outlet.alert(alert(kind))
    outlet.close({})
    assert record.told("closed") == [{"lost": {"Plain": 1, "Plain_2": 2}}]
    lost = [(told["sink"], told["alert"]) for told in record.told("undelivered")]
    assert sorted(lost) == [
        ("Plain", "COLLAPSED"),
        ("Plain_2", "COLLAPSED"),
        ("Plain_2", "WARNING"),
    ]


@pytest.mark.parametrize("how", ["deliver", "observe", "alert"])
def test_a_lost_alert_is_told_as_soon_as_anything_comes(how):
    record = Plain(inline=True)
    outlet = Outlet([Plain(inline=True, bad=["WARNING"]), record], None)
    outlet.alert(alert("WARNING", step=7))
    assert record.told("undelivered") == []
    if how == "deliver":
        outlet.deliver(snapshot(), [])
    elif how == "observe":
        outlet.observe(observation(), [])
    else:
        outlet.alert(alert("RECOVERED"))
    assert [told["step"] for told in record.told("undelivered")] == [7]
    outlet.close({})


def test_what_was_lost_is_not_told_to_sinks_that_are_closed(monkeypatch):
    monkeypatch.setattr("sigma_monitor.sinks.outlet.CLOSE_SECONDS", 0.2)
    hanging, healthy, record = Plain(hangs=["WARNING"]), Plain(), Plain(inline=True)
    outlet = Outlet([healthy, hanging, record], None)
    outlet.alert(alert("WARNING"))
    outlet.close({})
    hanging.let_go.set()
    assert (healthy.kept, healthy.told("undelivered")) == (["WARNING"], [])
    (closed,) = record.told("closed")
    assert "Plain" not in closed["lost"]
    assert len(record.told("undelivered")) == 1


@pytest.fixture
def ctrl_c():
    """Press it in so many seconds; a process in the background ignores it, as it finds it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    main = threading.main_thread().ident
    yield lambda seconds: threading.Timer(
        seconds, signal.pthread_kill, (main, signal.SIGINT)
    ).start()
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_while_closing_leaves_the_closing_line(ctrl_c):
    hanging, record = Plain(hangs=["WARNING"]), Plain(inline=True)
    outlet = Outlet([hanging, record], None)
    outlet.alert(alert("WARNING"))
    ctrl_c(0.2)
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        outlet.close({"status": "HEALTHY"})
    assert time.monotonic() - started < HANGS / 2
    hanging.let_go.set()
    del outlet  # which is closed, and no more than that
    (closed,) = record.told("closed")
    assert closed["status"] == "HEALTHY"
    assert closed["lost"]["Plain"] >= 1
    assert [told["alert"] for told in record.told("undelivered")] == ["WARNING"]
