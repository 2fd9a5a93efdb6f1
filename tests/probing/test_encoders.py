"""Frozen encoders: the same embeddings at every check, in every process, and close to what is."""

import hashlib
import math
import os
import subprocess
import sys
from types import ModuleType

import numpy as np
import pytest
import torch
from sklearn.feature_extraction.text import HashingVectorizer
from torch import nn

from sigma_monitor.errors import InputError, ProbeError
from sigma_monitor.probing.encoders import (
    Encoder,
    find_encoder,
    hashing_encoder,
    start_encoder,
)
from tests.integrations.bitwise import differences
from tests.probing.models import VOCABULARY, WIDTH, hooks_of, tiny

TEXTS = [
    "It was the best of times, it was the worst of times, it was the age of wisdom.",
    "It was the best of times, it was the worst of times, it was the age of foolishness.",
    "Call me Ishmael. Some years ago, never mind how long precisely, I went to sea.",
    "Happy families are all alike; every unhappy family is unhappy in its own way.",
    "the the the the the the the the the the the the the the the the the the the the",
    "0 1 1 2 3 5 8 13 21 34 55 89 144 233 377 610 987 1597 2584 4181 6765 10946 17711",
    "Es war einmal mitten im Winter, und die Schneeflocken fielen wie Federn vom Himmel.",
    "def add(one: int, other: int) -> int:\n    return one + other\n\nprint(add(1, 2))",
]


def ngrams(texts):
    """The rows that the hashing encoder projects."""
    vectorizer = HashingVectorizer(
        analyzer="char", ngram_range=(1, 4), n_features=2**16, lowercase=False
    )
    return vectorizer.transform(texts).toarray()


# --- hashing -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hashing():
    return hashing_encoder()


def test_hashing_gives_rows_of_256_features_in_double_precision(hashing):
    rows = hashing.embed(TEXTS)
    assert rows.shape == (len(TEXTS), 256)
    assert rows.dtype is torch.float64
    assert rows.device.type == "cpu"
    assert hashing.name == "hashing-256"


def test_hashing_is_the_same_each_time_it_is_made(hashing):
    np.random.rand(7)  # no generator of the host has a say
    torch.rand(7)
    assert torch.equal(hashing_encoder().embed(TEXTS), hashing.embed(TEXTS))


def test_hashing_is_the_same_in_another_process(hashing):
    """Python's own hash of a text differs from process to process."""
    digest = hashlib.sha256(hashing.embed(TEXTS).numpy().tobytes()).hexdigest()
    script = (
        "import ast, hashlib, sys\n"
        "from sigma_monitor.probing.encoders import hashing_encoder\n"
        "rows = hashing_encoder().embed(ast.literal_eval(sys.stdin.read()))\n"
        "print(hashlib.sha256(rows.numpy().tobytes()).hexdigest())\n"
    )
    other = subprocess.run(
        [sys.executable, "-c", script],
        input=repr(TEXTS),
        env={**os.environ, "PYTHONHASHSEED": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert other.stdout.strip() == digest


def test_hashing_leaves_the_generators_alone():
    np.random.seed(4711)
    torch.manual_seed(4711)
    before = {"numpy": np.random.get_state(), "torch": torch.get_rng_state()}
    hashing_encoder().embed(TEXTS)
    after = {"numpy": np.random.get_state(), "torch": torch.get_rng_state()}
    assert differences(before, after) == []


def test_equal_texts_are_equal_rows_wherever_they_stand(hashing):
    rows = hashing.embed(TEXTS)
    order = [3, 3, 0, 7, 1]
    assert torch.equal(hashing.embed([TEXTS[i] for i in order]), rows[order])


def test_different_texts_are_different_rows(hashing):
    texts = [*TEXTS, TEXTS[0].lower(), TEXTS[0] + " ", TEXTS[0][::-1]]
    rows = hashing.embed(texts)
    assert len({tuple(row) for row in rows.tolist()}) == len(texts)


def test_texts_of_one_letter_are_different_rows_too(hashing):
    """What a model writes that ends its texts at once."""
    letters = [chr(code) for code in range(33, 127)]
    rows = hashing.embed(letters)
    assert int((rows == 0).all(1).sum()) == 0
    assert len({tuple(row) for row in rows.tolist()}) == len(letters)


def test_an_empty_text_is_allowed(hashing):
    rows = hashing.embed([TEXTS[0], "", ""])
    assert rows[1:].count_nonzero() == 0
    assert torch.equal(rows[0], hashing.embed(TEXTS[:1])[0])


def test_alphabets_of_any_kind_are_texts(hashing):
    rows = hashing.embed(["日本語の文章です", "日本語の文章です。", "🙂🙃🙂🙃", "\x00\x01\n\t"])
    assert bool(torch.isfinite(rows).all())
    assert len({tuple(row) for row in rows.tolist()}) == 4


def projected(encoder, texts):
    """Inner products after and before the projection, and the standard deviation of their change.

    Of a sparse random projection on k features whose entries are non-zero with chance 1/s, here
    s = 16 (Li, Hastie and Church 2006):
    `k Var = |x|² |y|² + (x·y)² + (s − 3) Σ x_i² y_i²`.
    """
    rows = ngrams(texts)
    found = encoder.embed(texts).numpy()
    exact, squares = rows @ rows.T, rows**2
    norms = squares.sum(1)
    assert norms == pytest.approx(1.0)
    spread = np.outer(norms, norms) + exact**2 + (16 - 3) * squares @ squares.T
    return found @ found.T, exact, np.sqrt(spread / found.shape[1])


@pytest.mark.parametrize("features", [64, 256])
def test_the_projection_keeps_the_inner_products_as_well_as_theory_says(features):
    """Texts without a common n-gram, whose errors are next to independent."""
    rng = np.random.default_rng(0)
    signs = rng.permutation(np.arange(0x4E00, 0x9F00))[: 40 * 100].reshape(40, 100)
    found, exact, deviation = projected(
        hashing_encoder(features), ["".join(map(chr, row)) for row in signs]
    )
    pairs = np.triu_indices(40, 1)
    assert np.abs(exact[pairs]).max() < 0.05  # n-grams that share a place in the table
    assert deviation[pairs] == pytest.approx(features**-0.5, rel=0.05)
    errors = (found - exact)[pairs] * math.sqrt(features)
    assert np.abs(errors).max() < 5
    # The error of a root mean square of 780 is 1/sqrt(2 · 780), 2.5 %; five of them.
    assert np.sqrt(np.mean(errors**2)) == pytest.approx(1.0, abs=0.13)


def test_texts_are_close_by_what_they_share_of_letters_to_runs_of_four(hashing):
    """Pairs of texts that have all letters, and runs of up to three, in common."""
    rng = np.random.default_rng(0)
    signs = rng.permutation(np.arange(0x4E00, 0x9F00))[: 40 * 99].reshape(40, 33, 3)
    texts = ["".join(map(chr, row.flatten())) for row in signs]
    shuffled = ["".join(map(chr, rng.permutation(row).flatten())) for row in signs]
    found = np.diag((hashing.embed(texts) @ hashing.embed(shuffled).T).numpy())
    # 99 letters, and 2 pairs and 1 triple of each 33, of 99 + 98 + 97 + 96 runs; nearly no other.
    expected = (99 + 66 + 33) / (99 + 98 + 97 + 96)
    assert found.mean() == pytest.approx(expected, abs=5 / 16 / math.sqrt(40))


def test_the_projection_keeps_the_inner_products_of_real_text_within_its_deviation(hashing):
    found, exact, deviation = projected(hashing, TEXTS)
    assert np.abs((found - exact) / deviation).max() < 5


def test_the_projection_keeps_the_inner_products_of_real_text_to_a_16th(hashing):
    found, exact, _ = projected(hashing, TEXTS)
    # sqrt(2) more where the texts are equal; three standard deviations.
    assert np.abs(found - exact).max() < 3 * math.sqrt(2 / 256)


def test_texts_that_grow_alike_grow_close(hashing):
    rows = nn.functional.normalize(hashing.embed(TEXTS))
    cosines = rows @ rows.T
    assert cosines[0, 1] > 0.8  # one word apart
    assert cosines[0, 2:].max() < 0.7


# --- a frozen copy of the model ------------------------------------------------------------------


class Letters:
    """One token for each letter, as much of a tokenizer as an encoder needs."""

    def __init__(self):
        self.asked = []

    def __call__(self, texts, *, truncation, max_length):
        self.asked.append((truncation, max_length))
        ids = [[1 + ord(letter) % (VOCABULARY - 1) for letter in text] for text in texts]
        return {"input_ids": [row[:max_length] for row in ids]}


WORDS = ["a", "some words", "", "a longer line of words than all of the others", " ", "some word"]


def start(model=None):
    return start_encoder(tiny("llama") if model is None else model, Letters())


@pytest.mark.parametrize("kind", ["llama", "gpt2", "bert"])
def test_start_gives_the_mean_of_the_last_hidden_states(kind):
    """Text by text without padding; the first token, an attention sink, only where it is alone."""
    model = tiny(kind)
    body = model if kind == "bert" else model.base_model
    expected = []
    for text in WORDS:
        ids = torch.as_tensor(
            Letters()([text or " "], truncation=True, max_length=512)["input_ids"]
        )
        with torch.no_grad():
            hidden = body(input_ids=ids).last_hidden_state[0]
        expected.append(hidden[1:].mean(0) if len(hidden) > 1 else hidden[0])
    rows = start(model).embed(WORDS)
    assert rows.shape == (len(WORDS), WIDTH)
    assert rows.dtype is torch.float64
    # fp32, values near 1, in a padded batch and alone.
    torch.testing.assert_close(rows, torch.stack(expected).double(), rtol=0, atol=1e-5)


def test_the_order_of_the_texts_is_kept():
    encoder = start()
    rows = encoder.embed(WORDS)
    for order in ([5, 4, 3, 2, 1, 0], [1, 5, 0, 3, 2, 4]):
        permuted = encoder.embed([WORDS[i] for i in order])
        torch.testing.assert_close(permuted, rows[order], rtol=0, atol=1e-5)


def test_more_texts_than_a_micro_batch_keep_their_order_too():
    encoder = start()
    texts = [chr(65 + i % 40) * (1 + i % 7) + "x" for i in range(70)]
    rows = encoder.embed(texts)
    assert rows.shape == (70, WIDTH)
    for i in (0, 31, 32, 69):
        torch.testing.assert_close(encoder.embed([texts[i]])[0], rows[i], rtol=0, atol=1e-5)


@pytest.mark.parametrize(("positions", "limit"), [(1024, 512), (100, 100)])
def test_texts_are_cut_at_512_tokens_or_what_the_model_takes(positions, limit):
    tokenizer = Letters()
    encoder = start_encoder(tiny("gpt2", n_positions=positions), tokenizer)
    words = "".join(chr(97 + i % 23) for i in range(600))
    texts = (words[:limit], words, words[: limit - 12])
    cut, whole, shorter = (encoder.embed([text]) for text in texts)
    assert torch.equal(whole, cut)
    assert not torch.equal(whole, shorter)
    assert set(tokenizer.asked) == {(True, limit)}


def test_an_empty_text_stands_for_a_space():
    rows = start().embed(["", " ", "a", "some words"])
    assert torch.equal(rows[0], rows[1])
    assert not torch.equal(rows[0], rows[2])


@pytest.mark.parametrize("texts", [["", "", ""], ["a", "b", "c"]], ids=["empty", "one_token"])
def test_texts_of_one_token_at_most_have_embeddings(texts):
    """What a model writes that ends its texts at once."""
    expected = start().embed([*texts, "some words"])[:3]
    # Padding to another length rounds otherwise.
    torch.testing.assert_close(start().embed(texts), expected, rtol=1e-5, atol=1e-5)


def test_training_the_model_afterwards_changes_nothing():
    model = tiny("llama").train()
    encoder = start(model)
    before = encoder.embed(WORDS)
    optimiser = torch.optim.SGD(model.parameters(), lr=1.0)
    ids = torch.arange(1, 9)[None]
    model(input_ids=ids, labels=ids).loss.backward()
    optimiser.step()
    assert not torch.equal(start(model).embed(WORDS), before)  # or there was nothing to freeze
    assert torch.equal(encoder.embed(WORDS), before)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(math.nan)
    assert torch.equal(encoder.embed(WORDS), before)


def test_dropout_of_a_model_in_training_mode_is_off():
    trained = tiny("llama", attention_dropout=0.5).train()
    rows = start(trained).embed(WORDS)
    assert torch.equal(rows, start(tiny("llama")).embed(WORDS))
    assert all(module.training for module in trained.modules())


def test_the_model_and_the_process_are_as_found():
    model = tiny("llama").train()
    model.model.norm.eval()
    model.model.embed_tokens.weight.requires_grad_(False)

    def state():
        return {
            "parameters": dict(model.named_parameters()),
            "requires_grad": {name: p.requires_grad for name, p in model.named_parameters()},
            "modes": {name: module.training for name, module in model.named_modules()},
            "hooks": hooks_of(model),
            "numpy": np.random.get_state(),
            "torch": torch.get_rng_state(),
        }

    torch.manual_seed(4711)
    before = state()
    start(model).embed(WORDS)
    assert differences(before, state()) == []


def test_the_name_tells_one_state_of_the_weights_from_another():
    model = tiny("llama")
    name = start(model).name
    assert name.startswith("start-")
    assert start(tiny("llama")).name == name
    for parameter in model.parameters():
        before = parameter.detach().clone()
        with torch.no_grad():
            parameter[(0,) * parameter.ndim] += 0.5
        assert start(model).name != name
        with torch.no_grad():
            parameter.copy_(before)
    assert start(model).name == name


def test_a_compiled_model_is_frozen_without_its_wrapper():
    model = tiny("llama")
    compiled = start(torch.compile(model, backend="eager"))
    assert compiled.name == start(model).name
    assert torch.equal(compiled.embed(WORDS), start(model).embed(WORDS))


# --- encoders of one's own -----------------------------------------------------------------------

ROWS = [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]


@pytest.mark.parametrize(
    "rows",
    [
        ROWS,
        tuple(map(tuple, ROWS)),
        np.array(ROWS),
        np.array(ROWS, dtype=np.float32),
        np.array(ROWS, dtype=np.int64),
        [np.array(row) for row in ROWS],
        torch.tensor(ROWS),
        torch.tensor(ROWS, dtype=torch.bfloat16),
        torch.tensor(ROWS, requires_grad=True),
    ],
    ids=lambda rows: f"{type(rows).__name__}-{getattr(rows, 'dtype', '')}",
)
def test_an_encoder_of_ones_own_may_give_lists_arrays_and_tensors(rows):
    given = []

    def embed(texts):
        given.append(texts)
        return rows

    encoder = find_encoder(embed, nn.Identity(), None)
    found = encoder.embed(("a", "b", "c"))
    assert given == [["a", "b", "c"]]
    assert found.dtype is torch.float64
    assert not found.requires_grad
    assert found.tolist() == ROWS


def test_an_encoder_of_ones_own_may_give_a_list_of_tensors():
    encoder = Encoder("list", lambda texts: [torch.tensor(row) for row in ROWS])
    assert encoder.embed(["a", "b", "c"]).tolist() == ROWS


class Callable:
    def __call__(self, texts):
        return ROWS


def test_an_encoder_of_ones_own_is_called_by_its_name():
    def mine(texts):
        return ROWS

    names = [find_encoder(spec, nn.Identity(), None).name for spec in (mine, Callable())]
    assert names == [mine.__qualname__, "Callable"]


@pytest.mark.parametrize(
    ("rows", "shape"),
    [
        (ROWS[:2], r"\(2, 2\)"),
        ([1.0, 2.0, 3.0], r"\(3,\)"),
        (torch.zeros(3, 2, 2), r"\(3, 2, 2\)"),
        (torch.zeros(0, 2), r"\(0, 2\)"),
        (1.0, r"\(\)"),
    ],
)
def test_another_shape_than_a_row_for_each_text_is_refused(rows, shape):
    with pytest.raises(ProbeError, match=rf"encoder own gave {shape} for 3 texts"):
        Encoder("own", lambda texts: rows).embed(["a", "b", "c"])


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_are_refused(value):
    with pytest.raises(ProbeError, match="encoder own gave NaN or infinity"):
        Encoder("own", lambda texts: [[0.0, value]]).embed(["a"])


# --- the choice ----------------------------------------------------------------------------------


def test_names_choose_the_encoders_of_their_own():
    assert find_encoder("hashing", nn.Identity(), None).name == "hashing-256"
    model = tiny("llama")
    assert find_encoder("start", model, Letters()).name == start(model).name


def test_a_missing_sentence_transformers_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)  # as if it were not installed
    with pytest.raises(InputError, match=r"'my-model'.*pip install .*encoders"):
        find_encoder("my-model", nn.Identity(), None)


def test_any_other_name_is_that_of_a_sentence_transformers_model(monkeypatch):
    loaded = []

    class SentenceTransformer:
        def __init__(self, name):
            loaded.append(name)

        def encode(self, texts):
            return np.array([[len(text), 1.0] for text in texts], dtype=np.float32)

    module = ModuleType("sentence_transformers")
    module.SentenceTransformer = SentenceTransformer
    monkeypatch.setitem(sys.modules, "sentence_transformers", module)
    encoder = find_encoder("my-model", nn.Identity(), None)
    assert (encoder.name, loaded) == ("my-model", ["my-model"])
    assert encoder.embed(["a", "abc"]).tolist() == [[1.0, 1.0], [3.0, 1.0]]
