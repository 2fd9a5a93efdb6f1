"""A training that draws from the global `random` does not notice that a library does too."""

import random
import sys
import threading
from types import ModuleType

import pytest

from sigma_monitor.sinks import AppriseSink, MlflowSink
from sigma_monitor.sinks.private_random import private_random
from tests.sinks.servers import Mail, Web, serving
from tests.snapshots import alert, snapshot


@pytest.fixture
def library(monkeypatch):
    module = ModuleType("a_library")
    source = "import random\ndef draw(): return random.random(), random.Random(3).random()"
    exec(source, vars(module))
    monkeypatch.setitem(sys.modules, "a_library", module)
    return module


@pytest.fixture
def drawn():
    """Whether anything was drawn from the global generator since the test began."""
    before = random.getstate()
    return lambda: random.getstate() != before


def test_inside_nothing_is_drawn_from_the_global_generator(library, drawn):
    with private_random("a_library", "a_library.that_is_not_imported"):
        numbers = {library.draw()[0] for _ in range(3)}
        with private_random("a_library"):
            numbers.add(library.draw()[0])
        numbers.add(library.draw()[0])
    assert len(numbers) == 5
    assert not drawn()


def test_outside_the_library_draws_as_ever(library):
    with pytest.raises(KeyError), private_random("a_library"):
        raise KeyError
    random.seed(7)
    expected = random.random()
    random.seed(7)
    assert library.draw() == (expected, random.Random(3).random())


def test_another_thread_draws_as_ever(library, drawn):
    with private_random("a_library"):
        other = threading.Thread(target=library.draw)
        other.start()
        other.join()
    assert drawn()


@pytest.mark.parametrize("form", ["text", "html"])
def test_mail_draws_nothing(form, drawn):
    """Its Message-ID is drawn, and the line between the parts of a mail that has several."""
    pytest.importorskip("apprise")
    with serving(Mail()) as mail:
        address = f"127.0.0.1:{mail.port}/?from=sigma@example.org&to=me@example.org&format={form}"
        AppriseSink(f"mailto://{address}").alert(alert())
        assert len(mail.messages) == 1
        assert mail.messages[0]["Message-ID"]
    assert not drawn()


def test_retries_of_mlflow_draw_nothing(monkeypatch, drawn):
    """Its waits between them are drawn."""
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_JITTER", "0.001")
    with serving(Web()) as web:
        web.status = 503
        sink = MlflowSink("0" * 32, metrics=True, tracking_uri=web.url(""))
        for told, what in ((sink.check, snapshot()), (sink.alert, alert())):
            before = web.requests
            with pytest.raises(mlflow.exceptions.MlflowException):
                told(what)
            assert web.requests == before + 3
    assert not drawn()
