"""Arrays in files: what is found in them, how it is chosen, and what is refused."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from sigma_monitor.analysis.files import SUFFIXES as READ
from sigma_monitor.analysis.files import open_arrays
from sigma_monitor.errors import InputError
from tests.analysis.embeddings import FORMATS, SUFFIXES, matrix, store


def only(argument):
    (array,), _ = open_arrays(argument)
    return array


def read_all(argument):
    return [array.rows() for array in open_arrays(argument)[0]]


def test_every_suffix_is_tested():
    assert set(READ) == set(SUFFIXES)


@pytest.mark.parametrize(("suffix", "dtype"), FORMATS)
def test_rows_come_back_bit_by_bit(suffix, dtype, tmp_path):
    expected = matrix(9, 4, dtype=dtype)
    array = only(store(tmp_path / f"a{suffix}", x=expected))
    rows, groups = array.rows()
    assert array.shape == (9, 4)
    assert array.dtype == str(dtype).removeprefix("torch.")
    assert rows.dtype == dtype
    assert torch.equal(rows, expected)
    assert groups is None


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_three_dimensions_are_token_rows_of_examples(suffix, tmp_path):
    expected = matrix(3, 5, 4)
    rows, groups = only(store(tmp_path / f"a{suffix}", x=expected)).rows()
    assert torch.equal(rows, expected.flatten(0, 1))
    assert groups.tolist() == [0] * 5 + [1] * 5 + [2] * 5


@pytest.mark.parametrize("suffix", [s for s in SUFFIXES if s != ".npy"])
def test_a_file_of_several_arrays_gives_those_that_can_be_embeddings(suffix, tmp_path):
    path = store(
        tmp_path / f"a{suffix}",
        first=matrix(9, 4),
        labels=torch.arange(9),
        second=matrix(6, 2, 3),
        bias=torch.ones(4),
        image=torch.ones(2, 2, 2, 2),
        empty=torch.ones(0, 4),
    )
    fit, unfit = open_arrays(path)
    assert {array.name for array in fit} == {"first", "second"}
    assert {array.name for array in unfit} == {"labels", "bias", "image", "empty"}
    chosen = only(f"{path}:second")
    assert chosen.label == f"{path}:second"
    assert torch.equal(chosen.rows()[0], matrix(6, 2, 3).flatten(0, 1))
    with pytest.raises(InputError, match="labels: it has dtype") as refused:
        open_arrays(f"{path}:labels")
    assert "floating" in str(refused.value)
    with pytest.raises(InputError, match=r"no array of that name; it has .*first"):
        open_arrays(f"{path}:third")


def test_nested_torch_files_name_their_tensors_by_the_way_to_them(tmp_path):
    path = tmp_path / "a.pt"
    torch.save({"model": {"x": matrix(5, 3)}, "states": [matrix(4, 3), (matrix(3, 3),)]}, path)
    assert [a.name for a in open_arrays(str(path))[0]] == ["model.x", "states.0", "states.1.0"]
    torch.save(matrix(5, 3).requires_grad_(), path)
    array = only(str(path))
    assert array.name is None
    assert not array.rows()[0].requires_grad


def test_names_and_paths_can_have_colons(tmp_path):
    path = store(tmp_path / "run:3.safetensors", **{"layer:1": matrix(5, 3)})
    assert only(path).name == "layer:1"
    assert only(f"{path}:layer:1").label == f"{path}:layer:1"


def test_compressed_and_fortran_ordered_arrays_are_read(tmp_path):
    expected = matrix(8, 3)
    np.savez_compressed(tmp_path / "a.npz", x=expected.numpy())
    np.save(tmp_path / "f.npy", np.asfortranarray(expected.numpy()))
    for name in ("a.npz", "f.npy"):
        assert torch.equal(only(str(tmp_path / name)).rows()[0], expected)


class Trap:
    """Says so when it is unpickled."""

    sprung = False

    def __reduce__(self):
        return setattr, (Trap, "sprung", True)


def of_objects(path):
    np.save(path, np.array([Trap(), 1], dtype=object), allow_pickle=True)


def of_zipped_objects(path):
    np.savez(path, x=np.array([Trap(), 1], dtype=object))


def pickled(path):
    path.write_bytes(pickle.dumps(Trap()))


def torch_objects(path):
    torch.save({"x": matrix(5, 3), "trap": Trap()}, path)


def torch_without_zip(path):
    torch.save(matrix(5, 3), path, _use_new_zipfile_serialization=False)


def truncated(path):
    store(path, x=matrix(200, 30))
    path.write_bytes(path.read_bytes()[:-9000])


def empty_file(path):
    path.write_bytes(b"")


def junk(path):
    path.write_bytes(b"neither this nor that " * 40)


def folder(path):
    path.mkdir()


def numpy_of(array):
    return lambda path: np.save(path, array)


def tensors(**arrays):
    return lambda path: store(path, **arrays)


REFUSED = [
    *((f"{fault.__name__}{suffix}", fault, "cannot be read|broken") for suffix in SUFFIXES
      for fault in (truncated, empty_file, junk)),
    ("objects.npy", of_objects, "Python objects"),
    ("objects.npz", of_zipped_objects, "dtype object"),
    ("pickle.npy", pickled, "magic string"),
    ("pickle.npz", pickled, "not a zip file"),
    ("pickle.pt", pickled, "cannot be read"),
    ("objects.pt", torch_objects, "Python objects"),
    ("old.pt", torch_without_zip, "torch.save"),
    ("big-endian.npy", numpy_of(np.ones((4, 3), ">f4")), "dtype >f4"),
    ("complex.npy", numpy_of(np.ones((4, 3), complex)), "dtype complex128"),
    ("integer.npy", numpy_of(np.ones((4, 3), int)), "dtype int64"),
    ("vector.npy", numpy_of(np.ones(4)), r"shape \(4,\)"),
    ("rowless.npy", numpy_of(np.ones((0, 3))), "holds no value"),
    ("tokenless.npy", numpy_of(np.ones((4, 0, 3))), "holds no value"),
    ("sparse.pt", lambda path: torch.save(torch.eye(4).to_sparse(), path), "sparse_coo"),
    ("number.pt", lambda path: torch.save({"lr": 0.1}, path), "no array"),
    ("byte.safetensors", tensors(a=torch.ones(4, 3).byte(), b=torch.ones(2)), "dtype U8.* 1 other"),
    ("none.safetensors", lambda path: save_file({}, path), "no array"),
    ("table.csv", lambda path: path.write_text("1,2\n"), r"suffix '\.csv'.*\.npy"),
    ("bare", lambda path: path.write_text("1,2\n"), "suffix ''"),
    ("folder.npy", folder, "not a file"),
    ("missing.npy", lambda path: None, "no such file"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "write", "said"), REFUSED, ids=[case[0] for case in REFUSED])
def test_what_cannot_be_used_is_refused_by_name(name, write, said, tmp_path):
    path = tmp_path / name
    write(path)
    Trap.sprung = False
    with pytest.raises(InputError, match=said) as refused:
        read_all(str(path))
    message = str(refused.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    assert any(remedy in message for remedy in ("Pass ", "Save ", "Write "))
    assert not Trap.sprung


def test_objects_beside_embeddings_are_not_unpickled(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.ones((4, 3)), objects=np.array([Trap(), 1], dtype=object))
    Trap.sprung = False
    _, (objects,) = open_arrays(str(tmp_path / "a.npz"))
    assert objects.complaint.startswith("dtype object")
    with pytest.raises(InputError, match="allow_pickle"):
        objects.rows()
    assert not Trap.sprung


def test_a_name_for_a_file_without_names_is_refused(tmp_path):
    path = store(tmp_path / "a.npy", x=matrix(5, 3))
    with pytest.raises(InputError, match=f"no array of that name; pass {path}"):
        open_arrays(f"{path}:x")


def test_token_rows_that_need_a_copy_are_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.asfortranarray(matrix(3, 4, 5).numpy()))
    with pytest.raises(InputError, match="contiguous"):
        only(str(tmp_path / "a.npy")).rows()


@pytest.mark.parametrize("error", [MemoryError(), OSError(12, "Cannot allocate memory")])
def test_a_file_larger_than_memory_is_told_the_way_out(error, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise error

    path = store(tmp_path / "a.pt", x=matrix(5, 3))
    monkeypatch.setattr(torch, "load", refuse)
    with pytest.raises(InputError, match=r"as \.npy"):
        open_arrays(path)
