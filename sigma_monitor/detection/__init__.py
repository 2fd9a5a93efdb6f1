"""A series of checks in, status and alerts out. Plain Python, serialisable, no torch.

`Detector` watches one series: `baseline` says what it is compared with, `rule` holds the
thresholds, `finding` applies them to the latest checks, `episode` decides what of it is news,
`attribution` says when it began. `verdict` joins what several series say, and `wording` turns an
alert into sentences.
"""

from sigma_monitor.detection.baseline import Baseline
from sigma_monitor.detection.detector import SEVERITY, Detector
from sigma_monitor.detection.episode import Episode, News
from sigma_monitor.detection.rule import PRESETS, Thresholds
from sigma_monitor.detection.verdict import (
    Evidence,
    Judgement,
    Verdict,
    judged,
    judgement,
    paired_change,
)
from sigma_monitor.detection.wording import worded

__all__ = [
    "PRESETS",
    "SEVERITY",
    "Baseline",
    "Detector",
    "Episode",
    "Evidence",
    "Judgement",
    "News",
    "Thresholds",
    "Verdict",
    "judged",
    "judgement",
    "paired_change",
    "worded",
]
