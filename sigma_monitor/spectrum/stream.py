"""The product of rows that are never all in memory: a chunk at a time, and over several ranks."""

from __future__ import annotations

import math

import torch
import torch.distributed as dist
from torch import Tensor

from sigma_monitor.errors import InputError
from sigma_monitor.spectrum.gram import (
    STORAGE_DTYPES,
    add_product,
    blocks,
    mean_cosine,
    mirror,
    row_norms,
    validated,
)

__all__ = ["LARGEST_WIDTH", "GramStream", "group_size"]

# The product of wider rows takes more than 512 MiB, and its eigenvalues minutes of a CPU.
LARGEST_WIDTH = 8192

# Most precise first: one row of a later type decides on the ridge floor.
_BY_PRECISION = sorted(STORAGE_DTYPES, key=lambda dtype: torch.finfo(dtype).eps)


class GramStream:
    """The m x m product of rows that come in chunks and are not kept, accumulated in fp64.

    The centred product is accumulated: of each chunk about its own mean, joined to what came before
    by the pairwise update of Chan, Golub and LeVeque (1979). No digits cancel when the mean carries
    nearly all the energy, as they would in `Σ x xᵀ − n·mean·meanᵀ`. The result is that of
    `Gram.from_embeddings` on all rows, to rounding, in whatever chunks they came.

    It offers all of `Gram` that needs no rows (`Product`); a jackknife needs the rows, so a stream
    has no sampling interval. `dtype` is that of the least precise rows seen, fp64 before any.

    Memory: `8 m²` bytes; while a chunk is added, 16 MiB and 16 bytes a row besides.

    Examples:
        >>> import torch
        >>> from sigma_monitor.spectrum.stream import GramStream
        >>> stream = GramStream(2)
        >>> for chunk in torch.tensor([[1.0, 0.0], [0.0, 2.0], [0.0, 1.0]]).split(2):
        ...     stream.update(chunk)
        >>> stream.n, stream.product(center=False).tolist()
        (3, [[1.0, 0.0], [0.0, 5.0]])
    """

    def __init__(
        self, m: int, *, normalize: bool = False, device: torch.device | str = "cpu"
    ) -> None:
        """Start with no rows.

        Args:
            m: Number of features.
            normalize: Scale every row to unit length before centring. A zero row stays zero.
            device: Where the product is accumulated; the CPU instead of MPS, which has no fp64.

        Raises:
            InputError: When m is not an integer from 1 to `LARGEST_WIDTH`.
        """
        _check_width(m)
        device = torch.device(device)
        if device.type == "mps":
            device = torch.device("cpu")
        # State made in inference mode could not be updated outside of it.
        with torch.inference_mode(False):
            self._centred = torch.zeros(m, m, dtype=torch.float64, device=device)
            # The mean is origin + offset. Means of chunks are compared once the origin, the mean of
            # the first, is taken out: they are then good to eps of the spread, not of the mean.
            self._origin = torch.zeros(m, dtype=torch.float64, device=device)
            self._offset = torch.zeros_like(self._origin)
            self._direction_sum = torch.zeros_like(self._origin)
        self._normalize = bool(normalize)
        self._n = 0
        self._nonzero_rows = 0
        self._raw_squares = 0.0  # Σ‖x‖² of the raw rows, which must not overflow
        self._least_precise = 0  # index into _BY_PRECISION
        self._pooled = False
        self._bytes_communicated = 0

    @property
    def n(self) -> int:
        """Number of rows seen; of all ranks after `all_reduce`."""
        return self._n

    @property
    def m(self) -> int:
        """Number of features."""
        return len(self._centred)

    @property
    def device(self) -> torch.device:
        """Where the product is accumulated."""
        return self._centred.device

    @property
    def dtype(self) -> torch.dtype:
        """Least precise storage type of the rows seen, fp64 before any."""
        return _BY_PRECISION[self._least_precise]

    @property
    def normalize(self) -> bool:
        """Whether every row is scaled to unit length, before centring."""
        return self._normalize

    @property
    def on_features(self) -> bool:
        """True: the product is the m x m Gram matrix, however few the rows."""
        return True

    @property
    def bytes_communicated(self) -> int:
        """Payload that this rank gave to collectives, in bytes."""
        return self._bytes_communicated

    @torch.no_grad()
    def update(self, chunk: Tensor) -> None:
        """Add rows.

        Args:
            chunk: (r, m) finite tensor of fp16, bf16, fp32 or fp64 on any device; r may be 0.

        Raises:
            InputError: On a wrong shape or dtype, a non-finite value, one whose square overflows
                fp64, or after `all_reduce`. The stream is then what it was before the call.

        Cost: about `r m²` flops in fp64 (`gram.product_flops`) and two passes over the rows. Every
        call reads and writes the product: prefer chunks of 64 rows or more.
        """
        if self._pooled:
            raise InputError(
                f"update() after all_reduce(): the stream already holds the {self._n} rows of all "
                "ranks, and rows of one rank would make ranks differ. Start a new GramStream."
            )
        chunk = validated(chunk, "chunk")
        if chunk.shape[1] != self.m:
            raise InputError(
                f"chunk has shape {tuple(chunk.shape)}, but the stream has {self.m} features: pass "
                f"rows of one layer, or start GramStream({chunk.shape[1]})."
            )
        if len(chunk) == 0:
            return
        norms = row_norms(chunk, "chunk")
        self._raw_squares = _finite(self._raw_squares + float(norms.square().sum()))
        self._least_precise = max(self._least_precise, _BY_PRECISION.index(chunk.dtype))
        norms = norms.to(self.device)
        for rows in blocks(*chunk.shape):
            self._add(chunk[rows], norms[rows])

    @torch.no_grad()
    def all_reduce(self, group: dist.ProcessGroup | None = None) -> None:
        """Make the stream of every rank that of the rows of all ranks; a collective, called once.

        A rank may have no rows. Ranks end with the same bits. With one process, or without
        `torch.distributed`, nothing is communicated.

        The ranks agree on the mean first. Each then moves its product there, by
        `n_r (mean_r − mean)(mean_r − mean)ᵀ`, so that the sum over ranks cancels no digits.

        Args:
            group: Process group, the default one when None. With NCCL the stream must be on a GPU.

        Raises:
            InputError: Where ranks differ in m or normalize (on every rank), when the energy of all
                rows overflows fp64, on a process outside the group, or when called again.

        Cost: three all-reduces of `m² + 2 m + 10` fp64 values together. Memory: a few rows.
        """
        if self._pooled:
            raise InputError(
                f"all_reduce() was called before: the stream already holds the {self._n} rows of "
                "all ranks, which would count once per rank. Start a new GramStream."
            )
        ranks = group_size(group)
        if ranks > 1:
            n = self._n
            self._pool_counts(ranks, group)
            self._pool_moments(n, group)
        self._pooled = True

    def product(self, *, center: bool) -> Tensor:
        """The (m, m) fp64 product of the centred or of the raw (scaled) rows; a new tensor.

        Raises:
            InputError: When no row was seen.
        """
        self._check_not_empty()
        if center:
            return mirror(self._centred.clone())
        mean = self._origin + self._offset
        return mirror(torch.addr(self._centred, mean, mean, alpha=self._n))

    def energy(self, *, center: bool) -> float:
        """Trace of the product.

        Raises:
            InputError: When no row was seen.
        """
        self._check_not_empty()
        centred = float(self._centred.diagonal().sum())
        mean = self._origin + self._offset
        return centred if center else centred + self._n * float(mean.square().sum())

    def mean_cosine(self) -> float:
        """Mean cosine between two different rows, as `Gram.mean_cosine`.

        Raises:
            InputError: When no row was seen.
        """
        self._check_not_empty()
        return mean_cosine(self._direction_sum, self._nonzero_rows)

    def _add(self, rows: Tensor, norms: Tensor) -> None:
        """Add (r, m) rows of any dtype and device, given their (r, 1) norms."""
        r = len(rows)
        buffer = torch.empty(r + 1, self.m, dtype=torch.float64, device=self.device)
        centred = buffer[:r]
        centred.copy_(rows)
        inverse = torch.where(norms > 0, 1 / norms, torch.zeros_like(norms))
        self._direction_sum += inverse[:, 0] @ centred
        self._nonzero_rows += int((norms > 0).sum())
        if self._normalize:
            centred *= inverse
        if self._n == 0:
            self._origin.copy_(centred.mean(0))
        centred -= self._origin
        offset = centred.mean(0)
        centred -= offset
        # Chan's term n r/(n + r) shift·shiftᵀ is one row more: one product does it all.
        shift = offset - self._offset
        total = self._n + r
        buffer[r] = shift * math.sqrt(self._n * r / total)
        add_product(self._centred, buffer)
        self._offset += shift * (r / total)
        self._n = total

    def _pool_counts(self, ranks: int, group: dist.ProcessGroup | None) -> None:
        """Sum what is counted, after checking that the ranks accumulate the same thing."""
        m = self.m
        # Types as one-hot counts, so that the least precise one comes out of the same sum.
        seen = [float(k == self._least_precise) for k in range(len(_BY_PRECISION))]
        numbers = [m, m * m, self._normalize, self._n, self._nonzero_rows, self._raw_squares, *seen]
        header = torch.tensor(numbers, dtype=torch.float64, device=self.device)
        self._sum_over_ranks(header, group)
        widths, squares, normalized, n, nonzero_rows, energy, *seen = header.tolist()
        if ranks * squares != widths**2:
            raise InputError(
                f"the {ranks} ranks have {widths / ranks:g} features on average, this one {m}: all "
                "must stream the same layer of the same model."
            )
        if normalized not in (0, ranks):
            raise InputError(
                f"{int(normalized)} of {ranks} ranks have normalize=True: pass the same on all."
            )
        self._raw_squares = _finite(energy)
        self._n, self._nonzero_rows = int(n), int(nonzero_rows)
        self._least_precise = max(k for k, count in enumerate(seen) if count)

    def _pool_moments(self, own_n: int, group: dist.ProcessGroup | None) -> None:
        """Sum the means, the directions and, about the common mean, the centred products."""
        own_sum = (self._origin + self._offset) * own_n
        sums = torch.stack([own_sum, self._direction_sum])  # (2, m)
        self._sum_over_ranks(sums, group)
        mean = sums[0] / max(self._n, 1)
        shift = (self._origin - mean) + self._offset
        self._centred.addr_(shift, shift, alpha=own_n)
        self._sum_over_ranks(self._centred, group)
        self._origin.copy_(mean)
        self._offset.zero_()
        self._direction_sum.copy_(sums[1])

    def _sum_over_ranks(self, values: Tensor, group: dist.ProcessGroup | None) -> None:
        dist.all_reduce(values, group=group)
        self._bytes_communicated += values.numel() * values.element_size()

    def _check_not_empty(self) -> None:
        if self._n == 0:
            raise InputError(
                f"the stream of {self.m} features has seen 0 rows"
                + (" on all ranks" if self._pooled else "")
                + ": there is no spectrum. Call update() with at least one row."
            )


def _check_width(m: object) -> None:
    if not isinstance(m, int) or isinstance(m, bool) or m < 1:
        raise InputError(f"m={m!r}: the number of features is a positive integer, such as 768.")
    if m > LARGEST_WIDTH:
        raise InputError(
            f"m={m}: the product of m² fp64 values takes {8 * m * m / 2**30:.2f} GiB, and streams "
            f'end at m={LARGEST_WIDTH}. Use the matrix-free method="lanczos" on embeddings that '
            "are kept."
        )


def _finite(energy: float) -> float:
    if not math.isfinite(energy):
        raise InputError(
            f"the squares of all rows sum to {energy}: they overflow fp64. Divide every chunk by "
            "the same large number: ranks and entropies do not change."
        )
    return energy


def group_size(group: dist.ProcessGroup | None) -> int:
    """Processes in the group, 1 without `torch.distributed`; raises an InputError outside of it."""
    if not (dist.is_available() and dist.is_initialized()):
        return 1
    if dist.get_rank(group) < 0:
        raise InputError(
            f"rank {dist.get_rank()} is not in the group: call this on its members alone."
        )
    return dist.get_world_size(group)
