"""The record of one check survives JSON, and its metrics are what loggers can take."""

import json
import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sigma_monitor import Estimate, Snapshot, Status
from sigma_monitor.errors import RecordError
from sigma_monitor.snapshot import SCHEMA
from tests.snapshots import snapshot

FIELDS = set(Snapshot.__dataclass_fields__)
ESTIMATES = st.builds(
    Estimate,
    st.floats(),
    st.floats(),
    st.floats(),
    st.sampled_from(["exact", "quadrature", "test_vectors", "sampling"]),
)


def through_json(body):
    return json.loads(json.dumps(body, allow_nan=False))


@given(
    layers=st.dictionaries(st.text(), st.dictionaries(st.text(), ESTIMATES, max_size=3)),
    ratios=st.dictionaries(st.text(), st.floats()),
    loss=st.none() | st.floats(),
    overhead=st.none() | st.floats(0, 1),
    status=st.sampled_from(Status),
    spectra=st.dictionaries(st.text(), st.tuples(st.integers(0), st.integers(0))),
)
def test_a_snapshot_survives_json_with_infinities_and_nan(**fields):
    before = snapshot(**fields)
    after = Snapshot.from_dict(through_json(before.to_dict()))
    # By repr: NaN differs from itself, and −0.0 equals 0.0.
    assert repr(after) == repr(before)


def test_to_dict_leaves_the_snapshot_alone_and_has_every_field():
    before = snapshot(loss=math.nan)
    written = repr(before)
    assert set(before.to_dict()) == FIELDS
    assert repr(before) == written


@pytest.mark.parametrize("schema", [0, SCHEMA + 1, "1", None])
def test_another_schema_is_refused_and_named(schema):
    with pytest.raises(RecordError, match=re.escape(f"schema {schema!r}")):
        Snapshot.from_dict({**snapshot().to_dict(), "schema": schema})


def test_no_schema_is_refused():
    body = snapshot().to_dict()
    del body["schema"]
    with pytest.raises(RecordError, match="schema None"):
        Snapshot.from_dict(body)


@pytest.mark.parametrize("name", sorted(FIELDS - {"schema", "conventions", "monitor"}))
def test_a_missing_field_is_refused_and_named(name):
    body = snapshot().to_dict()
    del body[name]
    with pytest.raises(RecordError, match=name):
        Snapshot.from_dict(body)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("status", "ASLEEP"),
        ("step", "x"),
        ("layers", {"last": {"trace": [1.0, 1.0, 1.0]}}),
        ("layers", {"last": {"trace": ["one", 1.0, 1.0, "exact"]}}),
        ("layers", ["last"]),
        ("ratios", None),
        ("loss", "high"),
        ("colour", "red"),
    ],
)
def test_a_malformed_field_is_refused(name, value):
    with pytest.raises(RecordError, match=f"not a snapshot of schema {SCHEMA}"):
        Snapshot.from_dict({**snapshot().to_dict(), name: value})


def test_metrics_have_the_names_that_the_design_gives():
    ratios = {"last": 0.97, "0": 0.82}
    layers = {**snapshot().layers, "0": {"trace": Estimate.exact(3.0)}}
    assert snapshot(layers=layers, ratios=ratios, alerted=True).metrics() == {
        "sigma/last/effective_rank": 40.0,
        "sigma/last/effective_rank_low": 35.0,
        "sigma/last/effective_rank_high": 46.0,
        "sigma/last/uncentred/participation_ratio": 7.5,
        "sigma/last/ratio": 0.97,
        "sigma/0/trace": 3.0,
        "sigma/0/ratio": 0.82,
        "sigma/ratio": 0.82,  # the lowest
        "sigma/status": 1.0,
        "sigma/alert": 1.0,
        "sigma/finite": 1.0,
        "sigma/loss": 2.5,
        "sigma/check_seconds": 0.125,
        "sigma/overhead": 0.0075,
    }


def test_what_is_unknown_is_left_out():
    metrics = snapshot(layers={"last": {}}, ratios={}, loss=None, overhead=None).metrics()
    assert set(metrics) == {
        "sigma/status",
        "sigma/alert",
        "sigma/finite",
        "sigma/check_seconds",
    }


@given(
    layers=st.dictionaries(st.sampled_from(["last", "0"]), st.dictionaries(st.text(), ESTIMATES)),
    loss=st.none() | st.floats(),
)
def test_metrics_are_finite_python_floats(layers, loss):
    metrics = snapshot(layers=layers, loss=loss).metrics()
    assert all(type(value) is float and math.isfinite(value) for value in metrics.values())


def test_an_unbounded_interval_is_left_out_and_its_value_stays():
    estimate = Estimate(40.0, 0.0, math.inf, "sampling")
    metrics = snapshot(layers={"last": {"effective_rank": estimate}}).metrics()
    assert metrics["sigma/last/effective_rank"] == 40.0
    assert "sigma/last/effective_rank_high" not in metrics


@pytest.mark.parametrize("status", Status)
def test_status_is_a_number_from_0_to_3(status):
    metrics = snapshot(status=status).metrics()
    assert metrics["sigma/status"] == ["WARMUP", "HEALTHY", "WARNING", "COLLAPSED"].index(
        status.name
    )


@pytest.mark.parametrize("layer", ["last", "0", "-1", "model.layers.0.mlp"])
def test_metric_names_are_ones_that_every_logger_takes(layer):
    """W&B wants no dots, and MLflow and TensorBoard little beside letters, digits and slashes."""
    metrics = snapshot(layers={layer: snapshot().layers["last"]}, ratios={layer: 0.9}).metrics()
    assert [name for name in metrics if not re.fullmatch(r"[A-Za-z0-9_/-]+", name)] == []
