"""The spectral engine on rows of which every number is known."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from sigma_monitor.doctor.finding import Finding
from sigma_monitor.spectrum import SpectralSummary, sigma_tracks, spectral_summary

__all__ = ["examine_engine"]

_SECTION = "engine"
_REMEDY = (
    "Run it again with CUDA_VISIBLE_DEVICES= to see whether the GPU is at fault, reinstall torch, "
    "and report what stays, with the output of doctor --json."
)
_RIDGE = 1e-3  # relative
# Of the randomised intervals, whose test vectors are fixed by a seed: so high that those of any
# other seed would raise no false alarm either.
_CONFIDENCE = 0.9999

# By name, the least and the largest that a number may be, and what it is.
Bounds: TypeAlias = dict[str, tuple[float, float, float]]
Test: TypeAlias = Callable[[torch.device, torch.dtype], Bounds]


def examine_engine(device: torch.device) -> list[Finding]:
    """Closed forms, the randomised way beside the exact one, and the tracks beside a Cholesky.

    Args:
        device: Where the rows are.
    """
    tests: dict[str, Test] = {
        "prescribed spectrum": _prescribed,
        "orthonormal rows": _orthonormal,
        "rows of rank one": _rank_one,
        "lanczos and exact": _lanczos,
        "SIGMA's tracks": _tracks,
    }
    dtype = torch.float32 if device.type == "mps" else torch.float64  # Metal has no fp64
    return [_judged(name, test, device, dtype) for name, test in tests.items()]


def _judged(name: str, test: Test, device: torch.device, dtype: torch.dtype) -> Finding:
    try:
        bounds = test(device, dtype)
    except Exception as error:  # of a linear algebra that does not work
        text = f"{type(error).__name__}: {error}".splitlines()[0]
        return Finding(_SECTION, name, "failed", text, _REMEDY)
    for what, (least, most, value) in bounds.items():
        if not least <= value <= most:  # NaN too
            text = f"{what} is {value:.10g}, outside [{least:.10g}, {most:.10g}] on {device}"
            return Finding(_SECTION, name, "failed", text, _REMEDY)
    return Finding(_SECTION, name, "ok", f"{len(bounds)} numbers as they should be on {device}")


def _prescribed(device: torch.device, dtype: torch.dtype) -> Bounds:
    """Centred rows `U diag(s) Vᵀ`, more of them than features."""
    n, m = 48, 24
    singular = 2.0 ** -np.arange(8)
    rows = _rows(singular, n, m, centred=True).to(device, dtype)
    summary = spectral_summary(rows, center=True, relative_ridge=_RIDGE, method="exact")
    return _near(summary, _closed_forms(singular**2 / n, m), dtype)


def _orthonormal(device: torch.device, dtype: torch.dtype) -> Bounds:
    """As many directions as rows, all alike; fewer rows than features."""
    n, m = 12, 40
    rows = _rows(np.ones(n), n, m).to(device, dtype)
    summary = spectral_summary(rows, relative_ridge=_RIDGE, method="exact")
    expected = _closed_forms(np.full(n, 1 / n), m) | {"mean_cosine": 0.0}
    return _near(summary, expected, dtype)


def _rank_one(device: torch.device, dtype: torch.dtype) -> Bounds:
    """Equal rows, which leave nothing but zeros beside one eigenvalue."""
    n, m = 16, 8
    row = 2.0 ** -torch.arange(m)
    summary = spectral_summary(
        row.expand(n, m).to(device, dtype), relative_ridge=_RIDGE, method="exact"
    )
    expected = _closed_forms([float(row.square().sum())], m) | {"mean_cosine": 1.0}
    return _near(summary, expected, dtype)


def _lanczos(device: torch.device, dtype: torch.dtype) -> Bounds:
    """Closed forms within what the randomised way says is its error."""
    n, m = 320, 256
    singular = 1 / np.arange(1, m + 1)
    rows = _rows(singular, n, m, centred=True).to(device, dtype)
    summary = spectral_summary(
        rows, center=True, relative_ridge=_RIDGE, method="lanczos", confidence=_CONFIDENCE
    )
    bounds = {}
    for name, value in _closed_forms(singular**2 / n, m).items():
        estimate, rounding = getattr(summary, name), _rounding(value, dtype)
        bounds[name] = (estimate.low - rounding, estimate.high + rounding, value)
    return bounds


def _tracks(device: torch.device, dtype: torch.dtype) -> Bounds:
    """Straight from the formulas, by numpy's Cholesky on the CPU."""
    n, m, total, delta = 40, 16, 100, 1e-3
    rows = torch.nn.functional.normalize(_gaussian(n, m, seed=2))
    product = (rows.T @ rows).numpy()

    def log_det(ridge: float) -> float:
        factor = np.linalg.cholesky(product + ridge * np.eye(m))
        return float(2 * np.log(np.diag(factor)).sum())

    beta = float(total - n)
    expected = {
        "log_det": log_det(delta),
        "track_one": log_det(beta + delta) - m * math.log(beta + delta),
        "track_two": log_det(delta) - m * math.log(n),
    }
    tracks = sigma_tracks(rows.to(device, dtype), total, delta=delta, normalize=True)
    found = {name: getattr(tracks, name) for name in expected}
    return _within(found, expected, dtype)


def _closed_forms(eigenvalues: Sequence[float] | np.ndarray, m: int) -> dict[str, float]:
    """Functionals of these non-zero eigenvalues of C, of m, by their definitions."""
    values = np.asarray(eigenvalues, dtype=np.float64)
    shares = values / values.sum()
    singular = np.sqrt(values) / np.sqrt(values).sum()
    ridge = _RIDGE * values.sum() / m
    return {
        "log_det": float(np.log(values + ridge).sum() + (m - len(values)) * np.log(ridge)),
        "coding_rate": float(np.log1p(values / ridge).sum() / 2),
        "effective_rank": float(np.exp(-(singular * np.log(singular)).sum())),
        "spectral_entropy": float(-(shares * np.log(shares)).sum()),
        "participation_ratio": float(values.sum() ** 2 / (values**2).sum()),
        "stable_rank": float(values.sum() / values.max()),
        "lambda_max": float(values.max()),
        "trace": float(values.sum()),
    }


def _near(summary: SpectralSummary, expected: dict[str, float], dtype: torch.dtype) -> Bounds:
    return _within({name: float(getattr(summary, name)) for name in expected}, expected, dtype)


def _within(found: dict[str, float], expected: dict[str, float], dtype: torch.dtype) -> Bounds:
    return {
        name: (value - _rounding(value, dtype), value + _rounding(value, dtype), found[name])
        for name, value in expected.items()
    }


def _rounding(value: float, dtype: torch.dtype) -> float:
    """Half of the digits: making and measuring rows takes far fewer, a mistake far more."""
    return float(torch.finfo(dtype).eps ** 0.5 * max(1.0, abs(value)))


def _rows(singular: np.ndarray, n: int, m: int, *, centred: bool = False) -> Tensor:
    """(n, m) fp64 `U diag(s) Vᵀ` with columns of U that sum to zero when `centred`."""
    k = len(singular)
    left = _gaussian(n, k, seed=0)
    if centred:
        left = torch.cat([torch.ones(n, 1, dtype=torch.float64), left], dim=1)
    u = torch.linalg.qr(left).Q[:, int(centred) :]
    v = torch.linalg.qr(_gaussian(m, k, seed=1)).Q
    rows: Tensor = (u * torch.from_numpy(np.asarray(singular, dtype=np.float64))) @ v.T
    return rows


def _gaussian(n: int, m: int, *, seed: int) -> Tensor:
    source = torch.Generator().manual_seed(seed)
    return torch.randn(n, m, generator=source, dtype=torch.float64)
