"""What is sent of an alert, by a stand-in for a run that is offline."""

from types import SimpleNamespace
from typing import get_args

import pytest

from sigma_monitor.alert import AlertKind
from sigma_monitor.detection import worded
from sigma_monitor.sinks import WandbSink
from sigma_monitor.sinks.wandb_alert import WandbAlerts
from tests.snapshots import alert


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
    run = SimpleNamespace(disabled=False, summary={"sigma/final_status": "COLLAPSED"})
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
