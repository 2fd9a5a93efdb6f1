"""The exact way: one fp64 eigendecomposition of the smaller of Gram and kernel matrix."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sigma_monitor.errors import ZeroTraceError
from sigma_monitor.spectrum.gram import Gram

__all__ = ["Decomposition", "decompose"]

_EPS = torch.finfo(torch.float64).eps

# Centring identical rows leaves rounding noise of about n·eps² of the energy: that much is zero.
_RELATIVE_ZERO_TRACE = 1e-26


@dataclass(frozen=True, eq=False)
class Decomposition:
    """Eigenpairs of the product, without the directions that are zero up to rounding."""

    values: Tensor  # (r,) fp64, descending: eigenvalues of G (or of K) above the rounding floor
    vectors: Tensor  # (d, r) fp64: their eigenvectors
    empty: int  # eigenvalues of the m x m matrix that are zero or below the rounding floor


def decompose(gram: Gram, *, center: bool) -> Decomposition:
    """Decompose `gram.product(center=center)`.

    Eigenvalues below `max(n, m) · eps · λ₁` (eps of fp64) are rounding noise of the accumulation or
    of the decomposition, and taken as zero.

    Raises:
        ZeroTraceError: When the trace is zero: all rows are zero, or equal while centring.

    Cost: about `9 d³` flops in fp64 (values and vectors); no singular value decomposition.
    """
    product = gram.product(center=center)
    energy = float(gram.product(center=False).diagonal().sum()) if center else 0.0
    trace = float(product.diagonal().sum())
    if trace <= _RELATIVE_ZERO_TRACE * energy:
        raise ZeroTraceError(
            f"the trace of the {gram.n} x {gram.m} embeddings is {trace:g}"
            + (": all rows are equal, so nothing is left after centring" if center else "")
            + ". No spectrum can be normalised by it. Pass rows that differ"
            + (", or center=False." if center else ".")
        )
    values, vectors = torch.linalg.eigh(product)
    values, vectors = values.flip(0), vectors.flip(1)
    rank = int((values > max(gram.n, gram.m) * _EPS * values[0]).sum())
    return Decomposition(values[:rank], vectors[:, :rank], empty=gram.m - rank)
