"""Leading directions of the rows, and how far they have turned: no spectrum sees a rotation."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import subspace_angles
from torch import Tensor

from sigma_monitor.errors import InputError
from sigma_monitor.spectrum.gram import Gram
from sigma_monitor.spectrum.lanczos import leading_subspace
from sigma_monitor.spectrum.operator import RowOperator

__all__ = ["leading_directions", "principal_angles", "subspace_drift"]

_OVERSAMPLING = 8
_ITERATIONS = 6
_SEED = 0


def leading_directions(rows: Gram, count: int, *, center: bool = True) -> Tensor:
    """Orthonormal leading eigenvectors of the covariance in feature space.

    Args:
        rows: (n, m), the energy of which is not zero.
        count: Directions; fewer when the rows have no more that rounding does not make.
        center: Subtract the mean row.

    Returns:
        (count, m) or less, the leading one first, on the device of the rows.

    Cost: seven products of `count + 8` vectors with the rows.
    """
    energy = rows.energy(center=center)
    operator = RowOperator([rows], center=center, traces=[energy], on_features=True)
    size = min(count + _OVERSAMPLING, rows.n, rows.m)
    generator = torch.Generator().manual_seed(_SEED)
    start = torch.randn(1, size, rows.m, generator=generator).to(operator.device, operator.dtype)
    (basis,), (energies,) = leading_subspace(operator, start, iterations=_ITERATIONS)
    rounding = size * torch.finfo(energies.dtype).eps * energies[-1]
    directions: Tensor = basis.flip(0)[: min(count, int((energies > rounding).sum()))]
    return directions


def principal_angles(one: Tensor, two: Tensor) -> NDArray[np.float64]:
    """Principal angles between two subspaces (Björck and Golub 1973), radians, largest first.

    Args:
        one: (k, m) spanning rows.
        two: (l, m) likewise.

    Returns:
        (min(k, l),) angles.

    Raises:
        InputError: When the dimensions of the spaces differ.
    """
    if one.shape[1] != two.shape[1]:
        raise InputError(
            f"subspaces of {one.shape[1]} and of {two.shape[1]} dimensions: their angles are "
            "defined within one space only."
        )
    columns = [basis.detach().double().cpu().numpy().T for basis in (one, two)]
    angles: NDArray[np.float64] = subspace_angles(*columns)
    return angles


def subspace_drift(one: Tensor, two: Tensor) -> float:
    """Mean sin² of the principal angles: 0 for one and the same subspace, 1 for orthogonal ones.

    Two random subspaces of k among m dimensions have 1 − k/m on average.
    """
    return float(np.mean(np.sin(principal_angles(one, two)) ** 2))
