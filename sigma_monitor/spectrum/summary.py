"""`spectral_summary`: an embedding matrix in, every functional with its interval out."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from sigma_monitor.errors import InputError
from sigma_monitor.spectrum.conventions import DEFAULT_RELATIVE_RIDGE, Conventions
from sigma_monitor.spectrum.cost import Choice, choose
from sigma_monitor.spectrum.exact_summary import exact_summary
from sigma_monitor.spectrum.gram import Gram, Product
from sigma_monitor.spectrum.lanczos_summary import LanczosSettings, Layers
from sigma_monitor.spectrum.precision import full_precision
from sigma_monitor.spectrum.result import FUNCTIONALS, SpectralSummary

__all__ = [
    "DEFAULT_RELATIVE_RIDGE",
    "FUNCTIONALS",
    "METHODS",
    "Method",
    "Settings",
    "SpectralSummary",
    "spectral_summaries",
    "spectral_summary",
    "summarize",
]

Method = Literal["auto", "exact", "lanczos"]
METHODS = ("auto", "exact", "lanczos")


def spectral_summary(
    embeddings: Tensor,
    *,
    center: bool = False,
    normalize: bool = False,
    ridge: float | None = None,
    relative_ridge: float | None = None,
    method: Method = "auto",
    confidence: float = 0.95,
    test_vectors: int = 32,
    lanczos_steps: int | None = None,
    generator: torch.Generator | None = None,
    groups: Tensor | None = None,
    sampling: bool = True,
    previous: SpectralSummary | None = None,
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
        method: `"exact"`: an eigendecomposition in fp64. `"lanczos"`: certified quadrature and
            random test vectors on products in fp32 (fp64 for fp64 rows), nothing of size d².
            `"auto"`: exact, unless it would take over a tenth longer on this device; `reason` in
            the result says why.
        confidence: Of the intervals, strictly between 0 and 1.
        test_vectors: Random vectors of `"lanczos"`, 2 at least.
        lanczos_steps: Steps from each, 2 at least; None takes steps until the quadrature brackets
            are narrow, 1 % on either side of `log det(I + C/ε)` and of the effective rank, 64 at
            most.
        generator: Its `initial_seed()` keys the test vectors, and it is not advanced. None keys
            them by 0: they are frozen, equal at every check and on every rank.
        groups: (n,) integer tensor, non-decreasing: the example of each row, when several rows
            (tokens) belong to one example. The jackknife deletes whole examples.
        sampling: Whether to estimate the error of the finite probe set. Without it the exact way
            is several times cheaper, and its estimates are of kind `"exact"`.
        previous: A randomised summary of the same probe set, taken shortly before: its leading
            directions are reused, and the change since is measured with a few of its test vectors
            and brackets up to three times as wide. When the log effective rank or log det per
            dimension has moved by more than 0.1 nats, all is measured anew.

    Returns:
        A `SpectralSummary`.

    Raises:
        InputError: Embeddings of wrong rank or dtype, empty, non-finite or of zero trace; both
            ridges, or one that is not positive or below the storage floor of the dtype (relative
            1e-3 for bf16, 1e-4 for fp16, 1e-12 for fp32); an unknown method; a confidence outside
            (0, 1); too few test vectors or steps; groups of wrong shape or order; a `previous` of
            other conventions.

    Cost: exact, `n m d + 9 d³ + 2 n m r` flops in fp64 (`n m d + 4/3 d³` without sampling), d =
    min(n, m), r the rank; memory as `Gram`. Lanczos, `4 n m (3 s + k' s + N k)` flops in fp32, s =
    32, N test vectors, k about 20; memory for `(s + N) k` vectors of length d.

    Examples:
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
        test_vectors=test_vectors,
        lanczos_steps=lanczos_steps,
        generator=generator,
        groups=groups,
        sampling=sampling,
        previous=previous,
    )


def spectral_summaries(
    embeddings: Sequence[Tensor] | Tensor,
    *,
    center: bool = False,
    normalize: bool = False,
    ridge: float | None = None,
    relative_ridge: float | None = None,
    method: Method = "auto",
    confidence: float = 0.95,
    test_vectors: int = 32,
    lanczos_steps: int | None = None,
    generator: torch.Generator | None = None,
    groups: Tensor | None = None,
    sampling: bool = True,
) -> list[SpectralSummary]:
    """`spectral_summary` of many layers of one shape and type.

    By the randomised way the recursions of all layers advance together: one sequence of launches,
    and one wait for the device every few steps, however many layers there are.

    Args:
        embeddings: L tensors of shape (n, m), or one of shape (L, n, m).
        center: As in `spectral_summary`, like all that follow.
        normalize: As there.
        ridge: As there.
        relative_ridge: As there.
        method: As there.
        confidence: As there.
        test_vectors: As there; the layers share them.
        lanczos_steps: As there.
        generator: As there.
        groups: As there, of every layer.
        sampling: As there.

    Returns:
        One `SpectralSummary` a layer. The seconds of each are its share of the time for all.

    Raises:
        InputError: As there; for no layers, or layers of different shape, type or device.

    Cost: as there, for each layer.
    """
    first = embeddings[0] if len(embeddings) else None
    if first is None or any(_kind(e) != _kind(first) for e in embeddings):
        raise InputError(
            f"embeddings holds {sorted({str(_kind(e)) for e in embeddings})}: layers that are "
            "computed together need one shape, type and device, and there must be one at least. "
            "Call spectral_summary for each."
        )
    conventions = Conventions(center, ridge, relative_ridge, confidence, groups, sampling)
    settings = Settings.of(method, test_vectors, lanczos_steps, generator)
    started = time.perf_counter()
    with full_precision(first.device):
        grams = deque(Gram.from_embeddings(layer, normalize=normalize) for layer in embeddings)
        conventions.check_groups(grams[0].n)
        choice = settings.choose(grams[0], conventions)
        if choice.method == "lanczos":
            layers = Layers.of_rows(list(grams), conventions, settings.lanczos, choice.reason)
            return layers.summaries(started)
        # Each goes once it was used, and its d x d product with it.
        return [
            exact_summary(grams.popleft(), conventions, choice.reason) for _ in range(len(grams))
        ]


def summarize(
    rows: Product,
    *,
    center: bool,
    ridge: float | None = None,
    relative_ridge: float | None = None,
    method: Method = "auto",
    confidence: float = 0.95,
    test_vectors: int = 32,
    lanczos_steps: int | None = None,
    generator: torch.Generator | None = None,
    groups: Tensor | None = None,
    sampling: bool = True,
    previous: SpectralSummary | None = None,
) -> SpectralSummary:
    """`spectral_summary` of rows already looked at, a `Gram`, or streamed, a `GramStream`.

    Arguments and errors as there. A stream keeps no rows, so that its summary has no sampling
    error.
    """
    conventions = Conventions(center, ridge, relative_ridge, confidence, groups, sampling)
    settings = Settings.of(method, test_vectors, lanczos_steps, generator)
    with full_precision(rows.device):
        conventions.check_groups(rows.n)
        started = time.perf_counter()
        choice = settings.choose(rows, conventions)
        if previous is not None and settings.method == "auto":
            choice = Choice(previous.method, "that of the previous summary")
        if choice.method == "exact":
            return exact_summary(rows, conventions, choice.reason)
        rest = conventions, settings.lanczos, choice.reason
        layers = (
            Layers.of_rows([rows], *rest)
            if isinstance(rows, Gram)
            else Layers.of_product(rows, *rest)
        )
        return (
            layers.summaries(started)[0]
            if previous is None
            else layers.following(previous, started)
        )


@dataclass(frozen=True)
class Settings:
    """Which way, and how the randomised one goes."""

    method: Method
    lanczos: LanczosSettings

    @classmethod
    def of(
        cls,
        method: Method,
        test_vectors: int,
        steps: int | None,
        generator: torch.Generator | None,
    ) -> Settings:
        """From the arguments of `spectral_summary`; raises an InputError on one out of range."""
        if method not in METHODS:
            raise InputError(f'method={method!r}: it is "auto", "exact" or "lanczos".')
        for name, value in (("test_vectors", test_vectors), ("lanczos_steps", steps)):
            if value is not None and value < 2:
                raise InputError(f"{name}={value!r}: it must be an integer of 2 or more.")
        seed = 0 if generator is None else generator.initial_seed()
        return cls(method, LanczosSettings(test_vectors, steps, seed))

    def choose(self, rows: Product, conventions: Conventions) -> Choice:
        """The method that was asked for, or the cheaper one."""
        if self.method != "auto":
            return Choice(self.method, "asked for")
        return choose(
            rows,
            sampling=conventions.sampling,
            test_vectors=self.lanczos.test_vectors,
            steps=self.lanczos.steps,
        )


def _kind(layer: Tensor) -> tuple[object, ...]:
    return tuple(layer.shape), layer.dtype, layer.device
