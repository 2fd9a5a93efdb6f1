"""Libraries that keep what they get on this machine, in folders of the tests."""

from __future__ import annotations

import logging
import os

import pytest

from tests.sinks.stores import STORES, opened

_EXTRAS = {
    "trackio": "trackio",
    "mlflow": "mlflow",
    "apprise": "apprise",
    "apprise_mail": "apprise",
}


@pytest.fixture
def messages(caplog):
    caplog.set_level(logging.INFO, "sigma_monitor")
    return lambda: [record.getMessage() for record in caplog.records]


@pytest.fixture(scope="session")
def trackio_home(tmp_path_factory):
    """The folder of trackio's databases, which it asks for when it is imported."""
    home = tmp_path_factory.mktemp("trackio")
    os.environ["TRACKIO_DIR"] = str(home)
    trackio = pytest.importorskip("trackio")
    trackio.utils.TRACKIO_DIR = trackio.sqlite_storage.TRACKIO_DIR = home
    yield home
    del os.environ["TRACKIO_DIR"]


@pytest.fixture(scope="session")
def mlflow_home(tmp_path_factory):
    """A database of MLflow, which takes seconds to set up, and its artifacts."""
    mlflow = pytest.importorskip("mlflow")
    home = tmp_path_factory.mktemp("mlflow")
    mlflow.set_tracking_uri(f"sqlite:///{home}/mlflow.db")
    mlflow.create_experiment("battery", artifact_location=str(home / "artifacts"))
    mlflow.set_experiment("battery")
    return home


@pytest.fixture
def open_store(request, tmp_path, capsys):
    """`open_store(name)` is the store of that name, closed with the test."""
    left = []

    def open_it(name):
        if name in _EXTRAS:
            pytest.importorskip(_EXTRAS[name])
        if name in ("trackio", "mlflow"):
            request.getfixturevalue(f"{name}_home")
        context = opened(name, tmp_path / name, capsys)
        left.append(context)
        (tmp_path / name).mkdir()
        return context.__enter__()

    yield open_it
    for context in reversed(left):
        context.__exit__(None, None, None)


@pytest.fixture(params=STORES)
def store(request, open_store):
    """Each store in turn."""
    return open_store(request.param)
