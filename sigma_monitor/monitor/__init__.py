"""`SigmaMonitor`: the one place where probe, spectrum, detection and sinks meet.

`options` checks its arguments, `cadence` says when a check is due, `watcher` begins the detectors,
`stop` says when a stop that was asked for is due, `quoting` finds texts for an alert, and
`observing` serves rows that the user has.
"""

from sigma_monitor.monitor.monitor import RECORD, SigmaMonitor

__all__ = ["RECORD", "SigmaMonitor"]
