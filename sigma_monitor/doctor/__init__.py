"""`sigma-monitor doctor`: whether what is installed on this machine works.

`packages` reads versions and their bounds, `devices` what torch can compute on, `engine` tries the
spectral engine there on rows whose spectrum is known, and `tracking` says what the alerts of a W&B
run are bounded by. Each gives findings; one that failed says what to do.
"""

from sigma_monitor.doctor.examination import Examination, examine
from sigma_monitor.doctor.finding import Finding

__all__ = ["Examination", "Finding", "examine"]
