"""The command line, a module for each command."""

from __future__ import annotations

from sigma_monitor.cli.program import main

__all__ = ["main"]
