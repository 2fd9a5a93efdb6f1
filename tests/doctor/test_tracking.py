"""What is said of a W&B configuration. No run begins, and nothing is sent."""

from __future__ import annotations

import math

import pytest

from sigma_monitor.doctor.tracking import examine_tracking
from sigma_monitor.sinks.outlet import CLOSE_SECONDS
from sigma_monitor.sinks.wandb_alert import TIMEOUTS

SECRET = "0123456789abcdef" * 2 + "01234567"  # 40 characters, as a key has


@pytest.fixture(autouse=True)
def nothing_configured(monkeypatch, tmp_path):
    """No variable, settings file or key of whoever runs the tests."""
    import os

    wandb = pytest.importorskip("wandb")
    wandb.teardown()
    for name in os.environ:
        if name.startswith("WANDB_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.chdir(tmp_path)
    yield
    wandb.teardown()


@pytest.fixture
def configured(monkeypatch):
    def say(**variables):
        for name, value in variables.items():
            monkeypatch.setenv(name, str(value))
        findings = examine_tracking()
        shown = repr(findings)
        assert SECRET not in shown
        return {f.name: f for f in findings}

    return say


def states(found):
    return {name: finding.state for name, finding in found.items()}


def test_without_a_key_nothing_fails_and_a_login_is_offered(configured):
    found = configured()
    assert states(found) == {"mode": "ok", "key": "note", "close()": "ok", "run.finish()": "note"}
    assert "wandb login" in found["key"].remedy
    assert "WANDB_FINISH_TIMEOUT=60" in found["run.finish()"].remedy


def test_a_key_and_a_bound_leave_nothing_to_say(configured):
    found = configured(WANDB_API_KEY=SECRET, WANDB_FINISH_TIMEOUT=45)
    assert set(states(found).values()) == {"ok"}
    assert found["key"].text == "found"
    assert found["alerts"].text == (
        "each by a request of its own: 3 s to connect, 4 s for an answer, 4 attempts; W&B merges "
        "those of one title within 60 s"
    )
    assert found["close()"].text == "waits 10 s at most, for all sinks together"
    assert found["run.finish()"].text == "gives up after 45 s"


def test_an_alert_fits_into_the_time_to_close():
    assert math.fsum(TIMEOUTS) < CLOSE_SECONDS


@pytest.mark.parametrize(
    ("server", "machine", "known"),
    [
        ("http://wandb.example.com:8080", "wandb.example.com:8080", "ok"),
        ("http://wandb.example.com:8080", "api.wandb.ai", "note"),
        (None, "api.wandb.ai", "ok"),
        (None, "elsewhere.example.com", "note"),
    ],
)
def test_a_key_is_that_of_the_server(configured, tmp_path, server, machine, known):
    (tmp_path / "netrc").write_text(f"machine {machine} login user password {SECRET}\n")
    (tmp_path / "netrc").chmod(0o600)
    found = configured(**({"WANDB_BASE_URL": server} if server else {}))
    assert found["key"].state == known
    if server:
        assert found["mode"].text == "online, to wandb.example.com:8080"


def test_a_netrc_that_cannot_be_read_has_no_key(configured, tmp_path):
    (tmp_path / "netrc").write_text("machine\n")
    assert configured()["key"].state == "note"


@pytest.mark.parametrize(
    ("mode", "said"), [("offline", "fire at `wandb sync`, late"), ("disabled", "no alerts")]
)
def test_without_a_server_there_is_nothing_to_bound(configured, mode, said):
    found = configured(WANDB_MODE=mode)
    assert states(found) == {"mode": "ok"}
    assert said in found["mode"].text


def test_an_identity_token_leaves_alerts_unbounded(configured, tmp_path):
    found = configured(WANDB_IDENTITY_TOKEN_FILE=tmp_path / "token", WANDB_FINISH_TIMEOUT=45)
    assert found["alerts"].state == "failed"
    assert "WANDB_X_GRAPHQL_RETRY_MAX=1" in found["alerts"].remedy


def test_an_identity_token_with_that_bound_is_fine(configured, tmp_path):
    found = configured(WANDB_IDENTITY_TOKEN_FILE=tmp_path / "token", WANDB_X_GRAPHQL_RETRY_MAX=1)
    assert (found["alerts"].state, found["alerts"].text) == (
        "ok",
        "by run.alert, which tries 1 times more",
    )


def test_a_key_beside_a_token_is_refused_as_wandb_does(configured, tmp_path):
    found = configured(WANDB_IDENTITY_TOKEN_FILE=tmp_path / "token", WANDB_API_KEY=SECRET)
    assert found["key"].state == "failed"


@pytest.mark.parametrize(
    ("name", "value"), [("WANDB_MODE", "sometimes"), ("WANDB_BASE_URL", "not an address")]
)
def test_a_setting_that_wandb_refuses_is_told(configured, name, value):
    found = configured(**{name: value})
    assert states(found) == {"settings": "failed"}
    assert "\n" not in found["settings"].text
    assert "WANDB_" in found["settings"].remedy
