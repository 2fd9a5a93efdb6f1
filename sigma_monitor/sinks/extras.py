"""Libraries that are installed with an extra of this package."""

from __future__ import annotations

import importlib.util
import sys

__all__ = ["require"]


def require(library: str, extra: str, user: str) -> None:
    """Refuse to go on without `library`, which is not imported for that.

    Raises:
        ImportError: Naming the extra.
    """
    if not _is_there(library):
        raise ImportError(f'{user} needs {library}: pip install "sigma-monitor[{extra}]".')


def _is_there(library: str) -> bool:
    if library in sys.modules:  # None there stands for one that must not be imported
        return sys.modules[library] is not None
    return importlib.util.find_spec(library) is not None
