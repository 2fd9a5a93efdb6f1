"""What is sent of an alert, by a stand-in for a run that is offline."""

import sys
import threading
import time
from types import SimpleNamespace
from typing import get_args

import pytest
import wandb
from urllib3.exceptions import LocationParseError

from sigma_monitor.alert import AlertKind
from sigma_monitor.detection import worded
from sigma_monitor.errors import SinkError
from sigma_monitor.sinks import WandbSink
from sigma_monitor.sinks.outlet import Outlet
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
        sink.bind().alert(each)
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


class LiveRun(OfflineRun):
    """A run with a summary, of which wandb would have to be asked."""

    tags = ()

    def __init__(self, name, summary):
        super().__init__()
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


def alarms(*steps):
    return [alert(step=step, text=f"at {step}", layer=None) for step in steps]


def tell(run, *alerts):
    outlet = Outlet([WandbSink(run)], None)
    for each in alerts:
        outlet.alert(each)
    outlet.close({})


@pytest.mark.parametrize("before", [{}, {FIRST: 0}, {FIRST: 5}])
def test_the_first_alert_of_a_run_stays_the_first(before):
    """Also where the run is resumed, or another training was in it."""
    run = LiveRun("a", before)
    tell(run, alert("RECOVERED", "info", step=6), *alarms(7, 9))
    assert run.summary[FIRST] == before.get(FIRST, 7)


def test_a_run_is_asked_once_what_it_knows():
    class Asked(dict):
        times = 0

        def get(self, *names):
            Asked.times += 1
            return super().get(*names)

    run = LiveRun("a", {})
    run.summary = Asked()
    tell(run, *alarms(*range(5)))
    assert Asked.times == 1


def test_a_summary_that_does_not_answer_holds_up_neither_training_nor_alerts(monkeypatch):
    class Hanging(dict):
        asked, answered = threading.Event(), threading.Event()

        def get(self, *names):
            self.asked.set()
            self.answered.wait(60)

    monkeypatch.setattr("sigma_monitor.sinks.outlet.CLOSE_SECONDS", 0.2)
    run = LiveRun("a", {})
    run.summary = Hanging()
    started = time.monotonic()
    tell(run, *alarms(7, 9))
    assert time.monotonic() - started < 30
    assert run.summary.asked.is_set()
    assert len(run.alerts) == 2
    run.summary.answered.set()


@pytest.fixture
def live(monkeypatch):
    """`live.run` is the run that is live in this process."""
    module = SimpleNamespace(run=None)
    monkeypatch.setitem(sys.modules, "wandb", module)
    return module


def test_a_second_training_has_nothing_of_the_first(live):
    first, second = LiveRun("a", {}), LiveRun("b", {})
    sink = WandbSink()
    for live.run, step in ((first, 7), (None, 8), (second, 3)):
        outlet = Outlet([sink], None)
        outlet.alert(*alarms(step))
        outlet.close({})
    assert (first.summary[FIRST], second.summary[FIRST]) == (7, 3)
    assert [len(run.alerts) for run in (first, second)] == [1, 1]


def test_one_sink_of_two_monitors_tells_each_in_its_own_run(live):
    first, second = LiveRun("a", {}), LiveRun("b", {})
    sink = WandbSink()
    outlets = [Outlet([sink], None) for _ in range(2)]
    live.run = first
    outlets[0].alert(*alarms(1))
    live.run = second
    outlets[1].alert(*alarms(2))
    outlets[1].close({})
    live.run = None
    outlets[0].alert(*alarms(3))
    outlets[0].close({})
    assert [[got.text for got in run.alerts] for run in (first, second)] == [
        [each.message for each in alarms(1, 3)],
        [each.message for each in alarms(2)],
    ]


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
    sink = WandbAlerts(lambda: online).bind()
    with pytest.raises(SinkError) as caught:
        sink.alert(alert())
    assert "password" not in f"{caught.value}{caught.value.__cause__}"
    assert asked["allow_redirects"] is False
