"""Two processes that resume, for `test_shared`. It imports little: processes begin anew."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sigma_monitor import SigmaMonitor
from sigma_monitor.integrations.shared import goes_on
from tests.monitor.observing_ranks import spread

STATES = ("good", "none", "torn", "torn on rank 1", "none on rank 1")


def resume_on(rank: int, _world: int, folder: Path) -> None:
    """What each rank has come to, by what its checkpoint holds."""
    found: dict[str, Any] = {}
    for case in STATES:
        before, monitor = SigmaMonitor(sinks=[]), SigmaMonitor(sinks=[])
        before.observe("table", spread(), 3)
        saved: Any = before.state_dict()
        if rank == 1 or "rank" not in case:
            saved = {"good": saved, "none": None, "torn": {"version": 99}}[case.split()[0]]
        went_on = goes_on(monitor, saved, 4)
        found[case] = [went_on, len(monitor.state_dict()["observer"]["series"])]
    (folder / f"rank{rank}.json").write_text(json.dumps(found))
