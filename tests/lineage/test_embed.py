"""The cache of embeddings: by content, whole or not at all, and gone on from after a kill."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from sigma_monitor.errors import InputError
from sigma_monitor.lineage.embed import CHUNK, Embedder
from tests.lineage.documents import FEATURES, broken, digits

TEXTS = [f"text {i}" for i in range(3 * CHUNK + 5)]


class Counting:
    """An encoder that counts what it embeds, and dies when it has done so many calls."""

    def __init__(self, calls=None):
        self.texts, self.calls = 0, calls

    def __call__(self, texts):
        if len(texts) >= 5 and self.calls is not None:
            if self.calls == 0:
                raise KeyboardInterrupt
            self.calls -= 1
        self.texts += len(texts)
        return digits(texts)


def test_embeddings_are_those_of_the_encoder(tmp_path):
    expected = torch.from_numpy(digits(TEXTS))
    for cache in (None, tmp_path / "cache", tmp_path / "cache"):
        embedder = Embedder(digits, cache)
        assert torch.equal(embedder.embed(TEXTS), expected)
        assert embedder.features == FEATURES
    assert embedder.embed([]).shape == (0, FEATURES)


def test_what_is_known_is_not_embedded_again(tmp_path):
    Embedder(Counting(), tmp_path).embed(TEXTS)
    again = Counting()
    embedder = Embedder(again, tmp_path)
    before = again.texts  # of what tells encoders apart
    embedder.embed(TEXTS)
    assert again.texts == before
    embedder.embed([*TEXTS[:CHUNK], "new", *TEXTS[CHUNK + 1 :]])
    assert again.texts == before + CHUNK


def test_another_encoder_has_its_own(tmp_path):
    class Counting2(Counting):
        def __call__(self, texts):
            return super().__call__(texts) + 1

    Counting2.__qualname__ = Counting.__qualname__  # as two revisions of one model have
    assert Embedder(Counting(), tmp_path).embed(TEXTS)[0, 0] < 1
    assert Embedder(Counting2(), tmp_path).embed(TEXTS)[0, 0] >= 1


def test_a_killed_run_goes_on_where_it_was(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        Embedder(Counting(calls=2), tmp_path).embed(TEXTS)
    assert len(list(tmp_path.iterdir())) == 2
    counting = Counting()
    embedder = Embedder(counting, tmp_path)
    before = counting.texts
    rows = embedder.embed(TEXTS)
    assert counting.texts == before + len(TEXTS) - 2 * CHUNK
    assert torch.equal(rows, torch.from_numpy(digits(TEXTS)))


def test_a_write_that_fails_leaves_nothing(tmp_path, monkeypatch):
    def full(file, array):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(InputError, match="No space left on device"):
        Embedder(digits, tmp_path).embed(TEXTS)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_cut_is_embedded_anew(tmp_path):
    Embedder(digits, tmp_path).embed(TEXTS[:9])
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:100])
    assert torch.equal(Embedder(digits, tmp_path).embed(TEXTS[:9]), torch.tensor(digits(TEXTS[:9])))
    assert np.load(path).shape == (9, FEATURES)


def test_embeddings_in_single_precision_are_kept_as_such(tmp_path):
    def single(texts):
        return digits(texts).astype(np.float32)

    rows = Embedder(single, tmp_path).embed(TEXTS[:9])
    (path,) = tmp_path.iterdir()
    assert np.load(path).dtype == np.float32
    assert torch.equal(Embedder(single, tmp_path).embed(TEXTS[:9]), rows)


def test_an_encoder_that_cannot_be_used_is_refused(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="broken gave NaN or infinity"):
        Embedder(broken, None)
    with pytest.raises(InputError, match="encoder='start': there is no model here"):
        Embedder("start", None)
    with pytest.raises(InputError, match="encoder=3"):
        Embedder(3, None)
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(InputError, match=r"sigma-monitor\[encoders\]"):
        Embedder("all-MiniLM-L6-v2", None)


def test_weights_that_are_not_at_hand_are_bad_input(monkeypatch):
    class Missing:
        def __init__(self, name):
            raise OSError(f"We couldn't connect to the hub to load {name}.\nMore lines.")

    fake = type(sys)("sentence_transformers")
    fake.SentenceTransformer = Missing
    monkeypatch.setitem(sys.modules, "sentence_transformers", fake)
    with pytest.raises(InputError, match=r"cannot be loaded: OSError: We couldn't connect"):
        Embedder("some-model", None)


def test_a_cache_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="this is no folder"):
        Embedder(digits, tmp_path / "file")


def test_an_encoder_that_changes_its_width_is_refused():
    with pytest.raises(InputError, match="gave 4 features, and 6 before"):
        Embedder(lambda texts: digits(texts)[:, : 6 if len(texts) < 5 else 4], None).embed(TEXTS)
