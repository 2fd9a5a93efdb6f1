"""Records of runs to watch."""

from __future__ import annotations

from sigma_monitor import Estimate, Status
from sigma_monitor.sinks import JsonlSink
from tests.snapshots import snapshot

CLEAR = "\x1b[2J\x1b[31m\x9b1m\r\nsecond line\u202e\ud800"  # what a terminal would obey


def check(step, ratio=0.9, **fields):
    """A check whose effective rank is 40 times `ratio`, give or take a tenth."""
    rank = 40 * (ratio or 1.0)
    estimates = {
        "effective_rank": Estimate(rank, 0.9 * rank, 1.1 * rank, "sampling"),
        "participation_ratio": Estimate.exact(rank / 2),
    }
    return snapshot(
        step,
        **{
            "time": 1_700_000_000.0 + min(step, 1e6),
            "status": Status.WARMUP if ratio is None else Status.HEALTHY,
            "layers": {"last": estimates},
            "ratios": {} if ratio is None else {"last": ratio},
            **fields,
        },
    )


def write(path, *steps, afresh=False, closed=False, **fields):
    """A run with checks at these steps, added to the record at `path`."""
    sink = JsonlSink(path, afresh=afresh)
    for step in steps:
        sink.check(check(step, **fields))
    if closed:
        sink.note("closed", {"status": "HEALTHY", "checks": len(steps), "stop_reason": None})
    sink.close()
