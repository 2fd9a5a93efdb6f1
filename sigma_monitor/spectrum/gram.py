"""One product of the rows, from which the centred and the uncentred spectrum both follow."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from sigma_monitor.errors import InputError

__all__ = [
    "Gram",
    "Product",
    "RowFacts",
    "add_product",
    "blocks",
    "check_norms",
    "mean_cosine",
    "mirror",
    "product_flops",
    "row_norms",
    "validated",
]

# Rows are widened to fp64 this many elements at a time (8 MiB), never all at once. Larger chunks
# leave the cache of a CPU: four times as many took 1.2 to 1.8 times as long.
CHUNK_ELEMENTS = 2**20

# Columns that a symmetric product is made of at a time: fewer waste less above the diagonal, more
# run faster.
_BLOCK_WIDTH = 256
_ACCELERATOR_BLOCK_WIDTH = 1024

_ALL_ROWS = slice(None)

STORAGE_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class RowFacts(Protocol):
    """What is known of rows, wherever they are."""

    @property
    def n(self) -> int:
        """Number of rows."""

    @property
    def m(self) -> int:
        """Number of features."""

    @property
    def device(self) -> torch.device:
        """Where they are computed with."""

    @property
    def dtype(self) -> torch.dtype:
        """Storage type of the rows, the least precise one where they differed."""

    @property
    def normalize(self) -> bool:
        """Whether every row was scaled to unit length, before centring."""

    def energy(self, *, center: bool) -> float:
        """Trace of the product: squared norms of all (scaled, centred) rows together."""

    def mean_cosine(self) -> float:
        """Mean cosine between two different rows, always of the raw, uncentred rows."""


class Product(RowFacts, Protocol):
    """Rows whose product is at hand, whether or not they are kept."""

    @property
    def on_features(self) -> bool:
        """Whether the product is the m x m Gram matrix (else the n x n kernel matrix)."""

    def product(self, *, center: bool) -> Tensor:
        """The (d, d) fp64 product of the centred or of the raw (scaled) rows."""


@dataclass(frozen=True, eq=False)
class Gram:
    """The rows of an embedding matrix, and their product on the smaller side in fp64 when needed.

    With `E` of shape (n, m) the product is the Gram matrix `EᵀE` (m x m) when n >= m and the kernel
    matrix `EEᵀ` (n x n) otherwise: both have the same non-zero eigenvalues. It is accumulated from
    centred rows, so that no digits cancel when the mean carries nearly all the energy; the
    uncentred product is the centred one plus terms of rank two at most.

    Build it with `Gram.from_embeddings`. Memory beside the embeddings: 16 MiB, and once a product
    is asked for d x d values, d = min(n, m).
    """

    embeddings: Tensor  # (n, m), as given, any storage dtype
    scale: Tensor | None  # (n, 1) fp64: 1 / norm of each row when rows are normalised
    mean: Tensor  # (m,) fp64: mean of the (scaled) rows
    norms: Tensor  # (n, 1) fp64: of the rows as given
    direction_sum: Tensor  # (m,) fp64: sum of the rows scaled to unit length
    nonzero_rows: int  # rows that have a direction

    @classmethod
    def from_embeddings(cls, embeddings: Tensor, *, normalize: bool = False) -> Gram:
        """Look at the rows once, for their norms and their mean.

        Args:
            embeddings: (n, m) floating tensor, finite, one row per example or token.
            normalize: Scale every row to unit length before centring. A zero row stays zero.

        Raises:
            InputError: On a wrong rank, an empty or non-floating tensor, a non-finite value, or
                one whose square overflows fp64.

        Cost: one pass over the rows; the product costs another and `product_flops` in fp64.
        """
        embeddings = validated(embeddings, "embeddings")
        if embeddings.numel() == 0:
            raise InputError(
                f"embeddings has shape {tuple(embeddings.shape)}, which holds no value: pass at "
                "least one row and one feature."
            )
        n, m = embeddings.shape
        norms = embeddings.new_empty(n, 1, dtype=torch.float64)
        row_sum = embeddings.new_zeros(m, dtype=torch.float64)
        direction_sum = torch.zeros_like(row_sum)
        for rows in blocks(n, m):
            chunk = embeddings[rows].double()
            norms[rows] = torch.linalg.vector_norm(chunk, dim=1, keepdim=True)
            # Pairwise sums: a matrix product adds naively, and equal rows would not centre to zero.
            row_sum += chunk.sum(0)
            direction_sum += (chunk * _inverse(norms[rows])).sum(0)
        check_norms(norms, embeddings, "embeddings")
        return cls(
            embeddings=embeddings,
            scale=_inverse(norms) if normalize else None,
            mean=(direction_sum if normalize else row_sum) / n,
            norms=norms,
            direction_sum=direction_sum,
            nonzero_rows=int((norms > 0).sum()),
        )

    @cached_property
    def centred(self) -> Tensor:
        """(d, d) fp64 product of the centred rows, accumulated when first asked for."""
        return _centred_product(self.embeddings, self.scale, self.mean)

    def row_energy(self, *, center: bool) -> Tensor:
        """(n,) fp64 squared norms of the (scaled, centred) rows."""
        if not center:
            norms = self.norms if self.scale is None else (self.norms > 0).double()
            return norms[:, 0].square()
        return self._centred_energy

    def energy(self, *, center: bool) -> float:
        """Trace of the product: squared norms of all (scaled, centred) rows together."""
        if center and "centred" in vars(self):
            return float(self.centred.diagonal().sum())
        return float(self.row_energy(center=center).sum())

    @cached_property
    def _centred_energy(self) -> Tensor:
        energy = self.mean.new_empty(self.n)
        for block in blocks(self.n, self.m):
            chunk = self.embeddings[block].double()
            chunk = (chunk if self.scale is None else chunk * self.scale[block]) - self.mean
            energy[block] = chunk.square().sum(1)
        return energy

    @property
    def n(self) -> int:
        """Number of rows."""
        return self.embeddings.shape[0]

    @property
    def m(self) -> int:
        """Number of features."""
        return self.embeddings.shape[1]

    @property
    def device(self) -> torch.device:
        """Where the rows and the product lie."""
        return self.embeddings.device

    @property
    def dtype(self) -> torch.dtype:
        """Storage type of the rows."""
        return self.embeddings.dtype

    @property
    def normalize(self) -> bool:
        """Whether every row is scaled to unit length, before centring."""
        return self.scale is not None

    @property
    def on_features(self) -> bool:
        """Whether the product is the m x m Gram matrix (else the n x n kernel matrix)."""
        return self.n >= self.m

    def product(self, *, center: bool) -> Tensor:
        """The (d, d) fp64 product of the centred or of the raw (scaled) rows."""
        if center:
            return self.centred
        if self.on_features:
            return self.centred + self.n * torch.outer(self.mean, self.mean)
        along_mean = self._rows_times(self.mean[:, None], center=True)  # (n, 1)
        return self.centred + along_mean + along_mean.T + self.mean.square().sum()

    def coordinates(
        self, values: Tensor, vectors: Tensor, *, center: bool, rows: slice = _ALL_ROWS
    ) -> Tensor:
        """Rows in the eigenbasis: (n, r) `Z` with `ZᵀZ = diag(values)`.

        Args:
            values: (r,) positive eigenvalues of `product(center=center)`.
            vectors: (d, r) their eigenvectors.
            center: The convention the eigenpairs belong to.
            rows: Which consecutive rows of Z to compute.
        """
        if self.on_features:
            return self._rows_times(vectors, center=center, rows=rows)
        return vectors[rows] * values.sqrt()

    def mean_cosine(self) -> float:
        """Mean cosine between two different rows, always of the raw, uncentred rows.

        `(‖Σ u_i‖² − n) / (n (n − 1))` over the n rows that have a direction, `u_i` of unit length
        (Ethayarajh 2019, "anisotropy"). 1.0 when fewer than two rows have a direction.
        """
        return mean_cosine(self.direction_sum, self.nonzero_rows)

    def _rows_times(self, right: Tensor, *, center: bool, rows: slice = _ALL_ROWS) -> Tensor:
        """(n, r) fp64 product of the rows with `right` (m, r), a chunk of rows at a time."""
        embeddings = self.embeddings[rows]
        scale = None if self.scale is None else self.scale[rows]
        product = right.new_empty(len(embeddings), right.shape[1])
        for block in blocks(len(embeddings), self.m):
            chunk = embeddings[block].double()
            if scale is not None:
                chunk = chunk * scale[block]
            if center:
                chunk = chunk - self.mean
            torch.mm(chunk, right, out=product[block])
        return product


def validated(rows: Tensor, name: str) -> Tensor:
    """`rows` without its graph, on a device that has fp64; its values are not looked at."""
    if not isinstance(rows, Tensor):
        raise InputError(
            f"{name} is a {type(rows).__name__}, not a torch.Tensor: pass torch.as_tensor({name})."
        )
    if rows.ndim != 2:
        raise InputError(
            f"{name} has shape {tuple(rows.shape)}: expected two dimensions, (rows, features). "
            f"Flatten tokens into rows with {name}.flatten(0, -2)."
        )
    if rows.dtype not in STORAGE_DTYPES:
        raise InputError(
            f"{name} has dtype {rows.dtype}: expected one of "
            f"{', '.join(str(dtype) for dtype in STORAGE_DTYPES)}. Convert with {name}.float()."
        )
    rows = rows.detach()
    return rows.cpu() if rows.device.type == "mps" else rows  # no fp64 there


def row_norms(rows: Tensor, name: str) -> Tensor:
    """(n, 1) fp64 norms of finite rows whose squares have a sum in fp64."""
    norms = rows.new_empty(rows.shape[0], 1, dtype=torch.float64)
    for block in blocks(*rows.shape):
        norms[block] = torch.linalg.vector_norm(rows[block], dim=1, keepdim=True, dtype=norms.dtype)
    check_norms(norms, rows, name)
    return norms


def check_norms(norms: Tensor, rows: Tensor, name: str) -> None:
    """Raise an InputError unless all rows are finite and their squares have a sum in fp64."""
    if bool(torch.isfinite(norms.square().sum())):
        return
    finite = torch.cat([torch.isfinite(rows[block]).all(dim=1) for block in blocks(*rows.shape)])
    bad_rows = int((~finite).sum())
    if bad_rows:
        raise InputError(
            f"{name} has {bad_rows} of {rows.shape[0]} rows with NaN or infinity: the model "
            "diverged or a layer overflowed. Drop those rows, or look at the model."
        )
    raise InputError(
        f"values of {name} reach {float(rows.abs().max()):.3g}, and their squares overflow fp64. "
        "Divide all rows by that value: ranks and entropies do not change."
    )


def _inverse(norms: Tensor) -> Tensor:
    return torch.where(norms > 0, 1 / norms, torch.zeros_like(norms))


def mean_cosine(direction_sum: Tensor, nonzero_rows: int) -> float:
    """`Gram.mean_cosine` of rows whose unit vectors, `nonzero_rows` in number, have this sum."""
    if nonzero_rows < 2:
        return 1.0
    squares = float(direction_sum.square().sum())
    return (squares - nonzero_rows) / (nonzero_rows * (nonzero_rows - 1))


def blocks(length: int, width: int) -> Iterator[slice]:
    """Slices that cover `length` in blocks of at most `CHUNK_ELEMENTS` values of `width` each."""
    step = max(1, CHUNK_ELEMENTS // width)
    for start in range(0, length, step):
        yield slice(start, min(start + step, length))


def _centred_product(embeddings: Tensor, scale: Tensor | None, mean: Tensor) -> Tensor:
    n, m = embeddings.shape
    d = min(n, m)
    product = embeddings.new_zeros(d, d, dtype=torch.float64)
    on_features = n >= m
    for block in blocks(n, m) if on_features else blocks(m, n):
        rows, columns = (block, slice(None)) if on_features else (slice(None), block)
        chunk = embeddings[rows, columns].double()
        if scale is not None:
            chunk = chunk * scale[rows]
        chunk = chunk - mean[columns]
        add_product(product, chunk if on_features else chunk.T)
    return mirror(product)


def add_product(lower: Tensor, rows: Tensor) -> None:
    """Add the lower triangle of `XᵀX` of the (r, d) rows to that of the (d, d) matrix.

    Block by block of columns, up to half the work of the whole. What stands above the diagonal
    means nothing until `mirror`.
    """
    d, width = len(lower), _block_width(rows.device)
    for start in range(0, d, width):
        end = min(start + width, d)
        lower[start:end, :end].addmm_(rows[:, start:end].T, rows[:, :end])


def product_flops(rows: int, d: int, device: torch.device) -> float:
    """Of `add_product`: `r d (d + w)`, w the width of a block on the device, at most d."""
    return float(rows) * d * (d + min(d, _block_width(device)))


def _block_width(device: torch.device) -> int:
    return _BLOCK_WIDTH if device.type == "cpu" else _ACCELERATOR_BLOCK_WIDTH


def mirror(lower: Tensor) -> Tensor:
    """Copy the lower triangle above the diagonal, in place; returns the matrix."""
    d = len(lower)
    for start in range(0, d, _BLOCK_WIDTH):
        end = start + _BLOCK_WIDTH
        lower[start:end, end:] = lower[end:, start:end].T
        corner = lower[start:end, start:end]
        corner.copy_(corner.tril() + corner.tril(-1).T)
    return lower
