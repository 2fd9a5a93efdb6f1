"""A training beside sinks that hang, fail or are slow, and the end of a process among them."""

import itertools
import json
import signal
import subprocess
import sys
import threading
import time
from collections import Counter

import pytest

from sigma_monitor.monitor import RECORD
from sigma_monitor.sinks import WebhookSink
from sigma_monitor.sinks.outlet import CLOSE_SECONDS
from tests.monitor.test_monitor import Dial, Listener, run
from tests.sinks.servers import Web, serving

A_LITTLE = 20.0  # seconds, on a busy machine; what waits for a sink takes HANGS or longer
HANGS = 60.0
SHORT = 1.0  # seconds to close in, where a test waits for all of them


@pytest.fixture
def web():
    with serving(Web()) as server:
        yield server


def lines_of(folder):
    return [json.loads(line) for line in (folder / RECORD).read_text().splitlines()]


def news_of(lines):
    return [line for line in lines if line["type"] == "alert" and line["kind"] != "BASELINE"]


def undelivered(lines):
    found = [line for line in lines if line.get("event") == "undelivered"]
    return [(line["sink"], line["alert"], line["step"]) for line in found]


def collapse(folder, *sinks, steps=40):
    """A run with a collapse at half its length, and what it took to step through and to close."""
    model = Dial()
    monitor = model.monitor(output_dir=folder, sinks=["default", *sinks], max_steps=steps)
    started = time.monotonic()
    run(monitor, model, range(steps + 1), rank={steps // 2: 2})
    stepped = time.monotonic()
    monitor.close()
    return stepped - started, time.monotonic() - stepped


# --- one thousand checks of a status that does not rest


FLAPS = {step: (3 if (step // 20) % 2 else 16) for step in range(0, 1001, 20)}


def flapping(folder, checks, *sinks):
    model = Dial()
    monitor = model.monitor(output_dir=folder, sinks=["default", *sinks], max_steps=checks)
    run(monitor, model, range(checks + 1), rank=FLAPS)
    monitor.close()


@pytest.mark.parametrize("checks", [400, pytest.param(1000, marks=pytest.mark.long)])
def test_every_sink_gets_the_alerts_of_the_record_and_these_are_few(
    open_store, tmp_path, monkeypatch, checks
):
    monkeypatch.setattr("sigma_monitor.sinks.outlet.CLOSE_SECONDS", 60.0)
    names = ("function", "wandb", "tensorboard", "trackio", "mlflow", "webhook", "apprise")
    stores = {name: open_store(name) for name in names}
    for name in ("wandb", "tensorboard", "trackio", "mlflow"):  # the battery has their rows
        stores[name].sink._with_metrics = False
    flapping(tmp_path / "run", checks, *(store.sink for store in stores.values()))
    lines = lines_of(tmp_path / "run")
    assert lines[-1]["lost"] == {}
    news = news_of(lines)
    statuses = [line["status"] for line in lines if line["type"] == "check"]
    assert sum(a != b for a, b in itertools.pairwise(statuses)) >= checks // 25
    # More than 3 changes in 100 checks are told as FLAPPING; then COLLAPSED alone is, each of them
    # a reminder's distance from the one before.
    kinds = Counter(alert["kind"] for alert in news)
    assert kinds["FLAPPING"] == 1
    assert len(news) <= 3 + 1 + checks // 100
    expected = [f"{alert['title']}\n{alert['text']}\n{alert['advice']}".strip() for alert in news]
    for name, store in stores.items():
        found = store.alerts()
        assert len(found) == len(expected), name
        for told in news:
            assert any(told["title"] in text and told["text"] in text for text in found), name


# --- a training beside what hangs or fails


@pytest.mark.parametrize("how", ["hangs", "fails"])
def test_a_webhook_in_trouble_costs_the_training_nothing_and_its_losses_are_told(
    web, tmp_path, monkeypatch, messages, how
):
    monkeypatch.setattr("sigma_monitor.sinks.outlet.CLOSE_SECONDS", SHORT)
    monkeypatch.setattr("sigma_monitor.sinks.courier._SHORTEST_WAIT", HANGS)
    web.hangs, web.status = how == "hangs", 500
    healthy = Listener()
    alone, _ = collapse(tmp_path / "alone")
    stepped, closed = collapse(
        tmp_path / "run", WebhookSink(web.url("/T0KEN"), timeout=HANGS), healthy
    )
    assert stepped < alone + A_LITTLE
    assert closed < SHORT + A_LITTLE
    lines = lines_of(tmp_path / "run")
    news = news_of(lines)
    assert len(news) >= 2
    assert lines[-1]["event"] == "closed"
    assert lines[-1]["lost"] == {"WebhookSink": len(news)}
    assert undelivered(lines) == [("WebhookSink", told["kind"], told["step"]) for told in news]
    assert len([told for told in healthy.alerts() if told != "BASELINE"]) == len(news)
    assert len(healthy.snapshots()) == 41
    assert f"WebhookSink lost {len(news)} calls" in messages()[-1]
    assert "T0KEN" not in "".join(messages()) + (tmp_path / "run" / RECORD).read_text()


def test_a_healthy_webhook_beside_one_that_hangs_loses_nothing(web, tmp_path, monkeypatch):
    monkeypatch.setattr("sigma_monitor.sinks.outlet.CLOSE_SECONDS", SHORT)
    with serving(Web()) as other:
        other.hangs = True
        collapse(tmp_path, WebhookSink(other.url(), timeout=HANGS), WebhookSink(web.url()))
    news = news_of(lines_of(tmp_path))
    assert [body["kind"] for body in web.bodies] == [told["kind"] for told in news]


def test_a_webhook_that_comes_back_gets_what_it_missed(web, tmp_path):
    web.status = 503
    model = Dial()
    monitor = model.monitor(output_dir=tmp_path, sinks=["default", WebhookSink(web.url())])
    run(monitor, model, range(30), rank={20: 2})
    end = time.monotonic() + 20
    while web.requests == 0:
        assert time.monotonic() < end
        time.sleep(0.01)
    web.status = 200
    time.sleep(0.6)  # the first wait between two attempts
    monitor.close()
    lines = lines_of(tmp_path)
    assert [body["kind"] for body in web.bodies] == [told["kind"] for told in news_of(lines)]
    assert lines[-1]["lost"] == {}


def test_the_last_alerts_of_a_run_outlive_a_server_that_fails_for_a_moment(web, tmp_path):
    web.status = 500
    timer = threading.Timer(1.0, setattr, (web, "status", 200))
    timer.start()
    model = Dial()
    monitor = model.monitor(output_dir=tmp_path, sinks=["default", WebhookSink(web.url())])
    run(monitor, model, range(30), rank={20: 2})
    monitor.close()
    timer.join()
    lines = lines_of(tmp_path)
    assert [body["kind"] for body in web.bodies] == [told["kind"] for told in news_of(lines)]
    assert lines[-1]["lost"] == {}


# --- the end of a process


@pytest.mark.parametrize("hangs", [False, True], ids=["answers", "hangs"])
@pytest.mark.parametrize("end", ["falls off", "SIGTERM"])
def test_at_the_end_of_a_process_what_waits_is_delivered_or_counted(web, tmp_path, end, hangs):
    web.hangs = hangs
    seconds = str(SHORT if hangs else CLOSE_SECONDS)  # who answers is not cut off when it is busy
    child = subprocess.Popen(
        [sys.executable, "-m", "tests.sinks.unclosed_run", str(tmp_path), web.url(), end, seconds],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout.readline() == "alerted\n"
    started = time.monotonic()
    if end == "SIGTERM":
        child.send_signal(signal.SIGTERM)
    assert child.wait(60) == (3 if end == "SIGTERM" else 0)
    assert time.monotonic() - started < SHORT + A_LITTLE
    lines = lines_of(tmp_path)
    news = news_of(lines)
    assert len(news) == 2
    assert (lines[-1]["event"], lines[-1]["interrupted"]) == ("closed", True)
    if hangs:
        assert lines[-1]["lost"] == {"WebhookSink": len(news)}
        assert len(undelivered(lines)) == len(news)
    else:
        assert lines[-1]["lost"] == {}
        assert [body["kind"] for body in web.bodies] == [told["kind"] for told in news]


def test_without_a_thread_every_call_is_counted(tmp_path, monkeypatch, web):
    """The interpreter of Python 3.12 begins none while it ends, nor does a process out of them."""

    def refuse(thread):
        raise RuntimeError("can't start new thread at interpreter shutdown")

    monkeypatch.setattr("threading.Thread.start", refuse)
    collapse(tmp_path, WebhookSink(web.url()))
    lines = lines_of(tmp_path)
    news = news_of(lines)
    assert len(news) >= 2
    assert lines[-1]["lost"]["WebhookSink"] == len(news)
    told = {(kind, step) for sink, kind, step in undelivered(lines) if sink == "WebhookSink"}
    assert told == {(alert["kind"], alert["step"]) for alert in news}
