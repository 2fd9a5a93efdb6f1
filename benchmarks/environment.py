"""What a result file says of the machine it was made on."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from typing import Any

PACKAGES = ("torch", "transformers", "accelerate", "scipy", "numpy")
RIVALS = ("imate", "hessian-eigenthings", "curvlinops-for-pytorch")


def environment(more: Iterable[str] = ()) -> dict[str, Any]:
    """Processor, cores and versions, those of `more` packages too."""
    return {
        "date": datetime.now(timezone.utc).date().isoformat(),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "system": platform.system(),
        "cores": os.cpu_count(),
        "packages": {name: _version(name) for name in (*PACKAGES, *more)},
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
