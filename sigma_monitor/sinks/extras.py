"""Libraries that are installed with an extra of this package."""

from __future__ import annotations

import importlib.util

__all__ = ["require"]


def require(library: str, extra: str, user: str) -> None:
    """Refuse to go on without `library`, which is not imported for that.

    Raises:
        ImportError: Naming the extra.
    """
    if importlib.util.find_spec(library) is None:
        raise ImportError(f'{user} needs {library}: pip install "sigma-monitor[{extra}]".')
