"""Alerts as JSON to an address."""

from base64 import b64encode

import pytest
import requests

from sigma_monitor.errors import SinkError
from sigma_monitor.sinks import WebhookSink
from tests.sinks.servers import Web, serving
from tests.snapshots import alert


@pytest.fixture
def web():
    with serving(Web()) as server:
        yield server


def test_the_body_is_the_alert(web):
    WebhookSink(web.url()).alert(alert())
    assert web.bodies == [alert().to_dict()]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308, 304, 404, 500])
def test_an_answer_that_is_no_success_is_a_failure_of_this_one_request(web, status):
    """A redirect that is followed mostly ends in a GET, which succeeds without any alert."""
    web.status = status
    web.headers = {"Location": web.url("/elsewhere")}
    with pytest.raises(SinkError, match=f"127.0.0.1 answered {status}"):
        WebhookSink(web.url()).alert(alert())
    assert web.requests == 1


@pytest.mark.parametrize("status", [200, 201, 202, 204])
def test_any_success_is_one(web, status):
    web.status = status
    WebhookSink(web.url()).alert(alert())
    assert web.requests == 1


@pytest.fixture
def netrc(tmp_path, monkeypatch):
    """Credentials for the host of the tests that nobody has given to a sink."""
    path = tmp_path / "netrc"
    path.write_text("machine 127.0.0.1 login somebody password secret\n")
    path.chmod(0o600)
    monkeypatch.setenv("NETRC", str(path))


@pytest.mark.usefixtures("netrc")
def test_no_credentials_are_sent_that_were_not_given(web):
    assert requests.post(web.url(), json={}, timeout=5).request.headers["Authorization"]
    WebhookSink(web.url()).alert(alert())
    assert "Authorization" not in web.heads[1]


@pytest.mark.usefixtures("netrc")
def test_those_that_were_given_are_sent(web):
    WebhookSink(web.url(), headers={"Authorization": "Bearer mine"}).alert(alert())
    WebhookSink(web.url().replace("://", "://user:p%40ss@")).alert(alert())
    basic = b64encode(b"user:p@ss").decode()
    sent = [head["Authorization"] for head in web.heads]
    assert sent == ["Bearer mine", f"Basic {basic}"]


def test_an_answer_without_end_is_not_read(web):
    web.headers = {"Content-Length": "1000000000"}
    WebhookSink(web.url(), timeout=30.0).alert(alert())
    assert web.requests == 1
