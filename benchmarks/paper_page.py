"""Writes the tables of docs/paper.md from the committed results.

Run: python benchmarks/paper_page.py
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pages import Row, filled, grouped, results, table

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "paper.md"

SEEN = 3  # standard deviations of no change


def main() -> None:
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


def page(text: str) -> str:
    """The page with the tables of the committed results."""
    claims, spots = results("paper_claims"), results("blind_spots")
    recursion = results("recursion")
    parts = {
        "bounds": bounds(claims["bounds"]),
        "range": f"{claims['range_of_track_one']:.3f} nats.",
        "theorem 3": theorem_3(claims["theorem_3"]),
        "exact bias": exact_bias(claims["exact_bias"]),
        "track two": track_two(claims["track_two"]),
        "monotone": monotone(claims["monotone"]),
        "blind spots": blind_spots(spots["changes"]),
        "what we see": what_we_see(spots["changes"]),
        "told": told(spots),
        "recursion": lineages(recursion["lineages"]),
        "generations": generations(recursion["lineages"]),
    }
    return filled(text, parts)


def bounds(rows: list[Row]) -> str:
    """The log det of all rows between its bounds, and Track I beside the participation ratio."""
    head = (
        "rows | spike, lower | log det(G + δI) | fill, upper | Track I's bound | AM-GM, no data | "
        "G_KF | x − x²/(2 PR)"
    )
    names = ("spike", "truth", "fill", "track_one", "am_gm")
    return table(
        head,
        [
            [
                row["rows"],
                *(f"{row[name]:.0f}" for name in names),
                *(f"{row[name]:.4f}" for name in ("G_KF", "second_order")),
            ]
            for row in rows
        ],
    )


def theorem_3(rows: list[Row]) -> str:
    """Bias and coverage by number of features and of all rows."""
    head = (
        "m | n | runs | bias | by digamma | −½(σ² + m² − m)(1/n_A − 1/n) | sd | sd of the theorem "
        "| holds U_cov(n) | holds log det C"
    )
    return table(
        head,
        [
            [
                row["features"],
                f"{row['total']:,}",
                row["runs"],
                *(f"{row[name]:.3g}" for name in ("bias", "bias_exact", "bias_second_order")),
                *(f"{row[name]:.3g}" for name in ("sd", "sd_of_theorem")),
                f"{row['coverage']:.3f}",
                f"{row['coverage_of_limit']:.3f}",
            ]
            for row in rows
        ],
    )


def exact_bias(rows: list[Row]) -> str:
    """One line: rows and nats."""
    head = " | ".join(["n_A", *(f"{row['observed']:,}" for row in rows)])
    return table(head, [["nats", *(f"{row['nats']:.2f}" for row in rows)]])


def track_two(rows: list[Row]) -> str:
    """Mean of Track II and its ceiling by number of rows."""
    head = "n_A | mean of U_cov | sd | ceiling | log det C"
    return table(
        head,
        [
            [
                f"{row['observed']:,}",
                *(f"{row[name]:.1f}" for name in ("mean", "sd", "ceiling", "log_det")),
            ]
            for row in rows
        ],
    )


def monotone(found: dict[str, int]) -> str:
    """How often a log det falls as a row comes in, by where its ridge is fixed."""
    head = "cases | falls, δ fixed on G | falls, ridge fixed on C"
    return table(head, [[found[name] for name in ("cases", "fixed_on_G", "fixed_on_C")]])


def blind_spots(rows: list[Row]) -> str:
    """What the two tracks see."""
    return seen(
        rows,
        {"ΔU": ("track_two", "+.1f"), "ΔG": ("track_one", "+.4f")},
    )


def what_we_see(rows: list[Row]) -> str:
    """What our functionals see, in the conventions of `chain` and in the others."""
    columns = {
        "effective rank, centred": ("centred/effective_rank", ".1%"),
        "effective rank, uncentred": ("uncentred/effective_rank", ".1%"),
        "participation ratio, centred": ("centred/participation_ratio", ".1%"),
        "participation ratio, uncentred": ("uncentred/participation_ratio", ".1%"),
        "log det a dimension, centred": ("centred/log_det_per_dim", "+.3f"),
        "mean cosine": ("mean_cosine", "+.4f"),
        "turn of 8 directions": ("subspace_drift_8", ".3f"),
        "turn of 60": ("subspace_drift_60", ".4f"),
    }
    return seen(rows, columns)


def told(spots: dict[str, Any]) -> str:
    """In how many worlds `chain` tells each change."""
    lines = [[row["change"], f"{row['told']} of {spots['seeds']}"] for row in spots["changes"]]
    return table("change | WARNING or COLLAPSED", lines)


def seen(rows: list[Row], columns: dict[str, tuple[str, str]]) -> str:
    """Means by change; the noise in the first line, and bold what stands out of it."""
    noise = [format(rows[0][key]["sd"], form.lstrip("+")) for key, form in columns.values()]
    lines = [["sd of no change", *noise]]
    for row in rows:
        cells = [
            _bold(format(row[key]["mean"], form), abs(row[key]["noises"]) >= SEEN)
            for key, form in columns.values()
        ]
        lines.append([row["change"], *cells])
    return table(" | ".join(["change", *columns]), lines)


def _bold(text: str, strong: bool) -> str:
    return f"**{text}**" if strong else text


def lineages(rows: list[Row]) -> str:
    """Generations at which each arm was told, seed by seed, and by what."""
    head = (
        "T | arm | told | by distinct-2 of words | by participation ratio | by effective rank | "
        "COLLAPSED | perplexity moved | distinct-2 moved | told in time"
    )
    measures = ("distinct_2", "participation_ratio", "effective_rank")
    return table(
        head,
        [
            [
                temperature,
                arm,
                _listed(row["warned"] for row in found),
                *(_listed(_told_by(row, measure) for row in found) for measure in measures),
                *(_listed(row[name] for row in found) for name in ("collapsed", *_WITNESSES)),
                _share_in_time(found),
            ]
            for (temperature, arm), found in grouped(rows, "temperature", "arm").items()
        ],
    )


def _told_by(row: Row, measure: str) -> int | None:
    """The first generation at which this measure was a finding."""
    told = (
        number
        for number, each in enumerate(row["generations"])
        if any(finding.startswith(f"{measure}:") for finding in each["findings"])
    )
    return next(told, None)


_WITNESSES = ("perplexity_moved", "distinct_2_moved")


def in_time(row: Row) -> bool | None:
    """Whether it was told no later than the first witness moved; None where none did."""
    moved = [row[name] for name in _WITNESSES if row[name] is not None]
    if not moved:
        return None
    return row["warned"] is not None and row["warned"] <= min(moved)


def _share_in_time(rows: list[Row]) -> str:
    found = [timely for row in rows if (timely := in_time(row)) is not None]
    return f"{sum(found)} of {len(found)}" if found else "-"


def _listed(found: Any) -> str:
    return ", ".join("-" if each is None else str(each) for each in found)


def generations(rows: list[Row]) -> str:
    """Ratios to the control at the last generation, means over seeds."""
    head = (
        "T | arm | perplexity, first and last | distinct-2, first and last | effective rank to "
        "the control's | participation ratio | distinct-2 of words"
    )
    lines = []
    for (temperature, arm), found in grouped(rows, "temperature", "arm").items():
        first, last = ([row["generations"][at] for row in found] for at in (0, -1))
        cells = [
            f"{_mean(first, name):.3g}, {_mean(last, name):.3g}"
            for name in ("perplexity", "distinct_2")
        ]
        cells += [
            f"{_mean([each['ratios'] for each in last], name):.0%}"
            for name in ("effective_rank", "participation_ratio", "distinct_2")
        ]
        lines.append([temperature, arm, *cells])
    return table(head, lines)


def _mean(rows: list[Row], name: str) -> float:
    return sum(row[name] for row in rows) / len(rows)


if __name__ == "__main__":
    main()
