"""What is computed: the spectra of `spectral_summary` and the drift of `spectral_drift`."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sigma_monitor import Estimate, spectral_drift, spectral_summary
from sigma_monitor.analysis import Settings, analyze_files
from sigma_monitor.analysis.analyze import CONVENTIONS, excludes_zero, functionals
from sigma_monitor.errors import InputError
from sigma_monitor.spectrum.cost import Choice
from tests.analysis.embeddings import FORMATS, matrix, store


def assert_same(found, expected, convention):
    for name in functionals(convention):
        assert repr(getattr(found, name)) == repr(getattr(expected, name)), name


@pytest.mark.parametrize(("suffix", "dtype"), FORMATS)
@pytest.mark.parametrize("shape", [(40, 12), (10, 30), (8, 5, 12)], ids=str)
def test_a_file_has_the_spectrum_of_its_tensor(suffix, dtype, shape, tmp_path):
    rows = matrix(*shape, dtype=dtype)
    groups = torch.arange(8).repeat_interleave(5) if len(shape) == 3 else None
    (analysis,) = analyze_files([store(tmp_path / f"a{suffix}", x=rows)]).analyses
    for convention, summary in analysis.summaries.items():
        center = convention == "centred"
        expected = spectral_summary(rows.flatten(0, -2), center=center, groups=groups)
        assert_same(summary, expected, convention)
        assert summary.examples == shape[0]
    assert analysis.choice.method == "exact"


@pytest.mark.parametrize(
    "settings",
    [
        {"normalize": True},
        {"ridge": 0.01},
        {"relative_ridge": 0.1},
        {"confidence": 0.5},
        {"method": "lanczos"},
        {"method": "lanczos", "normalize": True, "confidence": 0.99},
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_settings_are_those_of_the_summary_and_of_the_drift(settings, dtype, tmp_path):
    old, new = matrix(300, 90, dtype=dtype), matrix(300, 90, dtype=dtype, seed=1, decay=0.8)
    files = [store(tmp_path / f"{k}.npy", x=rows) for k, rows in enumerate((old, new))]
    report = analyze_files(files, Settings(**settings))
    (drift,) = report.drifts
    for convention in CONVENTIONS:
        before, after = (
            spectral_summary(rows, center=convention == "centred", **settings)
            for rows in (old, new)
        )
        assert_same(report.analyses[0].summaries[convention], before, convention)
        assert_same(report.analyses[1].summaries[convention], after, convention)
        assert_same(drift.changes[convention], spectral_drift(before, after), convention)
    assert excludes_zero(drift.changes["centred"].effective_rank)


def test_every_later_file_is_compared_with_the_first_by_the_names_of_its_arrays(tmp_path):
    rows = {name: matrix(30, 6, seed=seed) for seed, name in enumerate("abcdef")}
    files = [
        store(tmp_path / "0.safetensors", x=rows["a"], y=rows["b"]),
        store(tmp_path / "1.pt", y=rows["c"], x=rows["d"]),
        store(tmp_path / "2.npz", x=rows["e"], y=rows["f"]),
    ]
    drifts = analyze_files(files).drifts
    pairs = [(d.before.label, d.after.label) for d in drifts]
    assert pairs == [(f"{files[0]}:{n}", f"{f}:{n}") for f in files[1:] for n in "xy"]
    for drift, (old, new) in zip(drifts, ("ad", "bc", "ae", "bf"), strict=True):
        before, after = (spectral_summary(rows[k], center=True) for k in (old, new))
        assert_same(drift.changes["centred"], spectral_drift(before, after), "centred")


def test_one_array_of_each_is_compared_whatever_its_name(tmp_path):
    path = store(tmp_path / "a.safetensors", x=matrix(9, 4), y=matrix(9, 4, seed=1))
    (drift,) = analyze_files([f"{path}:x", f"{path}:y"]).drifts
    assert (drift.before.name, drift.after.name) == ("x", "y")


def test_the_method_is_decided_once_on_the_first_file(tmp_path, monkeypatch):
    asked = []

    def choose(rows, *, sampling, **_):
        asked.append((rows.n, rows.m, rows.dtype, sampling))
        return Choice("lanczos", "decided here")

    monkeypatch.setattr("sigma_monitor.analysis.analyze.choose", choose)
    files = [store(tmp_path / f"{k}.npy", x=matrix(20, 5, 9, seed=k)) for k in range(3)]
    report = analyze_files(files)
    assert asked == [(100, 9, torch.float32, True)]
    assert [a.choice for a in report.analyses] == [Choice("lanczos", "decided here")] * 3
    assert {s.method for a in report.analyses for s in a.summaries.values()} == {"lanczos"}


def test_numbers_are_the_same_the_second_time(tmp_path):
    files = [store(tmp_path / f"{k}.npy", x=matrix(300, 90, seed=k)) for k in range(2)]

    def numbers(method):
        report = analyze_files(files, Settings(method=method)).to_dict()
        for array in report["arrays"]:
            del array["seconds"]
        return json.dumps(report)

    for method in ("exact", "lanczos"):
        assert numbers(method) == numbers(method)


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        ({"x": (9, 4)}, {"x": (9, 5)}, r"shape \(9, 4\) in the one and \(9, 5\)"),
        ({"x": (9, 4)}, {"x": (3, 3, 4)}, r"one and \(3, 3, 4\)"),
        ({"x": (9, 4), "y": (9, 4)}, {"x": (9, 4)}, r"only one of them has y\..*FILE:name"),
        ({"x": (9, 4), "y": (9, 4)}, {"x": (9, 4), "z": (9, 4)}, r"only one of them has y, z\."),
    ],
)
def test_files_that_do_not_compare_are_refused_before_anything_is_computed(
    first, second, said, tmp_path, monkeypatch
):
    def compute(*_):
        raise AssertionError("something was computed")

    monkeypatch.setattr("sigma_monitor.analysis.analyze._analysis", compute)
    files = [
        store(tmp_path / f"{k}.npz", **{name: matrix(*shape) for name, shape in arrays.items()})
        for k, arrays in enumerate((first, second))
    ]
    with pytest.raises(InputError, match=said) as refused:
        analyze_files(files)
    assert all(file in str(refused.value) for file in files)


def with_nan():
    rows = matrix(9, 4)
    rows[2, 1] = math.nan
    return rows


@pytest.mark.parametrize(
    ("rows", "settings", "said"),
    [
        (torch.full((9, 4), 0.1), {}, "all of its 9 rows are equal"),
        (torch.zeros(9, 4), {"method": "lanczos"}, "all of its 9 rows are equal"),
        (with_nan(), {}, "1 of 9 rows with NaN"),
        (matrix(9, 4, dtype=torch.float16), {"relative_ridge": 1e-9}, "below the floor"),
    ],
    ids=["constant", "zero", "nan", "ridge"],
)
def test_rows_without_a_spectrum_are_refused_by_the_name_of_their_file(
    rows, settings, said, tmp_path
):
    path = store(tmp_path / "a.safetensors", x=rows)
    with pytest.raises(InputError, match=said) as refused:
        analyze_files([path], Settings(**settings))
    assert str(refused.value).startswith(f"{path}:x: ")


@pytest.mark.parametrize("settings", [{"ridge": 0.0}, {"confidence": 1.0}, {"relative_ridge": -1}])
def test_bad_settings_are_refused_before_a_file_is_opened(settings):
    (name,) = settings
    with pytest.raises(InputError, match=f"^{name}="):
        analyze_files(["missing.npy"], Settings(**settings))


@pytest.mark.parametrize(
    ("change", "excluded"),
    [
        (Estimate(2.0, 1.0, 3.0, "sampling"), True),
        (Estimate(-2.0, -3.0, -1.0, "quadrature"), True),
        (Estimate(2.0, -1.0, 3.0, "sampling"), False),
        (Estimate(2.0, 0.0, 3.0, "sampling"), False),
        (Estimate(2.0, -math.inf, math.inf, "sampling"), False),
        (Estimate(math.nan, math.nan, math.nan, "quadrature"), False),
        (Estimate.exact(2.0), False),  # rounding alone would mark it
    ],
)
def test_a_change_is_marked_where_its_interval_excludes_zero(change, excluded):
    assert excludes_zero(change) is excluded


MEMORY = """
import sys, threading, time
import torch
torch.set_num_threads(1)
from sigma_monitor.analysis import analyze_files

def taken():  # not RssFile: pages of the mapped file, which the system takes back as it likes
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("RssAnon")) * 1024

def watch():
    while not done:
        most.append(taken())
        time.sleep(0.002)

small, *large = sys.argv[1:]
analyze_files([small])
before, most, done = taken(), [], []
thread = threading.Thread(target=watch)
thread.start()
for path in large:
    analyze_files([path])
done.append(True)
thread.join()
print(max(most) - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
@pytest.mark.parametrize(
    ("shape", "suffixes"),
    [
        pytest.param((200, 250_000), (".npy", ".safetensors", ".pt"), id="wide"),
        pytest.param((4_000, 100, 125), (".npy",), id="tall", marks=pytest.mark.long),
    ],
)
def test_a_file_is_never_in_memory_as_a_whole(shape, suffixes, tmp_path):
    rows = matrix(*shape[:-1], 125).repeat(*[1] * (len(shape) - 1), shape[-1] // 125)
    large = [store(tmp_path / f"a{suffix}", x=rows) for suffix in suffixes]
    size = rows.nbytes
    assert size == 200e6
    small = store(tmp_path / "small.npy", x=matrix(40, 12))
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, small, *large], capture_output=True, text=True, check=True
    )
    # Measured: 40 MB wide, 62 MB tall. A copy would take 200 MB, one in fp64 twice that.
    assert int(done.stdout) < size / 2
