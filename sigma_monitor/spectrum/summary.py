"""`spectral_summary`: an embedding matrix in, every functional with its interval out."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sigma_monitor.errors import InputError
from sigma_monitor.estimate import Estimate
from sigma_monitor.spectrum import functionals
from sigma_monitor.spectrum.exact import decompose
from sigma_monitor.spectrum.gram import Gram
from sigma_monitor.spectrum.uncertainty import (
    LeaveOneOut,
    half_width,
    jackknife_standard_error,
    leave_one_out,
)

__all__ = [
    "DEFAULT_RELATIVE_RIDGE",
    "FUNCTIONALS",
    "SpectralSummary",
    "spectral_summary",
    "summarize",
]

DEFAULT_RELATIVE_RIDGE = 1e-3

# Mean spurious eigenvalue that rounding the embeddings to a storage type leaves in C, in units of
# tr(C)/m. Measured for the 16-bit types; (2^−24)² / 3 for fp32.
STORAGE_NOISE = {
    torch.bfloat16: 2.7e-6,
    torch.float16: 4e-8,
    torch.float32: 1.2e-15,
    torch.float64: 0.0,
}
# The ridge must stand well above that noise, or log det measures the rounding.
RIDGE_FLOOR = {
    torch.bfloat16: 1e-3,
    torch.float16: 1e-4,
    torch.float32: 1e-12,
    torch.float64: 0.0,
}

_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)

FUNCTIONALS = (
    "log_det",
    "log_det_per_dim",
    "coding_rate",
    "effective_rank",
    "spectral_entropy",
    "participation_ratio",
    "stable_rank",
    "condition_number",
    "lambda_max",
    "lambda_min",
    "trace",
    "mean_cosine",
    "decay_exponent",
)


@dataclass(frozen=True, eq=False)
class SpectralSummary:
    """Every functional of one spectrum, each an `Estimate`, with the conventions that made it.

    Eigenvalues and trace are those of `C = G/n`; logarithms are natural (nats). `log_det`,
    `log_det_per_dim`, `coding_rate` and `effective_rank` carry the jackknife interval over the
    probe examples (kind `"sampling"`): it covers the spread of the plug-in value between probe
    sets of the same size, not the bias of the plug-in, which depends on n. It is unbounded with
    fewer than three examples. The other functionals are exact for the given rows.
    """

    log_det: Estimate  # Σ log(λ_i + ε) over m eigenvalues, nats
    log_det_per_dim: Estimate  # log_det / m, nats
    coding_rate: Estimate  # ½ Σ log(1 + λ_i/ε), nats
    effective_rank: Estimate  # exp H(singular values), 1 … d
    spectral_entropy: Estimate  # H(eigenvalues), nats
    participation_ratio: Estimate  # (Σλ)² / Σλ², 1 … d
    stable_rank: Estimate  # Σλ / λ₁, 1 … d
    condition_number: Estimate  # λ₁ / smallest eigenvalue above the numerical floor
    lambda_max: Estimate  # largest eigenvalue of C
    lambda_min: Estimate  # smallest of the m eigenvalues of C
    trace: Estimate  # Σ λ_i of C
    mean_cosine: Estimate  # mean cosine of two raw rows, −1 … 1
    decay_exponent: Estimate  # α of λ_i ∝ i^(−α)
    eigenvalues: NDArray[np.float64] = field(repr=False)  # (r,) of C, descending, above rounding
    leave_one_out: LeaveOneOut | None = field(repr=False)  # values without each example
    method: Literal["exact"]
    n: int  # rows
    m: int  # features
    examples: int  # units of the jackknife
    ridge: float  # ε on C
    center: bool
    normalize: bool
    confidence: float  # of the intervals
    matvecs: int  # products with C, 0 for the exact way
    seconds: float  # wall time
    device: str

    def renyi_rank(self, q: float) -> Estimate:
        """`(Σ p^q)^(1/(1−q))` of the eigenvalue shares p, from 1 to d (Vendi order q).

        Raises:
            InputError: When q is negative or NaN.
        """
        if not q >= 0:
            raise InputError(f"q={q!r}: the Renyi rank needs an order q >= 0, such as q=2.")
        return Estimate.exact(functionals.renyi_rank(self.eigenvalues, q))


def spectral_summary(
    embeddings: Tensor,
    *,
    center: bool = False,
    normalize: bool = False,
    ridge: float | None = None,
    relative_ridge: float | None = None,
    method: Literal["auto", "exact"] = "auto",
    confidence: float = 0.95,
    groups: Tensor | None = None,
) -> SpectralSummary:
    """The spectrum of `C = EᵀE/n` and every functional of it (arXiv 2601.03385, section 3).

    Args:
        embeddings: (n, m) tensor E of fp16, bf16, fp32 or fp64, one row per example or token.
        center: Subtract the mean row. Centred spectra see loss of spread, uncentred ones see
            alignment of all rows to one direction.
        normalize: Scale every row to unit length, before centring.
        ridge: Absolute ε added to every eigenvalue of C in `log_det` and `coding_rate`.
        relative_ridge: ε = relative_ridge · tr(C)/m, which makes values comparable over n and
            scale. 1e-3 when neither is given.
        method: `"exact"`, or `"auto"`, which is exact in this version.
        confidence: Of the intervals, strictly between 0 and 1.
        groups: (n,) integer tensor, non-decreasing: the example of each row, when several rows
            (tokens) belong to one example. The jackknife deletes whole examples.

    Returns:
        A `SpectralSummary`.

    Raises:
        InputError: Embeddings of wrong rank or dtype, empty, non-finite or of zero trace; both
            ridges, or one that is not positive or below the storage floor of the dtype (relative
            1e-3 for bf16, 1e-4 for fp16, 1e-12 for fp32); an unknown method; a confidence outside
            (0, 1); groups of wrong shape or order.

    Cost: `2 n m d + 9 d³ + 2 n m r` flops in fp64, d = min(n, m), r the rank; memory as `Gram`, and
    a few (n, r) matrices in fp64 for the jackknife.

    Example:
        >>> import torch
        >>> from sigma_monitor import spectral_summary
        >>> spectral_summary(torch.eye(4)).effective_rank.value
        4.0
    """
    with torch.no_grad():
        gram = Gram.from_embeddings(embeddings, normalize=normalize)
    return summarize(
        gram,
        center=center,
        ridge=ridge,
        relative_ridge=relative_ridge,
        method=method,
        confidence=confidence,
        groups=groups,
    )


@torch.no_grad()
def summarize(
    gram: Gram,
    *,
    center: bool,
    ridge: float | None = None,
    relative_ridge: float | None = None,
    method: Literal["auto", "exact"] = "auto",
    confidence: float = 0.95,
    groups: Tensor | None = None,
) -> SpectralSummary:
    """`spectral_summary` of a product already accumulated; arguments and errors as there."""
    _check_arguments(gram, ridge, relative_ridge, method, confidence, groups)
    if ridge is None and relative_ridge is None:
        relative_ridge = DEFAULT_RELATIVE_RIDGE
    started = time.perf_counter()
    with torch.autocast(gram.embeddings.device.type, enabled=False):
        decomposition = decompose(gram, center=center)
        values = (decomposition.values / gram.n).cpu().numpy()
        trace = float(values.sum())
        epsilon = ridge if ridge is not None else (relative_ridge or 0.0) * trace / gram.m
        _check_ridge_floor(gram, epsilon * gram.m / trace)
        without = leave_one_out(
            gram,
            decomposition,
            center=center,
            groups=groups,
            ridge=epsilon,
            relative_ridge=relative_ridge,
        )
    m = gram.m
    noise = _largest_storage_eigenvalue(gram, trace)
    log_det = functionals.log_det(values, m, epsilon)
    rate = functionals.coding_rate(values, epsilon)
    rank = functionals.effective_rank(values)
    exact = Estimate.exact
    return SpectralSummary(
        log_det=_sampled(log_det, without, lambda loo: loo.log_det, confidence),
        log_det_per_dim=_sampled(log_det / m, without, lambda loo: loo.log_det / m, confidence),
        coding_rate=_sampled(
            rate, without, lambda loo: (loo.log_det - m * loo.log_ridge) / 2, confidence
        ),
        effective_rank=_exponential(
            _sampled(math.log(rank), without, lambda loo: loo.log_effective_rank, confidence)
        ),
        spectral_entropy=exact(functionals.spectral_entropy(values)),
        participation_ratio=exact(functionals.renyi_rank(values, 2)),
        stable_rank=exact(functionals.stable_rank(values)),
        condition_number=exact(functionals.condition_number(values, noise)),
        lambda_max=exact(float(values[0])),
        lambda_min=exact(float(values[-1]) if len(values) == m else 0.0),
        trace=exact(trace),
        mean_cosine=exact(gram.mean_cosine()),
        decay_exponent=exact(functionals.decay_exponent(values, noise)),
        eigenvalues=values,
        leave_one_out=without,
        method="exact",
        n=gram.n,
        m=m,
        examples=gram.n if groups is None else len(torch.unique_consecutive(groups)),
        ridge=epsilon,
        center=center,
        normalize=gram.scale is not None,
        confidence=confidence,
        matvecs=0,
        seconds=time.perf_counter() - started,
        device=str(gram.embeddings.device),
    )


def _largest_storage_eigenvalue(gram: Gram, trace: float) -> float:
    """The largest spurious eigenvalue of C that storage can have made, with a margin of eight.

    The largest eigenvalue of white noise is (1 + sqrt(m/n))² times the mean one (Marchenko and
    Pastur 1967). Features of unequal energy round with unequal noise: up to 5.2 times was measured.
    """
    mean = STORAGE_NOISE[gram.embeddings.dtype] * trace / gram.m
    return 8 * mean * (1 + math.sqrt(gram.m / gram.n)) ** 2


def _sampled(
    value: float,
    without: LeaveOneOut | None,
    select: Callable[[LeaveOneOut], NDArray[np.float64]],
    confidence: float,
) -> Estimate:
    deleted = None if without is None else select(without)
    # Unbounded, too, when what is left without some example has no spectrum.
    if deleted is None or not np.isfinite(deleted).all():
        return Estimate(value, -math.inf, math.inf, "sampling")
    half = half_width(jackknife_standard_error(deleted), len(deleted), confidence)
    return Estimate(value, value - half, value + half, "sampling")


def _exponential(logarithm: Estimate) -> Estimate:
    """The interval on the log scale carried over, so that a rank's lower end stays positive."""
    value, low, high = (
        math.inf if x > 700 else math.exp(x)
        for x in (logarithm.value, logarithm.low, logarithm.high)
    )
    return Estimate(value, low, high, logarithm.kind)


def _check_arguments(
    gram: Gram,
    ridge: float | None,
    relative_ridge: float | None,
    method: str,
    confidence: float,
    groups: Tensor | None,
) -> None:
    if ridge is not None and relative_ridge is not None:
        raise InputError(
            f"ridge={ridge!r} and relative_ridge={relative_ridge!r} were both given, and they set "
            "the same quantity: pass one of them."
        )
    for name, value in (("ridge", ridge), ("relative_ridge", relative_ridge)):
        if value is not None and not 0 < value < math.inf:
            raise InputError(
                f"{name}={value!r}: a ridge must be positive and finite, such as 1e-3."
            )
    if method not in ("auto", "exact"):
        raise InputError(f'method={method!r}: this version knows "auto" and "exact".')
    if not 0 < confidence < 1:
        raise InputError(f"confidence={confidence!r}: it must lie between 0 and 1, such as 0.95.")
    if groups is None:
        return
    if not isinstance(groups, Tensor):
        raise InputError(
            f"groups is a {type(groups).__name__}: expected an integer tensor of shape "
            f"({gram.n},), the example of each row."
        )
    if groups.shape != (gram.n,) or groups.dtype not in _INTEGERS:
        raise InputError(
            f"groups has shape {tuple(groups.shape)} and dtype {groups.dtype}: expected an integer "
            f"tensor of shape ({gram.n},), the example of each row."
        )
    if bool((groups[1:] < groups[:-1]).any()):
        raise InputError(
            "groups decreases somewhere: rows of one example must stand together. Sort the rows by "
            "example first."
        )


def _check_ridge_floor(gram: Gram, relative: float) -> None:
    dtype = gram.embeddings.dtype
    rounding = 4 * torch.finfo(torch.float64).eps * min(gram.n, gram.m)
    floor = max(RIDGE_FLOOR[dtype], rounding)
    if relative < floor * (1 - 1e-9):
        raise InputError(
            f"the ridge is {relative:.3g} of tr(C)/m, below the floor {floor:.3g} for embeddings "
            f"stored as {dtype}: log det would measure their rounding. Pass relative_ridge>="
            f"{floor:.3g}, or embeddings of a wider dtype."
        )
