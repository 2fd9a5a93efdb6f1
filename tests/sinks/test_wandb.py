"""What is sent of an alert, by a stand-in for a run that is offline."""

import sys
from types import SimpleNamespace
from typing import get_args

import pytest
import wandb
from urllib3.exceptions import LocationParseError

from sigma_monitor.alert import AlertKind
from sigma_monitor.detection import worded
from sigma_monitor.errors import SinkError
from sigma_monitor.sinks import WandbSink
from sigma_monitor.sinks.wandb_alert import WandbAlerts
from tests.sinks.servers import Web, serving
from tests.snapshots import alert
from tests.wandb_backend import KEY


class OfflineRun:
    offline = True
    disabled = False

    def __init__(self):
        self.alerts = []

    def alert(self, title, text, level=None, wait_duration=None):
        assert level in ("INFO", "WARN", "ERROR")  # wandb raises on anything else
        self.alerts.append(SimpleNamespace(title=title, text=text, level=level))


@pytest.fixture
def run():
    return OfflineRun()


def send(run, *alerts):
    sink = WandbAlerts(lambda: run)
    for each in alerts:
        sink.bind()
        sink.alert(each)
    sink.close()


@pytest.mark.parametrize(
    ("severity", "level"), [("info", "INFO"), ("warn", "WARN"), ("error", "ERROR")]
)
def test_severities_become_levels(run, severity, level):
    send(run, alert("RECOVERED", severity))
    assert [got.level for got in run.alerts] == [level]


def test_text_carries_step_and_advice(run):
    send(
        run,
        alert(text="WARNING at step 10 (check 2).", advice="Look."),
        alert(text="RECOVERED at step 20.", advice=""),
    )
    assert [got.text for got in run.alerts] == [
        "WARNING at step 10 (check 2).\nLook.",
        "RECOVERED at step 20.",
    ]


@pytest.mark.parametrize("kind", sorted(set(get_args(AlertKind)) - {"BASELINE"}))
def test_titles_are_short_and_constant_per_kind(run, kind):
    send(
        run,
        *[worded(alert(kind, step=step, value=float(step), title="", text="")) for step in (1, 9)],
    )
    titles = {got.title for got in run.alerts}
    assert len(run.alerts) == 2
    assert len(titles) == 1
    assert 0 < len(titles.pop()) <= 64


def test_the_outcome_of_a_run_that_was_cut_off_stays_as_it_was():
    run = LiveRun("a", {"sigma/final_status": "COLLAPSED"})
    WandbSink(run).note("closed", {"interrupted": True})
    assert run.summary == {"sigma/final_status": "COLLAPSED"}


def test_without_a_run_nothing_happens():
    send(None, alert())


def test_an_alert_that_wandb_refuses_is_left_to_the_wall(run, monkeypatch):
    def refuse(*_, **__):
        raise ConnectionResetError

    monkeypatch.setattr(run, "alert", refuse)
    with pytest.raises(ConnectionResetError):
        send(run, alert())


def test_a_request_goes_the_way_that_wandb_is_told_to_go():
    """Its proxies and headers; the server is named by a host that only a proxy can know."""
    with serving(Web()) as proxy:
        settings = wandb.Settings(
            base_url="http://wandb.example",
            api_key=KEY,
            http_proxy=proxy.url(""),
            x_extra_http_headers={"X-Gate": "open"},
        )
        run = SimpleNamespace(offline=False, settings=settings, entity="e", project="p", id="r")
        with pytest.raises(SinkError, match="did not take"):  # what answers is not W&B
            send(run, alert())
        (head,) = proxy.heads
        assert (head["Host"], head["X-Gate"]) == ("wandb.example", "open")


class LiveRun:
    """A run with a summary, of which wandb would have to be asked."""

    disabled = offline = False
    tags = ()

    def __init__(self, name, summary):
        self.id, self.summary = name, dict(summary)
        self.config = {}
        self.logged = []
        self.settings = SimpleNamespace(mode="online")
        self.step = 0

    def log(self, row, step=None):
        self.logged.append(row)

    def define_metric(self, *_, **__):
        pass


FIRST = "sigma/first_alert_step"


@pytest.mark.parametrize("before", [{}, {FIRST: 0}, {FIRST: 5}])
def test_the_first_alert_of_a_run_stays_the_first(before):
    """Also where the run is resumed, or another training was in it."""
    run = LiveRun("a", before)
    sink = WandbSink(run)
    sink.mark(alert(step=7, layer=None))
    sink.mark(alert(step=9, layer=None))
    assert run.summary[FIRST] == before.get(FIRST, 7)


def test_a_run_is_asked_once_what_it_knows():
    class Asked(dict):
        times = 0

        def get(self, *names):
            Asked.times += 1
            return super().get(*names)

    run = LiveRun("a", {})
    run.summary = Asked()
    sink = WandbSink(run)
    sink.note("closed", {})
    for step in range(5):
        sink.mark(alert(step=step, layer=None))
    assert Asked.times == 1


def test_a_second_training_has_nothing_of_the_first(monkeypatch):
    first, second = LiveRun("a", {}), LiveRun("b", {})
    module = SimpleNamespace(run=first)
    monkeypatch.setitem(sys.modules, "wandb", module)
    sink = WandbSink()
    _, alerts = sink.parts()
    sink.mark(alert(step=7, layer=None))
    sink.close()
    module.run = None
    alerts.bind()
    alerts.alert(alert())  # would go by the first, which has no `alert`
    module.run = second
    sink.mark(alert(step=3, layer=None))
    assert (first.summary[FIRST], second.summary[FIRST]) == (7, 3)


def test_a_proxy_that_cannot_be_read_is_not_told_and_no_redirect_is_followed(monkeypatch):
    asked = {}

    def post(url, **options):
        asked.update(options)
        raise LocationParseError("user:password@proxy")

    monkeypatch.setattr("requests.post", post)
    settings = SimpleNamespace(
        base_url="http://localhost",
        api_key="key",
        x_proxies=None,
        http_proxy="user:password@proxy",
        https_proxy=None,
        x_extra_http_headers={"X-Token": "token"},
    )
    online = OfflineRun()
    online.offline, online.settings = False, settings
    online.entity = online.project = online.id = "a"
    sink = WandbAlerts(lambda: online)
    sink.bind()
    with pytest.raises(SinkError) as caught:
        sink.alert(alert())
    assert "password" not in f"{caught.value}{caught.value.__cause__}"
    assert asked["allow_redirects"] is False
