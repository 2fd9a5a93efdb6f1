"""The page of a chain of generations."""

import copy
import json
import os
import re
import threading
import tracemalloc

import pytest

from sigma_monitor.errors import InputError
from sigma_monitor.report import write_report
from sigma_monitor.report.chain_file import PIECE, read_chain
from tests.report.chains import CHAIN, chain_of, hostile_chain, verdict, written_chain
from tests.report.records import SCRIPT, collapsing
from tests.report.test_page import Page, assert_safe


@pytest.fixture
def report(tmp_path):
    def make(body):
        made = write_report(written_chain(tmp_path / "chain.json", body), tmp_path / "report.html")
        return made, Page(made.path)

    return make


def test_the_first_generation_of_the_worst_status_is_told(report):
    made, page = report(CHAIN)
    assert_safe(page)
    assert made.data["headline"] == "Effective rank is at 45% of the control."
    assert made.data["status"] == "COLLAPSED"
    statuses = [row["status"] for row in made.data["generations"]]
    assert statuses == ["HEALTHY", "HEALTHY", "WARNING", "COLLAPSED"]
    assert made.data["generations"][2]["ratios"][0] == "70% [66%, 74%]"
    assert {"ratio", "values", "spectrum", "verdicts"} <= set(page.ids)
    assert "Each generation against the control" in page.text
    assert "Effective rank is at 70% of the control." in page.text
    assert "Effective rank is at 90% of the control." not in page.text  # it is healthy
    assert "a note" in page.text


def test_several_of_one_status_are_counted(report):
    verdicts = [verdict(n, ratio) | {"text": ""} for n, ratio in enumerate((1.0, 0.7, 0.7))]
    made, _ = report({**CHAIN, "verdicts": verdicts})
    assert made.data["headline"] == "Generation 1 is WARNING. It is the first of 2 that are."


def test_the_interval_of_a_huge_ratio_stands_beside_it(report):
    made, _ = report(chain_of((1.0, 2e16)))
    html = made.path.read_text(encoding="utf-8")
    assert re.search(r'times <span class="note">\[[^\[]+ times, [^\[]+ times\]</span>', html)


def test_a_quiet_chain_without_a_control(report):
    body = copy.deepcopy(CHAIN)
    body |= {
        "controls": [],
        "reference": "generation 0",
        "verdicts": [verdict(0, 1), verdict(1, 1)],
    }
    made, page = report(body)
    assert_safe(page)
    assert made.data["headline"] == "All 2 generations are near generation 0."
    assert "Each generation against generation 0" in page.text


def with_rank(body, number, low, high):
    """The chain with another interval of the effective rank of one generation."""
    changed = copy.deepcopy(body)
    changed["verdicts"][number]["ratios"]["effective_rank"] |= {"low": low, "high": high}
    return changed


def test_an_interval_without_bounds_is_shown_without_bounds(report):
    made, page = report(with_rank(CHAIN, 2, 0, "inf"))
    assert made.data["generations"][2]["ratios"][0] == "70% [0.0%, ∞]"
    assert "0.0% to ∞" in page.text
    assert "effective rank: begins" in page.text
    assert page.text.count("Some of its intervals have no bound.") == 1


@pytest.mark.parametrize("end", [None, "nan", "x", [1]])
def test_an_end_that_is_missing_is_the_value(report, end):
    made, _ = report(with_rank(CHAIN, 2, end, 0.75))
    assert made.data["generations"][2]["ratios"][0] == "70% [70%, 75%]"


def test_a_generation_without_a_reading_is_a_gap(report):
    body = copy.deepcopy(CHAIN)
    body["verdicts"][1]["ratios"]["effective_rank"]["value"] = "nan"
    made, page = report(body)
    assert made.data["generations"][1]["ratios"][0] == "–"
    assert "Readings that were not finite: 1 or more." in page.text
    assert page.text.count("A cross is a reading that was not finite.") == 1


@pytest.mark.parametrize("status", [None, "healthy", "FINE", 1, [], SCRIPT])
def test_a_status_that_is_none_is_refused_by_its_generation(tmp_path, status):
    body = copy.deepcopy(CHAIN)
    body["verdicts"][2]["status"] = status
    path = written_chain(tmp_path / "chain.json", body)
    with pytest.raises(InputError, match=r"verdict 3, generation 2: status .* is none of WARMUP"):
        read_chain(path)
    body["verdicts"][2] = "COLLAPSED"
    written_chain(path, body)
    with pytest.raises(InputError, match=r"verdict 3: it is no object .* Pass the whole output"):
        read_chain(path)


def test_a_long_chain_is_counted_whole_and_its_table_says_what_it_leaves_out(report):
    ratios = [1.0] * 1200
    ratios[600] = 0.7
    ratios[1199] = 0.3
    made, page = report(chain_of(tuple(ratios)))
    assert_safe(page)
    assert made.data["headline"] == "Effective rank is at 30% of the control."
    assert made.data["unlisted"] == 700
    assert "700 generations between" in page.text
    shown = [row["generation"] for row in made.data["generations"]]
    assert (len(shown), shown[0], shown[-1]) == (500, "0", "1,199")
    assert "ends at 30% at generation 1,199" in page.text
    made, _ = report(chain_of((1.0,) * 1200))
    assert made.data["headline"] == "All 1,200 generations are near the control."


def test_what_came_from_the_file_is_text(report):
    made, page = report(hostile_chain())
    assert_safe(page)
    assert SCRIPT in page.text
    for character in "\x00\u202e":
        assert character not in page.text
    assert max(len(row["generation"]) for row in made.data["generations"]) < 20
    assert max(len(ratio) for row in made.data["generations"] for ratio in row["ratios"]) < 60
    json.dumps(made.to_dict(), allow_nan=False)


def test_another_schema_or_no_generation_is_refused(report):
    with pytest.raises(InputError, match="schema 2 of a chain"):
        report({**CHAIN, "schema": 2})
    for name in ("generations", "verdicts"):
        with pytest.raises(InputError, match="holds no generation"):
            report({**CHAIN, name: []})
    with pytest.raises(InputError):
        report({**CHAIN, "kind": "another"})


@pytest.mark.parametrize("indent", [None, 0, 2, "\t"])
@pytest.mark.parametrize("length", [4, 600])
def test_a_chain_is_known_however_it_was_printed(tmp_path, indent, length):
    body = chain_of((1.0,) * length)
    path = written_chain(tmp_path / "chain.json", body, indent)
    assert (path.stat().st_size > PIECE) == (length == 600)
    assert read_chain(path) == body
    path.write_text(f"\n {path.read_text()}", encoding="utf-16")  # as PowerShell redirects
    assert read_chain(path) == body


@pytest.mark.parametrize("torn", [b"", b'{"ty\n', b"\n\n", b'{"type": "che\n', b"x"])
def test_a_record_is_told_from_a_chain_by_its_first_piece(tmp_path, torn):
    path = collapsing(tmp_path / "record.jsonl")
    path.write_bytes(torn + path.read_bytes())
    os.truncate(path, 200_000_000)  # of which the system stores nothing
    tracemalloc.start()
    try:
        assert read_chain(path) is None
        assert tracemalloc.get_traced_memory()[1] < 10 * PIECE
    finally:
        tracemalloc.stop()


def test_a_chain_may_come_through_a_pipe_and_a_record_may_not(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)

    def through(content):
        writer = threading.Thread(target=pipe.write_bytes, args=(content,))
        writer.start()
        try:
            return write_report(pipe, tmp_path / "report.html")
        finally:
            writer.join()

    assert through(json.dumps(CHAIN).encode()).data["status"] == "COLLAPSED"
    with pytest.raises(InputError, match="Write what comes to a file first"):
        through(b'{"type": "event"}\n')
