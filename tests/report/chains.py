"""Outputs of `sigma-monitor chain --json` to make pages of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.report.records import ATTRIBUTE, SCRIPT

__all__ = ["CHAIN", "ODD", "chain_of", "estimate", "hostile_chain", "verdict", "written_chain"]


def estimate(value: float, share: float = 0.05) -> dict[str, Any]:
    return {
        "value": value,
        "low": value * (1 - share),
        "high": value * (1 + share),
        "kind": "sampling",
    }


def generation(number: int, ratio: float, source: str | None) -> dict[str, Any]:
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


def verdict(number: int, ratio: float) -> dict[str, Any]:
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


def chain_of(ratios: tuple[float, ...]) -> dict[str, Any]:
    """A chain beside a control whose rank stays, by the effective rank of its generations."""
    verdicts = [verdict(n, ratio) for n, ratio in enumerate(ratios)]
    statuses = {found["status"] for found in verdicts}
    order = ("COLLAPSED", "WARNING", "HEALTHY")
    return {
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
        "status": next(status for status in order if status in statuses),
        "notes": ["a note"],
        "generations": [generation(n, ratio, f"gen{n}.jsonl") for n, ratio in enumerate(ratios)],
        "controls": [generation(n, 1.0, f"real{n}.jsonl") for n in range(len(ratios))],
        "verdicts": verdicts,
    }


CHAIN = chain_of((1.0, 0.9, 0.7, 0.45))
ODD: list[Any] = [
    *(None, "x", float("nan"), float("inf"), -1, 0, 1e308, 10**400, [], {}, True, [[1]]),
    *({"value": {}}, {"value": 1, "low": "-inf", "high": "inf"}, f"{SCRIPT}{ATTRIBUTE}\u202e\x00"),
]


def hostile_chain() -> dict[str, Any]:
    """A chain in which everything but the statuses is of a kind that it should not be."""
    bad = f"{SCRIPT}{ATTRIBUTE}\u202e\x00 ]]> --> 日本 🙂"
    body = chain_of((1.0, 0.9, 0.7, 0.45))
    for part, make in (("generations", generation(0, 1, bad)), ("verdicts", verdict(0, 1))):
        rows = body[part]
        status = {"status": "HEALTHY"} if part == "verdicts" else {}
        for number, value in enumerate(ODD, start=len(rows)):
            rows.append(dict.fromkeys(make, value) | {"generation": number} | status)
            inner = {name: dict.fromkeys(x, value) for name, x in make.items() if type(x) is dict}
            rows.append({**make, **inner, "generation": value})
    body["verdicts"][3]["text"] = bad
    settings = {"encoder": bad, "sampled": ODD, "seed": {bad: bad}, bad: bad}
    return body | settings | {"reference": bad, "notes": [bad, 1, None], "limits": {"warning": bad}}


def written_chain(path: Path, body: Any, indent: int | None = 2) -> Path:
    """The file that `sigma-monitor chain --json > path` leaves."""
    path.write_text(json.dumps(body, indent=indent), encoding="utf-8")
    return path
