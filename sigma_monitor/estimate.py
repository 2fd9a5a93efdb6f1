"""A number with its interval and the kind of error that the interval covers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["ErrorKind", "Estimate", "jsonable"]

ErrorKind = Literal["exact", "quadrature", "test_vectors", "sampling"]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value, its interval, and the kind of error the interval covers.

    Attributes:
        value: The point estimate.
        low: Lower end of the interval; equal to `value` when `kind` is `"exact"`.
        high: Upper end of the interval; equal to `value` when `kind` is `"exact"`.
        kind: `"exact"`: computed from the given rows up to fp64 rounding. `"quadrature"`: a
            certified bracket given the test vectors. `"test_vectors"`: a t-interval over random
            test vectors. `"sampling"`: a jackknife t-interval over the probe examples, that is
            how far the value would move had other examples of the same source been chosen.
    """

    value: float
    low: float
    high: float
    kind: ErrorKind

    @classmethod
    def exact(cls, value: float) -> Estimate:
        """An estimate without error: `low == value == high`."""
        return cls(value, value, value, "exact")

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready builtins; infinities and NaN become strings."""
        return {
            "value": jsonable(self.value),
            "low": jsonable(self.low),
            "high": jsonable(self.high),
            "kind": self.kind,
        }

    def __float__(self) -> float:
        """The point estimate."""
        return self.value


def jsonable(value: float) -> float | str:
    """The value, or its name where JSON has none (`inf`, `nan`): `float()` reads both."""
    return value if math.isfinite(value) else str(value)
