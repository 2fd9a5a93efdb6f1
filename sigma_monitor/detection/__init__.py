"""A series of checks in, status and alerts out. Plain Python, serialisable, no torch.

`Detector` watches one series: `baseline` says what it is compared with, `rule` holds the
thresholds, `wording` turns an alert into sentences.
"""

from sigma_monitor.detection.baseline import Baseline
from sigma_monitor.detection.detector import Detector
from sigma_monitor.detection.rule import Thresholds
from sigma_monitor.detection.wording import worded

__all__ = ["Baseline", "Detector", "Thresholds", "worded"]
