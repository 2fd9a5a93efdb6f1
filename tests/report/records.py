"""Records to make pages of, with the shapes of real ones."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from sigma_monitor import Estimate, Status
from sigma_monitor.sinks import JsonlSink
from sigma_monitor.snapshot import SHARES
from tests.snapshots import alert, observation, snapshot

__all__ = ["COLLAPSE", "collapsing", "hostile", "line_of", "written"]

COLLAPSE = 120  # step from which the rank falls
FINGERPRINT = "0123456789abcdef"
BASELINE = 50.0


def rank_at(step: float, layer: int) -> float:
    """Level, and from COLLAPSE on, later for lower layers, down to a twentieth."""
    fall = max(0.0, step - COLLAPSE - 12 * layer) / 40
    return BASELINE * (0.05 + 0.95 * math.exp(-fall)) * (1 + 0.01 * math.sin(step))


def band(value: float, share: float = 0.04) -> Estimate:
    return Estimate(value, value * (1 - share), value * (1 + share), "sampling")


def spectrum(rank: float) -> tuple[int, ...]:
    """Eigenvalues around 1 / rank of the trace."""
    middle = min(range(len(SHARES) - 1), key=lambda n: abs(math.log(SHARES[n] * rank)))
    return tuple(round(20 * math.exp(-((n - middle) ** 2) / 18)) for n in range(len(SHARES) - 1))


def check(step: int, number: int, count: int, **fields: Any) -> Any:
    """One check of a run that collapses, its text a little later."""
    ranks = {f"model.layers.{n}": rank_at(step, count - 1 - n) for n in range(count)}
    lowest = min(ranks.values()) / BASELINE
    status = (
        Status.COLLAPSED if lowest < 0.5 else Status.WARNING if lowest < 0.8 else Status.HEALTHY
    )
    generation = {
        "effective_rank": band(30 * lowest**0.5, 0.1),
        "output_entropy": band(2.5 * lowest**0.3, 0.05),
        "distinct_1": Estimate.exact(0.4),
        "distinct_2": Estimate.exact(0.8 * lowest**0.2),
        "compression_ratio": Estimate.exact(2.2 / lowest**0.3),
        "repeated_4gram_share": Estimate.exact(0.05 / lowest**0.5),
    }
    body: dict[str, Any] = {
        "check": number,
        "time": 1.7e9 + step,
        "status": status,
        "layers": {
            layer: {
                "effective_rank": band(rank),
                "log_det": band(-3.0, -0.1),
                "pooled/uncentred/effective_rank": band(1 + rank / 5),
                "subspace_drift": Estimate.exact(min(1.0, step / 500)),
            }
            for layer, rank in ranks.items()
        },
        "ratios": {layer: rank / BASELINE for layer, rank in ranks.items()},
        "loss": 3.0 + max(0, step - COLLAPSE) / 60,
        "generation": generation if number % 2 else {},
        "spectra": {layer: spectrum(rank) for layer, rank in ranks.items()},
        **fields,
    }
    return snapshot(step, **body)


def collapsing(path: Path, *, layers: int = 1, steps: int = 240, every: int = 4) -> Path:
    """A record with a collapse, its alerts, and everything a page can show."""
    sink = JsonlSink(path)
    sink.note(
        "started",
        {
            "step": 0,
            "baseline": "start",
            "baseline_asked": "auto",
            "held_out": True,
            "probes": "eval_dataset",
            "examples": 128,
            "max_steps": steps,
            "every": every,
            "max_overhead": 0.01,
            "thresholds": {"representation": {"preset": "default"}, "generation": {}, "loss": {}},
            "fingerprint": FINGERPRINT,
        },
    )
    last = f"model.layers.{layers - 1}"
    for number, step in enumerate(range(0, steps + 1, every), start=1):
        sink.check(check(step, number, layers))
        if step == 0:
            for n in range(layers):
                told = {"layer": f"model.layers.{n}", "baseline": BASELINE, "value": BASELINE}
                sink.alert(news("BASELINE", "info", step, **told))
            for functional, value in (("effective_rank", 30.0), ("output_entropy", 2.5)):
                told = {"channel": "generation", "functional": functional, "baseline": value}
                sink.alert(news("BASELINE", "info", step, layer=None, **told))
        if step == 132:
            told = {"onset_step": COLLAPSE + 4, "ratio": 0.76, "side": "contraction"}
            sink.alert(news("WARNING", "warn", step, layer=last, **told))
        if step == 160:
            told = {"onset_step": COLLAPSE + 4, "ratio": 0.41, "side": "contraction"}
            advice = "Stop, go back to a checkpoint before the onset, and lower the learning rate."
            told |= {"verdict": "contracting and held-out loss gets worse", "advice": advice}
            sink.alert(news("COLLAPSED", "error", step, layer=last, **told))
    sink.note("failed", {"step": 200, "error": "ProbeError: on purpose"})
    sink.note("closed", {"status": "COLLAPSED", "checks": 61, "failures": 1, "lost": {"W&B": 2}})
    sink.close()
    return path


def news(kind: str, severity: str, step: int, **fields: Any) -> Any:
    """An alert as the monitor words it, of this probe set."""
    value = {} if step == 0 else {"value": rank_at(step, 0), "baseline": BASELINE}
    text = f"{kind} at step {step}. Effective rank of centred token rows."
    body = {"step": step, "text": text, "fingerprint": FINGERPRINT, **value, **fields}
    return alert(kind, severity, **body)


def line_of(path: Path, number: int) -> bytes:
    """One line of a file, from 0."""
    return path.read_bytes().splitlines(keepends=True)[number]


def written(path: Path, steps: Any, **fields: Any) -> Path:
    """A record of plain checks."""
    sink = JsonlSink(path)
    for number, step in enumerate(steps, start=1):
        sink.check(check(step, number, 1, **fields))
    sink.close()
    return path


SCRIPT = "<script>alert(1)</script>"
ATTRIBUTE = "\"><img src=x onerror=alert(2)> ' & {{ 7 * 7 }} $\\frac{1}{0}$"


def hostile(path: Path) -> Path:
    """A record whose every name and text wants to be more than text."""
    bad = f"{SCRIPT}{ATTRIBUTE}\u202e\x00\ud800 ]]> --> 日本 🙂"
    sink = JsonlSink(path)
    sink.note("started", {"step": 0, "probes": bad, bad: bad, "fingerprint": bad})
    for step in (0, 10, 20):
        body = check(step, 1, 1)
        sink.check(
            check(
                step,
                1,
                1,
                layers={bad: body.layers["model.layers.0"]},
                ratios={bad: 0.5},
                spectra={bad: body.spectra["model.layers.0"]},
                fingerprint=bad,
                conventions={bad: bad, "method": {bad: bad}},
                time=math.pi,
                monitor=bad,
            )
        )
        told = dict.fromkeys(("layer", "functional", "convention", "title", "text"), bad)
        told |= dict.fromkeys(("advice", "verdict", "forecast", "fingerprint"), bad)
        sink.alert(alert("COLLAPSED", "error", **told, affected=(bad, bad), step=step))
        sink.observe(observation(step, name=bad))
        sink.alert(alert(bad, bad, step=step, channel="observed", text=bad))
    sink.alert(alert("BASELINE", "info", layer=bad, baseline=50.0, fingerprint=bad, step=0))
    sink.note(bad, {"error": bad})
    sink.close()
    return path
