"""Several processes, each with its own rows: the pooled stream is that of all rows."""

import functools

import pytest
import torch
import torch.distributed as dist

from sigma_monitor.errors import InputError
from sigma_monitor.spectrum import gram as gram_module
from sigma_monitor.spectrum.exact import decompose
from sigma_monitor.spectrum.stream import GramStream
from tests.processes import spawned
from tests.spectrum.matrices import EPS, gaussian
from tests.spectrum.test_stream import assert_same, product_error

N, M = 40, 5
SHARDS = {2: [33, 7], 4: [17, 0, 1, 22]}  # rows of each rank
OFFSET = 2.0**20


def rows_of(case):
    """All rows of a case, on every rank the same; sums with the offset are exact."""
    spread = torch.round(gaussian(N, M) * 2**20) * 2.0**-20
    return {"plain": spread + 0.5, "normalized": spread + 0.5, "huge mean": spread + OFFSET}[case]


CASES = ["plain", "normalized", "huge mean"]


def told(stream):
    """Whatever a stream says, to be compared between ranks."""
    return {
        "n": stream.n,
        "dtype": str(stream.dtype),
        "bytes": stream.bytes_communicated,
        "mean_cosine": stream.mean_cosine(),
        "centred": stream.product(center=True),
        "raw": stream.product(center=False),
    }


def message(call):
    try:
        call()
    except InputError as error:
        return str(error)
    return None


def pooled(chunks, m=M, *, group=None, **arguments):
    stream = GramStream(m, **arguments)
    for chunk in chunks:
        stream.update(chunk)
    stream.all_reduce(group)
    return stream


def one_type(rank, rows):
    """Rank 0 in fp32, the last in bf16: what they hold differs, what they say must not."""
    last = rank == dist.get_world_size() - 1
    return rows.to(torch.bfloat16 if last else torch.float32)


def report(rank):
    world = dist.get_world_size()
    results = {}
    for case in CASES:
        own = rows_of(case).split(SHARDS[world])[rank]
        results[case] = told(pooled(own.split(4), normalize=case == "normalized"))
    one_rank = rows_of("plain") if rank == world - 1 else rows_of("plain")[:0]
    results["all on one rank"] = told(pooled([one_rank]))
    shard = rows_of("plain").split(SHARDS[world])[rank]
    results["two types"] = told(pooled([one_type(rank, shard)]))
    empty = pooled([])
    results["nobody has rows"] = message(lambda: decompose(empty, center=False))
    results["widths"] = message(lambda: pooled([], m=M + rank))
    results["normalize"] = message(lambda: pooled([], normalize=rank == 0))
    huge = torch.full((1, M), 1e153, dtype=torch.float64) * 5.5  # alone it just fits
    results["overflow"] = message(lambda: pooled([huge]))
    results["after"] = message(lambda: empty.update(one_rank))
    results["again"] = message(empty.all_reduce)
    pair = dist.new_group([0, 1])
    call = functools.partial(pooled, [rows_of("plain")[rank : rank + 1]], group=pair)
    results["a group"] = told(call()) if rank < 2 else message(call)
    return results


def work(rank, world, folder):
    gram_module._BLOCK_WIDTH = 2  # several blocks: what is above the diagonal is not summed
    torch.save(report(rank), folder / f"rank{rank}.pt")


@pytest.fixture(
    scope="module",
    params=[2, pytest.param(4, marks=pytest.mark.long)],
    ids=lambda world: f"{world} ranks",
)
def ranks(request, tmp_path_factory):
    """What every rank reports."""
    folder = tmp_path_factory.mktemp("ranks")
    spawned(request.param, work, folder)
    return [torch.load(folder / f"rank{rank}.pt") for rank in range(request.param)]


class Pooled:
    """A report in the place of the stream that made it."""

    def __init__(self, report, *, normalize=False):
        self.report, self.normalize = report, normalize
        self.n, self.m, self.on_features = report["n"], M, True

    def product(self, *, center):
        return self.report["centred" if center else "raw"]

    def mean_cosine(self):
        return self.report["mean_cosine"]


@pytest.mark.parametrize("case", ["plain", "normalized", "all on one rank"])
def test_sharded_rows_are_the_unsharded_ones(ranks, case):
    normalize = case == "normalized"
    stream = Pooled(ranks[0][case], normalize=normalize)
    assert_same(stream, rows_of("plain"), normalize=normalize)


def test_a_huge_mean_costs_the_pooled_product_no_digits(ranks):
    spread = rows_of("huge mean") - OFFSET  # exact
    expected = spread - spread.mean(0)
    # The common mean is good to a few eps of itself, and enters every product squared.
    tolerance = product_error(spread) + N * (4 * EPS * OFFSET) ** 2
    found = ranks[0]["huge mean"]["centred"]
    torch.testing.assert_close(found, expected.T @ expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("case", [*CASES, "all on one rank", "two types"])
def test_all_ranks_end_with_the_same_bits(ranks, case):
    for other in ranks[1:]:
        for name, value in ranks[0][case].items():
            same = torch.equal if isinstance(value, torch.Tensor) else lambda a, b: a == b
            assert same(other[case][name], value), name


def test_the_least_precise_type_is_that_of_all_ranks(ranks):
    assert {report["two types"]["dtype"] for report in ranks} == {"torch.bfloat16"}
    assert {report["plain"]["dtype"] for report in ranks} == {"torch.float64"}


def test_bytes_communicated_are_those_of_the_products_and_a_little(ranks):
    # Product, two sums of rows, and ten numbers that the ranks must agree on.
    expected = 8 * (M * M + 2 * M + 10)
    assert {report[case]["bytes"] for report in ranks for case in CASES} == {expected}


def test_a_group_pools_its_members_alone(ranks):
    for report in ranks[:2]:
        assert_same(Pooled(report["a group"]), rows_of("plain")[:2])
    for report in ranks[2:]:
        assert "not in the group" in report["a group"]


REFUSALS = {
    "nobody has rows": ["0 rows on all ranks", "update()"],
    "widths": ["features", "same layer"],
    "normalize": ["1 of", "normalize=True"],
    "overflow": ["all rows sum to inf", "overflow", "Divide"],
    "after": ["update() after all_reduce()", "GramStream"],
    "again": ["all_reduce() was called before", "GramStream"],
}


@pytest.mark.parametrize(("case", "words"), REFUSALS.items(), ids=REFUSALS.keys())
def test_all_ranks_refuse_what_any_of_them_must(ranks, case, words):
    for report in ranks:
        assert [word for word in words if word not in report[case]] == []
