"""The frozen record of one check, or of rows observed. Metric names live here and nowhere else."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from sigma_monitor.alert import Status
from sigma_monitor.errors import RecordError
from sigma_monitor.estimate import Estimate, jsonable

__all__ = [
    "COMPRESSION",
    "DISTINCT_1",
    "DISTINCT_2",
    "EFFECTIVE_RANK",
    "ENTROPY",
    "FLOORED",
    "GENERATION_MEASURES",
    "GROUP_DISTINCT_2",
    "GROUP_RANK",
    "GROUP_UNIQUE",
    "LINEAGE",
    "LINEAGE_SCHEMA",
    "NAME",
    "PARTICIPATION_RATIO",
    "REPEATED",
    "RESERVED",
    "SCHEMA",
    "SHARES",
    "TEXT_RANK",
    "TURNED",
    "UNCENTRED_PREFIX",
    "UNCENTRED_RANK",
    "WATCHED",
    "WITHIN_SHARE",
    "Observation",
    "Snapshot",
    "is_plain_name",
    "metric_name",
]

SCHEMA = 3
NAME = "sigma"  # of a monitor that was given no other

# Keys of a layer: the series of the relative rule, and that of the absolute floor.
WATCHED = "effective_rank"
FLOORED = "pooled/uncentred/effective_rank"
UNCENTRED_PREFIX = "uncentred/"  # in front of a functional
UNCENTRED_RANK = f"{UNCENTRED_PREFIX}effective_rank"
TURNED = "subspace_drift"  # of the leading directions from those at the baseline
# Keys of what the model wrote: the two series that are watched,
TEXT_RANK = "effective_rank"
ENTROPY = "output_entropy"
# how varied all of it is,
DISTINCT_1 = "distinct_1"
DISTINCT_2 = "distinct_2"
COMPRESSION = "compression_ratio"
REPEATED = "repeated_4gram_share"
# and the completions of one prompt, where it has several.
GROUP_UNIQUE = "group_unique"
GROUP_DISTINCT_2 = "group_distinct_2"
GROUP_RANK = "group_effective_rank"
# Of generations of documents: what `chain` prints of them,
LINEAGE, LINEAGE_SCHEMA = "lineage", 1
# and what a verdict looks at, in words, the loudest witness first.
EFFECTIVE_RANK = "effective_rank"
WITHIN_SHARE = "within_share"
PARTICIPATION_RATIO = "participation_ratio"
GENERATION_MEASURES = {
    EFFECTIVE_RANK: "effective rank",
    DISTINCT_2: "distinct-2",
    WITHIN_SHARE: "share within prompts",
    PARTICIPATION_RATIO: "participation ratio",
}

# Bins of `Snapshot.spectra`: four to a factor of ten.
SHARES = tuple(10 ** (quarter / 4) for quarter in range(-48, 1))

# Below `sigma/`, beside layers and what else is observed.
RESERVED = (
    "alert",
    "check_seconds",
    "finite",
    "generation",
    "loss",
    "overhead",
    "ratio",
    "status",
)

# W&B takes no dots in names (a module's dotted name has them), MLflow no brackets.
_UNUSUAL = re.compile(r"[^A-Za-z0-9_/-]")
_PLAIN = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True)
class Snapshot:
    """Everything one check measured: frozen, serialisable, versioned.

    A key of `layers[layer]` is the functional with its convention in front: `effective_rank` of
    centred rows, `uncentred/effective_rank`, `pooled/uncentred/effective_rank` of one mean-pooled
    row per example.
    """

    step: int  # training step
    check: int  # number of the check, from 1
    time: float  # seconds since the epoch, UTC
    status: Status  # the worst over layers, channels and observed rows
    layers: Mapping[str, Mapping[str, Estimate]]
    ratios: Mapping[str, float]  # layer -> effective rank over its baseline
    finite: float  # share of probe examples whose embeddings are finite
    loss: float | None  # token cross-entropy on the probe set, nats; None without a language head
    alerted: bool  # an alert of severity warn or error was raised
    seconds: float  # wall time of this check
    overhead: float | None  # share of the run's wall time in checks and observations so far
    rows: int  # rows of the spectrum (tokens, or examples)
    examples: int  # size of the probe set
    fingerprint: str  # of the probe set and the conventions; others are never compared
    conventions: Mapping[str, Any] = field(default_factory=dict)  # pooling, ridge, method, ...
    generation: Mapping[str, Estimate] = field(default_factory=dict)  # of what the model wrote
    # layer -> eigenvalues of the centred rows with a share of the trace between two of `SHARES`
    spectra: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    monitor: str = NAME  # its name, in front of the names of metrics
    schema: int = SCHEMA

    def metrics(self) -> dict[str, float]:
        """Flat `<monitor>/...` names to finite floats, as every logger gets them."""
        flat: dict[str, float] = {}
        for layer, estimates in self.layers.items():
            prefix = f"{self.monitor}/{metric_name(layer)}"
            _add_estimates(flat, prefix, estimates)
            if layer in self.ratios:
                flat[f"{prefix}/ratio"] = self.ratios[layer]
        _add_estimates(flat, f"{self.monitor}/generation", self.generation)
        if self.ratios:
            flat[f"{self.monitor}/ratio"] = min(self.ratios.values())
        flat[f"{self.monitor}/status"] = float(self.status)
        flat[f"{self.monitor}/alert"] = float(self.alerted)
        flat[f"{self.monitor}/finite"] = self.finite
        flat[f"{self.monitor}/check_seconds"] = self.seconds
        if self.loss is not None:
            flat[f"{self.monitor}/loss"] = self.loss
        if self.overhead is not None:
            flat[f"{self.monitor}/overhead"] = self.overhead
        return _finite(flat)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready builtins; infinities and NaN become strings."""
        body = dict(self.__dict__)
        body["status"] = self.status.name
        body["layers"] = {layer: _packed(found) for layer, found in self.layers.items()}
        body["generation"] = _packed(self.generation)
        body["ratios"] = {layer: jsonable(ratio) for layer, ratio in self.ratios.items()}
        body["conventions"] = dict(self.conventions)
        body["spectra"] = {layer: list(counts) for layer, counts in self.spectra.items()}
        body["loss"] = None if self.loss is None else jsonable(self.loss)
        return body

    @classmethod
    def from_dict(cls, body: Mapping[str, Any]) -> Snapshot:
        """The inverse of `to_dict`.

        Raises:
            RecordError: On another schema version or a missing or malformed field.
        """
        with _reading("a", "snapshot", body):
            fields = dict(body)
            fields |= _numbers(fields, int, "step", "check", "rows", "examples")
            fields |= _numbers(fields, float, "time", "finite", "seconds")
            fields |= _numbers(fields, _optional, "loss", "overhead")
            fields["status"] = Status[fields["status"]]
            fields["layers"] = {layer: _unpacked(p) for layer, p in fields["layers"].items()}
            fields["generation"] = _unpacked(fields["generation"])
            fields["ratios"] = {layer: float(ratio) for layer, ratio in fields["ratios"].items()}
            fields["spectra"] = {
                layer: tuple(map(int, counts)) for layer, counts in fields["spectra"].items()
            }
            return cls(**fields)


@dataclass(frozen=True)
class Observation:
    """What was measured of rows that the user handed to the monitor.

    Keys of `estimates` are those of a layer in a `Snapshot`; `pooled/...` only where the rows came
    as (examples, tokens, features).
    """

    name: str
    step: int  # training step
    number: int  # of the observations of this name, from 1
    time: float  # seconds since the epoch, UTC
    status: Status  # of these rows alone
    estimates: Mapping[str, Estimate]  # empty: there was nothing to measure
    ratio: float | None  # effective rank over its baseline, the lower of centred and uncentred
    alerted: bool  # an alert of severity warn or error was raised
    rows: int
    features: int
    seconds: float  # wall time of this observation
    overhead: float | None  # share of the run's wall time spent in checks and observations so far
    conventions: Mapping[str, Any] = field(default_factory=dict)  # ridge, method
    monitor: str = NAME  # its name, in front of the names of metrics
    schema: int = SCHEMA

    def metrics(self) -> dict[str, float]:
        """Flat `<monitor>/<name>/...` names to finite floats, and `<monitor>/overhead`."""
        prefix = f"{self.monitor}/{self.name}"
        flat: dict[str, float] = {}
        _add_estimates(flat, prefix, self.estimates)
        if self.ratio is not None:
            flat[f"{prefix}/ratio"] = self.ratio
        flat[f"{prefix}/status"] = float(self.status)
        flat[f"{prefix}/alert"] = float(self.alerted)
        flat[f"{prefix}/seconds"] = self.seconds
        if self.overhead is not None:
            flat[f"{self.monitor}/overhead"] = self.overhead
        return _finite(flat)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready builtins; infinities and NaN become strings."""
        body = dict(self.__dict__)
        body["status"] = self.status.name
        body["estimates"] = _packed(self.estimates)
        body["ratio"] = None if self.ratio is None else jsonable(self.ratio)
        body["conventions"] = dict(self.conventions)
        return body

    @classmethod
    def from_dict(cls, body: Mapping[str, Any]) -> Observation:
        """The inverse of `to_dict`.

        Raises:
            RecordError: On another schema version or a missing or malformed field.
        """
        with _reading("an", "observation", body):
            fields = dict(body)
            fields |= _numbers(fields, int, "step", "number", "rows", "features")
            fields |= _numbers(fields, float, "time", "seconds")
            fields |= _numbers(fields, _optional, "ratio", "overhead")
            fields["name"] = str(fields["name"])
            fields["status"] = Status[fields["status"]]
            fields["estimates"] = _unpacked(fields["estimates"])
            return cls(**fields)


@contextmanager
def _reading(article: str, kind: str, body: Mapping[str, Any]) -> Iterator[None]:
    """Read `body` inside: what is not of this schema is a `RecordError` that says so."""
    if body.get("schema") != SCHEMA:
        raise RecordError(
            f"{kind} schema {body.get('schema')!r}: this version reads schema {SCHEMA}. "
            "Read the record with the version of sigma-monitor that wrote it."
        )
    try:
        yield
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise RecordError(
            f"not {article} {kind} of schema {SCHEMA}: {type(error).__name__}: {error}"
        ) from error


def _numbers(fields: Mapping[str, Any], of: Callable[[Any], Any], *names: str) -> dict[str, Any]:
    return {name: of(fields[name]) for name in names}


def _optional(value: Any) -> float | None:
    return None if value is None else float(value)


def is_plain_name(name: object) -> bool:
    """Whether it can stand in a metric, a path and a checkpoint as it is."""
    return isinstance(name, str) and _PLAIN.fullmatch(name) is not None


def metric_name(name: str) -> str:
    """`name` as it stands between slashes in a metric, for every logger to take."""
    return _UNUSUAL.sub("_", name)


def _finite(flat: Mapping[str, float]) -> dict[str, float]:
    return {name: float(value) for name, value in flat.items() if math.isfinite(value)}


def _add_estimates(flat: dict[str, float], prefix: str, estimates: Mapping[str, Estimate]) -> None:
    for key, estimate in estimates.items():
        name = f"{prefix}/{key}"
        flat[name] = estimate.value
        if estimate.kind != "exact":
            flat[f"{name}_low"] = estimate.low
            flat[f"{name}_high"] = estimate.high


def _packed(estimates: Mapping[str, Estimate]) -> dict[str, list[Any]]:
    return {
        key: [*(jsonable(x) for x in (e.value, e.low, e.high)), e.kind]
        for key, e in estimates.items()
    }


def _unpacked(packed: Mapping[str, list[Any]]) -> dict[str, Estimate]:
    return {
        key: Estimate(float(value), float(low), float(high), kind)
        for key, (value, low, high, kind) in packed.items()
    }
