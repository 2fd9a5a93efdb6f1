"""What leaves the device when rows are measured: small results, never embeddings."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from sigma_monitor import spectral_summary
from sigma_monitor.checking.measure import CENTRED, POOLED, UNCENTRED, Measured, measure
from sigma_monitor.probing import Rows
from sigma_monitor.probing.pooling import pool
from sigma_monitor.spectrum.randomized import DEFLATED

EXAMPLES, TOKENS, WIDTH = 120, 9, 96  # test vectors are random from 65 dimensions on
TEST_VECTORS = 32
SPECTRA = (CENTRED, UNCENTRED, POOLED)
RELATIVE_RIDGE = 1e-3
METHODS = ("exact", "lanczos")

cuda = pytest.mark.cuda
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU")


def cloud(*shape: int, decay: float = 0.7) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(*shape, generator=generator)
    return rows * torch.arange(1, shape[-1] + 1) ** -decay


def rows_on(device: str) -> Rows:
    return pool(cloud(EXAMPLES, TOKENS, WIDTH).to(device), None, "tokens")


def measured(rows: Rows, method: Any, previous: Measured | None = None) -> Measured:
    return measure(
        rows,
        functionals=["effective_rank", "log_det", "participation_ratio", "mean_cosine", "trace"],
        relative_ridge=RELATIVE_RIDGE,
        methods=dict.fromkeys(SPECTRA, method),
        previous=previous,
    )


def largest_allowed(found: Measured) -> int:
    """Values of the jackknife, or coefficients of the recursions; far fewer than the rows."""
    steps = [
        summary.randomized.sounding.steps
        for summary in found.spectra.values()
        if summary.randomized is not None
    ]
    coefficients = (DEFLATED + TEST_VECTORS) * max(steps, default=0) * 2
    jackknife = 3 * EXAMPLES  # three functionals at once
    return max(coefficients, jackknife, WIDTH)


class Moves(TorchDispatchMode):
    """Sizes of all tensors that are copied from an accelerator to the host, in whichever way."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket
        if name is torch.ops.aten._to_copy:
            self._note(args[0], result)
        elif name is torch.ops.aten.copy_:
            self._note(args[1], args[0])
        elif name is torch.ops.aten._local_scalar_dense:
            self._note(args[0], None)
        return result

    def _note(self, source: Tensor, target: Tensor | None) -> None:
        lands = target is None or target.device.type == "cpu"
        if source.device.type != "cpu" and lands:
            self.sizes.append(source.numel())


@contextmanager
def ways_to_the_host() -> Iterator[list[int]]:
    """Sizes of all tensors, on any device, that Python, numpy or the host ask for."""
    sizes: list[int] = []
    with pytest.MonkeyPatch.context() as patch:

        def spy_on(name: str) -> None:
            way = getattr(Tensor, name)

            def spy(self: Tensor, *args: Any, **kwargs: Any) -> Any:
                sizes.append(self.numel())
                return way(self, *args, **kwargs)

            patch.setattr(Tensor, name, spy)

        ways = ("cpu", "numpy", "tolist", "item", "__array__", "__float__", "__int__", "__bool__")
        for name in ways:
            spy_on(name)
        yield sizes


@pytest.mark.parametrize("method", METHODS)
def test_nothing_of_the_size_of_the_rows_is_asked_for(method: str) -> None:
    """On any device: what would be moved if it were an accelerator."""
    rows = rows_on("cpu")
    first = measured(rows, method)
    for previous in (None, first):
        with ways_to_the_host() as sizes:
            found = measured(rows, method, previous)
        assert found.methods == dict.fromkeys(SPECTRA, method)
        assert 1 < max(sizes) <= largest_allowed(found) < rows.embeddings.numel() / 4


def test_rows_that_are_not_finite_are_not_asked_for_either() -> None:
    rows = rows_on("cpu")
    rows.embeddings[3, 4] = torch.nan
    rows.finite[0] = False
    with ways_to_the_host() as sizes:
        assert measured(rows, "lanczos").estimates == {}
    assert max(sizes, default=1) == 1


@pytest.mark.parametrize("way", ["cpu", "numpy", "tolist", "list", "float", "to_array"])
def test_the_spies_see_every_way_to_the_host(way: str) -> None:
    rows = torch.ones(3, 4)
    ways: dict[str, tuple[Any, int]] = {
        "cpu": (lambda: rows.cpu(), 12),
        "numpy": (lambda: rows.numpy(), 12),
        "tolist": (lambda: rows.tolist(), 12),
        "list": (lambda: [float(x) for x in rows[0]], 1),
        "float": (lambda: float(rows.sum()), 1),
        "to_array": (lambda: np.asarray(rows), 12),
    }
    go, size = ways[way]
    with ways_to_the_host() as sizes:
        go()
    assert max(sizes) == size


def test_the_spy_below_sees_copies_from_an_accelerator() -> None:
    """With tensors that only claim to be on one, where there is none."""
    with FakeTensorMode():
        rows, host = torch.empty(5, 3, device="cuda"), torch.empty(5, 3)
        with Moves() as moves:
            rows.cpu()
            rows.to("cpu", torch.float64)
            rows.double()
            rows.clone()
            rows.fill_(1.0)
            host.copy_(rows)
            host.cpu()
    assert moves.sizes == [15, 15, 15]


@cuda
@needs_gpu
@pytest.mark.parametrize("method", METHODS)
def test_embeddings_never_leave_the_device(method: str) -> None:
    rows = rows_on("cuda")
    first = measured(rows, method)
    for previous in (None, first):
        with Moves() as moves:
            found = measured(rows, method, previous)
        assert found.spectra[CENTRED].device.startswith("cuda")
        assert found.methods == dict.fromkeys(SPECTRA, method)
        assert 1 < max(moves.sizes) <= largest_allowed(found) < rows.embeddings.numel() / 4


@cuda
@needs_gpu
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize("shape", [(400, 96), (90, 200)])
def test_a_device_finds_what_the_host_finds(
    shape: tuple[int, int], center: bool, method: Any
) -> None:
    rows = cloud(*shape)
    options: dict[str, Any] = {"center": center, "relative_ridge": RELATIVE_RIDGE}
    host, device = (
        spectral_summary(rows.to(place), method=method, **options) for place in ("cpu", "cuda")
    )
    truth = spectral_summary(rows, method="exact", sampling=False, **options)
    assert device.trace.value == pytest.approx(host.trace.value, rel=1e-12)
    assert device.mean_cosine.value == pytest.approx(host.mean_cosine.value, abs=1e-12)
    for name in ("effective_rank", "log_det", "participation_ratio", "spectral_entropy"):
        one, two = getattr(host, name), getattr(device, name)
        if method == "exact":
            # fp64 on both sides: sums of d terms in another order.
            allowed = 1e-9 * max(1.0, abs(one.value))
        else:
            # The test vectors are the same: products in fp32 differ by rounding, which may end
            # the steps elsewhere. The certified brackets cover that.
            allowed = max(two.high - two.value, two.value - two.low)
            expected = getattr(truth, name).value
            assert abs(two.value - expected) <= 3 * allowed
        assert abs(one.value - two.value) <= allowed


@cuda
@needs_gpu
@pytest.mark.parametrize("method", METHODS)
def test_a_device_finds_the_same_twice(method: Any) -> None:
    rows = rows_on("cuda")
    one, two = (measured(rows, method) for _ in range(2))
    assert one.estimates == two.estimates
    after = [measured(rows, method, first) for first in (one, two)]
    assert after[0].estimates == after[1].estimates
    assert one.log_rank_without is not None
    assert two.log_rank_without is not None
    assert np.array_equal(one.log_rank_without, two.log_rank_without)
    if method == "lanczos":
        assert one.vector_values is not None
        assert two.vector_values is not None
        assert np.array_equal(one.vector_values.level, two.vector_values.level)


@cuda
@needs_gpu
def test_a_model_that_moves_to_the_device_is_measured_there() -> None:
    on_host = measured(rows_on("cpu"), "lanczos")
    found = measured(rows_on("cuda"), "lanczos", on_host)
    assert found.spectra[CENTRED].device.startswith("cuda")
    rank = found.estimates["effective_rank"]
    assert rank.low <= on_host.estimates["effective_rank"].value <= rank.high
