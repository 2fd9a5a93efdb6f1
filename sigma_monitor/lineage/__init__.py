"""Generations of a recursive pipeline, compared with a matched lineage on real data.

`corpus` streams what lies in files, `sample` chooses the fixed index set, `embed` turns documents
into embeddings and keeps them, `shared` shares that out to the processes, `measure` has spectra and
diversity, `watched` ratios with paired intervals, `verdict` what they mean, `report` and `table`
say it. `Lineage` is the one place where the stages meet; `sigma-monitor chain` is that for files.
"""

from sigma_monitor.lineage.corpus import Corpus, open_corpus
from sigma_monitor.lineage.lineage import Lineage
from sigma_monitor.lineage.measure import Measurement
from sigma_monitor.lineage.report import Generation, LineageReport
from sigma_monitor.lineage.shared import launched
from sigma_monitor.lineage.verdict import Finding, Limits, Verdict

__all__ = [
    "Corpus",
    "Finding",
    "Generation",
    "Limits",
    "Lineage",
    "LineageReport",
    "Measurement",
    "Verdict",
    "launched",
    "open_corpus",
]
