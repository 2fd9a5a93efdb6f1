"""Which sinks stand beside the loggers of a host, by stand-ins that have their names."""

import logging
from types import SimpleNamespace

import pytest

from sigma_monitor.integrations import trackers
from sigma_monitor.integrations.trackers import lightning_trackers, transformers_trackers


def of_class(kind, **attributes):
    """An object of a class derived from one of this name, as users derive theirs."""
    return type("Mine", (type(kind, (), {}),), attributes)()


def kinds(sinks):
    return [type(sink).__name__ for sink in sinks]


@pytest.fixture(autouse=True)
def made(monkeypatch):
    """Arguments of the sinks whose libraries need not be installed here."""
    made = []
    for kind in ("MlflowSink", "TrackioSink"):

        def make(*arguments, kind=kind, **options):
            made.append((kind, arguments, options))
            return type(kind, (), {})()

        monkeypatch.setattr(trackers, kind, make)
    return made


@pytest.mark.parametrize("axis", [None, "train/global_step"])
def test_beside_nothing_there_is_the_sink_of_a_live_run(axis):
    (sink,) = transformers_trackers([] if axis is None else ["wandb"], [], "student")
    assert (sink._host_axis, sink._name) == (axis, "student")


def test_callbacks_count_by_the_classes_they_are_derived_from():
    callbacks = [
        of_class("WandbCallback"),
        of_class("TrackioCallback"),
        of_class("MLflowCallback"),
        of_class("TensorBoardCallback", tb_writer="first"),
        of_class("TensorBoardCallback", tb_writer="second"),
        of_class("PrinterCallback"),
    ]
    sinks = transformers_trackers([], callbacks, "sigma")
    assert kinds(sinks) == [
        "WandbSink", "TrackioSink", "MlflowSink", "TensorBoardSink", "TensorBoardSink",
    ]  # fmt: skip
    assert sinks[0]._host_axis == "train/global_step"
    assert [sink._writer() for sink in sinks[3:]] == ["first", "second"]


def test_a_tracker_that_is_reported_to_by_name_and_callback_has_one_sink():
    sinks = transformers_trackers(["trackio"], [of_class("TrackioCallback")], "sigma")
    assert kinds(sinks) == ["WandbSink", "TrackioSink"]


def test_every_logger_of_lightning_has_its_sink(made):
    def mlflow(run_id):
        client = SimpleNamespace(tracking_uri=f"at {run_id}")
        return of_class("MLFlowLogger", run_id=run_id, experiment=client)

    loggers = [
        of_class("WandbLogger"),
        mlflow("a"),
        mlflow("b"),
        of_class("TensorBoardLogger", experiment="first"),
        of_class("TensorBoardLogger", experiment="second"),
    ]
    sinks = lightning_trackers(loggers, "sigma", lambda: 3)
    assert sinks[0]._host_axis == "trainer/global_step"
    assert sinks[0]._host_step() == 3
    assert made == [
        ("MlflowSink", (run_id,), {"name": "sigma", "tracking_uri": f"at {run_id}"})
        for run_id in ("a", "b")
    ]
    assert [sink._writer() for sink in sinks[3:]] == ["first", "second"]


def test_without_a_logger_of_wandb_its_steps_are_those_of_the_monitor():
    (sink,) = lightning_trackers([], "sigma", lambda: 3)
    assert (sink._host_axis, sink._host_step) == (None, None)


def test_a_sink_that_cannot_be_made_is_said_and_the_others_are_there(monkeypatch, caplog):
    def refuse(*_, **__):
        raise ImportError("TrackioSink needs trackio")

    caplog.set_level(logging.WARNING, "sigma_monitor")
    monkeypatch.setattr(trackers, "TrackioSink", refuse)
    sinks = transformers_trackers(["trackio", "mlflow"], [], "sigma")
    assert kinds(sinks) == ["WandbSink", "MlflowSink"]
    (record,) = caplog.records
    assert "TrackioSink needs trackio" in record.getMessage()
