r"""Watches the spectrum of a language model's representations while it trains.

A fixed probe set goes through the model, becomes embeddings, their Gram spectrum becomes numbers
with intervals, the series of numbers becomes a verdict, and the verdict becomes an alert::

    probing -> spectrum -> measure -> watch (detection) -> sinks
    \_______ instrument _________/
    \______________________ monitor ________________________/
                                |
                          integrations

`SigmaCallback` is the whole of it in one line for a `Trainer` of transformers, and
`SigmaLightningCallback` for one of Lightning; `SigmaMonitor` is the same for any loop;
`spectral_summary` is the spectrum of one embedding matrix, and `Lineage` compares generations of
text without any training.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__all__ = [
    "Alert",
    "Estimate",
    "Lineage",
    "Observation",
    "ProbeSet",
    "SigmaCallback",
    "SigmaLightningCallback",
    "SigmaMonitor",
    "Snapshot",
    "SpectralDrift",
    "SpectralSummary",
    "Status",
    "sigma_tracks",
    "spectral_drift",
    "spectral_summary",
    "subset_bounds",
]

if TYPE_CHECKING:
    from sigma_monitor.alert import Alert, Status
    from sigma_monitor.estimate import Estimate
    from sigma_monitor.integrations.lightning import SigmaLightningCallback
    from sigma_monitor.integrations.transformers import SigmaCallback
    from sigma_monitor.lineage import Lineage
    from sigma_monitor.monitor import SigmaMonitor
    from sigma_monitor.probing import ProbeSet
    from sigma_monitor.snapshot import Observation, Snapshot
    from sigma_monitor.spectrum import (
        SpectralDrift,
        SpectralSummary,
        sigma_tracks,
        spectral_drift,
        spectral_summary,
        subset_bounds,
    )

# Resolved on first use, so that importing the package imports no framework.
_HOMES = {
    "Alert": "sigma_monitor.alert",
    "Estimate": "sigma_monitor.estimate",
    "Lineage": "sigma_monitor.lineage",
    "Observation": "sigma_monitor.snapshot",
    "ProbeSet": "sigma_monitor.probing",
    "SigmaCallback": "sigma_monitor.integrations.transformers",
    "SigmaLightningCallback": "sigma_monitor.integrations.lightning",
    "SigmaMonitor": "sigma_monitor.monitor",
    "Snapshot": "sigma_monitor.snapshot",
    "SpectralDrift": "sigma_monitor.spectrum",
    "SpectralSummary": "sigma_monitor.spectrum",
    "Status": "sigma_monitor.alert",
    "sigma_tracks": "sigma_monitor.spectrum",
    "spectral_drift": "sigma_monitor.spectrum",
    "spectral_summary": "sigma_monitor.spectrum",
    "subset_bounds": "sigma_monitor.spectrum",
}


__version__: str  # as it was installed


def __getattr__(name: str) -> Any:
    if name == "__version__":
        value = _version()
    elif name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def _version() -> str:
    from importlib import metadata

    try:
        return metadata.version("sigma-monitor")
    except metadata.PackageNotFoundError:  # a folder on the path, which no tool installed
        return "0+unknown"


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
