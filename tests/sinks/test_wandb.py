"""Alerts to a live W&B run, by a stand-in for the module and its run."""

import logging
import os
import sys
from types import ModuleType, SimpleNamespace
from typing import get_args

import pytest

from sigma_monitor.alert import AlertKind
from sigma_monitor.detection import worded
from sigma_monitor.sinks import WandbAlertSink
from sigma_monitor.sinks.wandb import RETRY_VARIABLE, bound_alert_retries
from tests.snapshots import alert, snapshot


class FakeRun:
    def __init__(self, *, retries=None, offline=False):
        self.settings = SimpleNamespace(x_graphql_retry_max=retries)
        self.offline = offline
        self.alerts = []

    def alert(self, title, text, level=None, wait_duration=None):
        assert level in ("INFO", "WARN", "ERROR")  # wandb raises on anything else
        self.alerts.append(SimpleNamespace(**locals()))


@pytest.fixture
def wandb(monkeypatch):
    module = ModuleType("wandb")
    module.run = FakeRun(retries=1)
    settings = SimpleNamespace(x_graphql_retry_max=None)
    module.setup = lambda: SimpleNamespace(settings=settings)
    monkeypatch.setitem(sys.modules, "wandb", module)
    return module


@pytest.fixture
def messages(caplog):
    caplog.set_level(logging.INFO, "sigma_monitor")
    return lambda: [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize(
    ("severity", "level"), [("info", "INFO"), ("warn", "WARN"), ("error", "ERROR")]
)
def test_severities_become_levels(wandb, severity, level):
    WandbAlertSink().alert(alert("RECOVERED", severity))
    assert [sent.level for sent in wandb.run.alerts] == [level]


def test_text_carries_step_and_advice(wandb):
    WandbAlertSink().alert(alert(text="WARNING at step 10 (check 2).", advice="Look."))
    WandbAlertSink().alert(alert(text="RECOVERED at step 20.", advice=""))
    assert [sent.text for sent in wandb.run.alerts] == [
        "WARNING at step 10 (check 2).\nLook.",
        "RECOVERED at step 20.",
    ]


@pytest.mark.parametrize("kind", sorted(set(get_args(AlertKind)) - {"BASELINE"}))
def test_titles_are_short_and_constant_per_kind(wandb, kind):
    sink = WandbAlertSink()
    for step in (1, 1000):
        sink.alert(worded(alert(kind, step=step, value=float(step), title="", text="")))
    titles = {sent.title for sent in wandb.run.alerts}
    assert len(wandb.run.alerts) == 2
    assert len(titles) == 1
    assert 0 < len(titles.pop()) <= 64


def test_a_baseline_and_checks_are_not_sent(wandb):
    sink = WandbAlertSink()
    sink.alert(alert("BASELINE", "info"))
    sink.log(snapshot(alerted=True).metrics(), 10)
    sink.close()
    assert wandb.run.alerts == []


def test_without_a_run_or_without_wandb_nothing_happens(wandb, monkeypatch, messages):
    wandb.run = None
    WandbAlertSink().alert(alert())
    monkeypatch.delitem(sys.modules, "wandb")
    WandbAlertSink().alert(alert())
    assert "wandb" not in sys.modules
    assert messages() == []


@pytest.mark.parametrize("retries", [None, 20])
def test_unbounded_retries_are_warned_of_once(wandb, messages, retries):
    wandb.run = FakeRun(retries=retries)
    sink = WandbAlertSink()
    sink.alert(alert())
    sink.alert(alert("COLLAPSED", "error"))
    assert len(wandb.run.alerts) == 2
    assert [RETRY_VARIABLE in message for message in messages()] == [True]


@pytest.mark.parametrize(("retries", "offline"), [(1, False), (5, False), (None, True)])
def test_bounded_or_offline_runs_are_not_warned_of(wandb, messages, retries, offline):
    wandb.run = FakeRun(retries=retries, offline=offline)
    WandbAlertSink().alert(alert())
    assert len(wandb.run.alerts) == 1
    assert messages() == []


def test_an_alert_that_wandb_refuses_is_left_to_the_wall(wandb, monkeypatch):
    def refuse(**_):
        raise ConnectionResetError

    monkeypatch.setattr(wandb.run, "alert", refuse)
    with pytest.raises(ConnectionResetError):
        WandbAlertSink().alert(alert())


@pytest.fixture
def no_bound(monkeypatch):
    monkeypatch.setenv(RETRY_VARIABLE, "")  # so that it is restored whatever happens to it
    monkeypatch.delenv(RETRY_VARIABLE)


@pytest.mark.usefixtures("no_bound")
def test_retries_are_bounded_before_a_run_and_that_is_said(wandb, messages):
    wandb.run = None
    bound_alert_retries()
    assert os.environ[RETRY_VARIABLE] == "1"
    assert wandb.setup().settings.x_graphql_retry_max == 1  # read from the environment before
    assert len(messages()) == 1
    assert f"{RETRY_VARIABLE}=1" in messages()[0]
    bound_alert_retries()
    assert len(messages()) == 1


@pytest.mark.usefixtures("no_bound")
def test_retries_are_bounded_where_wandb_is_not_imported_yet(monkeypatch):
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    bound_alert_retries()
    assert os.environ[RETRY_VARIABLE] == "1"
    assert "wandb" not in sys.modules


@pytest.mark.parametrize("setting", ["7", "0", ""])
def test_the_users_own_bound_is_kept(wandb, monkeypatch, messages, setting):
    wandb.run = None
    monkeypatch.setenv(RETRY_VARIABLE, setting)
    bound_alert_retries()
    assert os.environ[RETRY_VARIABLE] == setting
    assert messages() == []


@pytest.mark.usefixtures("no_bound")
def test_a_bound_that_the_user_put_into_the_settings_is_kept(wandb, messages):
    wandb.run = None
    wandb.setup().settings.x_graphql_retry_max = 9
    bound_alert_retries()
    assert wandb.setup().settings.x_graphql_retry_max == 9
    assert RETRY_VARIABLE not in os.environ
    assert messages() == []


@pytest.mark.usefixtures("no_bound", "wandb")
def test_a_run_that_has_begun_cannot_be_bound_and_is_left_alone(messages):
    bound_alert_retries()
    assert RETRY_VARIABLE not in os.environ
    assert messages() == []
