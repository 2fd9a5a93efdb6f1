"""No message of ours holds more of an address than its host, and no line of a library's log."""

import json
import logging
import socket
import threading

import pytest
import requests

from sigma_monitor.errors import InputError, SinkError
from sigma_monitor.sinks import AppriseSink, FunctionSink, JsonlSink, WebhookSink
from sigma_monitor.sinks.outlet import Outlet
from sigma_monitor.sinks.secret import unlogged
from tests.sinks.servers import Web, serving
from tests.snapshots import alert, snapshot

TOKEN, PASSWORD = "T0KENabcdef", "S3CRETpass"


@pytest.fixture(autouse=True)
def no_waits(monkeypatch):
    monkeypatch.setattr("sigma_monitor.sinks.courier._SHORTEST_WAIT", 0.001)


@pytest.fixture
def logged(caplog, monkeypatch):
    """Every line of one log or all of this process, with its traceback."""
    for name in ("", "apprise", "urllib3", "urllib3.connection", "urllib3.connectionpool"):
        caplog.set_level(logging.DEBUG, name)
        # Which others do: alembic, when MLflow sets up its database.
        monkeypatch.setattr(logging.getLogger(name), "disabled", False)
    formatter = logging.Formatter()
    return lambda name="": "\n".join(
        formatter.format(record) for record in caplog.records if record.name.startswith(name)
    )


def dead_port():
    """Which nothing listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(params=["refused", "error", "timeout", "torn", "elsewhere"])
def port(request):
    """A receiver in trouble; what it answers is no success, or has a header that is none."""
    if request.param == "refused":
        yield dead_port()
        return
    with serving(Web()) as web:
        web.status = {"error": 500, "elsewhere": 307}.get(request.param, 404)
        web.hangs = request.param == "timeout"
        web.torn_headers = request.param == "torn"
        web.headers = {"Location": web.url(f"/{TOKEN}/again")}
        yield web.server_port


def webhook(port):
    url = f"http://user:{PASSWORD}@127.0.0.1:{port}/hook/{TOKEN}?key={TOKEN}"
    return WebhookSink(url, headers={"X-Key": TOKEN}, timeout=0.3)


def apprise(port):
    pytest.importorskip("apprise")
    url = f"json://user:{PASSWORD}@127.0.0.1:{port}/{TOKEN}/?+X-Key={TOKEN}&rto=0.3"
    return AppriseSink(url)


def function(port):
    """As people write it: what requests raises has the whole address in it."""
    url = f"http://user:{PASSWORD}@127.0.0.1:{port}/hook/{TOKEN}"

    def post(alert):
        answer = requests.post(url, json=alert.to_dict(), timeout=0.3, allow_redirects=False)
        answer.raise_for_status()
        raise SinkError(f"sent elsewhere from {url}")

    return FunctionSink(post)


@pytest.mark.parametrize("make", [webhook, apprise, function])
def test_neither_logs_nor_record_hold_a_secret(make, port, tmp_path, logged):
    record = tmp_path / "record.jsonl"
    outlet = Outlet([JsonlSink(record), make(port)], None)
    for step in range(2):
        outlet.deliver(snapshot(step), [alert(step=step)])
    outlet.close({})
    kept = [json.loads(line) for line in record.read_text().splitlines()]
    assert [line["step"] for line in kept if line.get("event") == "undelivered"] == [0, 1]
    # What the user's own request leaves in urllib3's log is the user's.
    written = logged("sigma_monitor") if make is function else logged()
    assert "sigma_monitor" in written
    for text in (written, record.read_text()):
        assert TOKEN not in text
        assert PASSWORD not in text


@pytest.mark.parametrize("make", [webhook, apprise])
def test_an_exception_of_a_sink_holds_no_secret(make, port):
    with pytest.raises(SinkError) as caught:
        make(port).alert(alert())
    assert TOKEN not in str(caught.value)
    assert PASSWORD not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_a_received_alert_leaves_no_secret_in_logs_either(logged):
    with serving(Web()) as web:
        for make in (webhook, apprise):
            make(web.server_port).alert(alert())
        assert len(web.bodies) == 2
    assert TOKEN not in logged()
    assert PASSWORD not in logged()


def test_other_lines_of_a_library_and_those_of_other_users_stay(logged):
    with serving(Web()) as web:
        web.status = 500
        with pytest.raises(SinkError):
            apprise(web.server_port).alert(alert())
        requests.post(web.url("/of-the-user"), json={}, timeout=5)
    assert "error=500" in logged()
    assert "/of-the-user" in logged()


def test_a_line_misses_no_filter_of_the_user_while_a_delivery_ends_elsewhere(logged):
    """Each goes through the list of filters, which no thread may shorten meanwhile."""
    logger = logging.getLogger("apprise")
    inside, ended, seen = threading.Event(), threading.Event(), []

    def deliver():
        with unlogged(f"https://example.org/{TOKEN}"):
            inside.set()
            assert ended.wait(20)

    def waits(record):
        ended.set()
        thread.join()
        return True

    def sees(record):
        seen.append(record.getMessage())
        return True

    thread = threading.Thread(target=deliver)
    thread.start()
    assert inside.wait(20)
    for added in (waits, sees):
        logger.addFilter(added)
    logger.warning(f"of the user: {TOKEN}")
    for added in (waits, sees):
        logger.removeFilter(added)
    assert seen == [f"of the user: {TOKEN}"]
    assert TOKEN in logged()


def test_a_delivery_within_another_keeps_its_secrets(logged):
    with unlogged(f"https://example.org/{TOKEN}"):
        with unlogged(f"https://example.org/{PASSWORD}"):
            logging.getLogger("apprise").warning(TOKEN)
        logging.getLogger("apprise").warning(TOKEN)
        logging.getLogger("apprise").warning(PASSWORD)
    assert TOKEN not in logged()
    assert PASSWORD in logged()


BAD_URLS = [
    f"hooks.example.org/{TOKEN}",
    f"htp://example.org/{TOKEN}",
    f"http://user:{PASSWORD}/{TOKEN}@example.org",
    f"http://[{TOKEN}/hook",
    f"http://user:{PASSWORD}\N{FULLWIDTH SOLIDUS}@example.org/{TOKEN}",
    f"http:///{TOKEN}",
    f"http://example.org:{TOKEN}/",
    f"http://example.org:99999/{TOKEN}",
    "",
    None,
]


@pytest.mark.parametrize("url", BAD_URLS)
def test_a_url_of_a_webhook_that_cannot_be_used_is_refused_unseen(url, logged):
    with pytest.raises(InputError, match=r"https://example\.org/hook") as caught:
        WebhookSink(url)
    assert TOKEN not in str(caught.value) + logged()
    assert PASSWORD not in str(caught.value) + logged()
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


@pytest.mark.parametrize("headers", [{"X-Key": f"{TOKEN}\n"}, {"X-Key": 3}, {f"{TOKEN}\n": "x"}])
def test_headers_that_cannot_be_sent_are_refused_unseen(headers):
    with pytest.raises(InputError) as caught:
        WebhookSink("https://example.org/hook", headers=headers)
    assert TOKEN not in str(caught.value)


@pytest.mark.parametrize("timeout", [0, -1.0, float("nan"), float("inf"), None, "5"])
def test_a_timeout_that_is_none_is_refused(timeout):
    with pytest.raises(InputError, match="timeout="):
        WebhookSink("https://example.org/hook", timeout=timeout)


@pytest.mark.parametrize(
    "url",
    [
        f"{TOKEN}/{PASSWORD}",
        f"nosuch://{TOKEN}/{PASSWORD}",
        f"discord://{TOKEN}",
        f"slack://{TOKEN}/{PASSWORD}",
        f"tgram://{TOKEN}/{PASSWORD}",
        f"mailto://user:{PASSWORD}@",
        None,
    ],
)
def test_a_url_that_apprise_cannot_read_is_refused_unseen(url, logged):
    pytest.importorskip("apprise")
    with pytest.raises(InputError, match=r"at \[1\]") as caught:
        AppriseSink("json://127.0.0.1", url)
    assert TOKEN not in str(caught.value) + logged()
    assert PASSWORD not in str(caught.value) + logged()


def test_apprise_without_a_url_is_refused():
    pytest.importorskip("apprise")
    with pytest.raises(InputError):
        AppriseSink()
