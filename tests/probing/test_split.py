"""One probe set over 2 and 4 ranks: the numbers of one, and a failure of one is one of all."""

from __future__ import annotations

import pytest
import torch

from sigma_monitor.probing.split import Share
from tests.probing.split_ranks import POOLINGS, plain_report, work
from tests.processes import spawned

# fp32, values near 1, reduced in another order.
ROUNDING = {"rtol": 0, "atol": 1e-6, "equal_nan": True}
EXACTLY = {"rtol": 0, "atol": 0, "equal_nan": True}


@pytest.fixture(scope="module")
def alone():
    """What one process reads."""
    return plain_report()


@pytest.fixture(
    scope="module",
    params=[2, pytest.param(4, marks=pytest.mark.long)],
    ids=lambda world: f"{world} ranks",
)
def ranks(request, tmp_path_factory):
    """What every rank reads."""
    folder = tmp_path_factory.mktemp("ranks")
    spawned(request.param, work, folder)
    # Of this test, and it holds tuples.
    paths = [folder / f"rank{rank}.pt" for rank in range(request.param)]
    return [torch.load(path, weights_only=False) for path in paths]


def assert_same(found, expected, tolerance):
    assert found["layers"].keys() == expected["layers"].keys()
    for name, rows in expected["layers"].items():
        for one, other in zip(found["layers"][name], rows, strict=True):
            if other is None:
                assert one is None
            else:
                torch.testing.assert_close(one, other, **tolerance)
    assert found["finite"] == expected["finite"]
    for one, other in zip(found["losses"] or (), expected["losses"] or (), strict=True):
        torch.testing.assert_close(torch.tensor(one), torch.tensor(other), **tolerance)


def test_micro_batches_of_32_give_the_same_bits_on_any_number_of_ranks(ranks, alone):
    """Two layers, token rows of unequal examples, held-out loss."""
    assert alone["whole"]["losses"] is not None
    for rank in ranks:
        assert_same(rank["whole"], alone["whole"], EXACTLY)
        assert rank["whole"]["sizes"] == [32] * (4 // len(ranks))


def test_models_that_draw_in_evaluation_mode_draw_the_same_too(ranks, alone):
    for rank in ranks:
        assert_same(rank["draws"], alone["draws"], EXACTLY)
    batches = alone["draws"]["layers"]["last"][0]
    assert not torch.equal(batches, alone["whole"]["layers"]["last"][0])


@pytest.mark.parametrize("pooling", POOLINGS)
def test_smaller_micro_batches_give_the_same_numbers_up_to_rounding(ranks, alone, pooling):
    for rank in ranks:
        assert_same(rank[f"unequal {pooling}"], alone[f"unequal {pooling}"], ROUNDING)
        assert_same(rank[f"unequal {pooling}"], ranks[0][f"unequal {pooling}"], EXACTLY)
        assert len(rank[f"unequal {pooling}"]["sizes"]) == 1


def test_fewer_examples_than_ranks_leave_nobody_without_a_forward_pass(ranks, alone):
    for rank in ranks:
        assert_same(rank["few"], alone["few"], ROUNDING)
        assert_same(rank["sharded few"], alone["few"], ROUNDING)
        assert len(rank["few"]["sizes"]) == len(rank["sharded few"]["sizes"]) == 1


def test_rows_of_nan_on_one_rank_are_rows_of_all(ranks, alone):
    assert alone["nan"]["finite"] == 0
    for rank in ranks:
        assert rank["nan"]["finite"] == 1 - 1 / len(ranks)
        assert_same(rank["nan"], ranks[0]["nan"], EXACTLY)


def test_a_failure_of_one_rank_is_told_to_all_with_its_number_and_cause(ranks):
    last = len(ranks) - 1
    for number, rank in enumerate(ranks):
        assert rank["raises"]["error"] == f"on rank {last}: RuntimeError: cannot embed this time"
        assert rank["raises"]["cause"] == ("RuntimeError" if number == last else "NoneType")
        assert rank["no layer"]["error"].startswith("on rank 0: InputError: layers='nowhere'")
        assert "on rank 0: ProbeError: one probe example alone" in rank["no memory"]["error"]


def test_where_one_rank_has_no_memory_all_take_smaller_micro_batches(ranks, alone):
    for rank in ranks:
        assert_same(rank["memory"], alone["memory"], ROUNDING)
        assert rank["memory"]["sizes"][-1] == 8
        assert rank["memory"]["sizes"].count(8) == 16 // len(ranks)


def test_ranks_of_other_weights_or_probes_read_for_themselves(ranks, alone):
    """As tensor parallelism would have it; what is in those weights nobody knows."""
    for rank in ranks:
        assert_same(
            {**rank["diverged"], "losses": None}, {**alone["diverged"], "losses": None}, EXACTLY
        )
        assert rank["diverged"]["sizes"] == rank["other probes"]["sizes"] == [32, 18]
    assert_same(ranks[0]["other probes"], alone["other probes"], EXACTLY)


def test_ranks_of_other_running_statistics_read_for_themselves(ranks, alone):
    for number, rank in enumerate(ranks):
        assert rank["other statistics"]["sizes"] == [32, 18]
        embeddings = rank["other statistics"]["layers"]["last"][0]
        expected = alone["other statistics"]["layers"]["last"][0] + number
        torch.testing.assert_close(embeddings, expected, **EXACTLY)


def test_a_model_with_sparse_buffers_is_split_too(ranks, alone):
    for rank in ranks:
        assert_same(rank["sparse"], alone["sparse"], EXACTLY)
        assert rank["sparse"]["sizes"] == [32] * (4 // len(ranks))


def test_a_sharded_model_gives_the_same_numbers(ranks, alone):
    one_layer = {"last": alone["whole"]["layers"]["last"]}
    for rank in ranks:
        for name in ("sharded", "sharded again"):
            assert_same(rank[name], {**alone["whole"], "layers": one_layer}, ROUNDING)
            assert rank[name]["sizes"] == [32] * (4 // len(ranks))


def test_on_a_sharded_model_a_failure_beside_the_forward_pass_hangs_nobody(ranks):
    last = len(ranks) - 1
    for rank in ranks:
        assert rank["sharded before"]["error"] == f"on rank {last}: RuntimeError: no inputs"
        assert rank["sharded after"]["error"].startswith(f"on rank {last}: ProbeError: layer embed")
        assert_same(rank["sharded memory"], ranks[0]["sharded memory"], EXACTLY)
        assert "different probe sets" in rank["sharded other probes"]["error"]
        assert torch.equal(rank["trains"], ranks[0]["trains"])


def test_after_a_failure_the_ranks_are_in_step_again(ranks):
    for rank in ranks:
        assert_same(rank["whole again"], ranks[0]["whole"], EXACTLY)


@pytest.mark.parametrize("examples", [1, 3, 32, 50, 100, 128, 1000])
@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 7, 64])
def test_every_micro_batch_is_dealt_once_and_all_ranks_have_as_many(examples, ranks):
    shares = [Share.of(examples, 32, rank=rank, ranks=ranks) for rank in range(ranks)]
    dealt = [number for turn in zip(*(s.own for s in shares), strict=True) for number in turn]
    size, total = shares[0].size, shares[0].total
    assert dealt[:total] == list(range(total))
    assert len(dealt) < total + ranks
    assert size <= 32
    assert (total - 1) * size < examples <= total * size
