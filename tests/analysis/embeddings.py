"""Embeddings with a known spectrum, and the files they are stored in."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

NUMPY = (".npy", ".npz")
SUFFIXES = (*NUMPY, ".safetensors", ".pt", ".pth")

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
FORMATS = [  # numpy has no bfloat16
    pytest.param(suffix, dtype, id=f"{dtype}{suffix}")
    for suffix in SUFFIXES
    for dtype in DTYPES
    if not (suffix in NUMPY and dtype == torch.bfloat16)
]


def matrix(*shape, dtype=torch.float32, seed=0, decay=0.5):
    """Rows with a mean and eigenvalues that fall off, so that conventions and rows all matter."""
    generator = torch.Generator().manual_seed(seed)
    scale = torch.arange(1, shape[-1] + 1, dtype=torch.float64) ** -decay
    rows = torch.randn(*shape, generator=generator, dtype=torch.float64) * scale + 0.3
    return rows.to(dtype)


def store(path, **arrays):
    """Write named tensors in the format of the suffix of `path`; a `.npy` takes one."""
    if path.suffix == ".npy":
        (array,) = arrays.values()
        np.save(path, array.numpy())
    elif path.suffix == ".npz":
        np.savez(path, **{name: array.numpy() for name, array in arrays.items()})
    elif path.suffix == ".safetensors":
        save_file(arrays, path)
    else:
        torch.save(arrays, path)
    return str(path)
