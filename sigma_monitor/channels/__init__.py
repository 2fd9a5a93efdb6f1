"""Measurements of one run in, status and alerts out.

`layer` watches the spectra of one layer, `generation` what the model writes, `loss` its held-out
loss; `channel` makes one status and one episode of several series, and `run` joins the channels.
`limits` watches what else a run may be stopped for, and `observed` rows that the user hands over.
"""

from sigma_monitor.channels.limits import checked_limits
from sigma_monitor.channels.loss import LOSS_RULE
from sigma_monitor.channels.observed import ObservedWatch
from sigma_monitor.channels.run import RunWatch, WatchOptions

__all__ = [
    "LOSS_RULE",
    "ObservedWatch",
    "RunWatch",
    "WatchOptions",
    "checked_limits",
]
