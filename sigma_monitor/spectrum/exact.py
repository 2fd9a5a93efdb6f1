"""The exact way: one fp64 eigendecomposition of the smaller of Gram and kernel matrix."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sigma_monitor.spectrum.conventions import checked_energy
from sigma_monitor.spectrum.gram import Product

__all__ = ["Decomposition", "decompose", "spectrum"]

_EPS = torch.finfo(torch.float64).eps


@dataclass(frozen=True, eq=False)
class Decomposition:
    """Eigenpairs of the product, without the directions that are zero up to rounding."""

    values: Tensor  # (r,) fp64, descending: eigenvalues of G (or of K) above the rounding floor
    vectors: Tensor  # (d, r) fp64: their eigenvectors
    empty: int  # eigenvalues of the m x m matrix that are zero or below the rounding floor


def decompose(rows: Product, *, center: bool) -> Decomposition:
    """Decompose `rows.product(center=center)`.

    Eigenvalues below `max(n, m) · eps · λ₁` (eps of fp64) are rounding noise of the accumulation or
    of the decomposition, and taken as zero.

    Raises:
        ZeroTraceError: When the trace is zero: all rows are zero, or equal while centring.

    Cost: about `9 d³` flops in fp64 (values and vectors); no singular value decomposition.
    """
    values, vectors = torch.linalg.eigh(_product(rows, center=center))
    values, vectors = values.flip(0), vectors.flip(1)
    rank = _rank(values, rows)
    return Decomposition(values[:rank], vectors[:, :rank], empty=rows.m - rank)


def spectrum(rows: Product, *, center: bool) -> Tensor:
    """(r,) fp64 eigenvalues of `rows.product(center=center)`, as `decompose` has them.

    Raises:
        ZeroTraceError: As `decompose`.

    Cost: about `4/3 d³` flops in fp64.
    """
    values: Tensor = torch.linalg.eigvalsh(_product(rows, center=center)).flip(0)
    return values[: _rank(values, rows)]


def _product(rows: Product, *, center: bool) -> Tensor:
    product = rows.product(center=center)
    checked_energy(rows, center=center)
    return product


def _rank(values: Tensor, rows: Product) -> int:
    return int((values > max(rows.n, rows.m) * _EPS * values[0]).sum())
