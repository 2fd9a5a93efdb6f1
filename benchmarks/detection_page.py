"""Writes the tables of docs/detection.md, and draws its picture, from the committed results.

Run: python benchmarks/detection_page.py
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from pages import Row, filled, grouped, results, table

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "detection.md"
PICTURE = ROOT / "docs" / "detection.svg"

_INK, _OWN = "#5b6770", "#b3261e"


def main() -> None:
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    draw(results("collapse")["methods"])


def page(text: str) -> str:
    """The page with the tables of the committed results."""
    bench, simulated = results("collapse"), results("false_alarms")
    check_cost = results("check_cost")
    parts = {
        "methods": methods(bench["methods"]),
        "scenarios": scenarios(bench["scenarios"]),
        "functionals": functionals(bench["functionals"]),
        "false alarms": false_alarms(simulated["false_alarms"]),
        "delays": delays(simulated["delays"]),
        "confirmation": confirmation(simulated["confirmation"]),
        "cost": cost(check_cost["checks"]),
    }
    return filled(text, parts)


def methods(rows: list[Row]) -> str:
    """One line for each method."""
    head = (
        "method | harmful runs told | alarmed before the onset | healthy runs alarmed | checks "
        "after the onset | after loss +5 % | after diversity was lost"
    )
    lines = [
        [
            row["method"],
            _share(row["detected"]),
            row["alarmed_before_onset"],
            _share(row["false_alarms"]),
            _number(row["median_delay_checks"]),
            _number(row["median_checks_after_loss_5"]),
            _number(row["median_checks_after_diversity"]),
        ]
        for row in rows
    ]
    return table(head, lines)


def scenarios(rows: list[Row]) -> str:
    """One line for each scenario."""
    head = (
        "scenario | | alarmed | first by | in a right channel | COLLAPSED | information | checks "
        "after the onset | after loss +5 %"
    )
    lines = [
        [
            row["scenario"],
            row["story"],
            f"{row['alarmed']['sigma_monitor']} of {row['runs']}",
            _counted(row["first_channels"]),
            row["right_channel"] if row["harmful"] else "",
            row["collapsed"],
            row["information"],
            _number(row["median_delay_checks"]) if row["harmful"] else "",
            _number(row["median_checks_after_loss_5"]) if row["harmful"] else "",
        ]
        for row in rows
    ]
    return table(head, lines)


def functionals(rows: list[Row]) -> str:
    """AUROC of a move to the bad side and to either side."""
    lines = [
        [row["functional"], f"{row['auroc_one_sided']:.2f}", f"{row['auroc_two_sided']:.2f}"]
        for row in rows
    ]
    return table("functional | to its bad side | to either side", lines)


def false_alarms(rows: list[Row]) -> str:
    """Share of healthy simulated runs in which something was told, by autocorrelation."""
    head = (
        "checks | baseline | preset | drift | runs | WARNING, φ = 0 | 0.5 | 0.9 | COLLAPSED, of "
        "all three"
    )
    lines = []
    for found in _by_phi(rows, "checks", "baseline", "preset", "drift"):
        cells = [found[0][name] for name in ("checks", "baseline", "preset", "drift", "runs")]
        cells += [f"{row['warning'] / row['runs']:.1%}" for row in found]
        lines.append([*cells, _of_runs(found, "collapsed")])
    return table(head, lines)


def delays(rows: list[Row]) -> str:
    """Checks until a fall was told, by autocorrelation."""
    head = (
        "checks | baseline | falls to | within | WARNING, median / p90, φ = 0 | 0.5 | 0.9 | missed "
        "| COLLAPSED, median, φ = 0.5"
    )
    lines = []
    for found in _by_phi(rows, "checks", "baseline", "level", "fall_lasts"):
        row = found[0]
        within = "one check" if not row["fall_lasts"] else f"{row['fall_lasts']} checks"
        cells = [row["checks"], row["baseline"], f"{row['level']:.0%}", within]
        cells += [_median_and_p90(r, "warning") for r in found]
        collapsed = next(r["median_collapsed"] for r in found if r["phi"] == 0.5)
        lines.append([*cells, _of_runs(found, "missed_warning"), _number(collapsed)])
    return table(head, lines)


def _by_phi(rows: list[Row], *names: str) -> list[list[Row]]:
    """Rows that differ in nothing but their autocorrelation, which rises."""
    return list(grouped(sorted(rows, key=lambda row: row["phi"]), *names).values())


def confirmation(rows: list[Row]) -> str:
    """Steps until a sudden fall was told, with and without confirmation."""
    head = (
        "falls to | early confirmation | steps to WARNING, median / p90 | to COLLAPSED | largest "
        "share of time"
    )
    lines = [
        [
            f"{row['level']:.0%}",
            "yes" if row["confirmation"] else "no",
            _median_and_p90(row, "warning"),
            _median_and_p90(row, "collapsed"),
            f"{row['largest_share_of_time']:.2%}",
        ]
        for row in rows
    ]
    return table(head, lines)


def cost(rows: list[Row]) -> str:
    """Seconds of a check and a writing, and the share of a run they take."""
    shares = [f"share of {run['steps']:,} steps" for run in rows[0]["runs"]]
    lines = []
    for row in rows:
        cells = [f"{row['parameters'] / 1e6:.1f} M"]
        cells += [f"{row[f'{part}_seconds']:.2f} s" for part in ("step", "check", "writing")]
        cells += [
            f"{run['share_of_time']:.2%} ({run['checks']} checks, {run['writings']} writings)"
            for run in row["runs"]
        ]
        lines.append(cells)
    return table(" | ".join(["parameters | training step | check | writing", *shares]), lines)


def draw(rows: list[Row]) -> None:
    """Share of harmful runs told against share of healthy runs alarmed, with intervals."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    shown = [row for row in rows if row["detected"]["runs"] and row["false_alarms"]["runs"]]
    figure, (told, alarmed) = pyplot.subplots(
        1, 2, figsize=(9, 0.32 * len(shown) + 1), sharey=True, layout="constrained"
    )
    for axis, key, title in (
        (told, "detected", "harmful runs told"),
        (alarmed, "false_alarms", "healthy runs alarmed"),
    ):
        for place, row in enumerate(reversed(shown)):
            colour = _OWN if row["method"].startswith("sigma_monitor") else _INK
            found = row[key]
            axis.plot([found["low"], found["high"]], [place, place], color=colour, linewidth=1.2)
            axis.plot([found["share"]], [place], "o", color=colour, markersize=5)
        axis.set_title(title, fontsize=10)
        axis.set_xlim(-0.03, 1.03)
        axis.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "25 %", "50 %", "75 %", "100 %"])
        axis.grid(axis="x", linewidth=0.4)
        axis.spines[["top", "right", "left"]].set_visible(False)
        axis.tick_params(length=0)
    told.set_yticks(range(len(shown)), [row["method"] for row in reversed(shown)])
    with pyplot.rc_context({"svg.fonttype": "none", "svg.hashsalt": "sigma_monitor"}):
        figure.savefig(PICTURE, metadata={"Date": None})
    pyplot.close(figure)


def _share(found: dict[str, Any]) -> str:
    if not found["runs"]:
        return "-"
    interval = f"{found['low']:.0%} to {found['high']:.0%}"
    return f"{found['hits']} of {found['runs']} ({interval})"


def _counted(names: list[str | None]) -> str:
    counts = Counter(name for name in names if name)
    return ", ".join(f"{name} {count}" for name, count in counts.items()) or "-"


def _of_runs(found: list[Row], name: str) -> str:
    return f"{sum(row[name] for row in found)} of {sum(row['runs'] for row in found)}"


def _median_and_p90(row: Row, name: str) -> str:
    return f"{_number(row[f'median_{name}'])} / {_number(row[f'p90_{name}'])}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:g}"


if __name__ == "__main__":
    main()
