"""The engine leaves its input and the process as it found them, whatever state they are in."""

import random

import numpy as np
import pytest
import torch

from sigma_monitor.spectrum import Gram, spectral_summary, summarize
from sigma_monitor.spectrum.summary import FUNCTIONALS
from tests.spectrum.matrices import gaussian, token_rows

cases = pytest.mark.parametrize("case", ["rows", "wide", "groups"])


def rows_of(case, dtype=torch.float32):
    if case == "groups":
        rows, groups = token_rows([3, 1, 4, 2], 5)
        return rows.to(dtype), groups
    return gaussian(*((12, 5) if case == "rows" else (5, 12))).to(dtype), None


def numbers(rows, groups=None):
    """All numbers of the four conventions, intervals and leave-one-out values too."""
    found = []
    for center in (False, True):
        for normalize in (False, True):
            summary = spectral_summary(rows, center=center, normalize=normalize, groups=groups)
            found += [getattr(summary, name) for name in FUNCTIONALS]
            found += [array.tolist() for array in vars(summary.leave_one_out).values()]
    return found


@cases
def test_the_same_call_gives_the_same_bits(case):
    assert numbers(*rows_of(case)) == numbers(*rows_of(case))


@cases
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_the_input_is_not_modified(case, dtype):
    rows, groups = rows_of(case, dtype)
    before, version = rows.clone(), rows._version
    groups_before = None if groups is None else groups.clone()
    numbers(rows, groups)
    assert torch.equal(rows, before)
    assert rows._version == version
    assert groups is None or torch.equal(groups, groups_before)


@cases
def test_rows_that_require_a_gradient_keep_no_graph(case):
    rows, groups = rows_of(case)
    expected = numbers(rows, groups)
    leaf = rows.clone().requires_grad_()
    activations = leaf * 1  # in the middle of a graph
    assert numbers(leaf, groups) == numbers(activations, groups) == expected
    assert activations.requires_grad
    for tensor in vars(Gram.from_embeddings(activations, normalize=True)).values():
        assert not (isinstance(tensor, torch.Tensor) and tensor.requires_grad)
    activations.sum().backward()
    assert torch.equal(leaf.grad, torch.ones_like(leaf))


@pytest.mark.parametrize("outer", [torch.no_grad, torch.enable_grad, torch.inference_mode])
def test_grad_mode_does_not_matter_and_is_restored(outer):
    rows, _ = rows_of("rows")
    expected = numbers(rows)
    with outer():
        mode = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        assert numbers(rows.clone()) == expected
        assert (torch.is_grad_enabled(), torch.is_inference_mode_enabled()) == mode


@cases
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_autocast_does_not_change_the_numbers(case, dtype):
    rows, groups = rows_of(case, dtype)
    expected = numbers(rows, groups)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert numbers(rows, groups) == expected
        assert torch.is_autocast_enabled("cpu")
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16


@cases
@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_the_default_dtype_does_not_matter(case, dtype):
    rows, groups = rows_of(case)
    expected = numbers(rows, groups)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        assert numbers(rows, groups) == expected
        assert torch.get_default_dtype() == dtype
    finally:
        torch.set_default_dtype(before)


def test_no_global_generator_is_touched():
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    for case in ("rows", "wide", "groups"):
        numbers(*rows_of(case))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1].tolist(), random.getstate()) == before[1:]


def test_deterministic_mode_is_accepted():
    expected = numbers(*rows_of("groups"))
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        assert numbers(*rows_of("groups")) == expected
    finally:
        torch.use_deterministic_algorithms(before)


DECOMPOSITIONS = ["eigh", "eigvalsh", "eig", "eigvals", "svd", "svdvals", "qr", "pinv", "lstsq"]


@pytest.fixture
def calls(monkeypatch):
    """Names of the decompositions called, in torch, NumPy and SciPy alike."""
    import scipy.linalg

    made = []
    modules = [(torch.linalg, "torch."), (np.linalg, "numpy."), (scipy.linalg, "scipy.")]
    modules = [(module, prefix, DECOMPOSITIONS) for module, prefix in modules]
    modules.append((torch, "torch.", ["svd", "pca_lowrank", "svd_lowrank", "lobpcg"]))
    for module, prefix, names in modules:
        for name in names:
            original = getattr(module, name, None)
            if original is None:
                continue

            def counted(*args, _original=original, _name=prefix + name, **kwargs):
                made.append(_name)
                return _original(*args, **kwargs)

            monkeypatch.setattr(module, name, counted)
    return made


@cases
@pytest.mark.parametrize("center", [False, True])
def test_one_summary_is_one_eigendecomposition_and_no_svd(calls, case, center):
    rows, groups = rows_of(case)
    spectral_summary(rows, center=center, groups=groups).renyi_rank(2)
    # lstsq is the straight line of the decay exponent, two columns wide.
    assert [name for name in calls if name != "numpy.lstsq"] == ["torch.eigh"]


def test_both_conventions_of_one_gram_are_two_eigendecompositions(calls):
    gram = Gram.from_embeddings(gaussian(12, 5))
    assert calls == []
    summarize(gram, center=False)
    summarize(gram, center=True)
    assert calls.count("torch.eigh") == 2
    assert not [name for name in calls if "svd" in name]


def test_a_call_that_svd_would_spoil_still_works(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("an svd is 4 to 15 times dearer than the eigendecomposition")

    for name in ("svd", "svdvals"):
        monkeypatch.setattr(torch.linalg, name, refuse)
    monkeypatch.setattr(torch, "svd", refuse)
    for case in ("rows", "wide", "groups"):
        numbers(*rows_of(case))


def test_the_smaller_side_is_decomposed(monkeypatch):
    sizes = []
    eigh = torch.linalg.eigh

    def measured(product):
        sizes.append((tuple(product.shape), product.dtype))
        return eigh(product)

    monkeypatch.setattr(torch.linalg, "eigh", measured)
    spectral_summary(gaussian(40, 6).bfloat16())
    spectral_summary(gaussian(6, 40).float())
    assert sizes == [((6, 6), torch.float64)] * 2
