"""Snapshots and alerts to hand to sinks."""

from __future__ import annotations

from typing import Any

from sigma_monitor import Alert, Estimate, Snapshot, Status
from sigma_monitor.snapshot import Observation


def snapshot(step: int = 10, **fields: Any) -> Snapshot:
    """One check of one layer: an exact functional and one with an interval."""
    return Snapshot(
        **{
            "step": step,
            "check": 2,
            "time": 1_700_000_000.25,
            "status": Status.HEALTHY,
            "layers": {
                "last": {
                    "effective_rank": Estimate(40.0, 35.0, 46.0, "sampling"),
                    "uncentred/participation_ratio": Estimate.exact(7.5),
                }
            },
            "ratios": {"last": 0.97},
            "finite": 1.0,
            "loss": 2.5,
            "alerted": False,
            "seconds": 0.125,
            "overhead": 0.0075,
            "rows": 1000,
            "examples": 128,
            "fingerprint": "0123456789abcdef",
            "conventions": {"pooling": "tokens", "relative_ridge": 1e-3},
            **fields,
        }
    )


def observation(step: int = 10, **fields: Any) -> Observation:
    """What was measured of a codebook."""
    return Observation(
        **{
            "name": "codebook",
            "step": step,
            "number": 2,
            "time": 1_700_000_000.25,
            "status": Status.HEALTHY,
            "estimates": {"effective_rank": Estimate(40.0, 35.0, 46.0, "sampling")},
            "ratio": 0.97,
            "alerted": False,
            "rows": 1000,
            "features": 64,
            "seconds": 0.125,
            "overhead": 0.0075,
            **fields,
        }
    )


def alert(kind: str = "WARNING", severity: str = "warn", **fields: Any) -> Alert:
    """An alert as the monitor words it."""
    return Alert(
        kind,
        severity,
        **{
            "step": 10,
            "check": 2,
            "layer": "last",
            "functional": "effective_rank",
            "value": 20.0,
            "baseline": 40.0,
            "title": "sigma: representations are contracting",
            "text": "WARNING at step 10 (check 2).",
            "advice": "Look at the learning rate.",
            **fields,
        },
    )
