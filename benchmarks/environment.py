"""What a result file says of the machine and the code it was made with."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterable
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "transformers", "accelerate", "scipy", "numpy")
RIVALS = ("imate", "hessian-eigenthings", "curvlinops-for-pytorch")
# What a result depends on; the results themselves change while benchmarks run one after another.
CODE = ("sigma_monitor", "benchmarks", ":!benchmarks/results")


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


def commit() -> str | None:
    """The commit checked out, with a plus where the code differs; None outside a git checkout."""
    try:
        changed = _git("status", "--porcelain", "--", *CODE)
        return _git("rev-parse", "--short", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(*words: str) -> str:
    root = Path(__file__).parents[1]
    done = subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
