"""What a spectrum is computed under: centring, ridge, confidence. They change every number."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sigma_monitor.errors import InputError, ZeroTraceError
from sigma_monitor.spectrum.gram import RowFacts

__all__ = [
    "DEFAULT_RELATIVE_RIDGE",
    "RIDGE_FLOOR",
    "STORAGE_NOISE",
    "Conventions",
    "checked_energy",
    "largest_storage_eigenvalue",
]

DEFAULT_RELATIVE_RIDGE = 1e-3

# Mean spurious eigenvalue that rounding the embeddings to a storage type leaves in C, in units of
# tr(C)/m. Measured for the 16-bit types; (2^−24)² / 3 for fp32.
STORAGE_NOISE = {
    torch.bfloat16: 2.7e-6,
    torch.float16: 4e-8,
    torch.float32: 1.2e-15,
    torch.float64: 0.0,
}
# The ridge must stand well above that noise, or log det measures the rounding.
RIDGE_FLOOR = {
    torch.bfloat16: 1e-3,
    torch.float16: 1e-4,
    torch.float32: 1e-12,
    torch.float64: 0.0,
}

# Centring identical rows leaves rounding noise of about n·eps² of the energy: that much is zero.
_RELATIVE_ZERO_TRACE = 1e-26

_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


@dataclass(frozen=True, eq=False)
class Conventions:
    """Centring, ridge, confidence and what the jackknife deletes.

    Raises:
        InputError: At construction, on two ridges, or a value out of range.
    """

    center: bool
    ridge: float | None = None  # absolute ε on C
    relative_ridge: float | None = None  # ε = relative_ridge · tr(C)/m
    confidence: float = 0.95
    groups: Tensor | None = None  # (n,) example of each row, non-decreasing
    sampling: bool = True  # whether to estimate the error of the finite probe set

    def __post_init__(self) -> None:
        if self.ridge is not None and self.relative_ridge is not None:
            raise InputError(
                f"ridge={self.ridge!r} and relative_ridge={self.relative_ridge!r} were both given, "
                "and they set the same quantity: pass one of them."
            )
        for name, value in (("ridge", self.ridge), ("relative_ridge", self.relative_ridge)):
            if value is not None and not 0 < value < math.inf:
                raise InputError(
                    f"{name}={value!r}: a ridge must be positive and finite, such as 1e-3."
                )
        if not 0 < self.confidence < 1:
            raise InputError(
                f"confidence={self.confidence!r}: it must lie between 0 and 1, such as 0.95."
            )
        if self.ridge is None and self.relative_ridge is None:
            object.__setattr__(self, "relative_ridge", DEFAULT_RELATIVE_RIDGE)

    def check_groups(self, n: int) -> None:
        """Raise an InputError unless `groups` fits n rows."""
        groups = self.groups
        if groups is None:
            return
        if not isinstance(groups, Tensor):
            raise InputError(
                f"groups is a {type(groups).__name__}: expected an integer tensor of shape "
                f"({n},), the example of each row."
            )
        if groups.shape != (n,) or groups.dtype not in _INTEGERS:
            raise InputError(
                f"groups has shape {tuple(groups.shape)} and dtype {groups.dtype}: expected an "
                f"integer tensor of shape ({n},), the example of each row."
            )
        if bool((groups[1:] < groups[:-1]).any()):
            raise InputError(
                "groups decreases somewhere: rows of one example must stand together. Sort the "
                "rows by example first."
            )

    def epsilon(self, rows: RowFacts, trace: float) -> float:
        """ε on C of that trace.

        Raises:
            InputError: When it lies below what storage in the rows' type can resolve.
        """
        if self.ridge is not None:
            epsilon = self.ridge
        else:
            epsilon = (self.relative_ridge or 0.0) * trace / rows.m
        relative = epsilon * rows.m / trace
        rounding = 4 * torch.finfo(torch.float64).eps * min(rows.n, rows.m)
        floor = max(RIDGE_FLOOR[rows.dtype], rounding)
        if relative < floor * (1 - 1e-9):
            raise InputError(
                f"the ridge is {relative:.3g} of tr(C)/m, below the floor {floor:.3g} for "
                f"embeddings stored as {rows.dtype}: log det would measure their rounding. "
                f"Pass relative_ridge>={floor:.3g}, or embeddings of a wider dtype."
            )
        return epsilon

    def examples(self, n: int) -> int:
        """Units of the jackknife."""
        return n if self.groups is None else len(torch.unique_consecutive(self.groups))


def checked_energy(rows: RowFacts, *, center: bool) -> float:
    """`rows.energy(center=center)`.

    Raises:
        ZeroTraceError: When it is zero, or nothing but rounding of the uncentred energy.
    """
    energy = rows.energy(center=center)
    if energy <= (_RELATIVE_ZERO_TRACE * rows.energy(center=False) if center else 0.0):
        raise ZeroTraceError(
            f"the trace of the {rows.n} x {rows.m} embeddings is {energy:g}"
            + (": all rows are equal, so nothing is left after centring" if center else "")
            + ". No spectrum can be normalised by it. Pass rows that differ"
            + (", or center=False." if center else ".")
        )
    return energy


def largest_storage_eigenvalue(rows: RowFacts, trace: float) -> float:
    """The largest spurious eigenvalue of C that storage can have made, with a margin of eight.

    The largest eigenvalue of white noise is (1 + sqrt(m/n))² times the mean one (Marchenko and
    Pastur 1967). Features of unequal energy round with unequal noise: up to 5.2 times was measured.
    """
    mean = STORAGE_NOISE[rows.dtype] * trace / rows.m
    return 8 * mean * (1 + math.sqrt(rows.m / rows.n)) ** 2
