"""A generation in files: what is read in which order, and what is refused with its place."""

from __future__ import annotations

import json
import re
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from sigma_monitor.errors import InputError
from sigma_monitor.lineage.corpus import open_corpus
from tests.lineage.documents import write_lines

TEXTS = ["one", "zwei, drei", "quatre — cinq", " six "]
PROMPTS = ["p", "p", "q", "r"]


def read(argument, **keys):
    return list(open_corpus(str(argument), **keys).documents())


def test_json_lines_give_texts_and_prompts(tmp_path):
    path = write_lines(tmp_path / "a.jsonl", TEXTS, PROMPTS)
    assert read(path) == [(text, None) for text in TEXTS]
    assert read(path, prompt_key="prompt") == list(zip(TEXTS, PROMPTS, strict=True))


def test_a_key_of_ones_own(tmp_path):
    path = write_lines(tmp_path / "a.ndjson", TEXTS, key="completion")
    assert [text for text, _ in read(path, text_key="completion")] == TEXTS


def test_a_line_of_text_is_a_document_and_blank_ones_are_none(tmp_path):
    (tmp_path / "a.txt").write_bytes("\ufeffone\r\n\n  two \n\nthree".encode())
    assert [text for text, _ in read(tmp_path / "a.txt")] == ["one", "  two ", "three"]


def test_parquet_gives_the_same(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(
        pyarrow.table({"text": TEXTS, "prompt": PROMPTS, "other": [1, 2, 3, 4]}),
        tmp_path / "a.parquet",
    )
    path = tmp_path / "a.parquet"
    assert read(path, prompt_key="prompt") == list(zip(TEXTS, PROMPTS, strict=True))
    with pytest.raises(InputError, match=r"no key 'body'; there is 'text', 'prompt', 'other'"):
        read(path, text_key="body")
    with pytest.raises(InputError, match=r"row 1: 'other' is int, not text"):
        read(path, text_key="other")


def test_parquet_without_its_library_names_the_extra(tmp_path, monkeypatch):
    (tmp_path / "a.parquet").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InputError, match=re.escape('pip install "sigma-monitor[parquet]"')):
        read(tmp_path / "a.parquet")


def test_a_broken_parquet_is_refused(tmp_path):
    pytest.importorskip("pyarrow")
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and not much more")
    with pytest.raises(InputError, match=r"a\.parquet: it cannot be read as Parquet: .*[^.]\. Wr"):
        read(tmp_path / "a.parquet")


def test_globs_and_folders_are_read_in_the_order_of_names(tmp_path):
    (tmp_path / "inner").mkdir()
    for name in ("b.jsonl", "a.jsonl", "inner/c.jsonl"):
        write_lines(tmp_path / name, [name])
    (tmp_path / "README.md").write_text("not a document")
    write_lines(tmp_path / ".hidden.jsonl", ["hidden"])
    assert [text for text, _ in read(tmp_path)] == ["a.jsonl", "b.jsonl", "inner/c.jsonl"]
    assert [text for text, _ in read(tmp_path / "*.jsonl")] == ["a.jsonl", "b.jsonl"]


def test_embeddings_are_found_by_their_suffix(tmp_path):
    rows = np.arange(12, dtype=np.float32).reshape(4, 3)
    np.save(tmp_path / "a.npy", rows)
    save_file({"x": torch.tensor(rows), "y": torch.tensor(rows) + 1}, tmp_path / "b.safetensors")
    for argument in (tmp_path / "a.npy", f"{tmp_path / 'b.safetensors'}:x"):
        (found,) = open_corpus(str(argument)).rows()
        assert torch.equal(found, torch.tensor(rows))
    with pytest.raises(InputError, match="it holds 2 arrays, x, y"):
        open_corpus(str(tmp_path / "b.safetensors"))


def test_token_rows_are_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.ones((4, 3, 2)))
    with pytest.raises(InputError, match="is of tokens"):
        open_corpus(str(tmp_path / "a.npy")).rows()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b'{"text": "a"}\n{"text": "\xff"}\n', "line 2: this is not text in UTF-8 (byte 11)"),
        (b'{"text": "a"}\n{"text": "b', "line 2: this is no JSON"),
        (b'{"text": "a"}\n["b"]\n', "line 2: this is no JSON object"),
        (b'\n{"body": "a", "id": 1}\n', "line 2: no key 'text'; there is 'body', 'id'"),
        (b'{"text": null}\n', "line 1: 'text' is NoneType, not text"),
        (b'{"text": "a"}\n' + b"[" * 100_000, "line 2: this is no JSON"),
        (b'{"text": "a"}\n{"text": ' + b"1" * 5_000 + b"}", "line 2: this is no JSON"),
    ],
)
def test_what_cannot_be_read_is_named_with_its_line(data, said, tmp_path):
    (tmp_path / "a.jsonl").write_bytes(data)
    with pytest.raises(InputError, match=re.escape(f"a.jsonl, {said}")):
        read(tmp_path / "a.jsonl")


@pytest.mark.parametrize(
    ("argument", "keys", "said"),
    [
        ("missing.jsonl", {}, "no such file"),
        ("missing*.jsonl", {}, "no such file"),
        ("empty", {}, "no file with documents or embeddings"),
        ("mixed", {}, "files of several kinds, .jsonl, .txt"),
        ("notes.md", {}, "suffix '.md' are not read"),
        ("mixed/b.txt", {"prompt_key": "p"}, "lines of text have no key 'p'"),
        ("rows.npy", {"prompt_key": "p"}, "embeddings have no key 'p'"),
        ("mixed/a.jsonl:text", {}, "FILE:name is of arrays. Pass mixed/a.jsonl, and --text-key"),
    ],
)
def test_what_is_no_corpus_is_refused(argument, keys, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("empty", "mixed"):
        (tmp_path / folder).mkdir()
    write_lines(tmp_path / "mixed" / "a.jsonl", TEXTS)
    (tmp_path / "mixed" / "b.txt").write_text(json.dumps(TEXTS))
    (tmp_path / "notes.md").write_text("notes")
    np.save(tmp_path / "rows.npy", np.ones((3, 2)))
    with pytest.raises(InputError, match=re.escape(said)):
        open_corpus(argument, **keys)
