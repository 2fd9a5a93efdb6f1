"""The page of a chain of generations."""

import copy
import json

import pytest

from sigma_monitor.errors import InputError
from sigma_monitor.report import write_report
from tests.report.records import ATTRIBUTE, SCRIPT
from tests.report.test_page import Page, assert_safe


def estimate(value, share=0.05):
    return {
        "value": value,
        "low": value * (1 - share),
        "high": value * (1 + share),
        "kind": "sampling",
    }


def generation(number, ratio, source):
    return {
        "generation": number,
        "source": source,
        "centred": {"effective_rank": estimate(80 * ratio)},
        "uncentred": {"effective_rank": estimate(70 * ratio)},
        "within_prompt": None,
        "between_prompt": None,
        "within_share": None,
        "diversity": {"distinct_1": 0.2, "distinct_2": 0.7 * ratio, "repeated_4gram_share": 0.1},
        "spectrum": [0.5 * 0.7**k for k in range(30)],
        "tracks": None,
        "track_drift": None,
    }


def verdict(number, ratio):
    status = "COLLAPSED" if ratio <= 0.5 else "WARNING" if ratio <= 0.8 else "HEALTHY"
    return {
        "generation": number,
        "status": status,
        "reference": "control",
        "ratios": {"effective_rank": estimate(ratio), "distinct_2": estimate(ratio**0.5)},
        "changes": {"log_det_per_dim": estimate(-0.1)},
        "subspace_drift": 0.1 * number,
        "findings": [{"measure": "effective_rank", "side": "contraction", "status": status}],
        "text": f"Effective rank is at {ratio:.0%} of the control.",
    }


RATIOS = (1.0, 0.9, 0.7, 0.45)
CHAIN = {
    "schema": 1,
    "kind": "lineage",
    "encoder": "hashing-256",
    "features": 256,
    "documents": 5000,
    "sampled": 2000,
    "seed": 0,
    "preset": None,
    "confidence": 0.95,
    "limits": {"warning": 0.8, "collapsed": 0.5},
    "reference": "control",
    "status": "COLLAPSED",
    "notes": ["a note"],
    "generations": [generation(n, ratio, f"gen{n}.jsonl") for n, ratio in enumerate(RATIOS)],
    "controls": [generation(n, 1.0, f"real{n}.jsonl") for n in range(len(RATIOS))],
    "verdicts": [verdict(n, ratio) for n, ratio in enumerate(RATIOS)],
}


@pytest.fixture
def report(tmp_path):
    def make(body):
        path = tmp_path / "chain.json"
        path.write_text(body if isinstance(body, str) else json.dumps(body, indent=2))
        made = write_report(path, tmp_path / "report.html")
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
    assert "a note" in page.text


def test_several_of_one_status_are_counted(report):
    verdicts = [verdict(n, ratio) | {"text": ""} for n, ratio in enumerate((1.0, 0.7, 0.7))]
    made, _ = report({**CHAIN, "verdicts": verdicts})
    assert made.data["headline"] == "Generation 1 is WARNING. It is the first of 2 that are."


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


def test_what_came_from_the_file_is_text(report):
    def spoilt(value):
        if isinstance(value, dict):
            return {
                name: value[name]
                if name in ("schema", "kind", "generation")
                else spoilt(value[name])
                for name in value
            }
        if isinstance(value, list):
            return [spoilt(x) for x in value]
        return SCRIPT + ATTRIBUTE + "\u202e\x00" if isinstance(value, str) else value

    made, page = report(spoilt(CHAIN))
    assert_safe(page)
    assert SCRIPT in page.text
    json.dumps(made.to_dict(), allow_nan=False)


ODD = [None, "x", float("nan"), float("inf"), -1, 0, 1e308, [], {}, True, [[1]], {"value": {}}]


def test_values_of_any_kind_make_a_page(report):
    body = copy.deepcopy(CHAIN)
    for part, make in (("generations", generation(0, 1, None)), ("verdicts", verdict(0, 1))):
        rows = []
        for number, value in enumerate(ODD):
            row = dict.fromkeys(make, value) | {"generation": number}
            rows.append(row)
            inner = {name: dict.fromkeys(x, value) for name, x in make.items() if type(x) is dict}
            rows.append({**make, **inner, "generation": value})
        body[part] = rows
    body |= {"limits": {"warning": "x", "collapsed": []}, "notes": [1, None], "encoder": ODD}
    made, page = report(body)
    assert_safe(page)
    json.dumps(made.to_dict(), allow_nan=False)


def test_another_schema_or_no_generation_is_refused(report):
    with pytest.raises(InputError, match="schema 2 of a chain"):
        report({**CHAIN, "schema": 2})
    for name in ("generations", "verdicts"):
        with pytest.raises(InputError, match="holds no generation"):
            report({**CHAIN, name: []})
    with pytest.raises(InputError):
        report(json.dumps({**CHAIN, "kind": "another"}))
