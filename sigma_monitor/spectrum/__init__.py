"""Tensors in, estimates out: the spectrum of an embedding matrix and its functionals.

`summary.spectral_summary` is the way in: `conventions` says under what, `cost` picks the way.
`gram` has the rows, `stream` those that come in chunks, `sharded` those of many ranks. By the exact
way, `exact` decomposes their product, `functionals` turns a spectrum into numbers and `uncertainty`
adds the jackknife. By the randomised way, `operator` multiplies rows with vectors, `lanczos` runs
recursions on it, `randomized` decides on vectors and steps, `trace` makes brackets and intervals of
them. Both end in a `result`, and two results make a `drift`. `tracks`, `subset` and `corrections`
are what the paper and we say beside the spectrum. Nothing here knows of models, training or
logging.
"""

from sigma_monitor.spectrum.corrections import (
    KappaCorrected,
    gaussian_bias,
    kappa_corrected_log_det,
    ridge_for_kappa,
    unbiased_participation_ratio,
)
from sigma_monitor.spectrum.drift import SpectralDrift, spectral_drift
from sigma_monitor.spectrum.gram import Gram
from sigma_monitor.spectrum.sharded import sharded_summary
from sigma_monitor.spectrum.stream import GramStream
from sigma_monitor.spectrum.subset import SubsetBounds, subset_bounds
from sigma_monitor.spectrum.summary import (
    Method,
    SpectralSummary,
    spectral_summaries,
    spectral_summary,
    summarize,
)
from sigma_monitor.spectrum.tracks import PAPER_SETTINGS, SigmaTracks, sigma_tracks

__all__ = [
    "PAPER_SETTINGS",
    "Gram",
    "GramStream",
    "KappaCorrected",
    "Method",
    "SigmaTracks",
    "SpectralDrift",
    "SpectralSummary",
    "SubsetBounds",
    "gaussian_bias",
    "kappa_corrected_log_det",
    "ridge_for_kappa",
    "sharded_summary",
    "sigma_tracks",
    "spectral_drift",
    "spectral_summaries",
    "spectral_summary",
    "subset_bounds",
    "summarize",
    "unbiased_participation_ratio",
]
