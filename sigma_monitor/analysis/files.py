"""Arrays in files: found by their headers, read when they are asked for, never unpickled."""

from __future__ import annotations

import errno
import math
import os
import pickle
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib import format as npy_format
from numpy.typing import NDArray
from safetensors import safe_open
from torch import Tensor

from sigma_monitor.errors import InputError

__all__ = ["SUFFIXES", "StoredArray", "open_arrays", "tensor_of"]

_FLOATS = ("float16", "bfloat16", "float32", "float64")
_SAFETENSORS_FLOATS = dict(zip(("F16", "BF16", "F32", "F64"), _FLOATS, strict=True))
_LONGEST_CAUSE = 200  # characters of another library's message


@dataclass(frozen=True, eq=False)
class StoredArray:
    """One array in a file, known by its header."""

    file: Path
    name: str | None  # within the file; None where the file is one array
    shape: tuple[int, ...]
    dtype: str  # as torch calls it, where torch has it
    read: Callable[[], Tensor]

    @property
    def label(self) -> str:
        """What to pass on the command line for this array alone."""
        return str(self.file) if self.name is None else f"{self.file}:{self.name}"

    @property
    def complaint(self) -> str | None:
        """Why these are not embeddings; None where they can be."""
        if self.dtype not in _FLOATS:
            return f"dtype {self.dtype}, not one of {', '.join(_FLOATS)}"
        if len(self.shape) not in (2, 3):
            return f"shape {self.shape}, not (rows, features) or (examples, tokens, features)"
        if math.prod(self.shape) == 0:
            return f"shape {self.shape}, which holds no value"
        return None

    def rows(self) -> tuple[Tensor, Tensor | None]:
        """Embeddings as (n, m), and (n,) the example of each row where they are token rows.

        Raises:
            InputError: When the array cannot be read, or three dimensions not be flattened in
                place.
        """
        with _readable(self.label):
            tensor = self.read().detach()
        if tensor.ndim == 2:
            return tensor, None
        examples, tokens, m = tensor.shape
        try:
            rows = tensor.view(examples * tokens, m)
        except RuntimeError as error:
            raise InputError(
                f"{self.label}: its {self.shape} values are not in row-major order, so that its "
                "token rows cannot be had without a copy. Save a contiguous array."
            ) from error
        return rows, torch.arange(examples, dtype=torch.int32).repeat_interleave(tokens)


def open_arrays(argument: str) -> tuple[list[StoredArray], list[StoredArray]]:
    """The arrays that `FILE` or `FILE:name` means, by their headers.

    `.npy`, `.safetensors` and `.pt` are mapped into memory. An array in a `.npz` is compressed, or
    somewhere inside a zip file: it is loaded whole, one array at a time. Only a `.npy` may be
    larger than memory: the readers of the others map files writable, which Linux then refuses.

    Returns:
        The arrays that can be embeddings, at least one, and those of the file that cannot.

    Raises:
        InputError: When there is no such file or array, the file cannot be read without running
            code from it, or what was asked for is no matrix of floating numbers.
    """
    path, name = _split(argument)
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise InputError(
            f"{path}: files with suffix {path.suffix!r} are not read. Pass {', '.join(SUFFIXES)}."
        )
    with _readable(str(path)):
        stored = reader(path)
    if name is not None:
        stored = _named(stored, path, name)
    fit = [array for array in stored if array.complaint is None]
    if not fit:
        raise InputError(_nothing_fits(path, stored))
    return fit, [array for array in stored if array.complaint is not None]


def _split(argument: str) -> tuple[Path, str | None]:
    """File and name: the shortest start of `FILE:name` that is a file, since names can have `:`."""
    if Path(argument).is_file():
        return Path(argument), None
    parts = argument.split(":")
    for count in range(1, len(parts)):
        path = Path(":".join(parts[:count]))
        if path.is_file():
            return path, ":".join(parts[count:])
    state = "not a file" if Path(argument).exists() else "no such file"
    raise InputError(f"{argument}: {state}. Pass FILE, or FILE:name for one of its arrays.")


def _named(stored: list[StoredArray], path: Path, name: str) -> list[StoredArray]:
    found = [array for array in stored if array.name == name]
    if not found:
        names = [array.name for array in stored if array.name is not None]
        remedy = f"it has {', '.join(names)}" if names else f"pass {path}"
        raise InputError(f"{path}:{name}: the file has no array of that name; {remedy}.")
    return found


def _nothing_fits(path: Path, stored: list[StoredArray]) -> str:
    remedy = "Pass a matrix of floating numbers, one row per example or token."
    if not stored:
        return f"{path}: it holds no array. {remedy}"
    first, *others = stored
    more = f", and its {len(others)} other arrays do not fit either" if others else ""
    return f"{first.label}: it has {first.complaint}{more}. {remedy}"


@contextmanager
def _readable(label: str) -> Iterator[None]:
    """A broken file can make a reader raise anything: all of it is bad input."""
    try:
        yield
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{label}: it is broken, or holds Python objects, which could run code when loaded. "
            "Save a tensor, or a dict or list of tensors, with torch.save."
        ) from error
    except Exception as error:
        cause = next(iter(str(error).strip().splitlines()), "")[:_LONGEST_CAUSE].rstrip(".")
        remedy = "Write the file anew, as the format its suffix names."
        if isinstance(error, MemoryError) or os.strerror(errno.ENOMEM) in cause:
            remedy = "Save the array as .npy, which may be larger than memory."
        raise InputError(
            f"{label}: it cannot be read: {type(error).__name__}: {cause}. {remedy}"
        ) from error


def _npy(path: Path) -> list[StoredArray]:
    array = npy_format.open_memmap(path, mode="r")
    return [StoredArray(path, None, array.shape, _name(array.dtype), partial(tensor_of, array))]


def _npz(path: Path) -> list[StoredArray]:
    found = []
    with zipfile.ZipFile(path) as archive:
        for member in archive.namelist():
            name = member.removesuffix(".npy")
            if name == member:
                continue
            with archive.open(member) as file:
                shape, dtype = _npy_header(file)
            found.append(StoredArray(path, name, shape, _name(dtype), partial(_load, path, name)))
    return found


def _npy_header(file: Any) -> tuple[tuple[int, ...], np.dtype[Any]]:
    first = npy_format.read_magic(file) == (1, 0)
    # Version 3 differs from 2 by the encoding of field names, which embeddings do not have.
    read = npy_format.read_array_header_1_0 if first else npy_format.read_array_header_2_0
    shape, _, dtype = read(file)
    return shape, dtype


def _load(path: Path, name: str) -> Tensor:
    with np.load(path, allow_pickle=False) as archive:
        return tensor_of(archive[name])


def tensor_of(array: NDArray[Any]) -> Tensor:
    """The same memory as a tensor, to be read alone."""
    with warnings.catch_warnings():
        # Nothing here writes to it, and a writable mapping (mode "c") counts as memory in use:
        # Linux refuses one that is larger than RAM.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)


def _name(dtype: np.dtype[Any]) -> str:
    return dtype.name if dtype.isnative else dtype.str


def _safetensors(path: Path) -> list[StoredArray]:
    file: Any = safe_open(path, framework="pt", device="cpu")
    found = []
    for name in file.keys():  # noqa: SIM118 - not a mapping
        header = file.get_slice(name)
        kind = header.get_dtype()
        dtype = _SAFETENSORS_FLOATS.get(kind, kind)
        shape = tuple(header.get_shape())
        found.append(StoredArray(path, name, shape, dtype, partial(file.get_tensor, name)))
    return found


def _torch(path: Path) -> list[StoredArray]:
    content = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    return [_of_tensor(path, name, tensor) for name, tensor in _tensors(content, None)]


def _of_tensor(path: Path, name: str | None, tensor: Tensor) -> StoredArray:
    dtype = str(tensor.dtype).removeprefix("torch.")
    if tensor.layout != torch.strided:
        dtype = f"{dtype} ({str(tensor.layout).removeprefix('torch.')})"
    return StoredArray(path, name, tuple(tensor.shape), dtype, lambda: tensor)


def _tensors(content: Any, name: str | None) -> Iterator[tuple[str | None, Tensor]]:
    """Every tensor in nested dicts and lists, by its keys joined with dots."""
    if isinstance(content, Tensor):
        yield name, content
        return
    if isinstance(content, dict):
        entries = list(content.items())
    else:
        entries = list(enumerate(content)) if isinstance(content, list | tuple) else []
    for key, value in entries:
        yield from _tensors(value, str(key) if name is None else f"{name}.{key}")


_READERS: dict[str, Callable[[Path], list[StoredArray]]] = {
    ".npy": _npy,
    ".npz": _npz,
    ".safetensors": _safetensors,
    ".pt": _torch,
    ".pth": _torch,
}
SUFFIXES = tuple(_READERS)
