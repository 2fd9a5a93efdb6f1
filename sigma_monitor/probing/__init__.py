"""A model and a probe set in, embeddings out; the model is left as it was found.

`probe_set` chooses the examples once, `guard` restores whatever a forward pass could change,
`layers` finds where hidden states are read, `pooling` turns them into rows, `losses` has held-out
loss from the same pass, `split` shares it out to the ranks, and `forward` runs it all.
`generate` lets the model continue the probe examples, and `encoders` embed what it wrote.
"""

from sigma_monitor.probing.encoders import Encoder, EncoderSpec, find_encoder, named_encoder
from sigma_monitor.probing.forward import Probe, Reading
from sigma_monitor.probing.generate import Continuations, Writer
from sigma_monitor.probing.losses import TokenLosses
from sigma_monitor.probing.pooling import Rows
from sigma_monitor.probing.probe_set import ProbeSet

__all__ = [
    "Continuations",
    "Encoder",
    "EncoderSpec",
    "Probe",
    "ProbeSet",
    "Reading",
    "Rows",
    "TokenLosses",
    "Writer",
    "find_encoder",
    "named_encoder",
]
