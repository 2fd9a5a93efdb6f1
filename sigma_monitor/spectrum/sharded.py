"""One spectrum of rows that are spread over the ranks of `torch.distributed`."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from sigma_monitor.errors import InputError
from sigma_monitor.spectrum.conventions import Conventions, checked_energy
from sigma_monitor.spectrum.cost import EXACT_UP_TO, Choice, rates, weighed
from sigma_monitor.spectrum.exact_summary import exact_summary
from sigma_monitor.spectrum.gram import Gram, mean_cosine, validated
from sigma_monitor.spectrum.lanczos_summary import LanczosSettings, Layers
from sigma_monitor.spectrum.operator import RowOperator, compute_dtype
from sigma_monitor.spectrum.precision import full_precision
from sigma_monitor.spectrum.result import SpectralSummary
from sigma_monitor.spectrum.stream import LARGEST_WIDTH, GramStream, group_size
from sigma_monitor.spectrum.summary import Method, Settings

__all__ = ["sharded_summary"]

T = TypeVar("T")


def sharded_summary(
    rows: Tensor,
    *,
    group: dist.ProcessGroup | None = None,
    center: bool = False,
    normalize: bool = False,
    ridge: float | None = None,
    relative_ridge: float | None = None,
    method: Method = "auto",
    confidence: float = 0.95,
    test_vectors: int = 32,
    lanczos_steps: int | None = None,
    generator: torch.Generator | None = None,
) -> SpectralSummary:
    """`spectral_summary` of the rows of all ranks together; a collective.

    By the exact way, up to m = 8192, each rank accumulates its product, and they are summed once.
    By the randomised way no product is made: every step sums the (vectors, m) products of the
    ranks. All ranks return the same numbers. There is no sampling error: examples are spread.

    Args:
        rows: (n_r, m) rows of this rank, of the same type and m on all; n_r may be 0.
        group: Process group, the default one when None.
        center: As in `spectral_summary`, about the mean of all rows; so are all that follow.
        normalize: As there.
        ridge: As there.
        relative_ridge: As there.
        method: As there; rank 0 decides on `"auto"`.
        confidence: As there.
        test_vectors: As there.
        lanczos_steps: As there.
        generator: As there, of the same seed on all ranks.

    Returns:
        A `SpectralSummary` with `bytes_communicated`, the payload that this rank gave to
        collectives.

    Raises:
        InputError: On every rank, when the rows of any are refused, or when m or type differ.

    Cost: exact, about `n_r m²` flops in fp64 a rank and one all-reduce of `8 m²` bytes. Randomised,
    `4 n_r m` flops a vector and step, and one all-reduce of `4 m` bytes a vector and step.
    """
    conventions = Conventions(center, ridge, relative_ridge, confidence, sampling=False)
    settings = Settings.of(method, test_vectors, lanczos_steps, generator)
    ranks = _Ranks(group)
    started = time.perf_counter()
    local = ranks.together(lambda: validated(rows, "rows"))
    with full_precision(local.device):
        ranks.same(local.shape[1], "features")
        n = int(ranks.sum(torch.tensor(len(local), device=local.device))) // ranks.number
        choice = ranks.first(lambda: _choose(settings, local, n))
        if choice.method == "exact":
            stream = GramStream(local.shape[1], normalize=normalize, device=local.device)
            ranks.together(lambda: stream.update(local))
            stream.all_reduce(group)
            summary = exact_summary(stream, conventions, choice.reason)
            return replace(summary, bytes_communicated=ranks.bytes + stream.bytes_communicated)
        ranks.same((local.dtype, normalize), "type and normalize")
        shards = _Shards.of(local, ranks, normalize=normalize)
        layers = shards.layers(conventions, settings.lanczos, choice.reason)
        (summary,) = layers.summaries(started)
        return replace(summary, bytes_communicated=ranks.bytes)


def _choose(settings: Settings, rows: Tensor, n: int) -> Choice:
    """For ranks of n rows on average."""
    m = rows.shape[1]
    if settings.method == "exact" or (settings.method == "auto" and m <= EXACT_UP_TO):
        return Choice("exact", "asked for" if settings.method == "exact" else f"m = {m} is small")
    if settings.method == "lanczos":
        return Choice("lanczos", "asked for")
    if m > LARGEST_WIDTH:
        return Choice("lanczos", f"m = {m} is above {LARGEST_WIDTH}: no product is made")
    known, lanczos = rates(rows.device), settings.lanczos
    exact = known.exact_seconds(n, m, d=m, sampling=False)
    seconds = known.lanczos_seconds(n, m, rows.dtype, lanczos.test_vectors, lanczos.steps)
    return weighed(m, exact, seconds)


class _Ranks:
    """Collectives of one group, and the payload given to them."""

    def __init__(self, group: dist.ProcessGroup | None) -> None:
        self.group = group
        self.number = group_size(group)
        self.several = self.number > 1
        self.bytes = 0

    def sum(self, values: Tensor) -> Tensor:
        """Sum in place over ranks; the same bits on all of them."""
        if self.several:
            dist.all_reduce(values, group=self.group)
            self.bytes += values.numel() * values.element_size()
        return values

    @property
    def root(self) -> int:
        """Global number of the group's first rank."""
        return 0 if self.group is None else dist.get_global_rank(self.group, 0)

    def first(self, make: Callable[[], T]) -> T:
        """What the group's first rank makes, on every rank; an error there is one of all."""
        if not self.several:
            return make()
        made = self.together(lambda: make() if dist.get_rank() == self.root else None)
        box = [made]
        dist.broadcast_object_list(box, src=self.root, group=self.group)
        return box[0]  # type: ignore[return-value]

    def from_first(self, values: Tensor) -> Tensor:
        """The first rank's values on every rank."""
        if self.several:
            values = values.contiguous()
            dist.broadcast(values, src=self.root, group=self.group)
            self.bytes += values.numel() * values.element_size()
        return values

    def same(self, value: object, name: str) -> None:
        """Raise an InputError on every rank unless all have this value."""
        if not self.several:
            return
        values: list[object] = [None] * dist.get_world_size(self.group)
        dist.all_gather_object(values, value, group=self.group)
        if len(set(values)) > 1:
            raise InputError(
                f"the ranks differ in {name}: {values}. All must pass rows of the same layer of "
                "the same model, a rank without rows an empty tensor of that type."
            )

    def together(self, make: Callable[[], T]) -> T:
        """What this rank makes; when one fails all raise, and none waits for it in a collective."""
        made: T | None = None
        error: Exception | None = None
        try:
            made = make()
        except Exception as raised:
            error = raised
        if self.several:
            errors: list[str | None] = [None] * dist.get_world_size(self.group)
            dist.all_gather_object(errors, None if error is None else str(error), group=self.group)
            for rank, message in enumerate(errors):
                if error is None and message is not None:
                    error = InputError(f"on rank {rank}: {message}")
        if error is not None:
            raise error
        return made  # type: ignore[return-value]


@dataclass(frozen=True, eq=False)
class _Shards:
    """What is known of the rows of all ranks, and the rows of this one."""

    local: Gram | None  # None where this rank has no rows
    ranks: _Ranks
    n: int
    m: int
    direction_sum: Tensor  # (m,) fp64
    nonzero_rows: int
    device: torch.device
    dtype: torch.dtype
    normalize: bool

    @classmethod
    def of(cls, rows: Tensor, ranks: _Ranks, *, normalize: bool) -> _Shards:
        m = rows.shape[1]
        local = ranks.together(
            lambda: Gram.from_embeddings(rows, normalize=normalize) if len(rows) else None
        )
        head = torch.zeros(2, dtype=torch.float64, device=rows.device)
        sums = torch.zeros(2, m, dtype=torch.float64, device=rows.device)
        if local is not None:
            head[0], head[1] = local.n, local.nonzero_rows
            sums += torch.stack([local.mean * local.n, local.direction_sum])
        n, nonzero_rows = (int(count) for count in ranks.sum(head).tolist())
        if n == 0:
            raise InputError(f"no rank has rows of {m} features: pass at least one row.")
        row_sum, direction_sum = ranks.sum(sums)
        if local is not None:
            local = replace(local, mean=row_sum / n)
        device, dtype = rows.device, rows.dtype
        return cls(local, ranks, n, m, direction_sum, nonzero_rows, device, dtype, normalize)

    def mean_cosine(self) -> float:
        """As `Gram.mean_cosine`."""
        return mean_cosine(self.direction_sum, self.nonzero_rows)

    def layers(self, conventions: Conventions, settings: LanczosSettings, reason: str) -> Layers:
        """These rows as one layer."""
        energy = checked_energy(self, center=conventions.center)
        operator = _ShardedOperator(self, center=conventions.center, energy=energy)
        return Layers([self], operator, [energy], conventions, settings, reason)

    def energy(self, *, center: bool) -> float:
        """As `Gram.energy`, of the rows of all ranks; a collective."""
        own = torch.zeros(1, dtype=torch.float64, device=self.device)
        if self.local is not None:
            own += self.local.row_energy(center=center).sum()
        return float(self.ranks.sum(own))


class _ShardedOperator:
    """`C / tr C` on the m features, of which every rank computes its rows' part."""

    layers = 1

    def __init__(self, shards: _Shards, *, center: bool, energy: float) -> None:
        self.d = shards.m
        self.dtype = compute_dtype(shards.dtype)
        self.device = shards.device
        self._ranks = shards.ranks
        self._local = (
            None
            if shards.local is None
            else RowOperator([shards.local], center=center, traces=[energy], on_features=True)
        )

    def apply(self, vectors: Tensor) -> Tensor:
        """(1, b, m) vectors, as rows, to (1, b, m) products; one all-reduce of these."""
        products = torch.zeros_like(vectors) if self._local is None else self._local.apply(vectors)
        return self._ranks.sum(products)

    def agreed(self, decisions: list[bool]) -> list[bool]:
        """Those of the first rank: ranks that step differently would wait for ever."""
        return self._ranks.first(lambda: decisions)

    def shared(self, vectors: Tensor) -> Tensor:
        """Those of the first rank: eigenvectors computed elsewhere may be others."""
        return self._ranks.from_first(vectors)
