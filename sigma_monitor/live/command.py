"""Follow a record until its run has ended."""

from __future__ import annotations

import contextlib
import io
import os
import select
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from rich.console import Console

from sigma_monitor.live.follow import Follower
from sigma_monitor.live.lines import JsonLines, Lines, View
from sigma_monitor.live.screen import Screen, drawn
from sigma_monitor.live.seen import Seen
from sigma_monitor.sinks.jsonl import FILE
from sigma_monitor.snapshot import NAME

__all__ = ["follow", "watch"]

_POLL = 0.5  # seconds


def watch(path: str | os.PathLike[str], *, once: bool = False, as_json: bool = False) -> None:
    """Show the run of a record on standard output until it has ended, q or an interrupt.

    On a terminal that is a screen, elsewhere a line for every check, alert and event.

    Args:
        path: Of the record, which need not be there yet, or of the output folder of a run.
        once: Show what there is, and return.
        as_json: Print lines of JSON.

    Raises:
        InputError: When what lies there cannot be read.
        RecordError: When it is no record of this schema.
    """
    path = _record_in(Path(path))
    if isinstance(sys.stdout, io.TextIOWrapper):  # which may not know the characters of the curve
        sys.stdout.reconfigure(errors="replace")
    console = Console(markup=False, highlight=False, emoji=False)
    if as_json:
        follow(path, JsonLines(sys.stdout), once=once)
    elif once:
        console.print(drawn(follow(path, View(), once=True), console))
    elif not console.is_terminal:
        follow(path, Lines(sys.stdout))
    else:
        with _keys() as pressed, Screen(console) as screen:
            seen = follow(path, screen, leave=pressed)
        console.print(drawn(seen, console))


def follow(
    path: Path,
    view: View,
    *,
    once: bool = False,
    leave: Callable[[float], bool] | None = None,
) -> Seen:
    """Show what is written, until the run has ended or on an interrupt.

    Args:
        path: Of the record.
        view: Shows it.
        once: Return after what is there.
        leave: `leave(seconds)` waits so long at most, and says whether to return.

    Returns:
        The run as it was seen last.

    Raises:
        InputError, RecordError: As `watch`.
    """
    leave = leave or _wait
    seen = Seen(path)
    with contextlib.closing(Follower(path)) as follower, contextlib.suppress(KeyboardInterrupt):
        if not path.exists():
            view.waiting(seen)
        while True:
            news = follower.poll()
            if news.anew:
                seen = Seen(path)
                view.anew(seen)
            for line in news.lines:
                found = seen.take(line)
                if found is not None:
                    view.take(*found)
            view.show(seen)
            if once or seen.ended or leave(_POLL):
                break
    return seen


def _record_in(path: Path) -> Path:
    """The record of a run, where the path is its output folder or that of the monitor.

    What is not there yet is a folder, unless it is named as a record is.
    """
    if path.is_file() or path.suffix == Path(FILE).suffix:
        return path
    beside = path / FILE
    return beside if beside.exists() else path / NAME / FILE


def _wait(seconds: float) -> bool:
    time.sleep(seconds)
    return False


@contextlib.contextmanager
def _keys() -> Iterator[Callable[[float], bool]]:
    """Inside, `pressed(seconds)` waits so long for a key, and says whether it was q."""
    try:
        import termios
        import tty
    except ImportError:  # no such system
        yield _wait
        return
    try:
        before = termios.tcgetattr(sys.stdin)
    except (OSError, ValueError, termios.error):  # no terminal to type at
        yield _wait
        return
    keyboard = sys.stdin.fileno()

    def pressed(seconds: float) -> bool:
        ready, _, _ = select.select([keyboard], [], [], seconds)
        return bool(ready) and os.read(keyboard, 1).lower() == b"q"

    try:
        tty.setcbreak(keyboard)
        yield pressed
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
