"""Moments without each example, against the same of the rows that are left."""

import numpy as np
import pytest
import torch

from sigma_monitor.errors import ZeroTraceError
from sigma_monitor.spectrum import Gram, summarize
from sigma_monitor.spectrum.moments import moments_without
from tests.spectrum.matrices import gaussian

SHAPES = [(40, 6), (9, 20), (12, 12)]
GROUPS = torch.tensor([0, 0, 0, 1, 2, 2, 3, 4, 4])


def of_the_rest(rows, kept, center):
    left = rows[kept]
    left = left - left.mean(0) if center else left
    product = left.T @ left
    return float(product.trace()), float((product @ product).trace())


@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_each_row_left_out_is_the_rest_measured_alone(shape, center):
    rows = gaussian(*shape) + 0.5
    found = moments_without(Gram.from_embeddings(rows), center=center)
    expected = [of_the_rest(rows, torch.arange(len(rows)) != i, center) for i in range(len(rows))]
    # Traces are sums of n m positive terms: fp64 rounding leaves far fewer digits wrong than this.
    np.testing.assert_allclose(np.stack([found.trace, found.square], 1), expected, rtol=1e-11)


@pytest.mark.parametrize("center", [True, False])
def test_whole_examples_are_left_out(center):
    rows = gaussian(9, 5) + 0.5
    found = moments_without(Gram.from_embeddings(rows), center=center, groups=GROUPS)
    expected = [of_the_rest(rows, group != GROUPS, center) for group in range(5)]
    np.testing.assert_allclose(np.stack([found.trace, found.square], 1), expected, rtol=1e-11)


def test_the_participation_ratio_is_that_of_a_summary():
    rows = gaussian(30, 4)
    found = moments_without(Gram.from_embeddings(rows), center=True).participation_ratio
    summary = summarize(Gram.from_embeddings(rows[1:]), center=True, method="exact")
    assert found[0] == pytest.approx(summary.participation_ratio.value, rel=1e-11)


def test_rows_that_are_equal_but_for_one_leave_nothing_without_it():
    rows = torch.ones(5, 3, dtype=torch.float64)
    rows[2, 0] = 2
    found = moments_without(Gram.from_embeddings(rows), center=True)
    assert found.trace[2] == pytest.approx(0, abs=1e-15)
    assert found.participation_ratio == pytest.approx(1, rel=1e-12)
    with pytest.raises(ZeroTraceError):
        moments_without(Gram.from_embeddings(torch.ones(5, 3)), center=True)
