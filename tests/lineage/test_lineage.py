"""`Lineage` from texts to a report."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from sigma_monitor import Lineage, Status, spectral_drift, spectral_summary
from sigma_monitor.errors import InputError
from sigma_monitor.report.chain import chain_view
from sigma_monitor.report.chain_file import read_chain
from sigma_monitor.snapshot import GENERATION_MEASURES
from tests.lineage.documents import FEATURES, broken, digits, documents, letters, wide

N = 60


def lineage_of(*vocabularies, control=(), encoder=digits, prompts=None, **options):
    lineage = Lineage(encoder, **options)
    for number, vocabulary in enumerate(vocabularies):
        lineage.add(number, documents(N, vocabulary=vocabulary, seed=number), prompts)
    for number, vocabulary in enumerate(control):
        texts = documents(N, vocabulary=vocabulary, seed=100 + number)
        lineage.add_control(number, texts, prompts)
    return lineage


def test_words_that_run_out_are_flagged_against_the_control():
    report = lineage_of(400, 400, 30, 3, control=[400] * 4, encoder="hashing").report()
    assert [v.status.name for v in report.verdicts] == [
        "HEALTHY",
        "HEALTHY",
        "WARNING",
        "COLLAPSED",
    ]
    assert report.status is Status.COLLAPSED
    assert report.notes == ()
    assert report.encoder == "hashing-256"
    assert {v.reference for v in report.verdicts} == {"control"}


def test_gibberish_is_a_warning_of_expansion():
    def shuffled(texts):
        generator = np.random.default_rng(0)
        return ["".join(generator.permutation(list(text))) for text in texts]

    lineage = lineage_of(20, control=[20, 20], encoder="hashing")
    lineage.add(1, shuffled(documents(N, vocabulary=20, seed=1)))
    last = lineage.verdicts()[1]
    assert last.status is Status.WARNING
    assert {finding.side for finding in last.findings} == {"expansion"}


def test_a_generation_that_says_one_thing_is_collapsed():
    lineage = lineage_of(400)
    lineage.add(1, ["the same"] * N)
    lineage.add(2, [""] * N)
    assert [v.status.name for v in lineage.verdicts()] == ["HEALTHY", "COLLAPSED", "COLLAPSED"]
    json.dumps(lineage.report().to_dict(), allow_nan=False)
    assert "COLLAPSED" in lineage.report().table()


def test_a_reference_without_a_spectrum_is_refused():
    lineage = Lineage(digits)
    lineage.add(0, ["the same"] * N)
    with pytest.raises(InputError, match="generation 0: all of its documents are embedded alike"):
        lineage.verdicts()


def test_without_a_control_the_first_is_the_reference_and_a_note_warns():
    report = lineage_of(400, 3, encoder=wide).report()
    assert report.verdicts[0].ratios["effective_rank"].value == 1
    assert report.verdicts[0].subspace_drift == pytest.approx(0, abs=1e-12)
    assert "such alarms are unreliable" in report.notes[0]
    assert report.notes[0] in report.table()


def test_levels_and_changes_are_those_of_the_engine():
    report = lineage_of(400, 30, control=[400, 400]).report()
    rows = [
        torch.tensor(digits(documents(N, vocabulary=v, seed=s))) for v, s in ((30, 1), (400, 101))
    ]
    found, before = (spectral_summary(one, center=True, method="exact") for one in rows)
    measured = report.generations[1].found
    assert measured.centred.effective_rank == found.effective_rank
    drift = spectral_drift(before, found).log_det_per_dim
    assert report.verdicts[1].changes["log_det_per_dim"] == drift
    packed = report.to_dict()["generations"][1]["uncentred"]["mean_cosine"]["value"]
    assert packed == spectral_summary(rows[0]).mean_cosine.value


def test_completions_of_a_prompt_are_measured_within_and_between():
    prompts = [f"prompt {i // 3}" for i in range(N)]
    report = lineage_of(400, 30, control=[400, 400], prompts=prompts).report()
    assert report.verdicts[1].ratios.keys() >= {"effective_rank", "distinct_2", "within_share"}
    one = report.to_dict()["generations"][1]
    assert one["within_prompt"]["effective_rank"]["value"] > 1
    assert one["between_prompt"]["effective_rank"]["kind"] == "sampling"
    assert report.generations[0].found.centred.examples == N // 3
    assert "within prompts" in report.table()


def test_completions_that_grow_alike_are_flagged_however_varied_the_prompts_are():
    prompts = [f"prompt {i // 3}" for i in range(N)]
    lineage = lineage_of(400, control=[400, 400], prompts=prompts)
    varied = documents(N // 3, seed=1)
    lineage.add(1, [varied[i // 3] + " x" * (i % 3 == 0) for i in range(N)], prompts)
    last = lineage.verdicts()[1]
    assert "within_share" in {finding.measure for finding in last.findings}


@pytest.mark.parametrize("weak", [0.0, 1e-9])
@pytest.mark.parametrize("varied", [0, 1, 2])
def test_prompts_that_collapse_are_flagged_however_few_still_vary(varied, weak):
    """Within a prompt: without the one that varies nothing is left, or next to nothing."""
    prompts, each = 30, 3
    generator = np.random.default_rng(0)
    means = np.repeat(generator.standard_normal((prompts, FEATURES)), each, axis=0)
    healthy = [generator.standard_normal((prompts * each, FEATURES)) for _ in range(2)]
    strength = np.full(prompts, weak)
    strength[:varied] = [1, 0.01][:varied]
    lineage = Lineage()
    names = [f"prompt {i // each}" for i in range(prompts * each)]
    for number, factor in enumerate((np.ones(prompts), strength)):
        made = means + np.repeat(factor, each)[:, None] * healthy[number]
        lineage.add_embeddings(number, made, names)
        lineage.add_embeddings(number, means + healthy[0], names, control=True)
    first, last = lineage.verdicts()
    assert first.findings == ()
    assert ("within_share", Status.COLLAPSED) in {(f.measure, f.status) for f in last.findings}


def test_the_page_of_a_chain_has_what_the_lineage_says(tmp_path):
    prompts = [f"prompt {i // 3}" for i in range(N)]
    report = lineage_of(400, 30, control=[400, 400], prompts=prompts).report()
    path = tmp_path / "chain.json"
    path.write_text(json.dumps(report.to_dict()))
    view = chain_view(read_chain(path), "a chain")
    assert view.measures == tuple(GENERATION_MEASURES.values())
    assert view.headline == report.verdicts[1].text
    assert [row.status for row in view.rows] == [v.status for v in report.verdicts]
    assert all("[" in ratio for ratio in view.rows[1].ratios)
    assert [figure.key for figure in view.figures] == ["ratio", "values", "spectrum"]
    assert view.settings["encoder"] == report.encoder


def test_a_stream_of_all_has_the_values_of_an_index_set_of_all():
    kept = lineage_of(400, 30, control=[400, 400], encoder=wide).report()
    streamed = lineage_of(400, 30, control=[400, 400], encoder=wide, sample="all").report()
    assert streamed.sampled == "all"
    assert "spectra have no intervals" in streamed.notes[0]
    for one, other in zip(kept.verdicts, streamed.verdicts, strict=True):
        for name, estimate in one.ratios.items():
            assert other.ratios[name].value == pytest.approx(estimate.value, rel=1e-9)
        assert {name: estimate.kind for name, estimate in other.ratios.items()} == {
            "effective_rank": "exact",
            "participation_ratio": "exact",
            "distinct_2": "sampling",  # its texts are kept
        }
        assert other.ratios["distinct_2"] == one.ratios["distinct_2"]
        assert other.subspace_drift == pytest.approx(one.subspace_drift, abs=1e-6)


def test_a_stream_of_all_takes_few_prompts_with_many_documents():
    report = lineage_of(400, 30, prompts=["a", "b"] * (N // 2), sample="all").report()
    assert report.verdicts[1].ratios["distinct_2"].kind == "sampling"


def test_embeddings_are_measured_as_the_texts_they_are_of():
    texts = [documents(N, vocabulary=v, seed=s) for s, v in enumerate((400, 30))]
    from_texts, from_rows = Lineage(wide, sample=40), Lineage(sample=40)
    for number, these in enumerate(texts):
        rows = wide(these)
        from_texts.add(number, these)
        from_rows.add_embeddings(number, rows if number else [rows[:7], torch.tensor(rows[7:])])
    for one, other in zip(from_texts.verdicts(), from_rows.verdicts(), strict=True):
        assert "distinct_2" not in other.ratios
        assert one.ratios["effective_rank"] == other.ratios["effective_rank"]
        assert one.subspace_drift == other.subspace_drift
    assert from_rows.report().encoder == "given embeddings"


def test_embeddings_stream_too():
    rows = [digits(documents(N, seed=s)) for s in (0, 1)]
    kept, streamed = Lineage(), Lineage(sample="all")
    for number, one in enumerate(rows):
        kept.add_embeddings(number, one)
        streamed.add_embeddings(number, [one[:33], one[33:]], control=False)
    found, other = kept.verdicts()[1], streamed.verdicts()[1]
    assert other.ratios["effective_rank"].value == pytest.approx(
        found.ratios["effective_rank"].value, rel=1e-9
    )


def test_documents_are_gone_through_once():
    lineage = Lineage(digits)
    lineage.add(0, iter(documents(N)), iter([f"{i}" for i in range(N)]))
    assert lineage.report().documents == N


def test_the_report_is_json_that_says_what_it_is():
    body = json.loads(json.dumps(lineage_of(400, 3).report().to_dict(), allow_nan=False))
    assert (body["schema"], body["kind"], body["reference"]) == (1, "lineage", "generation 0")
    assert body["documents"] == body["sampled"] == N
    assert sum(body["generations"][0]["spectrum"]) == pytest.approx(1)
    assert len(body["generations"][0]["spectrum"]) == FEATURES
    assert body["verdicts"][1]["status"] == body["status"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda x: x.add(1, documents(N - 1)), "generation 1 has 59 documents and generation 0 60"),
        (lambda x: x.add(1, documents(N), map(str, range(N))), "generation 1 has other prompts"),
        (lambda x: x.add(1, []), "generation 1 has no documents"),
        (lambda x: x.add(1, ["one line"]), "generation 1 has 1 document"),
        (lambda x: x.add(0, documents(N)), "generation 0 was added before"),
        (lambda x: x.add(-1, documents(N)), "generation -1: pass a number"),
        (lambda x: x.add(1, "text"), "not one text"),
        (lambda x: x.add(1, [*documents(N - 1), None]), "None is a document that is no text"),
        (lambda x: x.add(1, documents(N), range(N)), "0 is a prompt that is no text"),
        (lambda x: x.add(1, [*documents(N - 1), "so \ud83d"]), "half of a surrogate pair"),
        (lambda x: x.add_control(1, documents(N)) or x.verdicts(), "generation 0 has no control"),
        (lambda x: x.add_embeddings(1, digits(documents(N))), "one is texts and the other"),
    ],
)
def test_what_does_not_compare_is_refused(change, said):
    lineage = lineage_of(400)
    with pytest.raises(InputError, match=said):
        change(lineage)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (np.ones((N, 3)), "generation 1: rows of 3 and 6 features"),
        ([np.ones((N, 6)), np.ones((2, 3))], "rows of 3 and 6 features"),
        ([], "rows of 6 features|generation 1 has no documents"),
        (np.ones(N), "expected two dimensions"),
        (np.ones((N, 6), dtype=int), "dtype torch.int64"),
        ("rows.npy", "is a str, not a torch.Tensor"),
    ],
)
def test_embeddings_that_do_not_compare_are_refused(rows, said):
    lineage = Lineage()
    lineage.add_embeddings(0, digits(documents(N)))
    with pytest.raises(InputError, match=said):
        lineage.add_embeddings(1, rows)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"sample": 2}, "sample=2"),
        ({"sample": "some"}, "sample='some'"),
        ({"preset": "thesis"}, "preset='thesis'"),
        ({"confidence": 95}, "confidence=95"),
        ({"seed": 0.5}, "seed=0.5"),
        ({"warning": 0.4}, "collapsed=0.5"),
    ],
)
def test_a_bad_option_is_refused_at_construction(options, said):
    with pytest.raises(InputError, match=said):
        Lineage(**options)


def test_rows_that_are_not_finite_are_refused_with_their_generation():
    lineage = Lineage()
    rows = digits(documents(N))
    lineage.add_embeddings(0, rows)
    rows[3, 1] = math.nan
    with pytest.raises(InputError, match="generation 1: embeddings has 1 of 60 rows with NaN"):
        lineage.add_embeddings(1, rows)
    with pytest.raises(InputError, match="broken gave NaN or infinity"):
        Lineage(broken).add(0, documents(N))


REFUSED = {
    "an encoder that gives no number": lambda x: x.add(0, ["two"] * 3 + documents(N)),
    "embeddings that are infinite": lambda x: x.add_embeddings(0, np.full((N, 4), np.inf)),
    "too few rows for the tracks": lambda x: x.add_embeddings(0, np.ones((FEATURES, FEATURES))),
    "too few texts for the tracks": lambda x: x.add(0, documents(FEATURES)),
}


@pytest.mark.parametrize("refused", REFUSED.values(), ids=REFUSED)
@pytest.mark.parametrize("good", [(0, 1), (5, 6)])
def test_a_generation_that_was_refused_leaves_no_trace(refused, good, tmp_path):
    def encoder(texts):
        rows = digits(texts)
        rows[["two" in text.split() for text in texts]] = np.nan
        return rows

    reports = []
    for first in (None, refused):
        lineage = Lineage(encoder, preset="paper", cache=tmp_path / str(first is None))
        if first is not None:
            with pytest.raises(InputError):
                first(lineage)
            with pytest.raises(InputError, match="has no generation"):
                lineage.report()
        for number in good:
            lineage.add(number, documents(N, seed=number))
        reports.append(lineage.report().to_dict())
    assert reports[0] == reports[1]


def test_texts_that_were_refused_leave_no_encoder_to_embeddings():
    lineage = Lineage(digits, preset="paper")
    with pytest.raises(InputError, match="more rows than features"):
        lineage.add(0, documents(FEATURES))
    lineage.add_embeddings(0, letters(documents(N)))
    assert lineage.report().encoder == "given embeddings"


def turn_of(one, other):
    lineage = Lineage()
    for number, rows in enumerate((one, other)):
        lineage.add_embeddings(number, rows)
    return lineage.verdicts()[1].subspace_drift


def test_directions_are_compared_where_there_are_as_many_and_others_beside():
    rows = np.random.default_rng(0).standard_normal((N, 20))
    assert turn_of(rows, rows) == pytest.approx(0, abs=1e-12)
    assert turn_of(rows, rows @ np.roll(np.eye(20), 9, axis=0)) > 0.2
    few = rows * (np.arange(20) < 3)  # three directions, all of them among any eight others
    assert turn_of(few, few) == pytest.approx(0, abs=1e-12)
    assert turn_of(rows, few) is None
    assert turn_of(few, rows) is None
    assert turn_of(rows[:, :8], rows[:, :8] ** 3) is None  # all there are


def test_a_lineage_of_nothing_has_no_verdict():
    with pytest.raises(InputError, match="has no generation"):
        Lineage().report()
