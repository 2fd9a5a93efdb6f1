"""A line for everything that a record gets: where there is no terminal, or for programs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import IO, Any

from sigma_monitor.errors import RecordError
from sigma_monitor.estimate import Estimate
from sigma_monitor.live.seen import Seen
from sigma_monitor.sinks.console import one_line
from sigma_monitor.snapshot import WATCHED, Observation, Snapshot

__all__ = ["JsonLines", "Lines", "View", "interval", "number", "percent"]

# Events that hold what other runs are compared with: nothing to read.
_LONG = ("baseline", "end")


def number(value: Any) -> str:
    """A number in few characters; what is none is shown as it is."""
    if isinstance(value, float):
        return f"{value:,.0f}" if 1000 <= abs(value) < 1e15 else f"{value:.3g}"
    return f"{value:,}" if type(value) is int else one_line(str(value))


def interval(estimate: Estimate) -> str:
    """Its ends; nothing where they are the value."""
    if estimate.kind == "exact":
        return ""
    return f"[{number(estimate.low)}, {number(estimate.high)}]"


def percent(share: Any) -> str:
    """A share in percent; what is no number is shown as it is."""
    return f"{share:.2%}" if isinstance(share, int | float) else number(share)


class View:
    """Shows a run as it goes on; this one shows nothing."""

    def waiting(self, seen: Seen) -> None:
        """There is no record yet."""

    def anew(self, seen: Seen) -> None:
        """Another run's record lies there now, and `seen` is empty again."""

    def take(self, kind: str, held: Any) -> None:
        """Another line, as `Seen.take` returned it."""

    def show(self, seen: Seen) -> None:
        """All that is written by now was taken."""


class Lines(View):
    """Prints for people.

    Args:
        out: Where to.
    """

    def __init__(self, out: IO[str]) -> None:
        self._out = out

    def waiting(self, seen: Seen) -> None:
        """There is no record yet."""
        self._print(f"waiting for {seen.path}")

    def anew(self, seen: Seen) -> None:
        """Another run's record lies there now."""
        self._print(f"{seen.path} begins anew")

    def take(self, kind: str, held: Any) -> None:
        """Print one line for a check, an observation, an alert or an event."""
        if kind == "check":
            self._print("  ".join(_check(held)))
        elif kind == "observation":
            self._print("  ".join(_observation(held)))
        elif kind == "alert":
            self._print(f"[{_text(held, 'title')}] {_text(held, 'text')}")
            if held.get("advice"):
                self._print(f"    {_text(held, 'advice')}")
        elif held.get("event") not in _LONG:
            self._print(_event(held))

    def _print(self, line: str) -> None:
        print(one_line(line), file=self._out, flush=True)


class JsonLines(View):
    """Prints for programs: each line of the record, and lines of type `watch`.

    Args:
        out: Where to.
    """

    def __init__(self, out: IO[str]) -> None:
        self._out = out

    def waiting(self, seen: Seen) -> None:
        """There is no record yet."""
        self._print("watch", {"event": "waiting", "record": str(seen.path)})

    def anew(self, seen: Seen) -> None:
        """Another run's record lies there now."""
        self._print("watch", {"event": "anew", "record": str(seen.path)})

    def take(self, kind: str, held: Any) -> None:
        """Print it.

        Raises:
            RecordError: When it has a number that JSON does not know.
        """
        body = held.to_dict() if isinstance(held, Snapshot | Observation) else held
        self._print(kind, body)

    def _print(self, kind: str, body: Mapping[str, Any]) -> None:
        try:
            line = json.dumps({"type": kind, **body}, allow_nan=False)
        except ValueError as error:
            raise RecordError(
                f"a line of type {kind} has a number that JSON does not know: sigma-monitor "
                "wrote no such line. Pass a record as it was written."
            ) from error
        print(line, file=self._out, flush=True)


def _check(snapshot: Snapshot) -> Iterator[str]:
    yield f"step {number(snapshot.step)}"
    yield f"check {number(snapshot.check)}"
    yield snapshot.status.name
    for layer, estimates in snapshot.layers.items():
        yield from _rank(layer, estimates, snapshot.ratios.get(layer))
    yield from _rank("generation", snapshot.generation, None)
    if snapshot.finite != 1:
        yield f"finite {number(snapshot.finite)}"
    if snapshot.loss is not None:
        yield f"held-out loss {number(snapshot.loss)}"
    if snapshot.overhead is not None:
        yield f"overhead {percent(snapshot.overhead)}"


def _observation(observation: Observation) -> Iterator[str]:
    yield f"step {number(observation.step)}"
    yield f"observation {number(observation.number)}"
    yield observation.status.name
    yield from _rank(observation.name, observation.estimates, observation.ratio)


def _rank(name: str, estimates: Mapping[str, Estimate], ratio: float | None) -> Iterator[str]:
    if WATCHED in estimates:
        rank = estimates[WATCHED]
        yield f"{name}: rank {number(rank.value)} {interval(rank)}".rstrip()
    if ratio is not None:
        yield f"ratio {number(ratio)}"


def _event(held: Mapping[str, Any]) -> str:
    details = (
        f"{name} {number(value)}"
        for name, value in held.items()
        if name not in ("event", "schema")
        and value is not None
        and not isinstance(value, dict | list)
    )
    return f"{_text(held, 'event')}: {', '.join(details)}".rstrip(": ")


def _text(held: Mapping[str, Any], name: str) -> str:
    return one_line(str(held.get(name, "")))
