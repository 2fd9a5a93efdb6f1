"""`method="auto"`: which way costs less on this device."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from sigma_monitor.spectrum.gram import Gram, Product, add_product, product_flops
from sigma_monitor.spectrum.operator import add_image, compute_dtype, threads
from sigma_monitor.spectrum.randomized import DEFLATED, STEPS

__all__ = [
    "EXACT_UP_TO",
    "Choice",
    "Rates",
    "adopt_rates",
    "choose",
    "is_large",
    "rates",
    "weighed",
]

# Up to this dimension the exact way takes a fraction of a second on any device, and its result has
# no randomness to explain.
EXACT_UP_TO = 1024

_WORTH = 1.1  # times as much that a result without randomness may cost

_PRODUCTS_PER_DIRECTION = 7  # two of subspace iteration, one of rotation, four Lanczos steps
_DEEP_VECTORS = 16 * 20  # of eight, 20 steps more; so few run at half the rate
_LOOK_SECONDS = 0.03  # quadrature on the host, all looks together
_JACKKNIFE_NODES = 150  # of the integral for the effective rank


@dataclass(frozen=True)
class Choice:
    """A method and why."""

    method: Literal["exact", "lanczos"]
    reason: str


@dataclass(frozen=True)
class Rates:
    """Arithmetic rates of one device, flops a second."""

    device: torch.device
    product: float  # symmetric matrix products in fp64
    eigenvalues: float  # of a symmetric matrix in fp64, counted as 4/3 d³
    eigenvectors: float  # the same count, with the vectors
    skinny: dict[torch.dtype, float]  # products of 36 vectors with rows, twice

    def exact_seconds(self, n: int, m: int, *, d: int, sampling: bool) -> float:
        """Product, eigenvalues, and for the jackknife eigenvectors and rows in their basis."""
        product = product_flops(m if d == n else n, d, self.device)
        decomposition = 4 / 3 * d**3
        if not sampling:
            return product / self.product + decomposition / self.eigenvalues
        rows = 2.0 * n * m * d if d == m else 0.0
        nodes = 2.0 * n * d * _JACKKNIFE_NODES
        return (product + rows + nodes) / self.product + decomposition / self.eigenvectors

    def streamed_seconds(self, m: int, test_vectors: int, steps: int | None) -> tuple[float, float]:
        """Eigenvalues of a product at hand, and products of vectors with it."""
        exact = 4 / 3 * m**3 / self.eigenvalues
        return exact, self.lanczos_seconds(m, m, torch.float64, test_vectors, steps) / 2

    def lanczos_seconds(
        self, n: int, m: int, dtype: torch.dtype, test_vectors: int, steps: int | None
    ) -> float:
        """Products with the rows, twice each."""
        vectors = _PRODUCTS_PER_DIRECTION * DEFLATED + (test_vectors + 4) * (steps or STEPS)
        vectors += 0 if steps else _DEEP_VECTORS
        return 4.0 * n * m * vectors / self.skinny[compute_dtype(dtype)] + _LOOK_SECONDS


def choose(rows: Product, *, sampling: bool, test_vectors: int, steps: int | None) -> Choice:
    """The cheaper way for these rows on their device, or for their product once rows are gone.

    Cost: the first call on a device takes some tenths of a second to measure its rates, which stay
    for the process.
    """
    n, m = rows.n, rows.m
    d = m if rows.on_features else n
    if d <= EXACT_UP_TO:
        return Choice("exact", f"d = {d} is at most {EXACT_UP_TO}: exact is cheap and not random")
    known = rates(rows.device)
    if isinstance(rows, Gram):
        exact = known.exact_seconds(n, m, d=d, sampling=sampling)
        lanczos = known.lanczos_seconds(n, m, rows.dtype, test_vectors, steps)
    else:
        exact, lanczos = known.streamed_seconds(m, test_vectors, steps)
    return weighed(d, exact, lanczos)


def weighed(d: int, exact: float, lanczos: float) -> Choice:
    """By the seconds of both ways: exact unless it takes over a tenth longer."""
    reason = f"d = {d}: exact would take {exact:.2g} s on this device, lanczos {lanczos:.2g} s"
    if lanczos < exact / _WORTH:
        return Choice("lanczos", reason)
    return Choice("exact", reason + (", hardly less" if lanczos < exact else ""))


def rates(device: torch.device) -> Rates:
    """Rates of a device, measured once in a process."""
    name = str(device)
    if name not in _known:
        _known[name] = _measured_rates(device)
    return _known[name]


def adopt_rates(of_another: Rates, device: torch.device) -> None:
    """Choose on `device` by rates that another process measured on a device like it."""
    _known[str(device)] = replace(of_another, device=device)


_known: dict[str, Rates] = {}  # by name of the device


def is_large(rows: Tensor) -> bool:
    """Whether `choose` asks for the rates of the device, for a matrix (n, m)."""
    return min(rows.shape) > EXACT_UP_TO


def _measured_rates(device: torch.device) -> Rates:
    size = EXACT_UP_TO
    generator = torch.Generator().manual_seed(0)
    square = torch.randn(size, size, generator=generator, dtype=torch.float64).to(device)
    symmetric = square @ square.mT / size
    skinny = {}
    for dtype in (torch.float32, torch.float64):
        rows = square.to(dtype)
        vectors = rows[: DEFLATED + 4].clone()
        sums = vectors.new_zeros(threads(device), *vectors.shape)
        seconds = _seconds(partial(add_image, sums, vectors, rows), device)
        skinny[dtype] = 4 * vectors.numel() * size / seconds
    lower, decomposition = torch.zeros_like(square), 4 / 3 * size**3
    seconds = _seconds(partial(add_product, lower, square), device)
    return Rates(
        device,
        product=product_flops(size, size, device) / seconds,
        eigenvalues=decomposition / _seconds(lambda: torch.linalg.eigvalsh(symmetric), device),
        eigenvectors=decomposition / _seconds(lambda: torch.linalg.eigh(symmetric), device),
        skinny=skinny,
    )


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    """The shortest of three runs after a first one."""
    times = []
    for _ in range(4):
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - started)
    return min(times[1:])
