"""All runs put together: what was told, how soon, and how often for nothing."""

from __future__ import annotations

from statistics import median
from typing import Any

from alarms import FUNCTIONALS, LOSS_RISE, OURS, alarm_steps, auroc, calibrated, moves
from scipy.stats import binomtest

__all__ = ["summarised"]

Run = dict[str, Any]

_ENTROPY_LOST, _DISTINCT_LOST = 0.7, 0.8  # declared loss of output diversity, ratios to the start


def summarised(runs: list[Run]) -> dict[str, Any]:
    """Tables of methods, scenarios and functionals, and one line for each run."""
    harmful = [run for run in runs if run["onset"] is not None]
    healthy = [run for run in runs if run["onset"] is None]
    if not healthy:
        raise SystemExit("no control run: the rivals cannot be calibrated")
    calibration = calibrated(healthy)
    alarms = [alarm_steps(run, calibration) for run in runs]
    return {
        "methods": _methods(runs, alarms),
        "scenarios": _scenarios(runs, alarms),
        "functionals": _functionals(harmful, healthy),
        "runs": [_line(run, found) for run, found in zip(runs, alarms, strict=True)],
    }


def _methods(runs: list[Run], alarms: list[dict[str, Any]]) -> list[dict[str, Any]]:
    table = []
    for method in alarms[0]:
        bad = [(r, a[method]) for r, a in zip(runs, alarms, strict=True) if r["onset"] is not None]
        good = [a[method] for r, a in zip(runs, alarms, strict=True) if r["onset"] is None]
        told = [(r, step) for r, steps in bad if (step := _first(r, steps)) is not None]
        early = [run for run, steps in bad if any(step < run["onset"] for step in steps)]
        false = sum(bool(steps) for steps in good)
        table.append(
            {
                "method": method,
                "detected": _share(len(told), len(bad)),
                "alarmed_before_onset": len(early),
                "false_alarms": _share(false, len(good)),
                "median_delay_checks": _median([_checks(r, r["onset"], s) for r, s in told]),
                "median_checks_after_loss_5": _median(_against(told, _loss_step)),
                "median_checks_after_diversity": _median(_against(told, _diversity_step)),
            }
        )
    return table


def _scenarios(runs: list[Run], alarms: list[dict[str, Any]]) -> list[dict[str, Any]]:
    table = []
    for name in dict.fromkeys(run["scenario"] for run in runs):
        own = [(r, a) for r, a in zip(runs, alarms, strict=True) if r["scenario"] == name]
        first = own[0][0]
        told = [(r, step) for r, a in own if (step := _first(r, a[OURS])) is not None]
        table.append(
            {
                "scenario": name,
                "story": first["story"],
                "harmful": first["onset"] is not None,
                "runs": len(own),
                "alarmed": {
                    method: sum(_first(r, a[method]) is not None for r, a in own)
                    for method in own[0][1]
                },
                "median_delay_checks": _median([_checks(r, r["onset"] or 0, s) for r, s in told]),
                "median_checks_after_loss_5": _median(_against(told, _loss_step)),
                "first_channels": [_first_channel(r) for r, _ in own],
                "right_channel": sum(_rightly_placed(r) for r, _ in own),
                "collapsed": sum(_collapsed(r) for r, _ in own),
                "information": sum(_informed(r) for r, _ in own),
            }
        )
    return table


def _functionals(harmful: list[Run], healthy: list[Run]) -> list[dict[str, Any]]:
    table = []
    for name, (column, _) in FUNCTIONALS.items():
        scores = [[moves(run, column) for run in runs] for runs in (harmful, healthy)]
        bad, good = ([s for s in found if s is not None] for found in scores)
        if bad and good:
            table.append(
                {
                    "functional": name,
                    "auroc_one_sided": auroc([s[0] for s in bad], [s[0] for s in good]),
                    "auroc_two_sided": auroc([s[1] for s in bad], [s[1] for s in good]),
                }
            )
    return table


def _line(run: Run, found: dict[str, Any]) -> dict[str, Any]:
    return {
        "run": f"{run['scenario']}-{run['seed']}",
        "seconds": round(run["seconds"]),
        "loss_5_step": _loss_step(run),
        "diversity_step": _diversity_step(run),
        "alerts": [
            f"{a['kind']} {a['severity']} {a['channel']} {a['step']}" for a in run["alerts"]
        ],
        "alarms": {m: _first(run, steps) for m, steps in found.items() if steps},
    }


def _first(run: Run, steps: list[float]) -> float | None:
    """The first alarm at or after the onset; the first of all, in a healthy run."""
    return next((step for step in steps if step >= (run["onset"] or 0)), None)


def _checks(run: Run, begin: float, end: float) -> float:
    """Checks from one step to another, negative when `end` came first."""
    sign, (low, high) = (1, (begin, end)) if begin <= end else (-1, (end, begin))
    return sign * sum(low < step <= high for step in (row["step"] for row in run["rows"]))


def _against(told: list[tuple[Run, float]], reference: Any) -> list[float]:
    """Checks from a reference to the alarm, of the runs that have both."""
    found = [(run, step, reference(run)) for run, step in told]
    return [_checks(run, at, step) for run, step, at in found if at is not None]


def _loss_step(run: Run) -> float | None:
    """When held-out loss has risen by 5 % from its best, at or after the onset."""
    best = float("inf")
    for row in run["rows"]:
        if "loss" in row:
            best = min(best, row["loss"])
            if row["loss"] >= (1 + LOSS_RISE) * best and row["step"] >= (run["onset"] or 0):
                return row["step"]
    return None


def _diversity_step(run: Run) -> float | None:
    """When the text has lost the diversity that is declared a loss."""
    first: dict[str, float] = {}
    for row in run["rows"]:
        for column, least in (("output_entropy", _ENTROPY_LOST), ("distinct_2", _DISTINCT_LOST)):
            if column in row and row[column] <= least * first.setdefault(column, row[column]):
                return row["step"]
    return None


def _first_channel(run: Run) -> str | None:
    return next((a["channel"] for a in run["alerts"] if a["severity"] != "info"), None)


def _rightly_placed(run: Run) -> bool:
    """Whether some alert came from a channel in which this harm is to be seen."""
    return any(a["channel"] in run["channels"] for a in run["alerts"] if a["severity"] != "info")


def _collapsed(run: Run) -> bool:
    return any(a["kind"] == "COLLAPSED" and a["severity"] != "info" for a in run["alerts"])


def _informed(run: Run) -> bool:
    return any(a["severity"] == "info" and a["verdict"] for a in run["alerts"])


def _share(hits: int, runs: int) -> dict[str, Any]:
    """Share with its exact 95 % interval (Clopper and Pearson)."""
    if not runs:
        return {"hits": 0, "runs": 0}
    interval = binomtest(hits, runs).proportion_ci()
    return {
        "hits": hits,
        "runs": runs,
        "share": round(hits / runs, 3),
        "low": round(interval.low, 3),
        "high": round(interval.high, 3),
    }


def _median(values: list[float]) -> float | None:
    return round(float(median(values)), 3) if values else None
