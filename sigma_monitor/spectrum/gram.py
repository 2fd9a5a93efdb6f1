"""One product of the rows, from which the centred and the uncentred spectrum both follow."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from sigma_monitor.errors import InputError

__all__ = ["Gram"]

# Rows are widened to fp64 this many elements at a time (32 MiB), never all at once.
CHUNK_ELEMENTS = 2**22

STORAGE_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@dataclass(frozen=True, eq=False)
class Gram:
    """The product of an embedding matrix with itself, on its smaller side, in fp64.

    With `E` of shape (n, m) the product is the Gram matrix `EᵀE` (m x m) when n >= m and the kernel
    matrix `EEᵀ` (n x n) otherwise: both have the same non-zero eigenvalues. It is accumulated from
    centred rows, so that no digits cancel when the mean carries nearly all the energy; the
    uncentred product is the centred one plus terms of rank two at most.

    Build it with `Gram.from_embeddings`. Memory beside the embeddings: the d x d product,
    d = min(n, m), and 32 MiB.
    """

    embeddings: Tensor  # (n, m), as given, any storage dtype
    scale: Tensor | None  # (n, 1) fp64: 1 / norm of each row when rows are normalised
    mean: Tensor  # (m,) fp64: mean of the (scaled) rows
    centred: Tensor  # (d, d) fp64: product of the centred rows
    direction_sum: Tensor  # (m,) fp64: sum of the rows scaled to unit length
    nonzero_rows: int  # rows that have a direction

    @classmethod
    def from_embeddings(cls, embeddings: Tensor, *, normalize: bool = False) -> Gram:
        """Accumulate the product of `embeddings`.

        Args:
            embeddings: (n, m) floating tensor, finite, one row per example or token.
            normalize: Scale every row to unit length before centring. A zero row stays zero.

        Raises:
            InputError: On a wrong rank, an empty or non-floating tensor, a non-finite value, or
                one whose square overflows fp64.

        Cost: two passes over the rows and `2 n m d` flops in fp64.
        """
        embeddings = _validated(embeddings)
        norms = torch.linalg.vector_norm(embeddings, dim=1, keepdim=True, dtype=torch.float64)
        if not bool(torch.isfinite(norms.square().sum())):
            raise InputError(
                f"embeddings reach {float(embeddings.abs().max()):.3g}, whose squares overflow "
                "fp64. Divide them by that value: ranks and entropies do not change."
            )
        inverse = torch.where(norms > 0, 1 / norms, torch.zeros_like(norms))
        direction_sum = embeddings.new_zeros(embeddings.shape[1], dtype=torch.float64)
        row_sum = torch.zeros_like(direction_sum)
        for rows in _blocks(embeddings.shape[0], embeddings.shape[1]):
            chunk = embeddings[rows].double()
            direction_sum += (chunk * inverse[rows]).sum(0)
            row_sum += chunk.sum(0)
        scale = inverse if normalize else None
        mean = (direction_sum if normalize else row_sum) / embeddings.shape[0]
        return cls(
            embeddings=embeddings,
            scale=scale,
            mean=mean,
            centred=_centred_product(embeddings, scale, mean),
            direction_sum=direction_sum,
            nonzero_rows=int((norms > 0).sum()),
        )

    @property
    def n(self) -> int:
        """Number of rows."""
        return self.embeddings.shape[0]

    @property
    def m(self) -> int:
        """Number of features."""
        return self.embeddings.shape[1]

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

    def coordinates(self, values: Tensor, vectors: Tensor, *, center: bool) -> Tensor:
        """Rows in the eigenbasis: (n, r) `Z` with `ZᵀZ = diag(values)`.

        Args:
            values: (r,) positive eigenvalues of `product(center=center)`.
            vectors: (d, r) their eigenvectors.
            center: The convention the eigenpairs belong to.
        """
        if self.on_features:
            return self._rows_times(vectors, center=center)
        return vectors * values.sqrt()

    def mean_cosine(self) -> float:
        """Mean cosine between two different rows, always of the raw, uncentred rows.

        `(‖Σ u_i‖² − n) / (n (n − 1))` over the n rows that have a direction, `u_i` of unit length
        (Ethayarajh 2019, "anisotropy"). 1.0 when fewer than two rows have a direction.
        """
        n = self.nonzero_rows
        if n < 2:
            return 1.0
        return (float(self.direction_sum.square().sum()) - n) / (n * (n - 1))

    def _rows_times(self, right: Tensor, *, center: bool) -> Tensor:
        """(n, r) fp64 product of the rows with `right` (m, r), a chunk of rows at a time."""
        product = right.new_empty(self.n, right.shape[1])
        for rows in _blocks(self.n, self.m):
            chunk = self.embeddings[rows].double()
            if self.scale is not None:
                chunk = chunk * self.scale[rows]
            if center:
                chunk = chunk - self.mean
            torch.mm(chunk, right, out=product[rows])
        return product


def _validated(embeddings: Tensor) -> Tensor:
    if not isinstance(embeddings, Tensor):
        raise InputError(
            f"embeddings is a {type(embeddings).__name__}, not a torch.Tensor: "
            "pass torch.as_tensor(embeddings)."
        )
    if embeddings.ndim != 2:
        raise InputError(
            f"embeddings has shape {tuple(embeddings.shape)}: expected two dimensions, (rows, "
            "features). Flatten tokens into rows with embeddings.flatten(0, -2)."
        )
    if embeddings.numel() == 0:
        raise InputError(
            f"embeddings has shape {tuple(embeddings.shape)}, which holds no value: pass at least "
            "one row and one feature."
        )
    if embeddings.dtype not in STORAGE_DTYPES:
        raise InputError(
            f"embeddings has dtype {embeddings.dtype}: expected one of "
            f"{', '.join(str(dtype) for dtype in STORAGE_DTYPES)}. Convert with embeddings.float()."
        )
    embeddings = embeddings.detach()
    if embeddings.device.type == "mps":  # no fp64 there
        embeddings = embeddings.cpu()
    bad_rows = int((~torch.isfinite(embeddings)).any(dim=1).sum())
    if bad_rows:
        raise InputError(
            f"embeddings has {bad_rows} of {embeddings.shape[0]} rows with NaN or infinity: the "
            "model diverged or a layer overflowed. Drop those rows, or look at the model."
        )
    return embeddings


def _blocks(length: int, width: int) -> Iterator[slice]:
    """Slices that cover `length` in blocks of at most `CHUNK_ELEMENTS` values of `width` each."""
    step = max(1, CHUNK_ELEMENTS // width)
    for start in range(0, length, step):
        yield slice(start, min(start + step, length))


def _centred_product(embeddings: Tensor, scale: Tensor | None, mean: Tensor) -> Tensor:
    n, m = embeddings.shape
    d = min(n, m)
    product = embeddings.new_zeros(d, d, dtype=torch.float64)
    on_features = n >= m
    for block in _blocks(n, m) if on_features else _blocks(m, n):
        rows, columns = (block, slice(None)) if on_features else (slice(None), block)
        chunk = embeddings[rows, columns].double()
        if scale is not None:
            chunk = chunk * scale[rows]
        chunk = chunk - mean[columns]
        if on_features:
            product.addmm_(chunk.T, chunk)
        else:
            product.addmm_(chunk, chunk.T)
    return product
