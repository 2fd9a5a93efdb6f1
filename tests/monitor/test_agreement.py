"""Ranks whose devices differ, or fail alone, go on in step."""

from __future__ import annotations

import json

import pytest

from tests.monitor.agreement_ranks import STEPS, agree
from tests.processes import spawned


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("agreement")
    spawned(2, agree, folder)
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in (0, 1)]


def test_all_take_the_methods_that_are_cheaper_on_the_device_of_the_first(ranks):
    exact = dict.fromkeys(("centred", "uncentred", "pooled"), "exact")
    for found in ranks:
        assert found["methods"] == [exact] * STEPS


def test_a_rank_that_fails_to_warm_up_is_waited_for_and_does_not_do_so_again(ranks):
    for found in ranks:
        assert found["warm up"]["failures"] == 1
        assert found["warm up"]["checked"] == [1, 2]
        assert found["warm up"]["calls"].count(1) == 1
    first, second = (found["warm up"]["calls"] for found in ranks)
    assert first == second
