"""Documents in, embeddings out: by one frozen encoder, from a cache where they are known."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sigma_monitor.errors import InputError, ProbeError
from sigma_monitor.probing import Encoder, EncoderSpec, named_encoder

__all__ = ["CHUNK", "Embedder"]

CHUNK = 256  # documents that are embedded, kept and shared out together


class Embedder:
    """A frozen encoder and its cache.

    A file of the cache holds the embeddings of one chunk of documents under a hash of encoder and
    documents. It is there whole or not at all, so that a run that was killed goes on from it, and
    several processes can share it.

    Args:
        spec: `"hashing"`, the name or the folder of a sentence-transformers model, or a callable
            `list of n texts -> (n, m)`.
        cache: Folder; it is made when the first chunk is embedded. None keeps nothing.

    Raises:
        InputError: When there is no such encoder, or it gives no embeddings.
    """

    def __init__(self, spec: EncoderSpec, cache: str | os.PathLike[str] | None) -> None:
        self._encoder = _found(spec)
        self._cache = None if cache is None else Path(cache)
        if self._cache is not None and self._cache.exists() and not self._cache.is_dir():
            raise InputError(f"cache={os.fspath(self._cache)!r}: this is no folder.")
        try:
            signature = self._encoder.signature
            self.features = self._encoder.embed(["a"]).shape[1]
        except ProbeError as error:
            raise InputError(str(error)) from error
        # To six digits: the last ones depend on the machine.
        described = ",".join(f"{product:.6g}" for product in signature)
        self._identity = f"{self.name}\n{described}\n"

    @property
    def name(self) -> str:
        """Of the encoder."""
        return self._encoder.name

    def embed(self, texts: Sequence[str]) -> Tensor:
        """(n, m) fp64 embeddings of n texts, one chunk after the other.

        Raises:
            InputError: When the encoder gives another shape, or a value that is not finite, or
                the cache cannot be written.
        """
        chunks = (texts[start : start + CHUNK] for start in range(0, len(texts), CHUNK))
        empty = torch.empty(0, self.features, dtype=torch.float64)
        return torch.cat([empty, *(self._chunk(chunk) for chunk in chunks)])

    def _chunk(self, texts: Sequence[str]) -> Tensor:
        if self._cache is None:
            return self._embedded(texts)
        path = self._cache / f"{self._key(texts)}.npy"
        known = _read(path, (len(texts), self.features))
        if known is not None:
            return known
        rows = self._embedded(texts)
        try:
            _write(path, rows)
        except OSError as error:
            raise InputError(
                f"cache={os.fspath(self._cache)!r}: {error.strerror or error}. Pass a folder that "
                "can be written, with room."
            ) from error
        return rows

    def _embedded(self, texts: Sequence[str]) -> Tensor:
        try:
            with torch.no_grad():
                rows = self._encoder.embed(texts)
        except ProbeError as error:
            raise InputError(str(error)) from error
        if rows.shape[1] != self.features:
            raise InputError(
                f"encoder {self.name} gave {rows.shape[1]} features, and {self.features} before: "
                "pass one that always gives the same."
            )
        return rows

    def _key(self, texts: Sequence[str]) -> str:
        content = hashlib.blake2b(self._identity.encode(), digest_size=20)
        for text in texts:
            content.update(f"{len(text)}:{text}".encode(errors="surrogatepass"))
        return content.hexdigest()


def _found(spec: EncoderSpec) -> Encoder:
    if spec == "start" or not (isinstance(spec, str) or callable(spec)):
        raise InputError(
            f'encoder={spec!r}: there is no model here to start from. Pass "hashing", the name '
            "of a sentence-transformers model, or a callable list of texts -> (texts, m)."
        )
    try:
        return named_encoder(spec)
    except InputError:
        raise
    except Exception as error:  # of a library that looks for weights in many places
        cause = next(iter(str(error).strip().splitlines()), "")[:200].rstrip(".")
        raise InputError(
            f"encoder={spec!r} cannot be loaded: {type(error).__name__}: {cause}. Pass the name or "
            'folder of a sentence-transformers model that is at hand, or "hashing".'
        ) from error


def _read(path: Path, shape: tuple[int, int]) -> Tensor | None:
    """What was kept; None where it was not, or is not what it should be."""
    try:
        rows = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):  # another program's disk error: it is embedded anew
        return None
    fits = rows.shape == shape and rows.dtype in (np.float32, np.float64)
    return torch.from_numpy(rows).double() if fits else None


def _write(path: Path, rows: Tensor) -> None:
    array = rows.numpy()
    narrow = array.astype(np.float32)
    if np.array_equal(narrow, array):
        array = narrow
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            np.save(file, array)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
