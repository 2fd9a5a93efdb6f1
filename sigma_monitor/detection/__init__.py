"""A series of checks in, status and alerts out. Plain Python, serialisable, no torch.

What becomes of a series, and where::

    checks -> baseline -> finding -> status -> episode -> verdict -> wording
              start or    level or   patience  what is    loss and   sentences
              plateau     trend      recovery  news       output

`Detector` takes a series up to what is news, by the thresholds of `rule`; `onset` says when an
excursion began.
"""

from sigma_monitor.detection.baseline import Baseline
from sigma_monitor.detection.detector import Detector
from sigma_monitor.detection.episode import Episode
from sigma_monitor.detection.rule import FLOOR, PRESETS, Thresholds
from sigma_monitor.detection.verdict import (
    Evidence,
    Judgement,
    Verdict,
    verdict_on,
)
from sigma_monitor.detection.wording import worded

__all__ = [
    "FLOOR",
    "PRESETS",
    "Baseline",
    "Detector",
    "Episode",
    "Evidence",
    "Judgement",
    "Thresholds",
    "Verdict",
    "verdict_on",
    "worded",
]
