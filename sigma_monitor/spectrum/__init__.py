"""Tensors in, estimates out: the spectrum of an embedding matrix and its functionals.

`summary.spectral_summary` is the way in; `gram` builds one product for both conventions, `exact`
decomposes it, `functionals` turns a spectrum into numbers, `uncertainty` adds the jackknife.
Nothing in this package knows of models, training or logging.
"""

from sigma_monitor.spectrum.gram import Gram
from sigma_monitor.spectrum.summary import SpectralSummary, spectral_summary, summarize

__all__ = ["Gram", "SpectralSummary", "spectral_summary", "summarize"]
