"""`C / tr C` as an operator: rows in their storage type, products with vectors out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor

from sigma_monitor.spectrum.gram import Gram

__all__ = ["DenseOperator", "Operator", "RowOperator", "add_image", "compute_dtype", "threads"]

# Rows are taken so many elements at a time by each thread: 4 MiB of fp32 stay in a processor's
# cache from the first product to the second, so that memory is read once. On an accelerator
# launches cost more.
_CHUNK_ELEMENTS = 2**20
_ACCELERATOR_CHUNK_ELEMENTS = 2**26


class Operator(Protocol):
    """One symmetric positive semi-definite operator of trace 1 for each of `layers` layers."""

    layers: int
    d: int  # dimension
    dtype: torch.dtype  # in which products are computed
    device: torch.device

    def apply(self, vectors: Tensor) -> Tensor:
        """(layers, b, d) vectors, as rows, to (layers, b, d) products."""
        ...

    def agreed(self, decisions: list[bool]) -> list[bool]:
        """The decisions that all who hold a part of the operator follow; these, if nobody else."""
        return decisions

    def shared(self, vectors: Tensor) -> Tensor:
        """The vectors that all who hold a part of it go on with; these, if nobody else."""
        return vectors


class RowOperator(Operator):
    """`V -> (V Xᵀ) X / Σ‖x_i‖²` on the smaller side of the rows X of each layer.

    The rows stay as they are: a chunk at a time is widened to the compute type, scaled to unit
    length and centred, and serves both products before the next. Vectors are rows of `V`, since
    `(V Xᵀ) X` runs several times faster than `Xᵀ(X V)` with columns.

    Args:
        grams: Rows of each layer, of equal shape and on one device.
        center: Subtract the mean row.
        traces: Energy `Σ‖x_i‖²` of the rows of each layer under this convention.
        on_features: Whether d is m; the smaller side when None.

    Memory beside the rows: 12 MiB and the vectors for each thread (768 MiB on an accelerator),
    twice that in fp64.
    Cost of a product: `4 n m b` flops a layer.
    """

    def __init__(
        self,
        grams: Sequence[Gram],
        *,
        center: bool,
        traces: Sequence[float],
        on_features: bool | None = None,
    ) -> None:
        first = grams[0]
        self.layers = len(grams)
        self._on_features = first.on_features if on_features is None else on_features
        self.d = first.m if self._on_features else first.n
        self.dtype = compute_dtype(first.embeddings.dtype)
        self.device = first.embeddings.device
        self.grams = grams
        self._center = center
        # Half of the scale goes to either factor: the squares of fp32 rows can leave its range.
        self._roots = [trace**-0.5 for trace in traces]
        self._threads = threads(self.device)

    def apply(self, vectors: Tensor) -> Tensor:
        """(layers, b, d) vectors, as rows, to (layers, b, d) products."""
        products = []
        for right, gram, root in zip(vectors, self.grams, self._roots, strict=True):
            sums, scaled = right.new_zeros(self._threads, *right.shape), right * root
            for chunk in self._chunks(gram):
                add_image(sums, scaled, chunk)
            products.append(sums.sum(0) * root)
        return torch.stack(products)

    def shares(self, layer: int, basis: Tensor | None) -> tuple[Tensor, Tensor]:
        """What each row contributes to the energy along eigendirections within a span.

        Args:
            layer: Which one.
            basis: (s, d) orthonormal; None for all d.

        Returns:
            (n, s) fp64 shares of the trace, and their (s,) sums, the Ritz values.
        """
        gram = self.grams[layer]
        if basis is None:
            basis = torch.eye(self.d, dtype=self.dtype, device=self.device)
        side, root = len(basis), self._roots[layer]
        projected = torch.zeros(side, side, dtype=torch.float64, device=self.device)
        for chunk in self._chunks(gram):
            image = (basis @ chunk.mT).double() * root  # of some rows, or of some features
            projected.addmm_(image, image.mT)
        values, rotation = torch.linalg.eigh(projected)
        values = values.clamp_min(0)
        rotated = rotation.mT @ basis.double()
        if not self._on_features:
            return rotated.square().mT * values, values
        taken = values.new_empty(gram.n, side)
        start = 0
        for chunk in self._chunks(gram):
            image = (rotated.to(self.dtype) @ chunk.mT).double() * root
            taken[start : start + len(chunk)] = image.mT.square()
            start += len(chunk)
        return taken, taken.sum(0)

    def _chunks(self, gram: Gram) -> Iterator[Tensor]:
        """The rows, prepared; on the kernel side transposed, so that `d` is the last dimension."""
        rows = gram.embeddings
        mean = gram.mean.to(self.dtype) if self._center else None
        scale = None if gram.scale is None else gram.scale.to(self.dtype)
        length, width = rows.shape if self._on_features else rows.shape[::-1]
        on_host = rows.device.type == "cpu"
        elements = _CHUNK_ELEMENTS * self._threads if on_host else _ACCELERATOR_CHUNK_ELEMENTS
        step = max(1, elements // width)
        for start in range(0, length, step):
            block = slice(start, start + step)
            if self._on_features:
                yield _prepared(rows[block], None if scale is None else scale[block], mean, self)
            else:
                part = None if mean is None else mean[block]
                yield _prepared(rows[:, block], scale, part, self).mT


class DenseOperator(Operator):
    """`V -> V G / tr G` for products that are at hand.

    Args:
        products: (layers, d, d) fp64, symmetric positive semi-definite.
        traces: Their traces.

    Cost of a product: `2 d² b` flops a layer.
    """

    def __init__(self, products: Tensor, traces: Sequence[float]) -> None:
        self.layers, self.d = products.shape[:2]
        self.dtype = products.dtype
        self.device = products.device
        self._products = products
        self._traces = torch.tensor(traces, dtype=self.dtype, device=self.device)[:, None, None]

    def apply(self, vectors: Tensor) -> Tensor:
        """(layers, b, d) vectors, as rows, to (layers, b, d) products."""
        return torch.bmm(vectors, self._products) / self._traces


def threads(device: torch.device) -> int:
    """That share the rows of a product between them."""
    return torch.get_num_threads() if device.type == "cpu" else 1


def compute_dtype(storage: torch.dtype) -> torch.dtype:
    """fp32 for everything that is stored in fp32 or narrower, fp64 for fp64."""
    return torch.float64 if storage == torch.float64 else torch.float32


def add_image(sums: Tensor, vectors: Tensor, rows: Tensor) -> None:
    """Add `(V Xᵀ) X` to the (parts, b, d) sums, each from an equal share of the rows.

    One thread with few vectors and its own rows is up to twice as fast as all threads together.
    """
    parts = len(sums)
    even = len(rows) - len(rows) % parts
    shares = rows[:even].view(parts, even // parts, rows.shape[1])
    sums.baddbmm_(vectors.expand(parts, -1, -1) @ shares.mT, shares)
    if even < len(rows):
        sums[0].addmm_(vectors @ rows[even:].mT, rows[even:])


def _prepared(rows: Tensor, scale: Tensor | None, mean: Tensor | None, like: Operator) -> Tensor:
    rows = rows.to(like.dtype)
    if scale is not None:
        rows = rows * scale
    return rows if mean is None else rows - mean
