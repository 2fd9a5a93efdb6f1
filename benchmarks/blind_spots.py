"""What SIGMA's two tracks and our functionals see of seven changes to what a model writes.

Synthetic embeddings at the published size: 384 features, 500 of 1,000 texts observed, unit rows.
Each of 60 equally frequent topics lies in a random direction, and a text lies beside its topic by a
Gaussian vector of SPREAD times the energy of the topic. A generation is a new draw of all texts:
the change from one to the next is measured, and what it is when nothing happened is the noise.

Run: python benchmarks/blind_spots.py [--quick] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import torch
from environment import environment
from numpy.random import Generator
from numpy.typing import NDArray
from scipy.stats import ortho_group

from sigma_monitor import Lineage, Status
from sigma_monitor.spectrum import PAPER_SETTINGS, sigma_tracks, spectral_summary
from sigma_monitor.spectrum.gram import Gram
from sigma_monitor.spectrum.subspace import leading_directions, subspace_drift

FEATURES, OBSERVED, TOTAL, TOPICS = 384, 500, 1000, 60
SPREAD = 0.1
DIRECTIONS = (8, 60)  # of the leading eigenspace: as many as the monitor follows, and as topics
SEEDS = 10
TOLD = "told"  # by the default limits of `chain`
RANKS = ("effective_rank", "participation_ratio")  # their change is a ratio
FUNCTIONALS = (*RANKS, "log_det_per_dim")
RESULT = Path(__file__).parent / "results" / "blind_spots.json"

Rows = NDArray[np.float64]


@dataclass(frozen=True)
class World:
    """What there is to write about."""

    centres: Rows  # (topics, FEATURES) of unit length
    spread: float = SPREAD

    def texts(self, rng: Generator, count: int = OBSERVED) -> Rows:
        """(count, FEATURES) unit rows."""
        topics = rng.integers(len(self.centres), size=count)
        beside = rng.standard_normal((count, FEATURES))
        return unit(self.centres[topics] + np.sqrt(self.spread / FEATURES) * beside)


def unit(rows: Rows) -> Rows:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def directions(count: int, rng: Generator, features: int = FEATURES) -> Rows:
    """(count, features) unit rows, uniform on the sphere."""
    return unit(rng.standard_normal((count, features)))


def world(rng: Generator, topics: int = TOPICS) -> World:
    return World(directions(topics, rng))


def rotated(then: World, rng: Generator) -> Rows:
    return then.texts(rng) @ ortho_group.rvs(FEATURES, random_state=rng)


def half_replaced(then: World, rng: Generator) -> Rows:
    half = TOPICS // 2
    return World(np.concatenate([then.centres[half:], directions(half, rng)])).texts(rng)


def ten_survive(then: World, rng: Generator) -> Rows:
    return World(then.centres[:10]).texts(rng)


def narrower(then: World, rng: Generator) -> Rows:
    return World(then.centres, 0.95**2 * then.spread).texts(rng)


def copied(then: World, rng: Generator) -> Rows:
    rows = then.texts(rng)
    rows[: OBSERVED // 10] = rows[0]
    return rows


def gibberish(then: World, rng: Generator) -> Rows:
    rows, count = then.texts(rng), 3 * OBSERVED // 10
    rows[:count] = directions(count, rng)
    return rows


def fifteen_survive_and_gibberish(then: World, rng: Generator) -> Rows:
    return gibberish(World(then.centres[:15]), rng)


CHANGES: dict[str, Callable[[World, Generator], Rows]] = {
    "none": World.texts,
    "every meaning rotated": rotated,
    "half of the topics replaced by others": half_replaced,
    "10 of 60 topics survive": ten_survive,
    "spread within topics x 0.95": narrower,
    "10 % copies of one text": copied,
    "30 % gibberish": gibberish,
    "15 topics survive and 30 % gibberish": fifteen_survive_and_gibberish,
}


def changes(seed: int) -> dict[str, dict[str, float]]:
    """Everything that each change moves in one world, and whether `chain` tells it."""
    rng = np.random.default_rng(seed)
    then = world(rng)
    before = then.texts(rng)
    after = {name: change(then, rng) for name, change in CHANGES.items()}
    first, lineage = measured(before), Lineage()
    for number, rows in enumerate([before, *after.values()]):
        lineage.add_embeddings(number, rows)
    return {
        name: {**moved(first, measured(rows)), TOLD: float(verdict.status > Status.HEALTHY)}
        for (name, rows), verdict in zip(after.items(), lineage.verdicts()[1:], strict=True)
    }


def measured(rows: Rows) -> dict[str, Any]:
    embeddings = torch.from_numpy(rows)
    summaries = {
        "centred": spectral_summary(embeddings, center=True, method="exact", sampling=False),
        "uncentred": spectral_summary(embeddings, method="exact", sampling=False),
    }
    return {
        "tracks": sigma_tracks(embeddings, TOTAL, **PAPER_SETTINGS),
        "summaries": summaries,
        "directions": leading_directions(Gram.from_embeddings(embeddings), max(DIRECTIONS)),
    }


def moved(before: dict[str, Any], after: dict[str, Any]) -> dict[str, float]:
    """ΔU, ΔG, the turn of the leading directions, and each functional's ratio or difference."""
    drift = after["tracks"].drift(before["tracks"])
    found = {
        "track_two": drift.track_two,
        "track_one": drift.track_one,
        **{
            f"subspace_drift_{count}": subspace_drift(
                before["directions"][:count], after["directions"][:count]
            )
            for count in DIRECTIONS
        },
        "mean_cosine": _value(after, "uncentred", "mean_cosine")
        - _value(before, "uncentred", "mean_cosine"),
    }
    for convention in after["summaries"]:
        for name in FUNCTIONALS:
            old, new = (_value(each, convention, name) for each in (before, after))
            found[f"{convention}/{name}"] = new / old if name in RANKS else new - old
    return found


def _value(found: dict[str, Any], convention: str, name: str) -> float:
    return float(getattr(found["summaries"][convention], name).value)


def row(name: str, worlds: list[dict[str, dict[str, float]]]) -> dict[str, Any]:
    """Mean over the worlds, and by how many standard deviations of no change it is off."""
    found: dict[str, Any] = {"change": name, TOLD: sum(int(each[name][TOLD]) for each in worlds)}
    for key in sorted(worlds[0][name].keys() - {TOLD}):
        calm = [each["none"][key] for each in worlds]
        values = [each[name][key] for each in worlds]
        found[key] = {
            "mean": mean(values),
            "sd": stdev(values),
            "noises": (mean(values) - mean(calm)) / stdev(calm),
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a self-check of some seconds")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    seeds = 2 if options.quick else SEEDS
    worlds = [changes(seed) for seed in range(seeds)]
    result = {
        "environment": environment(),
        "features": FEATURES,
        "observed": OBSERVED,
        "total": TOTAL,
        "topics": TOPICS,
        "spread": SPREAD,
        "directions": DIRECTIONS,
        "seeds": seeds,
        "changes": [row(name, worlds) for name in CHANGES],
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1, allow_nan=False) + "\n")
    for each in result["changes"]:
        print(each["change"], {k: v for k, v in each.items() if k.startswith("track")})


if __name__ == "__main__":
    main()
