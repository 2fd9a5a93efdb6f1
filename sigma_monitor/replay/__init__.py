"""`sigma-monitor replay`: what the detector would have said of a series that was recorded.

`series` reads the series out of a CSV, a JSONL or a record, `replay` feeds it to a detector.
"""

from sigma_monitor.replay.replay import Replay, replay_file
from sigma_monitor.replay.series import STEP_COLUMNS

__all__ = ["STEP_COLUMNS", "Replay", "replay_file"]
