"""What cannot be measured is refused, with the value, the cause and what to do."""

import math
import re

import numpy as np
import pytest
import torch

from sigma_monitor.errors import InputError, SigmaError
from sigma_monitor.spectrum import Gram, spectral_summary, summarize
from tests.spectrum.matrices import EPS, SQRT_EPS, gaussian, orthonormal

ROWS = gaussian(6, 3)
NAN_ROWS = ROWS.clone()
NAN_ROWS[2, 1] = math.nan
INF_ROWS = ROWS.clone()
INF_ROWS[0], INF_ROWS[4, 2] = math.inf, -math.inf


def refused(*words):
    """Matches a message that has all of these words, in any order."""
    return pytest.raises(
        InputError, match="(?s)" + "".join(f"(?=.*{re.escape(word)})" for word in words)
    )


def test_an_input_error_is_a_value_error_of_this_package():
    assert issubclass(InputError, SigmaError)
    assert issubclass(InputError, ValueError)


BAD_EMBEDDINGS = {
    "a vector": (torch.ones(3), ["(3,)", "two dimensions"]),
    "a scalar": (torch.tensor(1.0), ["()", "two dimensions"]),
    "tokens not flattened": (torch.ones(2, 3, 4), ["(2, 3, 4)", "flatten(0, -2)"]),
    "a numpy array": (np.ones((3, 2)), ["ndarray", "torch.as_tensor"]),
    "a list": ([[1.0, 2.0]], ["list", "torch.as_tensor"]),
    "nothing": (None, ["NoneType", "torch.Tensor"]),
    "integers": (torch.ones(3, 2, dtype=torch.int64), ["torch.int64", ".float()"]),
    "booleans": (torch.ones(3, 2, dtype=torch.bool), ["torch.bool", ".float()"]),
    "complex": (torch.ones(3, 2, dtype=torch.complex64), ["torch.complex64", "torch.float32"]),
    "no rows": (torch.ones(0, 4), ["(0, 4)", "at least"]),
    "no features": (torch.ones(4, 0), ["(4, 0)", "at least"]),
    "one NaN": (NAN_ROWS, ["1 of 6 rows", "NaN", "Drop"]),
    "two rows with infinity": (INF_ROWS, ["2 of 6 rows", "infinity", "Drop"]),
    "NaN in bf16": (NAN_ROWS.bfloat16(), ["1 of 6 rows", "NaN", "Drop"]),
}


@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize(
    ("embeddings", "words"), BAD_EMBEDDINGS.values(), ids=BAD_EMBEDDINGS.keys()
)
def test_bad_embeddings_are_refused(embeddings, words, center):
    with refused(*words):
        spectral_summary(embeddings, center=center)
    with refused(*words):
        Gram.from_embeddings(embeddings)


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("center", [False, True])
def test_rows_of_zeros_have_no_spectrum(center, normalize):
    with refused("trace", "5 x 3", "rows that differ" if center else "Pass"):
        spectral_summary(torch.zeros(5, 3), center=center, normalize=normalize)


EQUAL_ROWS = {
    "a single row": gaussian(1, 4),
    "equal rows": gaussian(1, 4).expand(50, 4),
    "equal rows, fewer than features": gaussian(1, 40).expand(5, 40),
    "large and not representable": torch.full((3000, 8), 1e8 / 3, dtype=torch.float64),
    "fp32 thirds": torch.full((1000, 64), 1 / 3),
    "small": torch.full((7, 3), 1e-12, dtype=torch.float64),
    "equal up to fp64 rounding": 1e6 + 1e-10 * gaussian(40, 3).sign(),  # an ulp is 1.2e-10
}


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("rows", EQUAL_ROWS.values(), ids=EQUAL_ROWS.keys())
def test_equal_rows_have_no_centred_spectrum(rows, normalize):
    with refused("trace", "equal", "center=False"):
        spectral_summary(rows, center=True, normalize=normalize)
    # Uncentred they are one direction, but for a root of rounding in each feature.
    rank = spectral_summary(rows, normalize=normalize).effective_rank.value
    assert rank == pytest.approx(1, abs=rows.shape[1] * 16 * SQRT_EPS)


def test_rows_on_a_line_are_equal_once_normalised():
    rows = (0.1 + torch.rand(50, 1, dtype=torch.float64)) @ gaussian(1, 8)
    spectral_summary(rows, center=True)  # they differ in length
    with refused("trace", "equal", "center=False"):
        spectral_summary(rows, center=True, normalize=True)


def test_a_spread_that_fp64_still_holds_is_measured():
    rows = gaussian(40, 3) * 1e-9 + 1
    found = spectral_summary(rows, center=True).effective_rank.value
    expected = spectral_summary(rows - 1, center=True).effective_rank.value  # exact: Sterbenz
    # The mean is good to a few eps of 1; the spread is 1e-9 of that.
    assert found == pytest.approx(expected, rel=16 * EPS / 1e-9)


@pytest.mark.parametrize("which", [slice(None), slice(0, 1)], ids=["all rows", "one row"])
@pytest.mark.parametrize("scale", [1e160, 1e300])
@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("normalize", [False, True])
def test_values_whose_square_overflows_fp64_are_refused(scale, which, center, normalize):
    """Neither an error of LAPACK, nor a story about equal rows, nor a row silently left out."""
    rows = ROWS.clone()
    rows[which] *= scale
    with refused("overflow", "Divide"):
        spectral_summary(rows, center=center, normalize=normalize)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_largest_values_of_a_narrow_dtype_are_measured(dtype):
    rows = ROWS.sign() * torch.finfo(dtype).max
    expected = spectral_summary(ROWS.sign()).effective_rank.value
    found = spectral_summary(rows.to(dtype)).effective_rank.value
    assert found == pytest.approx(expected, rel=64 * EPS, abs=0)


BAD_ARGUMENTS = {
    "both ridges": ({"ridge": 0.5, "relative_ridge": 0.25}, ["0.5", "0.25", "one of them"]),
    "a ridge of zero": ({"ridge": 0.0}, ["ridge=0.0", "positive"]),
    "a negative ridge": ({"ridge": -1e-3}, ["ridge=-0.001", "positive"]),
    "a relative ridge of zero": ({"relative_ridge": 0}, ["relative_ridge=0", "positive"]),
    "a negative relative ridge": ({"relative_ridge": -2.0}, ["relative_ridge=-2.0", "positive"]),
    "an infinite ridge": ({"ridge": math.inf}, ["ridge=inf", "finite"]),
    "a ridge that is NaN": ({"relative_ridge": math.nan}, ["relative_ridge=nan", "positive"]),
    "an unknown method": ({"method": "lanzcos"}, ["'lanzcos'", '"exact"']),
    "a confidence in percent": ({"confidence": 95}, ["confidence=95", "0.95"]),
    "a confidence above one": ({"confidence": 1.5}, ["confidence=1.5", "0.95"]),
    "a confidence of one": ({"confidence": 1.0}, ["confidence=1.0", "0.95"]),
    "a confidence of zero": ({"confidence": 0.0}, ["confidence=0.0", "0.95"]),
    "a confidence that is NaN": ({"confidence": math.nan}, ["confidence=nan", "0.95"]),
    "too few groups": ({"groups": torch.zeros(5, dtype=torch.int64)}, ["(5,)", "(6,)"]),
    "groups as a column": ({"groups": torch.zeros(6, 1, dtype=torch.int64)}, ["(6, 1)", "(6,)"]),
    "groups in floating point": ({"groups": torch.zeros(6)}, ["torch.float32", "integer"]),
    "groups not sorted": ({"groups": torch.tensor([0, 0, 1, 1, 0, 2])}, ["decreases", "Sort"]),
    "unsigned groups not sorted": (
        {"groups": torch.tensor([0, 0, 1, 1, 0, 2], dtype=torch.uint8)},
        ["decreases", "Sort"],
    ),
    "groups of booleans": (
        {"groups": torch.tensor([True, False, True, True, False, True])},
        ["torch.bool", "integer"],
    ),
    "groups as a list": ({"groups": [0, 0, 1, 1, 2, 2]}, ["list", "tensor"]),
}


@pytest.mark.parametrize(("arguments", "words"), BAD_ARGUMENTS.values(), ids=BAD_ARGUMENTS.keys())
def test_bad_arguments_are_refused(arguments, words):
    with refused(*words):
        spectral_summary(ROWS, **arguments)
    with refused(*words):
        summarize(Gram.from_embeddings(ROWS), center=False, **arguments)


FLOORS = [(torch.bfloat16, 1e-3), (torch.float16, 1e-4), (torch.float32, 1e-12)]


@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize(("dtype", "floor"), FLOORS)
def test_a_ridge_below_the_storage_floor_is_refused(dtype, floor, center):
    rows = gaussian(40, 8).to(dtype)
    words = [str(dtype), f"relative_ridge>={floor:.3g}", "wider"]
    with refused(f"{floor / 10:.3g}", *words):
        spectral_summary(rows, relative_ridge=floor / 10, center=center)
    spectral_summary(rows, relative_ridge=floor, center=center)


def test_bf16_at_1e_4_is_refused():
    with refused("0.0001", "torch.bfloat16", "relative_ridge>=0.001"):
        spectral_summary(gaussian(40, 8).bfloat16(), relative_ridge=1e-4)


@pytest.mark.parametrize(("dtype", "floor"), FLOORS)
def test_an_absolute_ridge_is_held_against_the_same_floor(dtype, floor):
    rows = gaussian(40, 8).to(dtype)
    mean_eigenvalue = rows.double().square().mean().item()
    with refused(str(dtype), f"relative_ridge>={floor:.3g}"):
        spectral_summary(rows, ridge=0.9 * floor * mean_eigenvalue)
    spectral_summary(rows, ridge=1.1 * floor * mean_eigenvalue)


def test_fp64_rows_are_held_to_the_rounding_of_the_decomposition():
    rows = orthonormal(64, 16)
    with refused("torch.float64", "floor"):
        spectral_summary(rows, relative_ridge=1e-16)
    spectral_summary(rows, relative_ridge=1e-12)


@pytest.mark.parametrize("q", [-1, -0.5, math.nan, -math.inf])
def test_an_order_below_zero_is_refused(q):
    with refused(f"q={q!r}", "q >= 0", "q=2"):
        spectral_summary(ROWS).renyi_rank(q)
