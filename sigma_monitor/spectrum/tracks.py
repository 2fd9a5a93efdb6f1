"""SIGMA's two tracks: one number each from an observed subset of the rows (arXiv 2601.03385).

With `A` the n_A observed of n rows, `G_A = AᵀA`, `n_B = n − n_A` rows unobserved, ρ the largest
squared norm of a row, `β = n_B ρ` and the ridge δ (Algorithm 1, eqs 3.16-3.20):

    log_det    S      = log det(G_A + δI)
    track_one  G_KF   = log det(G_A + (β + δ)I) − m log(β + δ)
    track_two  U_cov  = S − m log n_A

Neither is a statement about the spectrum of all rows that could not be made better: `subset` has
the sharp bounds, `corrections` the bias. What is worth reading is the drift at fixed rows and fixed
settings.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, NamedTuple, TypedDict

import torch
from scipy.special import ndtri
from torch import Tensor

from sigma_monitor.errors import InputError
from sigma_monitor.estimate import Estimate
from sigma_monitor.spectrum.gram import Gram, blocks

__all__ = [
    "NORM_TOLERANCE",
    "PAPER_SETTINGS",
    "PaperSettings",
    "SigmaTracks",
    "TrackDrift",
    "observed_gram",
    "sigma_tracks",
]

_EPS = torch.finfo(torch.float64).eps

# How far the squared norm of a row may be from the one it was scaled to, relative to it: storage
# rounds every entry and the norm it was divided by; in fp32 and fp64 the sum over m adds to that.
NORM_TOLERANCE = {
    torch.bfloat16: 2 * torch.finfo(torch.bfloat16).eps,
    torch.float16: 2 * torch.finfo(torch.float16).eps,
    torch.float32: 16 * torch.finfo(torch.float32).eps,
    torch.float64: 1e-12,
}

# Above the first Theorem 3 is outside the regime of its proof, fixed m. The second is the bias it
# leaves out, in standard errors: at one half a nominal 95 % interval covers 92 %.
_MOST_FEATURES_PER_ROW = 0.02
_MOST_BIAS = 0.5


class PaperSettings(TypedDict):
    """Keyword arguments of `sigma_tracks` that fix its numbers."""

    delta: float
    rho: float
    normalize: bool


PAPER_SETTINGS: Final[PaperSettings] = {"delta": 1e-3, "rho": 1.0, "normalize": True}
"""The published settings: `sigma_tracks(rows, n_total, **PAPER_SETTINGS)`."""


class TrackDrift(NamedTuple):
    """Change of both tracks since a baseline, in nats (eq 3.20); negative when the rows collapse.

    Read both ends: gibberish raises them, and rotated rows move neither.
    """

    track_one: float  # ΔG
    track_two: float  # ΔU


@dataclass(frozen=True)
class SigmaTracks:
    """Both tracks of one set of rows, in nats, with the settings that fix them."""

    log_det: float  # S = log det(G_A + δI)
    track_one: float  # G_KF = Σ log(1 + λ_i(G_A)/(β + δ))
    track_two: float  # U_cov = S − m log n_A
    fixed_m_variance: float  # σ² = Var(vᵀC⁻¹v) over the observed rows, C = (G_A + δI)/n_A
    n_observed: int  # n_A
    n_total: int  # n
    m: int  # features
    delta: float  # δ, the ridge on G
    rho: float  # ρ, bound on the squared norm of a row
    normalize: bool  # whether rows were scaled to unit length

    def drift(self, baseline: SigmaTracks) -> TrackDrift:
        """`ΔG` and `ΔU`: both tracks here less those of `baseline` (eq 3.20).

        Raises:
            InputError: When the two differ in n_A, n, m, δ, ρ or normalisation: the difference
                would measure the settings.
        """
        for name in ("n_observed", "n_total", "m", "delta", "rho", "normalize"):
            here, there = getattr(self, name), getattr(baseline, name)
            if here != there:
                raise InputError(
                    f"{name} is {here!r} here and {there!r} in the baseline: the drift would "
                    "measure that change. Compute both tracks with the same rows and settings."
                )
        return TrackDrift(self.track_one - baseline.track_one, self.track_two - baseline.track_two)

    def interval(self, confidence: float = 0.95) -> Estimate:
        """Fixed-m asymptotic interval for the `track_two` that all n rows would give.

        Theorem 3: `U_cov(n_A) − U_cov(n)` is asymptotically normal with standard deviation
        `σ sqrt(1/n_A − 1/n)`, for fixed m, when the observed rows are a random subset. It leaves
        out the bias `−½(σ² + m² − m)(1/n_A − 1/n)`, which grows as m² where the standard error
        grows as √m: at 64 Gaussian features and 3,200 rows it is three standard errors. The
        interval is therefore refused where the bias would decide it.

        Args:
            confidence: Nominal coverage, strictly between 0 and 1.

        Returns:
            An `Estimate` of kind `"sampling"` around `track_two`.

        Raises:
            InputError: On a confidence outside (0, 1); when m/n_A > 0.02; when the bias is more
                than half a standard error.
        """
        if not 0 < confidence < 1:
            raise InputError(
                f"confidence={confidence!r}: it must lie between 0 and 1, such as 0.95."
            )
        step = 1 / self.n_observed - 1 / self.n_total
        error = math.sqrt(self.fixed_m_variance * step)
        bias = (self.fixed_m_variance + self.m**2 - self.m) * step / 2
        if self.m > _MOST_FEATURES_PER_ROW * self.n_observed or bias > _MOST_BIAS * error:
            raise InputError(
                f"m={self.m} features and n_A={self.n_observed} rows, m/n_A="
                f"{self.m / self.n_observed:.3g}: Theorem 3 lets n_A grow at fixed m and leaves "
                f"out a bias of about {-bias:.3g} nats, beside a standard error of {error:.3g}, "
                "so its interval would miss. It is given up to m/n_A=0.02 and a bias of half a "
                "standard error. Observe more rows, take subset_bounds for certified bounds, or "
                "read the drift."
            )
        half = float(ndtri((1 + confidence) / 2)) * error
        return Estimate(self.track_two, self.track_two - half, self.track_two + half, "sampling")


@torch.no_grad()
def sigma_tracks(
    observed: Tensor,
    n_total: int,
    *,
    delta: float = 1e-3,
    rho: float = 1.0,
    normalize: bool = False,
) -> SigmaTracks:
    """Tracks I and II of the observed rows (arXiv 2601.03385, Algorithm 1, eqs 3.16-3.19).

    Track I rests on `log det(G + δI) ≤ log det(G_A + (β + δ)I)`, which is true and wide: it grants
    every direction the energy β that the unobserved rows have in all. To second order it is
    `x − x²/(2 PR)`, `x = tr G_A/(β + δ)`, PR the participation ratio of G_A: a weak reading of
    that ratio (at 500 of 1,000 unit rows of 384 features its whole range is 0.31 nats).
    Equal to twice the coding rate of the rows at `n_A ε = β + δ`.

    Track II tends to `log det C` at fixed m. At n_A near m it is a regularised statistic of these
    rows (biased by −215 nats for 500 Gaussian rows of 384 features), of which the drift at fixed
    rows and settings can be read.

    Args:
        observed: (n_A, m) tensor of fp16, bf16, fp32 or fp64, one row per example.
        n_total: n, number of rows of the whole set, observed and not; at least n_A.
        delta: δ > 0, added to every eigenvalue of G_A.
        rho: ρ > 0, largest squared norm of any row, observed or not.
        normalize: Scale every observed row to unit length first, as published.

    Returns:
        A `SigmaTracks`.

    Raises:
        InputError: Rows of wrong rank or dtype, empty or non-finite; n_total below n_A; δ or ρ not
            positive and finite; δ within fp64 rounding of G_A; a row whose squared norm exceeds ρ
            by more than rounding to its dtype explains.

    Cost: that of `Gram`, `n_A m d` flops for the rows' quadratic forms and two Cholesky
    factorisations of d x d in fp64, d = min(n_A, m).

    Examples:
        >>> import torch
        >>> from sigma_monitor.spectrum.tracks import sigma_tracks
        >>> round(sigma_tracks(torch.eye(4), 8, delta=1.0).track_one, 4)  # 4 log(1 + 1/5)
        0.7293
    """
    gram = observed_gram(observed, n_total, delta=delta, rho=rho, normalize=normalize)
    with torch.autocast(gram.device.type, enabled=False):
        product = gram.product(center=False)
        _check_ridge(product, gram.n, delta)
        factor = _factor(product, delta)
        log_det = _log_det(factor) + gram.m * math.log(delta)
        beta = (n_total - gram.n) * rho
        track_one = _log_det(_factor(product, beta + delta))
        forms = gram.n * _leverages(gram, factor, delta)
    return SigmaTracks(
        log_det=log_det,
        track_one=track_one,
        track_two=log_det - gram.m * math.log(gram.n),
        fixed_m_variance=float(forms.var()) if gram.n > 1 else 0.0,
        n_observed=gram.n,
        n_total=int(n_total),
        m=gram.m,
        delta=delta,
        rho=rho,
        normalize=normalize,
    )


def observed_gram(
    observed: Tensor,
    n_total: int,
    *,
    delta: float,
    rho: float,
    normalize: bool = False,
    equal: bool = False,
) -> Gram:
    """The product of the observed rows, once every argument and every norm has been checked.

    Args:
        observed: (n_A, m) rows.
        n_total: n.
        delta: δ.
        rho: ρ.
        normalize: Scale rows to unit length first.
        equal: Refuse rows whose squared norm is below ρ as well.

    Raises:
        InputError: As `sigma_tracks`.
    """
    for name, value in (("delta", delta), ("rho", rho)):
        if not 0 < value < math.inf:
            raise InputError(f"{name}={value!r}: it must be positive and finite.")
    gram = Gram.from_embeddings(observed, normalize=normalize)
    if not gram.n <= n_total < math.inf or n_total != int(n_total):
        raise InputError(
            f"n_total={n_total!r} with {gram.n} observed rows: it is the integer number of all "
            f"rows, observed and not, so at least {gram.n}."
        )
    _check_norms(gram.row_energy(center=False), rho, NORM_TOLERANCE[gram.dtype], equal)
    return gram


def _check_norms(squared: Tensor, rho: float, tolerance: float, equal: bool) -> None:
    largest, smallest = float(squared.max()), float(squared.min())
    if largest > rho * (1 + tolerance):
        raise InputError(
            f"a row has squared norm {largest:.6g}, above rho={rho!r}, so beta = n_B rho does not "
            "bound the unobserved rows and what is built on it does not hold. Scale the rows to "
            "unit length, or pass as rho the largest squared norm of all rows."
        )
    if equal and smallest < rho * (1 - tolerance):
        raise InputError(
            f"a row has squared norm {smallest:.6g}, below rho={rho!r}: with unit_norm=True every "
            "row has exactly that squared norm, and the energy of the unobserved ones is known "
            "from it. Scale the rows, or pass unit_norm=False for rows that are only bounded."
        )


def _check_ridge(product: Tensor, n: int, delta: float) -> None:
    # Rounding errors of n accumulated products add up as √n; 32 is a margin.
    floor = 32 * _EPS * math.sqrt(n) * float(product.diagonal().sum())
    if delta < floor:
        raise InputError(
            f"delta={delta!r} is within fp64 rounding of the Gram matrix, {floor:.3g}: log det "
            "would measure the rounding. Pass a larger delta, or rows scaled down."
        )


def _factor(product: Tensor, ridge: float) -> Tensor:
    """Cholesky factor of `I + product/ridge`, whose log det is the same for Gram and kernel."""
    scaled = product / ridge
    scaled.diagonal().add_(1)
    factor: Tensor = torch.linalg.cholesky(scaled)
    return factor


def _log_det(factor: Tensor) -> float:
    return 2 * float(factor.diagonal().log().sum())


def _leverages(gram: Gram, factor: Tensor, delta: float) -> Tensor:
    """(n,) `h_i = v_iᵀ(G + δI)⁻¹v_i`, from the factor of `I + G/δ` or of `I + K/δ`."""
    if not gram.on_features:  # h = diag(K(K + δI)⁻¹)
        identity = torch.eye(gram.n, dtype=torch.float64, device=factor.device)
        inverse = torch.linalg.solve_triangular(factor, identity, upper=False)
        kernel_side: Tensor = 1 - inverse.square().sum(0)
        return kernel_side
    leverages = []
    for rows in blocks(gram.n, gram.m):
        chunk = gram.embeddings[rows].double()
        if gram.scale is not None:
            chunk = chunk * gram.scale[rows]
        half = torch.linalg.solve_triangular(factor, chunk.T, upper=False)  # (m, rows)
        leverages.append(half.square().sum(0) / delta)
    return torch.cat(leverages)
