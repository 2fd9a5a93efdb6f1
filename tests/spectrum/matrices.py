"""Embedding matrices whose spectrum is known, and the rounding that fp64 leaves in a spectrum."""

import math

import numpy as np
import torch
from torch import Tensor

EPS = 2.0**-52
SQRT_EPS = 2.0**-26


def generator(seed):
    return torch.Generator().manual_seed(seed)


def gaussian(n, m, seed=0):
    """(n, m) fp64 standard normal rows."""
    return torch.randn(n, m, generator=generator(seed), dtype=torch.float64)


def orthonormal(n, k, seed=0, *, centred=False):
    """(n, k) fp64 with orthonormal columns, each summing to zero when `centred`."""
    columns = gaussian(n, k, seed)
    if centred:
        columns = torch.cat([torch.ones(n, 1, dtype=torch.float64), columns], dim=1)
    return torch.linalg.qr(columns).Q[:, int(centred) :]


def rows_with(singular_values, n, m, seed=0, *, centred=False):
    """(n, m) fp64 `U diag(s) Vᵀ`: rows with these singular values, of zero mean when `centred`."""
    s = torch.as_tensor(singular_values, dtype=torch.float64)
    k = len(s)
    assert k <= min(n - int(centred), m), "more singular values than the shape has room for"
    return (orthonormal(n, k, seed, centred=centred) * s) @ orthonormal(m, k, seed + 1).T


def sign_rows(scales, n):
    """(n, m) rows of ±scale: `C = diag(scales²)` and zero mean, exactly, in every dtype.

    Columns of a Sylvester-Hadamard matrix; n is a power of two above `len(scales)`, and scales
    that are powers of two are exact down to bf16.
    """
    signs = torch.ones(1, 1, dtype=torch.float64)
    while len(signs) < n:
        signs = torch.kron(torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64), signs)
    s = torch.as_tensor(scales, dtype=torch.float64)
    assert len(signs) == n > len(s)
    return signs[:, 1 : len(s) + 1] * s


def token_rows(lengths, m, seed=0, *, decay=0.5, spread=1.0):
    """Token rows of `len(lengths)` texts, correlated within a text, and the text of each row.

    A token is its text's own direction plus noise `spread` times as large; feature k has scale
    k^−decay.
    """
    lengths = torch.as_tensor(lengths)
    groups = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
    source = generator(seed)
    texts = torch.randn(len(lengths), m, generator=source, dtype=torch.float64)
    tokens = torch.randn(len(groups), m, generator=source, dtype=torch.float64)
    scale = torch.arange(1, m + 1, dtype=torch.float64) ** -decay
    return (texts[groups] + spread * tokens) * scale, groups


def eigenvalue_error(n, m):
    """Error of any eigenvalue of an fp64 product of n x m rows, in units of the trace.

    `‖fl(EᵀE) − EᵀE‖₂ ≤ max(n, m)·eps·‖E‖_F²`, eigh is backward stable to about d·eps·λ₁, and by
    Weyl no eigenvalue moves by more. Twice that, because making the rows rounds them as well.
    """
    return 2 * (n + m) * EPS


def rounding(function, values, error):
    """Change of `function(values)` when every non-zero value moves by up to `error`, plus its own.

    To first order: the changes by each value alone, added up. The function's own sums of
    len(values) terms are good to that many eps of the result.
    """
    values = np.asarray(values, dtype=float)
    centre = function(values)
    total = len(values) * EPS * max(1.0, abs(centre)) * 4
    for i in np.flatnonzero(values):
        moved = values.copy()
        moved[i] += error
        total += abs(function(moved) - centre)
    return total


def is_unbounded(estimate):
    return estimate.high == math.inf and estimate.low in (-math.inf, 0.0)


def as_numpy(rows):
    return rows.detach().double().numpy() if isinstance(rows, Tensor) else np.asarray(rows)
