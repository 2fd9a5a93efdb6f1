"""Alerts on standard error, beside a progress bar."""

import contextlib
import os
import pty
import subprocess
import sys
import termios

import pytest
from tqdm import tqdm

from sigma_monitor.sinks import ConsoleSink
from tests.snapshots import alert, snapshot


@pytest.fixture(params=["with_tqdm", "without_tqdm"])
def sink(request, monkeypatch):
    if request.param == "without_tqdm":
        monkeypatch.delitem(sys.modules, "tqdm")
    return ConsoleSink()


def test_an_alert_is_one_line_and_its_advice_another(sink, capsys):
    sink.alert(alert(title="sigma: w", text="WARNING at step 3.", advice="Look."))
    sink.alert(alert(title="sigma: r", text="RECOVERED at step 9.", advice=""))
    out, err = capsys.readouterr()
    assert err.splitlines() == [
        "[sigma: w] WARNING at step 3.",
        "    Look.",
        "[sigma: r] RECOVERED at step 9.",
    ]
    assert err.endswith("\n")
    assert out == ""


def test_checks_are_not_shown(sink, capsys):
    sink.log(snapshot(alerted=True).metrics(), 10)
    sink.close()
    sink.close()
    assert capsys.readouterr() == ("", "")


def test_a_line_stands_by_itself_while_a_bar_runs(capsys):
    with tqdm(total=10, desc="training", file=sys.stderr, mininterval=0) as bar:
        bar.update(3)
        ConsoleSink().alert(alert(title="sigma: w", text="WARNING at step 3.", advice=""))
        bar.update(7)
    err = capsys.readouterr().err
    # A carriage return begins a line of a terminal anew; what follows the last one stays there.
    shown = [line.rpartition("\r")[2] for line in err.splitlines(keepends=False) if line]
    lines = [line.rpartition("\r")[2] for line in err.split("\n")]
    assert "[sigma: w] WARNING at step 3." in lines
    assert shown[-1].startswith("training: 100%")


def test_a_text_cannot_move_the_cursor(sink, capsys):
    sink.alert(alert(title="sigma\r: w", text="one\x1b[2J\ntwo\x9b", advice="three\x07\nfour"))
    assert capsys.readouterr().err.splitlines() == ["[sigma : w] one [2J two ", "    three four"]


PROGRAM = """
import sys, time
from tqdm import tqdm
from sigma_monitor.sinks import ConsoleSink
from tests.snapshots import alert
with tqdm(total=3, desc="training", mininterval=0, ncols=60) as bar:
    for kind, severity in (("WARNING", "warn"), ("COLLAPSED", "error"), ("RECOVERED", "info")):
        bar.update()
        ConsoleSink().alert(alert(kind, severity, title=f"sigma: {kind}", text="A.", advice=""))
"""


def on_a_terminal(**environment):
    """What the program writes to a terminal as its standard error."""
    main, other = pty.openpty()
    termios.tcsetwinsize(other, (24, 80))
    plain = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    child = subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stderr=other, env={**plain, **environment}
    )
    os.close(other)
    written = b""
    with contextlib.suppress(OSError):  # the terminal has gone with the program
        while part := os.read(main, 4096):
            written += part
    os.close(main)
    assert child.wait(60) == 0
    return written.decode()


def lines_of(written):
    """As they stand at the end: a carriage return begins a line anew."""
    lines = [line.rstrip("\r").rpartition("\r")[2] for line in written.split("\n")]
    return [line for line in lines if line]


def test_a_terminal_shows_severity_in_colour_beside_a_whole_bar():
    lines = lines_of(on_a_terminal())
    assert lines[:3] == [
        "\x1b[33m[sigma: WARNING]\x1b[0m A.",
        "\x1b[31m[sigma: COLLAPSED]\x1b[0m A.",
        "[sigma: RECOVERED] A.",
    ]
    assert len(lines) == 4
    assert lines[3].startswith("training: 100%")


def test_no_color_is_heeded():
    written = on_a_terminal(NO_COLOR="1")
    assert "[sigma: COLLAPSED] A." in lines_of(written)
    assert "\x1b[31m" not in written


def test_a_file_or_pipe_gets_no_colour(sink, capsys):
    sink.alert(alert("COLLAPSED", "error"))
    assert "\x1b" not in capsys.readouterr().err
