"""What a missing extra says, and that nobody pays for those that are there."""

import subprocess
import sys
from types import ModuleType

import pytest

from sigma_monitor.sinks import AppriseSink, MlflowSink, TrackioSink


@pytest.mark.parametrize(
    ("make", "library", "extra"),
    [
        (lambda: AppriseSink("json://127.0.0.1"), "apprise", "alerts"),
        (TrackioSink, "trackio", "trackio"),
        (MlflowSink, "mlflow", "mlflow"),
    ],
)
def test_without_its_library_a_sink_names_the_extra(monkeypatch, make, library, extra):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ImportError, match=f'{library}: pip install "sigma-monitor\\[{extra}\\]"'):
        make()


@pytest.mark.parametrize(("make", "library"), [(TrackioSink, "trackio"), (MlflowSink, "mlflow")])
def test_a_library_without_a_spec_is_there_all_the_same(monkeypatch, make, library):
    """As a stand-in of a test, or what a host has put together itself."""
    monkeypatch.setitem(sys.modules, library, ModuleType(library))
    make()


def test_naming_all_sinks_imports_none_of_their_libraries():
    code = """
import sys
import sigma_monitor
from sigma_monitor.sinks import *
from sigma_monitor.sinks import MlflowSink, TrackioSink
import importlib.util
for sink, library in ((MlflowSink, "mlflow"), (TrackioSink, "trackio")):
    if importlib.util.find_spec(library):
        sink()
print({"apprise", "mlflow", "tensorboard", "trackio", "wandb", "wandb_workspaces"} & {*sys.modules})
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
