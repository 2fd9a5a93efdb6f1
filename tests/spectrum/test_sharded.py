"""Rows spread over processes: one spectrum, the same on every rank."""

import functools

import pytest
import torch

from sigma_monitor.errors import InputError, ZeroTraceError
from sigma_monitor.spectrum import gram as gram_module
from sigma_monitor.spectrum import spectral_summary
from sigma_monitor.spectrum.result import FUNCTIONALS
from sigma_monitor.spectrum.sharded import sharded_summary
from tests.processes import spawned
from tests.spectrum.matrices import gaussian, rows_with

N, M = 160, 120  # above 64 features: test vectors are random
SHARDS = {2: [129, 31], 4: [70, 0, 1, 89]}  # rows of each rank
CASES = {
    "raw": {},
    "centred": {"center": True},
    "normalized": {"normalize": True},
    "both": {"center": True, "normalize": True},
}


def all_rows():
    return rows_with(torch.arange(1, M + 1) ** -0.7, N, M) + gaussian(1, M, seed=3) / 20


def own(rows, rank, ranks):
    start = sum(SHARDS[ranks][:rank])
    return rows[start : start + SHARDS[ranks][rank]]


def told(summary):
    estimates = {name: getattr(summary, name) for name in FUNCTIONALS}
    return {
        "estimates": estimates,
        "n": summary.n,
        "method": summary.method,
        "matvecs": summary.matvecs,
        "bytes": summary.bytes_communicated,
        "reason": summary.reason,
    }


def message(call):
    try:
        call()
    except InputError as error:
        return f"{type(error).__name__}: {error}"
    return None


def results(rank, ranks):
    rows = own(all_rows(), rank, ranks)
    found = {
        (method, case): told(sharded_summary(rows, method=method, **arguments))
        for method in ("exact", "lanczos")
        for case, arguments in CASES.items()
    }
    found["auto"] = told(sharded_summary(rows))
    found["fp32"] = told(sharded_summary(rows.float(), method="lanczos"))
    last = rank == ranks - 1
    bad = rows.clone()
    if last:
        bad[0, 0] = torch.nan
    refused = {
        "nan": lambda method: sharded_summary(bad, method=method),
        "type": lambda method: sharded_summary(rows.float() if last else rows, method="lanczos"),
        "width": lambda method: sharded_summary(rows[:, : M - last], method=method),
        "nothing": lambda method: sharded_summary(rows[:0], method=method),
        "zero": lambda method: sharded_summary(rows * 0 + 1, method=method, center=True),
    }
    for method in ("exact", "lanczos"):
        for name, call in refused.items():
            found[f"{method} {name}"] = message(functools.partial(call, method))
    return found


def work(rank, ranks, folder):
    gram_module._BLOCK_WIDTH = 2  # several blocks: what is above the diagonal is not summed
    torch.save(results(rank, ranks), folder / f"{rank}.pt")


@pytest.fixture(
    scope="module",
    params=[2, pytest.param(4, marks=pytest.mark.long)],
    ids=lambda ranks: f"{ranks} ranks",
)
def by_rank(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    spawned(request.param, work, folder)
    return [torch.load(folder / f"{k}.pt", weights_only=False) for k in range(request.param)]


def test_every_rank_says_the_same_to_the_bit(by_rank):
    for other in by_rank[1:]:
        for key, value in by_rank[0].items():
            if isinstance(value, dict):
                assert other[key] == value, key


@pytest.mark.parametrize("case", CASES)
def test_sharded_is_unsharded(by_rank, case):
    """Exact to rounding; randomised on the m features both times, with the same test vectors."""
    for method in ("exact", "lanczos"):
        whole = spectral_summary(all_rows(), method=method, sampling=False, **CASES[case])
        found = by_rank[0][method, case]
        assert (found["n"], found["method"], found["matvecs"]) == (N, method, whole.matvecs)
        for name in FUNCTIONALS:
            estimate, expected = found["estimates"][name], getattr(whole, name)
            assert estimate.kind == expected.kind
            for part in ("value", "low", "high"):
                # The rounding of fp64 products grows along the recursions, and most where the
                # smallest Ritz values decide.
                rel = 1e-5 if name == "decay_exponent" else 1e-7
                assert getattr(estimate, part) == pytest.approx(
                    getattr(expected, part), rel=rel, abs=1e-10
                ), (name, part)


def test_rows_in_fp32_stay_within_the_interval(by_rank):
    exact = spectral_summary(all_rows(), method="exact", sampling=False)
    for name in ("log_det", "effective_rank", "spectral_entropy", "lambda_max"):
        estimate = by_rank[0]["fp32"]["estimates"][name]
        assert estimate.low <= getattr(exact, name).value <= estimate.high


def test_bytes_are_reported(by_rank):
    exact = by_rank[0]["exact", "raw"]["bytes"]
    assert 8 * M * M < exact < 8 * M * (M + 10)
    randomised = by_rank[0]["lanczos", "raw"]
    vectors = randomised["bytes"] / (8 * M)
    leading = 32  # vectors that all take from the first rank
    assert randomised["matvecs"] + leading <= vectors <= randomised["matvecs"] + leading + 4


def test_auto_says_why(by_rank):
    assert by_rank[0]["auto"]["method"] == "exact"
    assert str(M) in by_rank[0]["auto"]["reason"]


@pytest.mark.parametrize("method", ["exact", "lanczos"])
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nan", "NaN"),
        ("type", "float32"),
        ("width", str(M - 1)),
        ("nothing", "rows"),
        ("zero", "all rows are equal"),
    ],
)
def test_what_one_rank_cannot_use_is_refused_on_all(by_rank, method, name, words):
    for found in by_rank:
        assert words in found[f"{method} {name}"]


def test_without_processes_it_is_the_summary_of_the_rows():
    rows = all_rows()
    for method in ("exact", "lanczos"):
        alone = sharded_summary(rows, method=method)
        whole = spectral_summary(rows, method=method, sampling=False)
        assert alone.bytes_communicated == 0
        assert alone.log_det.value == pytest.approx(whole.log_det.value, rel=1e-12)
    with pytest.raises(ZeroTraceError):
        sharded_summary(rows * 0, method="lanczos")
