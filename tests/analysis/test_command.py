"""`sigma-monitor analyze` from its arguments to what it prints and draws."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import numpy as np
import pytest
import torch

from sigma_monitor import spectral_drift, spectral_summary
from sigma_monitor.analysis import Settings, analyze_files
from sigma_monitor.analysis.analyze import CONVENTIONS
from sigma_monitor.analysis.picture import eigenvalues
from sigma_monitor.cli import main
from sigma_monitor.spectrum.result import FUNCTIONALS
from tests.analysis.embeddings import matrix, store


@pytest.fixture
def files(tmp_path):
    """Embeddings before and after, and their paths."""
    old, new = matrix(60, 20), matrix(60, 20, decay=0.9)
    return old, new, [store(tmp_path / f"{n}.npy", x=x) for n, x in (("old", old), ("new", new))]


def lines_of(text):
    """Cells of every line that begins with the name of a functional."""
    cells = [re.split(r"\s{2,}", line) for line in text.splitlines()]
    return [line for line in cells if line[0] in FUNCTIONALS]


def test_the_table_has_every_functional_with_its_interval(files, capsys):
    old, _, (path, _) = files
    assert main(["analyze", path]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    head = said.out.splitlines()[0]
    assert head.startswith(f"{path}: 60 x 20 float32, ridge 0.001 tr(C)/m, ")
    assert "exact (d = 20 is at most 1024" in head
    lines = lines_of(said.out)
    assert [line[0] for line in lines] == list(FUNCTIONALS)
    (rank,) = (line for line in lines if line[0] == "effective_rank")
    expected = []
    for center in (True, False):
        e = spectral_summary(old, center=center).effective_rank
        expected += [f"{e.value:.5g}", f"[{e.low:.5g}, {e.high:.5g}]", "sampling"]
    assert rank[1:] == expected
    (cosine,) = (line for line in lines if line[0] == "mean_cosine")
    assert len(cosine) == 3  # of the uncentred rows alone
    assert "Intervals at 0.95:" in said.out
    assert "quadrature" not in said.out


def test_the_table_marks_what_drifted(files, capsys):
    old, new, paths = files
    assert main(["analyze", *paths, "--confidence", "0.9"]) == 0
    text = capsys.readouterr().out
    assert "Intervals at 0.9:" in text
    drift = text.split(f"drift from {paths[0]} to {paths[1]}\n")[1]
    lines = {line[0]: line for line in lines_of(drift)}
    before, after = (spectral_summary(x, center=True, confidence=0.9) for x in (old, new))
    change = spectral_drift(before, after).effective_rank
    assert change.high < 0
    assert lines["effective_rank"][1] == f"{change.value:.5g}*"
    assert lines["effective_rank"][2] == f"[{change.low:.5g}, {change.high:.5g}]"
    assert lines["trace"][2] == "exact"
    assert not lines["trace"][1].endswith("*")


def test_without_a_change_nothing_is_marked(files, capsys):
    path = files[2][0]
    assert main(["analyze", path, path]) == 0
    drift = capsys.readouterr().out.split("drift from ")[1]
    assert [line for line in lines_of(drift) if line[1] != "0"] == []


def test_arrays_that_are_left_out_are_said(tmp_path, capsys):
    path = store(tmp_path / "a.npz", x=matrix(9, 4), labels=torch.arange(9))
    assert main(["analyze", path]) == 0
    assert f"skipped {path}:labels: dtype int64" in capsys.readouterr().out
    assert main(["analyze", path, "--json"]) == 0
    assert list(json.loads(capsys.readouterr().out)["skipped"]) == [f"{path}:labels"]


def refuse(constant):
    raise AssertionError(f"{constant} is no JSON")


def unpacked(packed):
    return [float(packed[end]) for end in ("value", "low", "high")] + [packed["kind"]]


def test_json_has_all_of_it_and_nothing_else_is_printed(files, capsys):
    old, new, paths = files
    assert main(["analyze", *paths, "--json", "--relative-ridge", "0.01"]) == 0
    found = json.loads(capsys.readouterr().out, parse_constant=refuse)
    assert [array["file"] for array in found["arrays"]] == paths
    first, (drift,) = found["arrays"][0], found["drift"]
    assert (first["shape"], first["dtype"], first["method"]) == ([60, 20], "float32", "exact")
    assert (first["rows"], first["features"], first["examples"]) == (60, 20, 60)
    assert found["confidence"] == 0.95
    for convention in CONVENTIONS:
        before, after = (
            spectral_summary(x, center=convention == "centred", relative_ridge=0.01)
            for x in (old, new)
        )
        change = spectral_drift(before, after)
        assert first["ridge"][convention] == before.ridge
        for name in first[convention]:
            for packed, expected in (
                (first[convention][name], getattr(before, name)),
                (drift[convention][name], getattr(change, name)),
            ):
                e = expected
                assert unpacked(packed) == [e.value, e.low, e.high, e.kind]
    assert set(first["uncentred"]) == set(FUNCTIONALS)
    assert set(FUNCTIONALS) - set(first["centred"]) == {"mean_cosine"}
    assert drift["centred"]["effective_rank"]["excludes_zero"] is True


def test_infinite_intervals_are_strings_in_json(tmp_path, capsys):
    path = store(tmp_path / "a.npy", x=matrix(2, 4))  # too few examples for a jackknife
    assert main(["analyze", path, path, "--json"]) == 0
    found = json.loads(capsys.readouterr().out, parse_constant=refuse)
    assert found["arrays"][0]["centred"]["log_det"]["low"] == "-inf"
    assert found["drift"][0]["centred"]["log_det"]["high"] == "inf"


def test_options_reach_the_summary(files, capsys):
    old, _, (path, _) = files
    arguments = ["--method", "lanczos", "--ridge", "0.05", "--normalize", "--json"]
    assert main(["analyze", path, *arguments]) == 0
    (array,) = json.loads(capsys.readouterr().out)["arrays"]
    expected = spectral_summary(old, center=True, method="lanczos", ridge=0.05, normalize=True)
    assert array["centred"]["log_det"]["value"] == expected.log_det.value
    assert array["ridge"] == {"centred": 0.05, "uncentred": 0.05}
    assert (array["method"], array["relative_ridge"]) == ("lanczos", None)


def test_the_command_runs_as_a_module(files):
    paths = files[2]
    done = subprocess.run(
        [sys.executable, "-m", "sigma_monitor", "analyze", *paths, "--json"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert len(json.loads(done.stdout)["drift"]) == 1


@pytest.mark.parametrize("method", ["exact", "lanczos"])
def test_the_picture_has_all_spectra(method, files, tmp_path, capsys):
    paths = files[2]
    pictures = [tmp_path / "new" / f"{k}.svg" for k in range(2)]
    for picture in pictures:
        assert main(["analyze", *paths, "--method", method, "--picture", str(picture)]) == 0
    text, again = (picture.read_text() for picture in pictures)
    assert text == again
    for shown in ("old.npy", "new.npy", "centred", "uncentred", "effective rank"):
        assert shown in text
    assert str(tmp_path) not in text  # short names where they tell the files apart
    assert main(["analyze", *paths, "--picture", str(tmp_path / "p.PNG"), "--json"]) == 0
    assert (tmp_path / "p.PNG").read_bytes().startswith(b"\x89PNG")


def test_names_that_do_not_tell_files_apart_keep_their_folders(tmp_path):
    paths = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        paths.append(store(tmp_path / name / "$^$.npy", x=matrix(9, 4)))
    picture = tmp_path / "p.svg"
    assert main(["analyze", *paths, "--picture", str(picture)]) == 0
    assert all(path in picture.read_text() for path in paths)


def test_the_implied_eigenvalues_are_near_the_exact_ones(tmp_path):
    path = store(tmp_path / "a.npy", x=matrix(400, 150))
    (analysis,) = analyze_files([path]).analyses
    (implied,) = analyze_files([path], Settings(method="lanczos")).analyses
    for convention in CONVENTIONS:
        exact = eigenvalues(analysis.summaries[convention])
        density = eigenvalues(implied.summaries[convention])
        assert exact is analysis.summaries[convention].eigenvalues
        assert len(density) == len(exact) == 150
        assert (np.diff(density) <= 0).all()
        # Measured: 1e-5 among the first eight, which subspace iteration finds; 8 % on average.
        np.testing.assert_allclose(density[:8], exact[:8], rtol=1e-3)
        assert np.abs(np.log(density / exact)).mean() < 0.15


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["missing.npy"], "missing.npy: no such file"),
        (["old.npy", "missing.npy"], "missing.npy: no such file"),
        (["constant.npy", "--picture", "p.gif"], "--picture p.gif: suffix '.gif'"),
        (["old.npy", "--picture", "old.npy/p.svg"], "--picture old.npy/p.svg: "),
        (["old.npy", "--confidence", "2"], "confidence=2.0"),
        (["old.npy", "--ridge", "-1"], "ridge=-1.0"),
        (["constant.npy"], "constant.npy: all of its 5 rows are equal"),
        (["old.npy", "constant.npy"], "old.npy and constant.npy do not compare: shape (60, 20)"),
    ],
)
def test_bad_input_exits_with_2_and_names_it(arguments, said, files, tmp_path, monkeypatch, capsys):
    np.save(tmp_path / "constant.npy", np.full((5, 3), 0.1))
    monkeypatch.chdir(tmp_path)
    assert main(["analyze", *arguments]) == 2
    printed = capsys.readouterr()
    assert f"sigma-monitor: {said}" in printed.err
    assert printed.out == ""


@pytest.mark.parametrize(
    "arguments",
    [[], ["old.npy", "--method", "fast"], ["old.npy", "--ridge", "1", "--relative-ridge", "1"]],
)
def test_bad_usage_exits_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["analyze", *arguments])
    assert stopped.value.code == 2
    assert "usage:" in capsys.readouterr().err
