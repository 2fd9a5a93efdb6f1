"""What the statements of the SIGMA paper are worth at the size it was published at, in numbers.

`bounds`: how far Track I's bound lies above the log det that it bounds, beside the bound that
ignores the data (AM-GM) and the sharp ones from the same subset; and how far Track I is from a
reading of the participation ratio. `theorem_3`: bias and coverage of its interval for Gaussian
rows. `track_two`: its mean beside what it tends to, for few and for many rows. `monotone`: how
often a log det falls as rows are added, with the ridge fixed on G and with one fixed on C.

Run: python benchmarks/paper_claims.py [--quick] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import torch
from blind_spots import FEATURES, OBSERVED, TOTAL, World, directions, world
from environment import environment
from numpy.random import Generator
from numpy.typing import NDArray
from scipy.special import ndtri

from sigma_monitor.spectrum import PAPER_SETTINGS, gaussian_bias, sigma_tracks, subset_bounds
from sigma_monitor.spectrum.subset import am_gm_log_det, track_one_log_det

DELTA, RHO = PAPER_SETTINGS["delta"], PAPER_SETTINGS["rho"]
ANY_NORM = 1e6  # a ρ above the squared norm of every Gaussian row
NOMINAL = 0.95
MANY = 400_000  # rows that stand for the population: they miss its log det by 0.2 nats
RESULT = Path(__file__).parent / "results" / "paper_claims.json"

Rows = NDArray[np.float64]

ROWS: dict[str, Callable[[int, Generator], Rows]] = {
    "60 topics": lambda n, rng: world(rng).texts(rng, n),
    "10 topics": lambda n, rng: world(rng, 10).texts(rng, n),
    "uniform on the sphere": directions,
}


def bounds(kind: str, seeds: int) -> dict[str, Any]:
    """Every bound of `log det(G + δI)` from the observed half of the rows, in nats."""
    found: list[dict[str, float]] = []
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        rows = ROWS[kind](TOTAL, rng)
        observed = torch.from_numpy(rows[:OBSERVED])
        tracks = sigma_tracks(observed, TOTAL, **PAPER_SETTINGS)
        sharp = subset_bounds(observed, TOTAL, delta=DELTA, rho=RHO)
        unseen = TOTAL - OBSERVED
        x = OBSERVED / (unseen * RHO + DELTA)  # tr G_A/(β + δ)
        ratio = OBSERVED**2 / float((sharp.observed**2).sum())  # participation ratio of G_A
        found.append(
            {
                "truth": float(np.linalg.slogdet(rows.T @ rows + DELTA * np.eye(FEATURES))[1]),
                "track_one": track_one_log_det(sharp.observed, unseen, delta=DELTA, rho=RHO),
                "am_gm": am_gm_log_det(TOTAL, FEATURES, delta=DELTA, rho=RHO),
                "fill": sharp.log_det.high,
                "spike": sharp.log_det.low,
                "G_KF": tracks.track_one,
                "second_order": x - x**2 / (2 * ratio),
                "participation_ratio": ratio,
            }
        )
    return {"rows": kind, "seeds": seeds, **{k: mean(f[k] for f in found) for k in found[0]}}


def range_of_track_one() -> float:
    """From all observed rows alike to an even spectrum: there is nothing outside."""
    x = OBSERVED / ((TOTAL - OBSERVED) * RHO + DELTA)
    return FEATURES * math.log1p(x / FEATURES) - math.log1p(x)


def theorem_3(features: int, total: int, runs: int) -> dict[str, Any]:
    """`U_cov(n_A) − U_cov(n)` of Gaussian rows: bias, spread, and coverage of the interval.

    Against the track of all n rows, which the theorem is about, and against `log det C`, which
    is that of infinitely many.
    """
    differences, errors, covered, covered_limit = [], [], 0, 0
    half = float(ndtri((1 + NOMINAL) / 2))
    for seed in range(runs):
        rows = torch.from_numpy(np.random.default_rng(seed).standard_normal((total, features)))
        part = sigma_tracks(rows[:OBSERVED], total, rho=ANY_NORM)
        whole = sigma_tracks(rows, total, rho=ANY_NORM).track_two
        sigma = math.sqrt(part.fixed_m_variance)
        errors.append(sigma * math.sqrt(1 / OBSERVED - 1 / total))
        differences.append(part.track_two - whole)
        covered += abs(differences[-1]) <= half * errors[-1]
        # log det C = 0
        covered_limit += abs(part.track_two) <= half * sigma / math.sqrt(OBSERVED)
    step = 1 / OBSERVED - 1 / total
    return {
        "features": features,
        "observed": OBSERVED,
        "total": total,
        "runs": runs,
        "bias": mean(differences),
        "bias_exact": gaussian_bias(OBSERVED, features) - gaussian_bias(total, features),
        # σ² = 2m for Gaussian rows
        "bias_second_order": -(2 * features + features**2 - features) * step / 2,
        "sd": stdev(differences),
        "sd_of_theorem": mean(errors),
        "coverage": covered / runs,
        "coverage_of_limit": covered_limit / runs,
    }


def exact_bias() -> list[dict[str, float]]:
    """`E log det Ĉ − log det C` at the published number of features, by the digamma formula."""
    return [
        {"observed": n, "nats": gaussian_bias(n, FEATURES)}
        for n in (OBSERVED, TOTAL, 10_000, 100_000)
    ]


def track_two(topics: World, moment: Rows, observed: int, runs: int) -> dict[str, Any]:
    """Mean of Track II for rows of 60 topics, and the ceiling of its mean (Jensen)."""
    found = []
    for seed in range(runs):
        rng = np.random.default_rng([1, seed])
        rows = topics.texts(rng, observed)
        found.append(sigma_tracks(torch.from_numpy(rows), 10 * observed, **PAPER_SETTINGS))
    ridge = DELTA / observed * np.eye(FEATURES)
    return {
        "observed": observed,
        "runs": runs,
        "mean": mean(each.track_two for each in found),
        "sd": stdev(each.track_two for each in found),
        "ceiling": float(np.linalg.slogdet(moment + ridge)[1]),
        "log_det": float(np.linalg.slogdet(moment)[1]),
    }


def second_moment(topics: World, count: int) -> Rows:
    """C of the rows of these topics, from `count` of them."""
    total = np.zeros((FEATURES, FEATURES))
    rng = np.random.default_rng(2)
    for _ in range(count // TOTAL):
        rows = topics.texts(rng, TOTAL)
        total += rows.T @ rows
    return total / count


def monotone(cases: int) -> dict[str, Any]:
    """Cases in which a log det of n rows is below its mean over the n subsets without one of them.

    Rows use some of 32 features: the ridge is all that the other directions have.
    """
    rng, features, falls = np.random.default_rng(3), 32, {"fixed_on_G": 0, "fixed_on_C": 0}
    for _ in range(cases):
        used, n = rng.integers(1, features + 1), rng.integers(4, 4 * features)
        rows = np.zeros((n, features))
        rows[:, :used] = directions(n, rng, used)
        product = rows.T @ rows
        without = product - np.einsum("ni,nj->nij", rows, rows)
        for name, ridge in (("fixed_on_G", lambda k: DELTA / k), ("fixed_on_C", lambda _: DELTA)):
            identity = np.eye(features)
            all_rows = np.linalg.slogdet(product / n + ridge(n) * identity)[1]
            fewer = np.linalg.slogdet(without / (n - 1) + ridge(n - 1) * identity)[1].mean()
            falls[name] += bool(all_rows < fewer - 1e-9 * abs(fewer))
    return {"cases": cases, **falls}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a self-check of some seconds")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    quick = options.quick
    seeds, runs, many = (2, 5, 5 * TOTAL) if quick else (20, 1000, MANY)
    topics = world(np.random.default_rng(0))
    moment = second_moment(topics, many)
    result = {
        "environment": environment(),
        "bounds": [bounds(kind, seeds) for kind in ROWS],
        "range_of_track_one": range_of_track_one(),
        "theorem_3": [
            # Few are enough where the coverage is 0.
            theorem_3(m, total, runs if m <= 16 else max(5, runs // 20))
            for m in (4, 16, 64, FEATURES)
            for total in (TOTAL, 10 * TOTAL)
        ],
        "exact_bias": exact_bias(),
        "track_two": [
            track_two(topics, moment, n, max(3, seeds))
            for n in (400, OBSERVED, TOTAL, 2000, 10_000)
        ],
        "many": many,
        "monotone": monotone(150),
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1, allow_nan=False) + "\n")
    for part in ("bounds", "theorem_3", "track_two"):
        for row in result[part]:
            print(row)
    print(result["range_of_track_one"], result["monotone"])


if __name__ == "__main__":
    main()
