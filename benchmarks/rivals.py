"""The other ways to the same numbers, each behind one signature: `spectrum.py` times them.

Every rival gets the rows of one layer as they are stored, and does what a user of it would do: the
smaller product where it needs a matrix, products with the rows where it takes an operator. A
package is imported when its rival is looked for; one that is missing is recorded with the reason.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

RELATIVE_RIDGE = 1e-3
EXACT = torch.float64

TARGET = 0.01  # relative error, where a rival stops by itself


@dataclass(frozen=True)
class Found:
    """What a way finds in one layer; None is what it does not deliver."""

    log_det: float | None = None  # nats, m eigenvalues
    effective_rank: float | None = None
    lambda_max: float | None = None
    matvecs: int = 0
    half_widths: dict[str, float] | None = None  # of those that give an interval
    runs: int = 0  # of stochastic quadrature
    rank_spread: float | None = None  # standard deviation of the log effective rank of one run
    detail: str = ""


Work = Callable[[Tensor, int], list[Found]]  # (layers, n, m) rows and a seed to one for each layer


@dataclass(frozen=True)
class Slq:
    """Effort of stochastic Lanczos quadrature: the defaults of hessian-eigenthings.

    curvlinops has no default and gets the same. imate is given fewer steps, for its own default of
    20 errs by 0.2 nats a dimension, and stops between the two numbers of samples.
    """

    runs: int = 10
    steps: int = 80
    imate_samples: tuple[int, int] = (10, 20)
    imate_steps: int = 50


@dataclass(frozen=True)
class Rival:
    """One way, and how far it goes."""

    name: str
    work: Work
    up_to: float = math.inf  # d above which it is not tried
    missing: str = ""  # why it cannot run here


def rivals(*, chunk: int | None, layers: int, device: torch.device, slq: Slq) -> list[Rival]:
    """All of them; `chunk` rows at a time where rows come in chunks."""

    def each(work: Callable[[Tensor, int], Found]) -> Work:
        return lambda rows, seed: [work(layer, seed) for layer in rows]

    def exact(name: str, work: Callable[..., Found], **more: Any) -> list[Rival]:
        return [
            Rival(
                f"{name} fp{8 * dtype.itemsize}",
                each(lambda rows, _, dtype=dtype: work(rows, dtype, chunk)),
                **more,
            )
            for dtype in (torch.float32, EXACT)
        ]

    found = [*exact("eigvalsh", eigenvalues), *exact("Cholesky", cholesky)]
    if layers > 1:
        found += [
            Rival("eigvalsh fp32, batch", lambda rows, _: batched(rows, torch.float32)),
            Rival("eigvalsh fp64, batch", lambda rows, _: batched(rows, EXACT)),
        ]
    found.append(Rival("svdvals fp32", each(lambda rows, _: singular_values(rows)), up_to=8192))
    on_host = "" if device.type == "cpu" else "its wheel runs on the processor alone"
    found += [
        Rival(
            "imate, slq",
            each(lambda rows, seed: imate_logdet(rows, seed, chunk, slq)),
            up_to=8192,  # at 1 GF/s a processor above takes over ten minutes
            missing=on_host or _missing("imate"),
        ),
        Rival(
            "hessian-eigenthings, slq",
            each(lambda rows, seed: eigenthings_slq(rows, seed, slq)),
            missing=_missing("hessian_eigenthings"),
        ),
        *(
            Rival(
                f"curvlinops, slq fp{8 * dtype.itemsize}",
                each(lambda rows, seed, dtype=dtype: curvlinops_slq(rows.to(dtype), seed, slq)),
                missing=_missing("curvlinops.papyan2020traces"),
            )
            for dtype in (torch.float32, EXACT)  # without reorthogonalisation it matters
        ),
    ]
    return found


def _missing(module: str) -> str:
    try:
        importlib.import_module(module)
    except ImportError as error:
        return f"not installed: {error}"
    return ""


def product(rows: Tensor, dtype: torch.dtype, chunk: int | None = None) -> Tensor:
    """(d, d) product of the rows on their smaller side, accumulated in `dtype`."""
    n, m = rows.shape
    if chunk is not None:
        total = rows.new_zeros(m, m, dtype=dtype)
        for part in rows.split(chunk):
            part = part.to(dtype)
            total.addmm_(part.mT, part)
        return total
    rows = rows.to(dtype)
    return rows.mT @ rows if n >= m else rows @ rows.mT


def numbers(squares: Tensor, n: int, m: int) -> Found:
    """From the (d,) eigenvalues of the product, by the definitions and in fp64."""
    x = squares.to(EXACT).clamp_min(0) / n
    ridge = RELATIVE_RIDGE * x.sum() / m
    shares = x.sqrt() / x.sqrt().sum()
    return Found(
        float((x + ridge).log().sum() + (m - len(x)) * ridge.log()),
        float((-torch.special.xlogy(shares, shares).sum()).exp()),
        float(x.max()),
    )


def eigenvalues(rows: Tensor, dtype: torch.dtype, chunk: int | None) -> Found:
    return numbers(torch.linalg.eigvalsh(product(rows, dtype, chunk)), *rows.shape)


def batched(rows: Tensor, dtype: torch.dtype) -> list[Found]:
    """One call for all layers."""
    n, m = rows.shape[1:]
    wide = rows.to(dtype)
    products = wide.mT @ wide if n >= m else wide @ wide.mT
    return [numbers(values, n, m) for values in torch.linalg.eigvalsh(products)]


def singular_values(rows: Tensor) -> Found:
    return numbers(torch.linalg.svdvals(rows).to(EXACT).square(), *rows.shape)


def cholesky(rows: Tensor, dtype: torch.dtype, chunk: int | None) -> Found:
    """Log det alone."""
    n, m = rows.shape
    matrix, ridge = regularised(rows, dtype, chunk)
    factor = torch.linalg.cholesky(matrix)
    log_det = 2 * factor.diagonal().to(EXACT).log().sum()
    return Found(float(log_det) + (m - min(n, m)) * math.log(ridge))


def regularised(rows: Tensor, dtype: torch.dtype, chunk: int | None) -> tuple[Tensor, float]:
    """(d, d) `C + εI` on the smaller side, and ε."""
    n, m = rows.shape
    matrix = product(rows, dtype, chunk).div_(n)
    ridge = RELATIVE_RIDGE * float(matrix.diagonal().sum(dtype=EXACT)) / m
    matrix.diagonal().add_(ridge)
    return matrix, ridge


def imate_logdet(rows: Tensor, seed: int, chunk: int | None, slq: Slq) -> Found:
    """Log det alone; it stops once its own interval, of the d x d matrix, is within the target."""
    import imate

    m = rows.shape[1]
    matrix, ridge = regularised(rows, torch.float32, chunk)
    least, most = slq.imate_samples
    steps = min(slq.imate_steps, len(matrix))
    value, info = imate.logdet(
        matrix.numpy(),
        method="slq",
        min_num_samples=least,
        max_num_samples=most,
        error_atol=0,
        error_rtol=TARGET,
        lanczos_degree=steps,
        orthogonalize=-1,
        num_threads=torch.get_num_threads(),
        seed=seed,
        return_info=True,
    )
    samples = int(info["convergence"]["num_samples_used"])
    return Found(
        float(value) + (m - len(matrix)) * math.log(ridge),
        matvecs=samples * steps,
        half_widths={"log_det_per_dim": float(info["error"]["absolute_error"]) / m},
        detail=f"{samples} samples of {steps} steps",
    )


class Counted:
    """`v -> (v Eᵀ) E / n` on the smaller side, one vector at a time, as both libraries ask."""

    def __init__(self, rows: Tensor) -> None:
        n, m = rows.shape
        self.rows = rows if n >= m else rows.mT
        self.n, self.d = n, min(n, m)
        self.matvecs = 0

    def __call__(self, vector: Tensor) -> Tensor:
        self.matvecs += 1
        return self.rows.mT @ (self.rows @ vector) / self.n


def eigenthings_slq(rows: Tensor, seed: int, slq: Slq) -> Found:
    from hessian_eigenthings import LambdaOperator, spectral_density

    operator = Counted(rows)
    found = spectral_density(
        LambdaOperator(operator, operator.d, rows.device, rows.dtype),
        num_runs=slq.runs,
        lanczos_steps=min(slq.steps, operator.d),
        num_grid_points=2,  # the curve is not what is asked for
        seed=1000 * seed,
    )
    return quadrature(rows, operator, found.raw_eigenvalues.nan_to_num(), found.raw_weights)


def curvlinops_slq(rows: Tensor, seed: int, slq: Slq) -> Found:
    from curvlinops._torch_base import PyTorchLinearOperator
    from curvlinops.papyan2020traces.spectrum import fast_lanczos

    operator = Counted(rows)
    d = operator.d

    class Rows(PyTorchLinearOperator):
        SELF_ADJOINT = True
        device, dtype = rows.device, rows.dtype

        def _matmat(self, vectors: list[Tensor]) -> list[Tensor]:
            return [torch.stack([operator(v) for v in vectors[0].unbind(-1)], -1)]

    with torch.random.fork_rng(devices=[rows.device] if rows.is_cuda else []):
        torch.manual_seed(seed)
        runs = [fast_lanczos(Rows([(d,)], [(d,)]), min(slq.steps, d)) for _ in range(slq.runs)]
    nodes = torch.stack([values for values, _ in runs])
    return quadrature(rows, operator, nodes, torch.stack([v[0] ** 2 for _, v in runs]))


def quadrature(rows: Tensor, operator: Counted, nodes: Tensor, weights: Tensor) -> Found:
    """From (runs, k) Ritz values and weights of Gauss rules, whose means are means over λ."""
    n, m = rows.shape
    x, w = nodes.to(EXACT).clamp_min(0), weights.to(EXACT)
    squares = sum(float(part.square().sum(dtype=EXACT)) for part in rows.split(4096))
    ridge = RELATIVE_RIDGE * squares / n / m
    log_det = operator.d * (w * (x + ridge).log()).sum(1)  # (runs,)
    root = operator.d * (w * x.sqrt()).sum(1)
    root_log = operator.d * (w * torch.special.xlogy(x.sqrt(), x.sqrt())).sum(1)
    log_rank = root.log() - root_log / root
    entropy = root.mean().log() - root_log.mean() / root.mean()
    return Found(
        float(log_det.mean()) + (m - operator.d) * math.log(ridge),
        float(entropy.exp()),
        float(x.max()),
        matvecs=operator.matvecs,
        runs=len(x),
        rank_spread=float(log_rank.std()),
        detail=f"{len(x)} runs of {x.shape[1]} steps",
    )
