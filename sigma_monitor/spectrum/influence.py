"""The jackknife of the effective rank where only the leading directions are known."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sigma_monitor.spectrum.operator import RowOperator
from sigma_monitor.spectrum.randomized import Sounding
from sigma_monitor.spectrum.trace import ROOT

__all__ = ["log_rank_without"]


def log_rank_without(
    operator: RowOperator,
    layer: int,
    sounding: Sounding,
    *,
    center: bool,
    groups: Tensor | None,
) -> NDArray[np.float64]:
    """Log effective rank without each example, to first order in its share of the data.

    An example that takes the share w_k of the energy of eigendirection k changes the entropy H of
    the singular values by `Σ w_k s_k (log s_k + H)/2`. What it takes from the leading directions is
    computed; what it takes from the others is known in sum, and spread over them as their energy
    is. Over all directions together these slopes add up to zero.

    Args:
        operator: Of the rows.
        layer: Which one of the operator.
        sounding: Of that layer.
        center: The convention of both.
        groups: (n,) example of each row, non-decreasing; None when every row is an example.

    Returns:
        (examples,) values in nats.

    Cost: `2 n m s` flops, and a pass over the rows in fp64 when centred.
    """
    entropy = sounding.log_effective_rank().value
    root_sum = sounding.trace(ROOT).value
    energy = operator.grams[layer].row_energy(center=center)  # (n,)
    energy = energy / energy.sum()
    taken, values = operator.shares(layer, sounding.basis)  # (n, s), (s,)
    s = values.sqrt() / root_sum
    slope = torch.where(values > 0, s * (s.log() + entropy) / 2, 0.0)
    along = taken / torch.where(values > 0, values, 1.0)
    rest = (energy - taken.sum(1)).clamp_min(0)
    rest = rest / rest.sum().clamp_min(torch.finfo(rest.dtype).tiny)
    change = along @ slope - rest * slope.sum()
    if groups is not None:
        number = torch.unique_consecutive(groups.to(change.device), return_inverse=True)[1]
        change = change.new_zeros(int(number[-1]) + 1).index_add(0, number, change)
    result: NDArray[np.float64] = (entropy + change).cpu().numpy()
    return result
