"""What was written, measured: repetition by hand, spectrum as of any other embeddings."""

import math
import zlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from sigma_monitor import ProbeSet, spectral_summary
from sigma_monitor.errors import InputError, ProbeError
from sigma_monitor.generation.diversity import (
    compression_ratio,
    distinct,
    distinct_without,
    repeated_share,
)
from sigma_monitor.generation.writing import WritingProbe, measure_writing
from sigma_monitor.probing import Continuations, Encoder
from sigma_monitor.snapshot import ENTROPY, TEXT_RANK

RIDGE = 1e-3


# --- repetition ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("texts", "n", "expected"),
    [
        ([[1, 2, 3, 4]], 1, 1.0),
        ([[1, 1, 1, 1]], 1, 1 / 4),
        ([[1, 1, 1, 1]], 2, 1 / 3),
        ([[1, 2, 1, 2]], 2, 2 / 3),  # 12, 21, 12
        ([[1, 2, 3], [1, 2, 4]], 1, 4 / 6),
        ([[1, 2, 3], [1, 2, 4]], 2, 3 / 4),  # 12, 23, 12, 24
        ([[1, 2, 3], [1, 2, 3]], 2, 2 / 4),
        ([[1, 2], [3, 4]], 2, 1.0),  # none across the end of a text: 23 would be a third
        ([[1, 2, 3], [4]], 2, 1.0),
        ([[1, 2, 3]], 3, 1.0),
        ([[1, 2, 3]], 4, 0.0),
        ([[], []], 1, 0.0),
        ([], 1, 0.0),
    ],
)
def test_distinct_ngrams_are_counted_over_all_texts(texts, n, expected):
    assert distinct(texts, n) == pytest.approx(expected, rel=1e-15)


@pytest.mark.parametrize(
    ("texts", "n", "expected"),
    [
        ([[1, 2, 3, 4, 5]], 4, 0.0),
        ([[1, 1, 1, 1, 1]], 4, 1 / 2),  # 1111, 1111
        ([[1, 2, 1, 2, 1, 2]], 2, 3 / 5),  # 12, 21, 12, 21, 12
        ([[1, 2, 1, 2], [3, 4, 5, 6]], 2, 1 / 6),  # a third and none: the mean of both
        ([[1, 2, 3], [1, 2, 3]], 2, 0.0),  # the same text again is no repeat within a text
        ([[1, 1, 1], [1, 2]], 3, 0.0),  # one 3-gram, and none
        ([[1, 1, 1, 1], [1, 2]], 3, 1 / 2),  # a text without any does not count
        ([[1, 2]], 4, 0.0),
        ([], 4, 0.0),
    ],
)
def test_repeats_are_counted_within_each_text(texts, n, expected):
    assert repeated_share(texts, n) == pytest.approx(expected, rel=1e-15)


def test_compression_ratio_is_of_the_bytes_of_all_texts_together():
    assert compression_ratio(["ab", "cd"]) == 5 / len(zlib.compress(b"ab\ncd", 9))
    assert compression_ratio(["ä"]) == 2 / len(zlib.compress("ä".encode(), 9))
    # Two bytes of header, two of an empty block, four of checksum.
    assert compression_ratio([""]) == 0.0
    assert len(zlib.compress(b"", 9)) == 8


def test_compression_ratio_is_larger_for_duller_text():
    rng = np.random.default_rng(0)
    varied = ["".join(map(chr, rng.integers(97, 123, 50))) for _ in range(20)]
    same = [varied[0]] * 20
    dull = ["a" * 50] * 20
    assert compression_ratio(varied) < 2 < 8 < compression_ratio(same) < compression_ratio(dull)


# --- measures ------------------------------------------------------------------------------------


def continuations(tokens, entropies):
    return Continuations(torch.as_tensor(tokens), torch.as_tensor(entropies))


def fixed_encoder(rows):
    """Gives `rows`, whatever so many texts are; others only serve to identify it."""
    return Encoder("fixed", lambda texts: rows if len(texts) == len(rows) else np.eye(len(texts)))


def example(n=12, m=5):
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(n, m, generator=generator, dtype=torch.float64) + 3.0
    tokens = torch.randint(0, 4, (n, 9), generator=generator)
    entropies = torch.rand(n, generator=generator)
    texts = ["".join(chr(97 + t) for t in row) for row in tokens.tolist()]
    return rows, tokens, entropies, texts


@pytest.mark.parametrize(("n", "m"), [(12, 5), (5, 12)])
def test_the_spectrum_is_that_of_the_centred_embeddings(n, m):
    rows, tokens, entropies, texts = example(n, m)
    written = continuations(tokens, entropies)
    writing = measure_writing(written, texts, fixed_encoder(rows), relative_ridge=0.01)
    summary = spectral_summary(rows, center=True, relative_ridge=0.01, method="exact")
    for name in ("effective_rank", "participation_ratio", "log_det_per_dim"):
        assert writing.estimates[name] == getattr(summary, name)
    assert writing.log_rank == pytest.approx(math.log(summary.effective_rank.value), rel=1e-15)
    # And by a singular value decomposition: roots of the eigenvalues as shares.
    shares = np.linalg.svd(rows.numpy() - rows.numpy().mean(0), compute_uv=False)
    shares = shares[shares > 1e-9] / shares.sum()
    assert writing.log_rank == pytest.approx(-(shares * np.log(shares)).sum(), rel=1e-9)
    without = [
        np.log(spectral_summary(rows[kept], center=True, method="exact").effective_rank.value)
        for kept in (torch.arange(n) != i for i in range(n))
    ]
    assert writing.log_rank_without == pytest.approx(without, rel=1e-6)
    assert (writing.texts, writing.encoder) == (tuple(texts), "fixed")


def test_the_other_measures_are_there_by_name():
    rows, tokens, entropies, texts = example()
    estimates = measure_writing(
        continuations(tokens, entropies), texts, fixed_encoder(rows), relative_ridge=RIDGE
    ).estimates
    expected = {
        "distinct_1": distinct(tokens.tolist(), 1),
        "distinct_2": distinct(tokens.tolist(), 2),
        "repeated_4gram_share": repeated_share(tokens.tolist(), 4),
        "compression_ratio": compression_ratio(texts),
    }
    assert {name: estimates[name].value for name in expected} == expected
    assert all(estimates[name].kind == "exact" for name in expected)
    assert estimates.keys() == expected.keys() | {
        TEXT_RANK,
        ENTROPY,
        "participation_ratio",
        "log_det_per_dim",
    }


def test_output_entropy_is_the_mean_with_its_t_interval():
    rows, tokens, entropies, texts = example()
    writing = measure_writing(
        continuations(tokens, entropies), texts, fixed_encoder(rows), relative_ridge=RIDGE
    )
    found = writing.estimates[ENTROPY]
    values = entropies.double().numpy()
    low, high = stats.t.interval(0.95, 11, loc=values.mean(), scale=stats.sem(values))
    assert found.value == pytest.approx(values.mean(), rel=1e-15)
    assert (found.low, found.high) == pytest.approx((low, high), rel=1e-12)
    assert found.kind == "sampling"
    assert writing.log_entropy == pytest.approx(math.log(values.mean()), rel=1e-15)
    assert writing.entropies.tolist() == values.tolist()


def test_a_model_that_is_certain_has_a_finite_log_entropy():
    rows, tokens, _, texts = example()
    for entropy, expected in ((0.0, 1e-6), (1e-9, 1e-6), (1e-5, 1e-5)):
        writing = measure_writing(
            continuations(tokens, torch.full((12,), entropy)),
            texts,
            fixed_encoder(rows),
            relative_ridge=RIDGE,
        )
        assert writing.log_entropy == pytest.approx(math.log(expected), rel=1e-6)


@pytest.mark.parametrize("text", ["all the same", ""])
def test_texts_that_are_all_equal_have_rank_one(text):
    _, tokens, entropies, _ = example()
    encoder = Encoder("length", lambda texts: [[1.0 + len(t), 0.1] for t in texts])
    writing = measure_writing(
        continuations(tokens, entropies), [text] * 12, encoder, relative_ridge=RIDGE
    )
    found = writing.estimates[TEXT_RANK]
    assert (found.value, found.low, found.high, found.kind) == (1.0, 1.0, 1.0, "exact")
    assert writing.log_rank == 0.0
    assert writing.log_rank_without is None
    assert "log_det_per_dim" not in writing.estimates
    assert writing.estimates[ENTROPY].value == pytest.approx(float(entropies.mean()), rel=1e-6)


def test_an_encoder_that_gives_no_embeddings_is_an_error():
    _, tokens, entropies, texts = example()
    with pytest.raises(ProbeError, match="encoder fixed gave"):
        measure_writing(
            continuations(tokens, entropies),
            texts,
            fixed_encoder(torch.full((12, 3), math.nan)),
            relative_ridge=RIDGE,
        )


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_one_text_is_measured_without_a_warning():
    found = measure_writing(
        continuations([[1, 2, 3]], [0.5]),
        ["abc"],
        fixed_encoder([[1.0, 2.0]]),
        relative_ridge=RIDGE,
    )
    assert found.estimates[TEXT_RANK].value == 1.0
    assert found.estimates[ENTROPY].value == 0.5
    assert not math.isnan(found.estimates[ENTROPY].low)


# --- the probe -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("every", "due"),
    [
        (1, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]),
        (2, [1, 3, 5, 7, 9, 11]),
        (3, [1, 4, 7, 10]),
        (5, [1, 6, 11]),
        (12, [1]),
    ],
)
def test_the_model_writes_at_the_first_check_and_then_at_every_nth(every, due):
    probe = WritingProbe(every=every, relative_ridge=RIDGE)
    assert [check for check in range(1, 13) if probe.due(check)] == due


END = 9


class Script(nn.Module):
    """Writes the given tokens whatever it is asked to continue: row i of `texts` to example i."""

    def __init__(self, texts, prompt):
        super().__init__()
        self.texts = torch.tensor(texts)
        self.prompt = prompt

    def forward(self, input_ids):
        place = input_ids.shape[1] - self.prompt
        following = self.texts[: len(input_ids), place]
        logits = nn.functional.one_hot(following, 10).float() * 100
        return SimpleNamespace(logits=logits[:, None].expand(-1, input_ids.shape[1], -1))


class Digits:
    """Decodes, and keeps what it was asked to."""

    eos_token_id = END

    def __init__(self):
        self.asked = []

    def decode(self, ids, *, skip_special_tokens):
        self.asked.append((list(ids), skip_special_tokens))
        return "".join(map(str, ids))


TEXTS = [[1, 2, 3, 4], [1, END, 3, END], [END, 1, 2, 3], [5, 6, 7, END]]
PROBES = ProbeSet.from_tensors({"input_ids": torch.ones(4, 8, dtype=torch.long)})


def script_probe(**options):
    """Prompts of four tokens, texts of four."""
    options = {"encoder": lambda texts: torch.eye(4), "temperature": 0, **options}
    return WritingProbe(relative_ridge=RIDGE, **options)


def test_a_text_is_cut_at_the_token_that_ends_it():
    tokenizer = Digits()
    writing = script_probe().read(Script(TEXTS, 4), PROBES, tokenizer)
    assert writing.texts == ("1234", "1", "", "567")
    assert tokenizer.asked == [([1, 2, 3, 4], True), ([1], True), ([], True), ([5, 6, 7], True)]


@pytest.mark.parametrize("end", [None, 0], ids=["none", "another"])
def test_a_text_without_an_end_is_kept_whole(end):
    tokenizer = Digits()
    tokenizer.eos_token_id = end
    writing = script_probe().read(Script(TEXTS, 4), PROBES, tokenizer)
    assert writing.texts == ("1234", "1939", "9123", "5679")


def test_a_tokenizer_need_not_know_of_an_end():
    tokenizer = SimpleNamespace(decode=lambda ids, skip_special_tokens: str(ids))
    writing = script_probe().read(Script(TEXTS, 4), PROBES, tokenizer)
    assert writing.texts[1] == "[1, 9, 3, 9]"


def test_logits_that_are_not_finite_are_no_writing():
    class Sick(nn.Module):
        def forward(self, input_ids):
            logits = torch.zeros(*input_ids.shape, 5)
            logits[2] = math.nan
            return SimpleNamespace(logits=logits)

    assert script_probe().read(Sick(), PROBES, Digits()) is None


def test_without_a_tokenizer_nothing_can_be_read():
    with pytest.raises(InputError, match=r"tokenizer=, or Trainer\(processing_class=\)"):
        script_probe().read(Script(TEXTS, 4), PROBES, None)


def test_an_encoder_is_found_at_the_first_writing_and_kept_until_a_new_run(monkeypatch):
    made = []

    def find(spec, model, tokenizer):
        made.append((spec, model))
        return Encoder(f"made-{len(made)}", lambda texts: torch.eye(4))

    monkeypatch.setattr("sigma_monitor.generation.writing.find_encoder", find)
    probe = script_probe(encoder="start")
    assert made == []
    model = Script(TEXTS, 4)
    names = [probe.read(model, PROBES, Digits()).encoder for _ in range(2)]
    probe.reset()
    names.append(probe.read(model, PROBES, Digits()).encoder)
    assert names == ["made-1", "made-1", "made-2"]
    assert made == [("start", model)] * 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every": 0}, "every=0"),
        ({"every": 2.5}, r"every=2\.5"),
        ({"encoder": 3}, "encoder=3"),
        ({"examples": 0}, "examples=0"),
        ({"temperature": -1}, "temperature=-1"),
        ({"tokens": 3}, "Its options are every, examples"),
        ({"temperature": "hot"}, "Its options are every, examples"),
    ],
)
def test_options_that_cannot_be_used_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        WritingProbe(relative_ridge=RIDGE, **options)


def test_the_identity_is_what_makes_two_series_comparable():
    same = WritingProbe(relative_ridge=RIDGE, every=2).identity()
    assert same == WritingProbe(relative_ridge=RIDGE, every=7).identity()
    for other in (
        {"encoder": "start"},
        {"encoder": len},
        {"examples": 3},
        {"prompt_tokens": 3},
        {"new_tokens": 3},
        {"temperature": 0.5},
        {"seed": 3},
    ):
        assert WritingProbe(relative_ridge=RIDGE, **other).identity() != same


def test_distinct_ngrams_of_the_others_are_those_without_a_text_or_a_group():
    texts = [[1, 2, 1, 2], [1, 2, 3], [], [3, 4], [3, 4]]
    for groups in (None, [0, 0, 1, 1, 2]):
        numbers = range(5) if groups is None else groups
        expected = [
            distinct([text for text, own in zip(texts, numbers, strict=True) if own != left], 2)
            for left in sorted(set(numbers))
        ]
        assert distinct_without(texts, 2, groups) == pytest.approx(expected)
    assert distinct_without([[1, 2, 3], [1]], 2) == [0.0, 1.0]
