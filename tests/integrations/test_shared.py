"""What the callbacks of all hosts do alike, where no host is needed."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from sigma_monitor import SigmaMonitor
from sigma_monitor.integrations.harmless import harmless
from sigma_monitor.integrations.shared import note_undelivered
from sigma_monitor.monitor import RECORD
from tests.integrations.resuming_ranks import STATES, resume_on
from tests.processes import spawned


def test_all_ranks_go_on_from_their_checkpoint_or_none_does(tmp_path: Path) -> None:
    spawned(2, resume_on, tmp_path)
    expected = {case: [False, 0] for case in STATES} | {"good": [True, 1]}
    for rank in (0, 1):
        assert json.loads((tmp_path / f"rank{rank}.json").read_text()) == expected


def test_no_address_of_a_logger_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    error = OSError("no answer from https://user:S3CRETpass@example.org/T0KENabcdef")

    @harmless
    def hook(_: object) -> None:
        raise error

    monitor = SigmaMonitor(output_dir=tmp_path)
    callback = SimpleNamespace(monitor=monitor, active=True, undelivered=0)
    note_undelivered(callback, "a logger", 0, error)
    hook(callback)
    events = [json.loads(line) for line in (tmp_path / RECORD).read_text().splitlines()]
    assert (callback.undelivered, callback.active) == (1, False)
    assert [event["event"] for event in events] == ["undelivered", "switched_off", "closed"]
    told = "OSError: no answer from https://…"
    assert [event.get("error") for event in events] == [told, told, None]
    assert caplog.text.count(told) == 3  # in each message, and in the traceback of the hook
    assert "S3CRET" not in caplog.text
    assert "T0KEN" not in caplog.text
