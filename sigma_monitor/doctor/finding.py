"""One thing that was looked at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Finding", "State"]

State = Literal["ok", "note", "failed"]


@dataclass(frozen=True)
class Finding:
    """What was found, and what to do about it.

    `note` is of something that is as it may be, and worth knowing.
    """

    section: str
    name: str
    state: State
    text: str
    remedy: str | None = None  # always there where it failed
