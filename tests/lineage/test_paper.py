"""`preset="paper"` against the formulas of arXiv 2601.03385, written down once more in numpy."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from sigma_monitor import Lineage
from sigma_monitor.errors import InputError
from tests.lineage.documents import FEATURES, documents, letters

N, OBSERVED, DELTA, RHO = 60, 40, 1e-3, 1.0


def tracks(texts):
    """Algorithm 1 with embeddings as the columns of M, as published."""
    rank = {i: hashlib.blake2b(str(i).encode(), digest_size=8, key=b"0").digest() for i in range(N)}
    observed = sorted(sorted(rank, key=rank.get)[:OBSERVED])
    columns = letters([texts[i] for i in observed]).T
    columns = columns / np.linalg.norm(columns, axis=0)
    m, n_a = columns.shape
    beta = (N - n_a) * RHO
    gram = columns @ columns.T
    log_det = np.linalg.slogdet(gram + DELTA * np.eye(m))[1]
    conservative = np.linalg.slogdet(gram + (beta + DELTA) * np.eye(m))[1]
    return {
        "log_det": log_det,
        "track_one": conservative - m * np.log(beta + DELTA),
        "track_two": log_det - m * np.log(n_a),
    }


def test_tracks_and_drifts_equal_the_formulas():
    chain = [documents(N, vocabulary=v, seed=v) for v in (400, 40, 4)]
    lineage = Lineage(letters, sample=OBSERVED, preset="paper")
    for number, texts in enumerate(chain):
        lineage.add(number, texts)
    expected = [tracks(texts) for texts in chain]
    for wanted, one in zip(expected, lineage.report().to_dict()["generations"], strict=True):
        for name, value in wanted.items():
            assert one["tracks"][name] == pytest.approx(value, rel=1e-9)
        for name in ("track_one", "track_two"):
            drift = wanted[name] - expected[0][name]
            assert one["track_drift"][name] == pytest.approx(drift, rel=1e-9)
        assert (one["tracks"]["n_observed"], one["tracks"]["n_total"]) == (OBSERVED, N)
    assert abs(expected[2]["track_two"] - expected[0]["track_two"]) > 1  # or nothing was compared


def test_it_says_which_encoder_the_formulas_are_of():
    lineage = Lineage(letters, preset="paper")
    lineage.add(0, documents(N))
    report = lineage.report()
    assert "published with all-MiniLM-L6-v2; its formulas are of letters here" in report.table()
    assert "Track II" in report.table()


def test_an_index_set_of_all_documents_says_that_track_one_bounds_nothing():
    def said(sample):
        lineage = Lineage(letters, sample=sample, preset="paper")
        for number in range(2):
            lineage.add(number, documents(N, seed=number))
        last = lineage.report().generations[1].track_drift
        return any("bounds nothing" in note for note in lineage.report().notes), last

    noted, drift = said(N)
    assert noted
    assert drift.track_one == pytest.approx(drift.track_two, rel=1e-9)
    assert not said(OBSERVED)[0]


def test_it_needs_more_rows_than_features():
    lineage = Lineage(letters, sample=FEATURES, preset="paper")
    with pytest.raises(InputError, match=r"generation 0: 6 rows of 6 features: .* more rows"):
        lineage.add(0, documents(N))
    with pytest.raises(InputError, match='preset="paper" with sample="all"'):
        Lineage(preset="paper", sample="all")
