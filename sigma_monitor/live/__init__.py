"""`sigma-monitor watch`: a training that runs, seen through its record.

`follow` reads the lines that are added, `seen` is what they amount to, and `screen` draws that on a
terminal; elsewhere `lines` writes a line for each of them.
"""

from sigma_monitor.live.command import watch

__all__ = ["watch"]
