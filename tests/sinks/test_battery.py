"""What holds for every sink, each with its real library and a store on this machine."""

import logging
import math
import threading

import pytest

from sigma_monitor.sinks.base import has
from sigma_monitor.sinks.courier import Courier
from sigma_monitor.sinks.outlet import Outlet
from tests.sinks.stores import Console, Jsonl, Trackio, Wandb
from tests.snapshots import alert, observation, snapshot

EMOJI = "naïve 中文 \N{THERMOMETER}\N{VARIATION SELECTOR-16} \N{FAMILY}"
SOON = 20.0  # seconds in which a thread surely gets somewhere
NEWS = (("WARNING", "warn"), ("COLLAPSED", "error"), ("RECOVERED", "info"))


@pytest.fixture(autouse=True)
def no_waits(monkeypatch):
    monkeypatch.setattr("sigma_monitor.sinks.courier._SHORTEST_WAIT", 0.001)
    monkeypatch.setattr("sigma_monitor.sinks.outlet.CLOSE_SECONDS", SOON)


@pytest.fixture
def outlet(store):
    """The sink as a run has it."""
    return Outlet([store.sink], None)


def lost(outlet):
    return sum(sink.lost for sink in outlet._sinks)


def one_alert(store):
    """The text of the only alert, or None where the sink keeps none."""
    alerts = store.alerts()
    if alerts is None:
        return None
    (text,) = alerts
    return text


def test_what_is_told_arrives_once_and_in_order(store, outlet):
    news = [
        alert(kind, severity, title=f"sigma: {kind}", text=f"{kind} at step 10.")
        for kind, severity in NEWS
    ]
    outlet.note("started", {"step": 0})
    outlet.deliver(snapshot(0), [])
    outlet.deliver(snapshot(10), news)
    outlet.observe(observation(20), [])
    outlet.close({"status": "HEALTHY", "stop_reason": None})
    assert lost(outlet) == 0
    rows = store.rows()
    if rows is not None:
        assert sorted(rows) == [0, 10, 20]
        for step, written in ((0, snapshot(0)), (10, snapshot(10)), (20, observation(20))):
            kept = {name: rows[step][name] for name in written.metrics()}
            assert kept == pytest.approx(written.metrics(), rel=1e-6)  # TensorBoard has 32 bits
    alerts = store.alerts()
    if alerts is not None:
        assert len(alerts) == len(NEWS)
        for kind, _ in NEWS:
            (text,) = [text for text in alerts if f"{kind} at step 10." in text]
            assert f"sigma: {kind}" in text
            assert "Look at the learning rate." in text


def test_a_baseline_is_no_news(store, outlet):
    outlet.alert(alert("BASELINE", "info"))
    outlet.close({})
    # The record is of everything, and the console says that the watch has begun.
    assert len(store.alerts() or []) == isinstance(store, Jsonl | Console)


def test_what_was_never_used_is_closed_twice_and_empty(store):
    store.sink.close()
    store.sink.close()
    assert not store.rows()
    assert not store.alerts()


def test_words_of_any_language_arrive_whole(store, outlet):
    outlet.alert(alert(title=f"sigma: {EMOJI}", text=f"{EMOJI}.", advice=f"{EMOJI}?"))
    outlet.close({})
    text = one_alert(store)
    assert text is None or text.count(EMOJI) == 3


def test_control_characters_do_no_harm(store, outlet):
    outlet.alert(alert(text="before \x07\x1b[31m\x00\r\n\t after"))
    outlet.close({})
    assert lost(outlet) == 0
    text = one_alert(store)
    assert text is None or ("before" in text and "after" in text)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_an_alert_without_a_finite_number_arrives(store, outlet, number):
    # The stores of JSON read strictly.
    outlet.alert(alert(value=number, ratio=number, low=-math.inf, high=math.inf))
    outlet.close({})
    assert lost(outlet) == 0
    one_alert(store)


def test_what_is_not_finite_is_no_metric(store, outlet):
    outlet.deliver(snapshot(10, loss=math.nan, ratios={"last": math.inf}), [])
    outlet.close({})
    assert lost(outlet) == 0
    rows = store.rows()
    if rows is not None and not isinstance(store, Jsonl):
        assert "sigma/loss" not in rows[10]
        assert "sigma/ratio" not in rows[10]
        assert rows[10]["sigma/finite"] == 1.0


def test_many_rows_arrive(store):
    for step in range(store.many):
        if isinstance(store, Jsonl):
            store.sink.check(snapshot(step))
        else:
            store.sink.log({"sigma/ratio": 0.5}, step)
        if isinstance(store, Wandb):
            store.run.log({"loss": 1.0})  # of the training, whose row has ours in it
    store.sink.close()
    rows = store.rows()
    assert rows is None or sorted(rows) == list(range(store.many))


class Events:
    """A sink beside the one that fails."""

    inline = True

    def __init__(self):
        self.undelivered = []

    def log(self, metrics, step):
        pass

    def alert(self, alert):
        pass

    def note(self, event, details):
        if event == "undelivered":
            self.undelivered.append(details)

    def close(self):
        pass


def test_a_store_that_fails_is_said_once_and_its_sink_disabled(store, caplog):
    """All but the record, which is never given up."""
    if isinstance(store, Trackio):
        pytest.skip("trackio swallows its failures")
    caplog.set_level(logging.INFO, "sigma_monitor")
    events = Events()
    store.break_down()
    outlet = Outlet([store.sink, events], None)
    outlet.note("started", {"step": 0})
    for step in range(4):
        outlet.deliver(snapshot(step), [])
        outlet.observe(observation(step), [])
    for step in range(4):
        outlet.deliver(snapshot(10 + step), [alert(step=10 + step)])
    outlet.close({})
    failing = [sink for sink in outlet._sinks if sink.sink is not events]
    said = [r.getMessage() for r in caplog.records if r.name == "sigma_monitor"]
    given_up = 0 if has(store.sink, "vital") else len(failing)
    for text, times in (
        ("failed (", len(failing)),
        ("is disabled after 3 failures", given_up),
        ("lost", len(failing)),
    ):
        assert sum(text in line for line in said) == times
    told = {details["step"] for details in events.undelivered}
    takes_alerts = any(not has(sink.sink, "metrics_only") for sink in failing)
    assert told == ({10, 11, 12, 13} if takes_alerts else set())


def test_closing_twice_counts_a_loss_once(store):
    if isinstance(store, Trackio) or has(store.sink, "inline"):
        pytest.skip("it is not served by a thread, or swallows its failures")
    gate = threading.Event()
    store.sink.alert = lambda alert: gate.wait(SOON) and 1 / 0
    courier = Courier(store.sink)
    for step in range(3):
        courier.alert(alert(step=step))
    courier.close(0.0)
    courier.close(0.0)
    gate.set()
    courier._thread.join(SOON)
    assert [told.step for told, _ in courier.take_lost_alerts()] == [0, 1, 2]
    assert courier.lost == 3


def test_a_slow_sink_gets_everything_and_the_caller_does_not_wait(store, monkeypatch):
    if has(store.sink, "inline"):
        pytest.skip("it is called from the training's own thread")
    gate = threading.Event()
    for name in ("log", "check", "observe", "alert"):
        if hasattr(store.sink, name):
            monkeypatch.setattr(store.sink, name, _behind(gate, getattr(store.sink, name)))
    outlet = Outlet([store.sink], None)
    for step in (0, 10):
        outlet.deliver(snapshot(step), [alert(step=step, text=f"at {step}.")])
        if isinstance(store, Wandb):
            store.run.log({"loss": 1.0})
    assert not gate.is_set()  # and nobody has waited for it
    gate.set()
    outlet.close({})
    assert lost(outlet) == 0
    alerts = store.alerts()
    assert alerts is None or len(alerts) == 2


def _behind(gate, method):
    def waits(*arguments):
        assert gate.wait(SOON)
        method(*arguments)

    return waits
