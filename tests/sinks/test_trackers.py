"""What single trackers show beyond what the battery asks of all sinks."""

import numpy as np
import pytest

from sigma_monitor import Estimate
from sigma_monitor.sinks import TensorBoardSink
from sigma_monitor.snapshot import SHARES
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


def test_a_layout_that_could_not_be_written_is_written_with_the_next_attempt():
    class Patchy:
        fails, layouts = True, ()

        def add_custom_scalars(self, layout):
            if self.fails:
                raise OSError("no space left")
            self.layouts = (*self.layouts, layout)

    writer = Patchy()
    sink = TensorBoardSink(writer, metrics=False)
    with pytest.raises(OSError, match="space"):
        sink.log(snapshot().metrics(), 0)
    writer.fails = False
    sink.log(snapshot().metrics(), 0)
    sink.log(snapshot().metrics(), 10)
    assert len(writer.layouts) == 1


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
