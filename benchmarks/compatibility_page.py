"""Writes the tables of docs/compatibility.md from what the tests that ran have shown.

Run: python benchmarks/compatibility_page.py
The result files come from `pytest --compatibility=FILE` (CONTRIBUTING.md).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pages import Row, filled, grouped, table

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "compatibility"
PAGE = ROOT / "docs" / "compatibility.md"

DEMANDS = ("same weights", "same numbers", "resumed", "stopped")
# Hosts in the order of the page, and the packages whose versions tell one row from another.
HOSTS = {
    "Trainer": ("transformers", "accelerate"),
    "SentenceTransformerTrainer": ("sentence-transformers", "transformers"),
    "TRL": ("trl", "transformers"),
    "Lightning": ("lightning",),
    "accelerate": ("accelerate",),
    "plain PyTorch": ("torch",),
}
# Written by hand: host, strategy, why no test ran; host, versions, what is known of a failure.
NOT_RUN = (
    (
        "Trainer",
        "FSDP, configured by `fsdp=`",
        "on CPUs accelerate spreads no model: FSDP2 becomes DDP without a word, FSDP1 raises "
        '"no available devices found"; both were run in a plain loop',
    ),
    (
        "accelerate",
        "FSDP, by its plugin",
        "on CPUs it becomes DDP without a word, whichever version the plugin asks for",
    ),
    ("Lightning", "`FSDPStrategy`", 'raises on CPUs: it "requires a GPU accelerator"'),
    ("accelerate, Lightning", "DeepSpeed", "not tried; see Trainer and plain PyTorch"),
    ("Trainer, accelerate", "tensor parallel", "not tried; the monitor was run in a plain loop"),
    ("TRL", "vLLM", "not tried"),
    ("axolotl", "`axolotl train`", "not tried; the plugin was run without it, see hosts.md"),
    ("TRL", "beside transformers 4", "needs a TRL of its time, which was not tried"),
    ("any", "several GPUs, NCCL", "the tests run on machines with one GPU or none"),
)
KNOWN = (
    (
        "Trainer",
        "transformers 4.57.6",
        "resumed from a checkpoint of its second epoch, the Trainer goes on differently without "
        "the monitor too; nothing of that kind was seen on 4.50.3 and 5.23.0",
    ),
    (
        "Trainer",
        "transformers 4.57.6",
        "in one of two sessions the train logs of one rhythm differed in `grad_norm` with and "
        "without the monitor, and two resumed runs from the unbroken one; the cause is not known, "
        "the second session is shown",
    ),
)


def main() -> None:
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8"), results()), encoding="utf-8")


def results() -> list[Row]:
    """What every committed result file says, each row with the versions it was found with."""
    rows = []
    for path in RESULTS.glob("*.json"):
        found = json.loads(path.read_text())
        packages = found["environment"]["packages"]
        rows += [{**row, "packages": packages} for row in found["shown"]]
    return rows


def page(text: str, rows: Sequence[Row]) -> str:
    """The page with the tables of these results."""
    parts = {
        "hosts": hosts(rows),
        "cases": cases(rows),
        "not run": table("host | strategy | why not", NOT_RUN),
        "known": table("host | versions | what is known", KNOWN),
    }
    return filled(text, parts)


def hosts(rows: Sequence[Row]) -> str:
    """One line for each host, strategy and version."""
    lines = []
    by_line = grouped(sorted(rows, key=_place), "host", "strategy", versions_of)
    for (host, strategy, versions), found in by_line.items():
        cells = [cell([row for row in found if row["demand"] == demand]) for demand in DEMANDS]
        lines.append([host, strategy, versions, *cells])
    return table(" | ".join(["host | strategy | versions", *DEMANDS]), lines)


def cases(rows: Sequence[Row]) -> str:
    """One line for each model or setting of a host, one column for its versions."""
    lines = []
    with_case = [row for row in sorted(rows, key=_place) if row["case"]]
    for (host, case), found in grouped(with_case, "host", "case").items():
        by_version = grouped(found, lambda row: str(row["packages"][HOSTS[row["host"]][0]]))
        cells = [f"{version}: {cell(group)}" for (version,), group in by_version.items()]
        demands = ", ".join(d for d in DEMANDS if d in {row["demand"] for row in found})
        lines.append([host, case, demands, "<br>".join(cells)])
    return table("host | model or setting | shown | on the host's versions", lines)


def cell(rows: Sequence[Row]) -> str:
    """How many tests passed, and what kept the others from it."""
    if not rows:
        return "no test"
    told = [f"yes ({passed})"] if (passed := _count(rows, "passed")) else []
    if failed := _count(rows, "failed"):
        told.append(f"**no: {failed} failed**")
    reasons = Counter(row["reason"] for row in rows if row["outcome"] == "skipped")
    told += [f"not run ({count}): {reason}" for reason, count in reasons.items()]
    return "; ".join(told).replace("|", "\\|")


def versions_of(row: Row) -> str:
    """Versions of the host of a row, and of what shares its work."""
    more = ("deepspeed",) if row["strategy"].startswith("DeepSpeed") else ()
    return ", ".join(f"{name} {row['packages'][name]}" for name in (*HOSTS[row["host"]], *more))


def _place(row: Row) -> tuple[Any, ...]:
    """Hosts as listed; one process first; newest versions first."""
    numbers = [
        [
            -int(part)
            for part in str(row["packages"][name]).split("+")[0].split(".")
            if part.isdigit()
        ]
        for name in HOSTS[row["host"]]
    ]
    several = row["strategy"] != "one process"
    return (list(HOSTS).index(row["host"]), several, row["strategy"], numbers)


def _count(rows: Sequence[Row], outcome: str) -> int:
    return sum(row["outcome"] == outcome for row in rows)


if __name__ == "__main__":
    main()
