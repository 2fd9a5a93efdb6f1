"""Rows in chunks, of which only the product is kept, against all rows at once."""

import math
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from sigma_monitor.errors import InputError, ZeroTraceError
from sigma_monitor.spectrum import gram as gram_module
from sigma_monitor.spectrum.exact import decompose
from sigma_monitor.spectrum.gram import Gram, Product, RowFacts
from sigma_monitor.spectrum.stream import LARGEST_WIDTH, GramStream
from tests.spectrum import naive
from tests.spectrum.matrices import EPS, eigenvalue_error, gaussian

conventions = pytest.mark.parametrize(
    ("center", "normalize"), [(False, False), (False, True), (True, False), (True, True)]
)
shapes = pytest.mark.parametrize(("n", "m"), [(1, 1), (1, 4), (5, 1), (4, 9), (6, 6), (23, 3)])


def rows_of(n, m):
    """Rows with a mean as large as their spread, of unequal length, one of them zero."""
    rows = (gaussian(n, m) + 1) * torch.linspace(0.5, 2, n, dtype=torch.float64)[:, None]
    rows[n // 2 if n > 1 else n :] *= torch.linspace(0, 1, n - n // 2, dtype=torch.float64)[:, None]
    return rows


def streamed(chunks, m, **arguments):
    stream = GramStream(m, **arguments)
    for chunk in chunks:
        stream.update(chunk)
    return stream


def product_error(rows):
    """Sums of n products, and the mean taken out and put back, in units of all the energy."""
    n, m = rows.shape
    return 4 * (n + m) * EPS * rows.double().square().sum().item()


def assert_same(stream, rows, *, normalize=False):
    expected = Gram.from_embeddings(rows.double(), normalize=normalize)
    n, m = rows.shape
    assert (stream.n, stream.m, stream.on_features, stream.normalize) == (n, m, True, normalize)
    for center in (False, True):
        x = torch.from_numpy(naive.prepare(rows, center=center, normalize=normalize))
        found = stream.product(center=center)
        assert (found.shape, found.dtype) == ((m, m), torch.float64)
        tolerance = product_error(torch.nn.functional.normalize(rows.double()))
        tolerance = tolerance if normalize else product_error(rows)
        torch.testing.assert_close(found, x.T @ x, rtol=0, atol=tolerance)
        if expected.on_features:
            whole = expected.product(center=center)
            torch.testing.assert_close(found, whole, rtol=0, atol=tolerance)
    # ‖Σ u‖² is at most n², good to n·eps of that, and divided by n(n − 1).
    allowed = 4 * n * EPS * n / max(n - 1, 1)
    assert stream.mean_cosine() == pytest.approx(expected.mean_cosine(), rel=0, abs=allowed)


@shapes
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("size", [1, 2, 5, 100])
def test_chunks_of_any_size_are_all_rows_at_once(n, m, size, normalize):
    rows = rows_of(n, m)
    stream = streamed(rows.split(size), m, normalize=normalize)
    assert_same(stream, rows, normalize=normalize)


@pytest.mark.parametrize("sizes", [[1, 1, 20, 1], [22, 1], [0, 5, 0, 0, 18], [10, 13, 0]])
def test_chunks_may_differ_in_size_and_be_empty(sizes):
    rows = rows_of(23, 3)
    assert_same(streamed(rows.split(sizes), 3), rows)


@pytest.mark.parametrize("elements", [1, 7, 20])
def test_the_size_in_which_chunks_are_widened_does_not_matter(monkeypatch, elements):
    monkeypatch.setattr(gram_module, "CHUNK_ELEMENTS", elements)
    rows = rows_of(23, 3)
    assert_same(streamed(rows.split(12), 3, normalize=True), rows, normalize=True)


@pytest.mark.parametrize("width", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("normalize", [False, True])
def test_the_width_of_the_blocks_does_not_matter(monkeypatch, width, normalize):
    monkeypatch.setattr(gram_module, "_BLOCK_WIDTH", width)
    rows = rows_of(23, 7)
    stream = streamed(rows.split(5), 7, normalize=normalize)
    assert_same(stream, rows, normalize=normalize)
    for center in (False, True):
        product = stream.product(center=center)
        assert torch.equal(product, product.T)


TYPES = [torch.float32, torch.float16, torch.float64, torch.bfloat16]


@pytest.mark.parametrize("normalize", [False, True])
def test_storage_types_may_be_mixed(normalize):
    parts = [rows_of(8, 5)[k::4].to(dtype) for k, dtype in enumerate(TYPES)]
    stream = streamed(parts, 5, normalize=normalize)
    assert_same(stream, torch.cat([part.double() for part in parts]), normalize=normalize)


@pytest.mark.parametrize("order", [TYPES, TYPES[::-1]])
def test_the_least_precise_type_is_remembered(order):
    precision = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
    stream, seen = GramStream(2), [torch.float64]
    assert stream.dtype == torch.float64
    for dtype in order:
        stream.update(torch.ones(0, 2, dtype=dtype))  # holds nothing that was rounded
        assert stream.dtype == max(seen, key=precision.index)
        stream.update(torch.ones(1, 2, dtype=dtype))
        seen.append(dtype)
        assert stream.dtype == max(seen, key=precision.index)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_products_are_accumulated_in_fp64(dtype):
    # 4096 + 2^-10 in one sum needs more digits than any storage type has.
    rows = torch.tensor([[64.0], [2.0**-5]]).to(dtype)
    found = streamed(rows.split(1), 1).product(center=False).item()
    assert found == pytest.approx(4096 + 2.0**-10, rel=4 * EPS, abs=0)


@pytest.mark.parametrize("size", [1, 7, 400])
def test_a_mean_of_a_million_spreads_costs_the_centred_product_no_digits(size):
    n, m, offset = 400, 8, 2.0**20
    spread = torch.round(gaussian(n, m) * 2**20) * 2.0**-20  # sums with the offset are exact
    rows = spread + offset
    expected = torch.from_numpy(naive.prepare(spread, center=True))
    expected = expected.T @ expected
    # As in memory: the mean is good to a few eps of itself, and enters every product squared.
    tolerance = product_error(spread) + n * (4 * EPS * offset) ** 2
    found = streamed(rows.split(size), m).product(center=True)
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)
    cancelled = rows.T @ rows - n * torch.outer(rows.mean(0), rows.mean(0))
    assert (cancelled - expected).abs().max() > 1e6 * tolerance


def test_the_centred_product_of_a_drifting_stream_keeps_the_drift():
    # Every chunk has its own mean, a thousand spreads from the one before.
    rows = gaussian(60, 4) + 1000 * torch.arange(60, dtype=torch.float64)[:, None].div(10).floor()
    assert_same(streamed(rows.split(10), 4), rows)


@conventions
@pytest.mark.parametrize(("n", "m"), [(23, 3), (4, 9)])
def test_decompose_takes_a_stream_for_a_gram(n, m, center, normalize):
    rows = rows_of(n, m)
    whole = decompose(Gram.from_embeddings(rows, normalize=normalize), center=center)
    found = decompose(streamed(rows.split(5), m, normalize=normalize), center=center)
    assert found.empty == whole.empty
    tolerance = 2 * eigenvalue_error(n, m) * n * rows.square().sum(1).max().item()
    torch.testing.assert_close(found.values, whole.values, rtol=0, atol=tolerance)


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("value", [1 / 3, 1e8 / 3, 1e-12])
def test_equal_rows_have_no_centred_spectrum_in_chunks_either(value, normalize):
    rows = torch.full((3000, 8), value, dtype=torch.float64)
    stream = streamed(rows.split([1, 999, 7, 1993]), 8, normalize=normalize)
    with pytest.raises(ZeroTraceError, match="equal"):
        decompose(stream, center=True)
    assert len(decompose(stream, center=False).values) == 1


def test_gram_and_stream_offer_the_surface_of_a_product():
    surface = {**vars(RowFacts), **vars(Product)}
    names = [name for name in surface if not name.startswith("_")]
    assert {"n", "m", "device", "dtype", "normalize", "on_features", "product"} < {*names}
    rows = rows_of(6, 3).bfloat16()
    gram, stream = Gram.from_embeddings(rows), streamed([rows], 3)
    for name in set(names) - {"product", "mean_cosine", "energy"}:
        assert getattr(gram, name) == getattr(stream, name)
    for center in (False, True):
        energy = gram.product(center=center).trace().item()
        assert gram.energy(center=center) == pytest.approx(energy, rel=1e-12)
        assert stream.energy(center=center) == pytest.approx(energy, rel=1e-12)
    assert Gram.from_embeddings(rows, normalize=True).normalize is True


@pytest.mark.parametrize("center", [False, True])
def test_a_product_handed_out_does_not_change_with_later_rows(center):
    stream = streamed([rows_of(6, 3)], 3)
    handed_out = stream.product(center=center)
    before = handed_out.clone()
    stream.update(rows_of(5, 3))
    assert torch.equal(handed_out, before)
    handed_out.zero_()
    assert stream.product(center=center).abs().sum() > 0


@pytest.mark.parametrize("normalize", [False, True])
def test_rows_are_neither_modified_nor_kept_in_a_graph(normalize):
    leaf = rows_of(6, 3).float().requires_grad_()
    activations = leaf * 1  # in the middle of a graph
    before = activations.detach().clone()
    stream = streamed([activations], 3, normalize=normalize)
    assert torch.equal(activations, before)
    assert not stream.product(center=False).requires_grad
    activations.sum().backward()


def test_it_may_be_made_and_fed_in_and_out_of_inference_mode_and_autocast():
    rows = rows_of(9, 3)
    with torch.inference_mode():
        stream = streamed([rows[:2].clone()], 3)
    stream.update(rows[2:4])
    with torch.inference_mode():
        stream.update(rows[4:6] * 1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        stream.update(rows[6:])
        assert_same(stream, rows)


class Largest(TorchDispatchMode):
    """The most bytes that any tensor made under it takes, but for views of `given`."""

    def __init__(self, given):
        super().__init__()
        self.given = given.untyped_storage().data_ptr()
        self.bytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for value in made if isinstance(made, (tuple, list)) else [made]:
            if isinstance(value, torch.Tensor):
                storage = value.untyped_storage()
                if storage.data_ptr() != self.given:
                    self.bytes = max(self.bytes, storage.nbytes())
        return made


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_large_chunk_is_widened_in_parts(dtype):
    m = 256
    chunk = torch.ones(16 * gram_module.CHUNK_ELEMENTS // m, m, dtype=dtype)
    stream = GramStream(m)
    with Largest(chunk) as largest:
        stream.update(chunk)
    # One part in fp64 and the row that joins it; a column of norms is far less.
    assert 0 < largest.bytes <= 8 * (gram_module.CHUNK_ELEMENTS + m)


PEAK = """
import resource, torch
from sigma_monitor.spectrum.stream import GramStream
torch.set_num_threads(1)
stream = GramStream(64)
chunk = torch.empty(20_000, 64)
def peak(chunks):
    for _ in range(chunks):
        stream.update(chunk.normal_())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
after_one, after_all = peak(1), peak(49)
print(stream.n, (after_all - after_one) * 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="counts kilobytes, as Linux does")
def test_a_million_rows_take_the_memory_of_one_chunk():
    done = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True, check=True)
    n, grown = map(int, done.stdout.split())
    assert n == 1_000_000
    rows_in_fp32 = 4 * 64 * n
    assert grown < rows_in_fp32 / 16


def refused(*words):
    """Matches a message that has all of these words, in any order."""
    return pytest.raises(
        InputError, match="(?s)" + "".join(f"(?=.*{re.escape(word)})" for word in words)
    )


NAN = torch.tensor([[1.0, math.nan, 1.0], [1.0, 1.0, 1.0]])
BAD_CHUNKS = {
    "a vector": (torch.ones(3), ["chunk", "(3,)", "two dimensions"]),
    "tokens not flattened": (torch.ones(2, 4, 3), ["(2, 4, 3)", "flatten(0, -2)"]),
    "a numpy array": (np.ones((2, 3)), ["ndarray", "torch.as_tensor(chunk)"]),
    "integers": (torch.ones(2, 3, dtype=torch.int64), ["torch.int64", ".float()"]),
    "too wide": (torch.ones(2, 4), ["(2, 4)", "3 features", "GramStream(4)"]),
    "too narrow and empty": (torch.ones(0, 2), ["(0, 2)", "3 features"]),
    "one NaN": (NAN, ["1 of 2 rows", "NaN", "Drop"]),
    "infinity in bf16": (torch.full((2, 3), math.inf).bfloat16(), ["2 of 2 rows", "infinity"]),
    "overflow": (torch.full((2, 3), 1e300, dtype=torch.float64), ["1e+300", "overflow", "Divide"]),
}


@pytest.mark.parametrize(("chunk", "words"), BAD_CHUNKS.values(), ids=BAD_CHUNKS.keys())
def test_a_bad_chunk_is_refused_and_leaves_the_stream_as_it_was(monkeypatch, chunk, words):
    monkeypatch.setattr(
        gram_module, "CHUNK_ELEMENTS", 3
    )  # the good row stands in a part of its own
    stream = streamed([rows_of(5, 3).float()], 3)
    before = stream.product(center=True), stream.n, stream.dtype, stream.mean_cosine()
    with refused(*words):
        stream.update(chunk)
    assert torch.equal(stream.product(center=True), before[0])
    assert (stream.n, stream.dtype, stream.mean_cosine()) == before[1:]


def test_chunks_that_overflow_together_are_refused():
    largest = 0.9 * math.sqrt(torch.finfo(torch.float64).max)
    stream = streamed([torch.full((1, 1), largest, dtype=torch.float64)], 1)
    with refused("inf", "overflow", "Divide"):
        stream.update(torch.full((1, 1), largest, dtype=torch.float64))
    assert stream.n == 1


BAD_WIDTHS = {
    "zero": (0, ["m=0", "positive"]),
    "negative": (-3, ["m=-3", "positive"]),
    "a float": (768.0, ["m=768.0", "integer"]),
    "a boolean": (True, ["m=True", "integer"]),
    "one too many": (LARGEST_WIDTH + 1, ["m=8193", "0.50 GiB", 'method="lanczos"']),
    "a vocabulary": (128_256, ["m=128256", "122.56 GiB", 'method="lanczos"']),
}


@pytest.mark.parametrize(("m", "words"), BAD_WIDTHS.values(), ids=BAD_WIDTHS.keys())
def test_bad_widths_are_refused(m, words):
    with refused(*words):
        GramStream(m)


@pytest.mark.parametrize(
    "use", [lambda s: s.product(center=True), lambda s: s.mean_cosine()], ids=["product", "cosine"]
)
def test_a_stream_without_rows_has_nothing_to_tell(use):
    stream = streamed([torch.ones(0, 4)], 4)
    with refused("4 features", "0 rows", "update()"):
        use(stream)
    with refused("0 rows"):
        decompose(stream, center=False)


def test_pooling_one_process_changes_nothing_and_ends_the_stream():
    rows = rows_of(6, 3)
    stream = streamed([rows], 3)
    stream.all_reduce()
    assert_same(stream, rows)
    assert stream.bytes_communicated == 0
    with refused("6 rows", "GramStream"):
        stream.update(rows)
    with refused("before", "6 rows", "GramStream"):
        stream.all_reduce()


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU")
@pytest.mark.parametrize(
    ("rows_on", "device"), [("cuda", "cuda"), ("cpu", "cuda"), ("cuda", "cpu")]
)
def test_rows_and_product_may_lie_on_different_devices(rows_on, device):
    rows = rows_of(23, 3)
    stream = streamed(rows.to(rows_on).split(5), 3, device=device)
    assert stream.device.type == device
    expected = streamed([rows], 3).product(center=True)
    found = stream.product(center=True).cpu()
    torch.testing.assert_close(found, expected, rtol=0, atol=product_error(rows))
