"""A model and a probe set in, embeddings out; the model is left as it was found.

`probe_set` chooses the examples once, `guard` restores whatever a forward pass could change,
`layers` finds where hidden states are read, `pooling` turns them into rows, `forward` runs it all.
"""

from sigma_monitor.probing.forward import Probe, Reading
from sigma_monitor.probing.pooling import Rows
from sigma_monitor.probing.probe_set import ProbeSet

__all__ = ["Probe", "ProbeSet", "Reading", "Rows"]
