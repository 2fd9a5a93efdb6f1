"""What single trackers show beyond what the battery asks of all sinks."""

import threading

import numpy as np
import pytest

from sigma_monitor import Estimate
from sigma_monitor.errors import SinkError
from sigma_monitor.sinks import MlflowSink, TensorBoardSink, TrackioSink
from sigma_monitor.sinks.outlet import Outlet
from sigma_monitor.snapshot import SHARES
from tests.sinks.stores import Mlflow, Trackio
from tests.snapshots import alert, snapshot

BINS = len(SHARES) - 1


def layout_shown(folder):
    """Tags of each chart that TensorBoard shows under "custom scalars"."""
    from tensorboard.backend.event_processing import data_provider, plugin_event_multiplexer
    from tensorboard.context import RequestContext
    from tensorboard.plugins.base_plugin import TBContext
    from tensorboard.plugins.custom_scalar.custom_scalars_plugin import CustomScalarsPlugin

    multiplexer = plugin_event_multiplexer.EventMultiplexer()
    multiplexer.AddRunsFromDirectory(str(folder))
    multiplexer.Reload()
    provider = data_provider.MultiplexerDataProvider(multiplexer, str(folder))
    plugin = CustomScalarsPlugin(TBContext(logdir=str(folder), data_provider=provider))
    import json

    layout = plugin.layout_impl(RequestContext(), "")
    layout = json.loads(layout) if isinstance(layout, str | bytes) else layout
    return {
        chart["title"]: [
            (series["lower"], series["value"], series["upper"])
            for series in chart["margin"]["series"]
        ]
        for category in layout["category"]
        for chart in category["chart"]
    }


def test_tensorboard_shows_a_band_around_each_estimate_with_an_interval(open_store):
    store = open_store("tensorboard")
    written = Estimate(3.0, 2.0, 4.0, "sampling")
    store.sink.check(snapshot(0))
    store.sink.check(snapshot(10, generation={"effective_rank": written}))
    store.sink.check(snapshot(20))
    store.sink.close()
    names = ("sigma/last/effective_rank", "sigma/generation/effective_rank")
    assert layout_shown(store.folder) == {
        name: [(f"{name}_low", name, f"{name}_high")] for name in names
    }


def test_tensorboard_keeps_the_layouts_of_the_user_and_of_other_monitors(open_store):
    store = open_store("tensorboard")
    store.writer.add_custom_scalars({"mine": {"loss": ["Margin", ["loss", "low", "high"]]}})
    other = TensorBoardSink(lambda: store.writer, name="student")
    for sink, name in ((store.sink, "sigma"), (other, "student")):
        sink.check(snapshot(monitor=name))
        sink.close()
    store.writer.flush()
    assert set(layout_shown(store.folder)) == {
        "loss",
        "sigma/last/effective_rank",
        "student/last/effective_rank",
    }


def test_a_second_training_has_its_bands_in_a_writer_of_its_own(open_store):
    store = open_store("tensorboard")
    store.sink.check(snapshot())
    store.sink.close()
    store.writer = type(store.writer)(str(store.folder / "second"))
    store.sink.check(snapshot())
    store.sink.close()
    assert layout_shown(store.folder / "second")


def test_a_layout_that_could_not_be_written_is_written_with_the_next_attempt():
    class Patchy:
        fails, layouts = True, ()

        def __init__(self, folder):
            self.log_dir = folder

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def add_custom_scalars(self, layout):
            if Patchy.fails:
                raise OSError("no space left")
            Patchy.layouts = (*Patchy.layouts, layout)

    writer = Patchy("runs")
    sink = TensorBoardSink(writer, metrics=False)
    with pytest.raises(OSError, match="space"):
        sink.log(snapshot().metrics(), 0)
    Patchy.fails = False
    sink.log(snapshot().metrics(), 0)
    sink.log(snapshot().metrics(), 10)
    assert len(Patchy.layouts) == 1


def test_tensorboard_has_the_spectrum_of_each_layer_as_a_histogram(open_store):
    store = open_store("tensorboard")
    counts = np.zeros(BINS, dtype=int)
    counts[[3, 20, BINS - 1]] = 5, 100, 1
    spectra = {"last": tuple(counts.tolist()), "model.layers.3": (0,) * (BINS - 1) + (7,)}
    for step in (0, 10):
        store.sink.check(snapshot(step, spectra=spectra))
    store.sink.check(snapshot(20, spectra={"last": (0,) * BINS}))
    events = store.events()
    found = events.Histograms("sigma/last/spectrum")
    assert [event.step for event in found] == [0, 10]
    histogram = found[-1].histogram_value
    assert (histogram.num, sum(histogram.bucket)) == (106, 106)
    edges = np.log10(SHARES)
    for place in (3, 20, BINS - 1):
        (kept,) = [
            kept
            for limit, kept in zip(histogram.bucket_limit, histogram.bucket, strict=True)
            if limit == pytest.approx(edges[place + 1], abs=1e-9)
        ]
        assert kept == counts[place]
    assert (histogram.min, histogram.max) == (edges[3], edges[-1])
    middles = np.repeat((edges[1:] + edges[:-1]) / 2, counts)
    assert histogram.sum == pytest.approx(middles.sum(), rel=1e-12)
    assert histogram.sum_squares == pytest.approx((middles**2).sum(), rel=1e-12)
    (one, _) = events.Histograms("sigma/model_layers_3/spectrum")
    assert one.histogram_value.num == 7


def test_trackio_has_an_alert_at_its_own_step(open_store):
    """By itself it takes the step after the last row, which may be of another thing."""
    import trackio

    store = open_store("trackio")
    store.sink.alert(alert(step=68))
    store.run.finish()
    (told,) = trackio.Api().alerts(store.project)
    assert (told["step"], told["level"]) == (68, "warn")


def test_trackio_has_nothing_of_a_second_training_in_the_run_of_the_first(open_store):
    import trackio

    store = open_store("trackio")
    sink = TrackioSink(metrics=True)
    outlet = Outlet([sink], None)
    outlet.deliver(snapshot(0), [])
    outlet.close({})
    trackio.context_vars.current_run.set(None)
    outlet = Outlet([sink], None)
    outlet.deliver(snapshot(3), [alert()])
    outlet.close({})
    assert sorted(store.rows()) == [0]
    assert store.alerts() == []


def tell_two_monitors(sink, begin, end):
    """One sink is that of both; `begin(0)` and `begin(1)` make one run active, `end()` none."""
    outlets = [Outlet([sink], None) for _ in range(2)]
    for run, outlet in enumerate(outlets):
        begin(run)
        outlet.alert(alert(step=run, text=f"of {run}."))
    end()
    for run, outlet in enumerate(outlets):  # which has ended by now
        outlet.alert(alert("RECOVERED", "info", step=10, text=f"of {run}."))
        outlet.close({})
        assert [part.lost for part in outlet._sinks] == [0]


def test_one_trackio_sink_of_two_monitors_tells_each_in_its_own_run(open_store):
    import trackio

    stores = [open_store("trackio"), Trackio()]
    active = trackio.context_vars.current_run
    tell_two_monitors(
        TrackioSink(), lambda run: active.set(stores[run].run), lambda: active.set(None)
    )
    for run, store in enumerate(stores):
        texts = store.alerts()
        assert len(texts) == 2
        assert all(f"of {run}." in text for text in texts)


def test_one_mlflow_sink_of_two_monitors_tells_each_in_its_own_run(open_store):
    import mlflow

    first = open_store("mlflow")
    mlflow.end_run()
    stores = [first, Mlflow()]

    def begin(run):
        mlflow.end_run()
        mlflow.start_run(stores[run].run_id)

    tell_two_monitors(MlflowSink(), begin, mlflow.end_run)
    for run, store in enumerate(stores):
        assert [told["text"] for told in store.files().values()] == [f"of {run}."] * 2


def test_mlflow_has_a_second_training_in_its_own_run(open_store):
    import mlflow
    from mlflow import MlflowClient

    store = open_store("mlflow")
    sink = MlflowSink(metrics=True)
    outlet = Outlet([sink], None)
    outlet.deliver(snapshot(0), [])
    outlet.close({})
    mlflow.end_run()
    outlet = Outlet([sink], None)
    outlet.deliver(snapshot(10), [])  # while none is active
    second = mlflow.start_run().info.run_id
    outlet.deliver(snapshot(20), [])
    outlet.close({})
    assert sorted(store.rows()) == [0]
    client = MlflowClient()
    assert client.get_run(second).data.tags["sigma.status"] == "HEALTHY"
    (point,) = client.get_metric_history(second, "sigma/ratio")
    assert point.step == 20


def test_mlflow_finds_its_run_where_it_was_begun(open_store, tmp_path):
    """Wherever MLflow is told to go by the time a call is delivered."""
    import mlflow

    store = open_store("mlflow")
    begun = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/elsewhere.db")
    try:
        store.sink.check(snapshot(10))
        store.sink.alert(alert())
    finally:
        mlflow.set_tracking_uri(begun)
    assert sorted(store.rows()) == [10]
    assert len(store.alerts()) == 1
    assert not (tmp_path / "elsewhere.db").exists()


def test_mlflow_keeps_alerts_of_one_kind_and_step_apart(open_store):
    store = open_store("mlflow")
    alerts = [
        alert(step=68, text="a layer"),
        alert(step=68, layer="model.layers.3/x", text="another"),
        alert(step=68, functional="pooled/uncentred/effective_rank", text="the floor"),
        alert(step=68, channel="loss", layer=None, functional="loss", text="loss"),
        alert(step=68, channel="observed", text="rows of the same name"),
    ]
    for told in alerts:
        store.sink.alert(told)
        store.sink.alert(told)  # again, as after an answer that was lost on its way
    files = store.files()
    assert sorted(found["text"] for found in files.values()) == sorted(a.text for a in alerts)
    assert "sigma/alerts/000068-WARNING-representation-last-effective_rank.json" in files
    assert all(path.startswith("sigma/alerts/000068-WARNING-") for path in files)


def test_mlflow_has_status_and_last_alert_as_tags(open_store):
    from mlflow import MlflowClient

    store = open_store("mlflow")
    store.sink.check(snapshot())
    store.sink.alert(alert(title="sigma: contracting"))
    tags = MlflowClient().get_run(store.run_id).data.tags
    assert (tags["sigma.status"], tags["sigma.alert"]) == ("HEALTHY", "sigma: contracting")


def test_one_apprise_sink_of_two_monitors_sends_each_alert_once(open_store):
    """Each has a thread of its own, and both come to the sink at the same time."""
    store = open_store("apprise")
    store.web.status = 500
    barrier = threading.Barrier(2)

    def deliver(step):
        told = alert(step=step, text=f"at {step}.")
        with pytest.raises(SinkError):
            store.sink.alert(told)
        barrier.wait(30)
        store.web.status = 200
        store.sink.alert(told)
        store.sink.alert(told)  # which has arrived

    threads = [threading.Thread(target=deliver, args=(step,)) for step in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(text.splitlines()[1] for text in store.alerts()) == ["at 1.", "at 2."]


def test_a_writer_that_is_opened_in_another_way_has_its_points_without_bands(open_store):
    store = open_store("tensorboard")

    class Wrapped:
        """Of neither a folder nor a constructor that takes one."""

        def __getattr__(self, name):
            return getattr(store.writer, name)

        def __init__(self):
            self.log_dir = None

    sink = TensorBoardSink(Wrapped())
    sink.check(snapshot())
    sink.alert(alert())
    sink.close()
    assert store.rows()
    assert store.alerts()
