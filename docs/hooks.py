"""Called by MkDocs: writes what `--help` says into the page on the command line."""

from __future__ import annotations

import contextlib
import io
import os
import re
from typing import Any

PAGE = "api/cli.md"
MARK = "<!-- commands -->"
WIDTH = "88"


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Replace the mark on that page."""
    if page.file.src_uri != PAGE:
        return markdown
    if MARK not in markdown:
        raise ValueError(f"{PAGE} has no {MARK}: put it where the commands belong.")
    return markdown.replace(MARK, commands())


def commands() -> str:
    """A section for each command."""
    listed = re.search(r"\{([a-z,-]+)\}", help_of())
    assert listed is not None
    names = listed.group(1).split(",")
    return "\n\n".join(f"## {name}\n\n```text\n{help_of(name)}```" for name in names)


def help_of(*command: str) -> str:
    """What `sigma-monitor COMMAND --help` prints."""
    from sigma_monitor.cli import main

    printed, before = io.StringIO(), os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = WIDTH  # argparse asks for the width of the terminal
    try:
        with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
            main([*command, "--help"])
    finally:
        if before is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = before
    return printed.getvalue()
