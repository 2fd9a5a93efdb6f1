"""Lanczos from many start vectors at once, for one or many layers."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sigma_monitor.spectrum.operator import Operator

__all__ = ["Lanczos", "leading_subspace", "orthonormal"]

# Share that the second orthogonalisation must leave of what the first has left.
_NEW = 0.5


class Lanczos:
    """An independent Lanczos recursion from each start vector, all of them in one batch.

    From the unit vector v the recursion makes the tridiagonal T_k with `vᵀ f(A) v ≈ e₁ᵀ f(T_k) e₁`
    (Golub and Meurant 2010, chapter 4). Every new vector is orthogonalised twice against all
    earlier ones of its recursion. Once suffices until the Krylov space is exhausted, which is what
    collapse means; then the first pass leaves nothing but rounding. Where the second takes most of
    that, nothing new was in it (Parlett's "twice is enough"): the recursion ends, and its further
    coefficients are zero. A mask on the device decides that, so `advance` never waits for the host.

    Args:
        operator: Of trace 1, hence of norm 1 at most.
        start: (layers, b, d) unit vectors.

    Memory: `layers · b · k · d` values of the operator's type after k steps.
    """

    def __init__(self, operator: Operator, start: Tensor) -> None:
        self._operator = operator
        self.shape = start.shape  # (layers, b, d)
        self._next = start.reshape(-1, start.shape[-1])  # (layers · b, d)
        self._blocks: list[Tensor] = []  # (layers · b, steps of an `advance`, d) each
        self._alpha: list[Tensor] = []  # (layers · b,) each
        self._beta: list[Tensor] = []  # (layers · b,) each

    @property
    def steps(self) -> int:
        """Steps taken, at most d."""
        return len(self._alpha)

    @property
    def matvecs(self) -> int:
        """Products with single vectors so far, in each layer."""
        return self.steps * self.shape[1]

    def advance(self, steps: int) -> None:
        """Take so many more steps, d in all at most. One product with all vectors each."""
        steps = min(steps, self.shape[-1] - self.steps)
        if steps <= 0:
            return
        block = self._next.new_empty(len(self._next), steps, self.shape[-1])
        self._blocks.append(block)
        for step in range(steps):
            self._step(block, step)

    def narrowed(self, count: int) -> Lanczos:
        """The recursions of the first `count` vectors of each layer, to go on with alone."""
        layers, b, d = self.shape
        rows = torch.arange(layers * b, device=self._next.device).view(layers, b)[:, :count]
        rows = rows.reshape(-1)
        few = Lanczos(self._operator, self._next[rows].view(layers, -1, d))
        few._blocks = [block[rows] for block in self._blocks]
        few._alpha = [alpha[rows] for alpha in self._alpha]
        few._beta = [beta[rows] for beta in self._beta]
        return few

    def coefficients(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Diagonal α and off-diagonal β of the T_k, (layers, b, k) each; waits for the device.

        The last β of each is the coupling to the step that was not taken.
        """
        pair = torch.stack([torch.stack(self._alpha, -1), torch.stack(self._beta, -1)])
        alpha, beta = pair.double().cpu().numpy().reshape(2, *self.shape[:2], -1)
        return alpha, beta

    def _step(self, block: Tensor, step: int) -> None:
        vector = self._next
        block[:, step] = vector
        product = self._operator.apply(vector.view(self.shape)).view_as(vector)
        alpha = (vector * product).sum(-1)
        rest = torch.addcmul(product, vector, alpha[:, None], value=-1)
        if self._beta:
            previous = block[:, step - 1] if step else self._blocks[-2][:, -1]
            rest.addcmul_(previous, self._beta[-1][:, None], value=-1)
        once = self._orthogonalised(rest, block, step)
        rest = self._orthogonalised(once, block, step)
        beta = torch.linalg.vector_norm(rest, dim=-1)
        alive = (beta > 0) & (beta > _NEW * torch.linalg.vector_norm(once, dim=-1))
        beta = torch.where(alive, beta, 0.0)
        self._alpha.append(alpha)
        self._beta.append(beta)
        self._next = torch.where(alive[:, None], rest / torch.where(alive, beta, 1.0)[:, None], 0.0)

    def _orthogonalised(self, rest: Tensor, block: Tensor, step: int) -> Tensor:
        for known in (*self._blocks[:-1], block[:, : step + 1]):
            row = rest[:, None, :]  # as a row: with columns, batched products run 15 times slower
            rest = torch.baddbmm(row, torch.bmm(row, known.mT), known, alpha=-1)[:, 0]
        return rest


def leading_subspace(
    operator: Operator, start: Tensor, *, iterations: int
) -> tuple[Tensor, Tensor]:
    """Orthonormal approximations of the leading eigenvectors by subspace iteration.

    Args:
        operator: Of trace 1.
        start: (layers, s, d) any full set of vectors.
        iterations: Products with the operator before the last, which rotates the basis to Ritz
            vectors.

    Returns:
        (layers, s, d) orthonormal rows, and their (layers, s) Ritz values in ascending order.

    Cost: `iterations + 1` products of s vectors and as many QR factorisations.
    """
    basis = orthonormal(start)
    for _ in range(iterations):
        basis = orthonormal(operator.apply(basis))
    projected = operator.apply(basis) @ basis.mT
    values, rotation = torch.linalg.eigh((projected + projected.mT) / 2)
    return orthonormal(rotation.mT @ basis), values


def orthonormal(rows: Tensor) -> Tensor:
    """Orthonormal rows of the same span, and arbitrary ones where the rank is short."""
    basis: Tensor = torch.linalg.qr(rows.mT).Q.mT
    return basis
