"""`sigma-monitor analyze`: the spectra of embeddings that lie in files, and how they drifted.

`files` finds the arrays and maps them into memory, `analyze` computes, `table` and `picture` show.
"""

from sigma_monitor.analysis.analyze import Analysis, Drift, Report, Settings, analyze_files
from sigma_monitor.analysis.picture import check_picture, draw
from sigma_monitor.analysis.table import table

__all__ = [
    "Analysis",
    "Drift",
    "Report",
    "Settings",
    "analyze_files",
    "check_picture",
    "draw",
    "table",
]
