"""What the callbacks of all hosts do alike, where no host is needed."""

from __future__ import annotations

import json
from pathlib import Path

from tests.integrations.resuming_ranks import STATES, resume_on
from tests.processes import spawned


def test_all_ranks_go_on_from_their_checkpoint_or_none_does(tmp_path: Path) -> None:
    spawned(2, resume_on, tmp_path)
    expected = {case: [False, 0] for case in STATES} | {"good": [True, 1]}
    for rank in (0, 1):
        assert json.loads((tmp_path / f"rank{rank}.json").read_text()) == expected
