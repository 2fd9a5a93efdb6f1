"""A folder of runs on one page."""

import json

import pytest

from sigma_monitor import Status
from sigma_monitor.errors import InputError
from sigma_monitor.report import write_report
from sigma_monitor.report.page import MOST_BYTES
from tests.report.records import collapsing, written
from tests.report.test_page import Page, assert_safe


def test_runs_are_compared_the_worst_first(tmp_path):
    written(tmp_path / "runs" / "a" / "sigma" / "record.jsonl", range(0, 100, 10))
    collapsing(tmp_path / "runs" / "b" / "sigma" / "record.jsonl")
    written(tmp_path / "runs" / "deep" / "c" / "record.jsonl", (0, 10), status=Status.WARNING)
    made = write_report(tmp_path / "runs", tmp_path / "report.html")
    page = Page(made.path)
    assert_safe(page)
    assert made.data["headline"] == "3 runs: 1 COLLAPSED, 1 WARNING, 1 HEALTHY."
    assert [run["name"] for run in made.data["runs"]] == ["b", "deep/c", "a"]
    assert made.data["runs"][0]["first_alert"]["kind"] == "WARNING"
    assert made.data["runs"][0]["alerts"] == 2
    assert "values compare too" in page.text
    assert {"run-1", "run-2", "run-3"} <= set(page.ids)
    json.dumps(made.to_dict(), allow_nan=False)


def test_one_record_below_a_folder_has_its_own_page(tmp_path):
    collapsing(tmp_path / "runs" / "a" / "sigma" / "record.jsonl")
    made = write_report(tmp_path / "runs", tmp_path / "report.html")
    assert made.data["title"] == "a"
    assert "figures" in made.data


def test_a_run_that_cannot_be_read_is_named_and_the_others_are_shown(tmp_path):
    written(tmp_path / "a" / "record.jsonl", (0, 10))
    written(tmp_path / "b" / "record.jsonl", (0, 10), fingerprint="another")
    (tmp_path / "<i>").mkdir()
    (tmp_path / "<i>" / "record.jsonl").write_text('{"type": "check", "schema": 99}\n')
    made = write_report(tmp_path, tmp_path / "report.html")
    page = Page(made.path)
    assert_safe(page)
    assert list(made.data["refused"]) == ["<i>"]
    assert "schema 99" in page.text
    assert "2 different fingerprints" in page.text


def test_a_folder_without_a_readable_record_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"no record\.jsonl is in it"):
        write_report(tmp_path, tmp_path / "report.html")
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "record.jsonl").write_text("{")
    with pytest.raises(InputError, match="none of its 2 records can be read"):
        write_report(tmp_path, tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_many_runs_fit_on_a_page(tmp_path):
    for number in range(205):
        written(tmp_path / f"{number:03}" / "record.jsonl", (0, 10, 20))
    made = write_report(tmp_path, tmp_path / "report.html")
    page = Page(made.path)
    assert_safe(page)
    assert made.bytes < MOST_BYTES
    assert len(made.data["runs"]) == 200
    assert made.data["unshown"] == 5
    assert "5 more records are below that folder" in page.text
