"""Baselines across runs: of one earlier run, or of a matched chain of generations."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sigma_monitor.errors import InputError, RecordError
from sigma_monitor.sinks import read_record

__all__ = ["BEGINNING", "END", "Reference", "RunLineage"]

BEGINNING: Literal["baseline"] = "baseline"  # events of a record that hold baselines
END: Literal["end"] = "end"


@dataclass(frozen=True)
class Reference:
    """What another run is compared with: baselines, and the conditions they were measured under."""

    source: str  # path of the record
    fingerprint: str  # of probe set and conventions; a run with another one is not compared
    baselines: Mapping[str, Any]  # as `RunWatch.adopt` takes them

    @classmethod
    def from_record(
        cls, path: str | os.PathLike[str], *, at: Literal["baseline", "end"] = "baseline"
    ) -> Reference:
        """The baseline of the run that wrote `path`, or how it ended.

        Args:
            path: A `record.jsonl`.
            at: `"baseline"`: what that run was compared with itself. `"end"`: its last check.

        Raises:
            RecordError: When the record cannot be read.
            InputError: When it holds no such event: the run was killed before, or had no baseline.
        """
        found = [event for event in read_record(path).events if event.get("event") == at]
        if not found:
            raise InputError(
                f"{os.fspath(path)} holds no {at!r} event: "
                + (
                    "that run had no baseline yet."
                    if at == BEGINNING
                    else "that run did not end by close(), or its last check measured nothing."
                )
                + " Pass the record of a run that went on for longer."
            )
        last = found[-1]
        try:
            return cls(os.fspath(path), last["fingerprint"], last["baselines"])
        except KeyError as error:
            raise RecordError(
                f"{os.fspath(path)}: its {at!r} event has no {error}. Pass a record that "
                "sigma-monitor wrote."
            ) from error


class RunLineage:
    """The records of runs on real data, for runs on model-made data to be compared with.

    Across generations the honest baseline is not a run's own start, which a healthy chain leaves
    too, but where the matched generation on real data ended:

        control = RunLineage(["real/0/sigma/record.jsonl", "real/1/sigma/record.jsonl"])
        SigmaCallback(baseline=control.generation(1))

    Args:
        records: The `record.jsonl` of each generation, in order.

    Raises:
        InputError: When there is none, or one of them did not end.
        RecordError: When one cannot be read.
    """

    def __init__(self, records: Sequence[str | os.PathLike[str]]) -> None:
        if isinstance(records, str) or not records:
            raise InputError(f"records={records!r}: pass a list of at least one record.jsonl.")
        self._references = [Reference.from_record(path, at=END) for path in records]

    def __len__(self) -> int:
        """Number of generations."""
        return len(self._references)

    def generation(self, number: int) -> Reference:
        """Where generation `number`, counted from 0, ended.

        Raises:
            InputError: When the lineage has no such generation.
        """
        if not 0 <= number < len(self):
            raise InputError(
                f"generation {number}: this lineage has {len(self)}, counted from 0. Pass the "
                "record of the matched real-data run too."
            )
        return self._references[number]
