"""`sigma-monitor watch` from its arguments to its end."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import json
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time

import pytest

from sigma_monitor import Estimate
from sigma_monitor.cli import main
from sigma_monitor.errors import RecordError
from sigma_monitor.live.command import _keys, _record_in, follow
from sigma_monitor.live.lines import View
from tests.live.records import check, write


class Told(View):
    """Keeps what it is told."""

    def __init__(self):
        self.of = []

    def waiting(self, seen):
        self.of.append("waiting")

    def anew(self, seen):
        self.of.append("anew")
        assert seen.record.snapshots == []

    def take(self, kind, held):
        self.of.append(held.step if kind == "check" else held["event"])


@pytest.fixture
def path(tmp_path):
    return tmp_path / "record.jsonl"


def followed(path, *happenings):
    """What a view is told while these happen, one between two looks at the file."""
    view, left = Told(), list(happenings)

    def leave(seconds):
        assert seconds > 0
        if not left:
            return True
        left.pop(0)()
        return False

    seen = follow(path, view, leave=leave)
    assert left == []
    return view.of, [snapshot.step for snapshot in seen.record.snapshots]


def test_a_record_is_waited_for_and_followed(path):
    told, steps = followed(
        path,
        lambda: write(path, 0),
        lambda: None,
        lambda: write(path, 10, 20),
    )
    assert told == ["waiting", 0, 10, 20]
    assert steps == [0, 10, 20]


def test_it_ends_with_the_run(path):
    told, _ = followed(path, lambda: write(path, 0), lambda: write(path, 10, closed=True))
    assert told == ["waiting", 0, 10, "closed"]


def test_a_resumed_run_replaces_the_steps_it_repeats(path):
    write(path, 0, 10, 20)
    told, steps = followed(path, lambda: write(path, 10, 15))
    assert told == [0, 10, 20, 10, 15]
    assert steps == [0, 10, 15]


def test_a_new_run_replaces_the_old_one(path):
    write(path, 0, 10, 20)
    told, steps = followed(path, lambda: write(path, 0, afresh=True, ratio=0.5))
    assert told == [0, 10, 20, "anew", 0]
    assert steps == [0]


def test_a_line_torn_by_a_kill_is_passed_over(path):
    write(path, 0)

    def tear():
        with path.open("ab") as file:
            file.write(b'{"type": "check", "st')

    told, steps = followed(path, tear, lambda: write(path, 10))  # a resumed run begins a fresh line
    assert told == [0, 10]
    assert steps == [0, 10]


def test_an_interrupt_ends_it_quietly(path):
    write(path, 0)

    def interrupt(seconds):
        raise KeyboardInterrupt

    seen = follow(path, View(), leave=interrupt)
    assert len(seen.record.snapshots) == 1


def test_another_schema_is_refused(path):
    path.write_text('{"type": "check", "schema": 99}\n')
    with pytest.raises(RecordError, match="schema 99"):
        follow(path, View(), once=True)


@pytest.mark.parametrize("options", [[], ["--json"], ["--once"]])
def test_a_closed_record_is_shown_and_exits_with_0(path, capsys, options):
    write(path, 0, 1200, closed=True)
    assert main(["watch", str(path), *options]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    if options == ["--json"]:
        lines = [json.loads(line) for line in printed.out.splitlines()]
        assert [line["type"] for line in lines] == ["check", "check", "event"]
    else:
        assert "step 1,200" in printed.out


HOSTILE = {
    "a step beyond all numbers": {"step": 10**400, "check": 10**400},
    "a time without end": {"time": float("inf"), "seconds": float("nan"), "overhead": float("inf")},
    "no names": {"layers": {}, "ratios": {}},
    "ratios of no layer": {"ratios": {"other": float("nan")}},
    "huge values": {
        "layers": {"last": {"effective_rank": Estimate(1e308, -1e308, 1e308, "exact")}}
    },
    "nothing": {"layers": {"last": {"effective_rank": Estimate.exact(0.0)}}, "loss": float("nan")},
}


@pytest.mark.parametrize("fields", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("options", [[], ["--once"]])
def test_extreme_values_are_shown(path, capsys, fields, options):
    lines = [check(**{"step": 0, "ratio": 0.9, **fields}), check(1, 0.9)]
    bodies = [{"type": "check", **line.to_dict()} for line in lines]
    bodies.append({"type": "alert", "step": [1], "severity": {}, "text": None})
    bodies.append({"type": "event", "event": "closed", "stop_reason": {"a": [float("nan")]}})
    path.write_text("".join(f"{json.dumps(body)}\n" for body in bodies))
    assert main(["watch", str(path), *options]) == 0
    assert "HEALTHY" in capsys.readouterr().out


@pytest.mark.parametrize(
    "field", ["step", "time", "seconds", "check", "layers", "ratios", "status"]
)
@pytest.mark.parametrize("value", [None, "none", [], {"a": "b"}])
def test_values_of_another_kind_exit_with_2(path, capsys, field, value):
    if (field, value) in (("layers", None), ("ratios", None)):
        value = 3
    body = {"type": "check", **check(0).to_dict(), field: value}
    path.write_text(json.dumps(body) + "\n")
    assert main(["watch", str(path), "--once"]) == 2
    assert "line 1: not a snapshot of schema" in capsys.readouterr().err


def test_a_folder_that_comes_later_is_that_of_a_run(tmp_path):
    assert _record_in(tmp_path / "runs" / "a") == tmp_path / "runs" / "a" / "sigma" / "record.jsonl"
    assert _record_in(tmp_path / "record.jsonl") == tmp_path / "record.jsonl"
    (tmp_path / "copy.txt").touch()
    assert _record_in(tmp_path / "copy.txt") == tmp_path / "copy.txt"


@pytest.mark.parametrize("inside", ["sigma/record.jsonl", "record.jsonl"])
def test_the_folder_of_a_run_will_do(tmp_path, capsys, inside):
    write(tmp_path / inside, 0, 1200)
    assert main(["watch", str(tmp_path), "--once"]) == 0
    assert "step 1,200" in capsys.readouterr().out


def test_once_does_not_wait(tmp_path, capsys):
    assert main(["watch", str(tmp_path / "none.jsonl"), "--once"]) == 0
    assert capsys.readouterr().out.endswith("none.jsonl is waited for\n")
    assert main(["watch", str(tmp_path / "none.jsonl"), "--once", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["event"] == "waiting"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"type": "check", "schema": 99}\n', "line 1: snapshot schema 99"),
        ('{"type": "alarm"}\n', "line 1: type 'alarm' is unknown"),
        ("[1]\n", "line 1: type None is unknown"),
    ],
)
@pytest.mark.parametrize("options", [[], ["--json"], ["--once"]])
def test_what_is_no_record_exits_with_2(path, capsys, text, said, options):
    path.write_text(text)
    assert main(["watch", str(path), *options]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert said in printed.err


def run(*arguments, **options):
    command = [sys.executable, "-m", "sigma_monitor", "watch", *arguments]
    # Whoever runs these tests in the background of a shell is deaf to interrupts, and so were it.
    heard = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    return subprocess.Popen(command, preexec_fn=heard, **options)


def test_a_reader_that_has_enough_is_no_error(path):
    write(path, *range(2000))
    with run(str(path), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout.readline().startswith(b"step 0 ")
        process.stdout.close()
        assert process.wait(60) == 0
        assert process.stderr.read() == b""


def test_an_output_that_knows_few_characters_gets_what_it_knows(path):
    write(path, 0, 10, closed=True)
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    with run(str(path), "--once", stdout=subprocess.PIPE, env=environment) as process:
        assert "step 10" in process.stdout.read().decode("ascii")
        assert process.wait(60) == 0


def test_it_needs_no_torch(path):
    write(path, 0, closed=True)
    code = (
        "import sys; from sigma_monitor.cli import main\n"
        f"main(['watch', {str(path)!r}, '--once']); sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60)
    assert done.returncode == 0


@contextlib.contextmanager
def terminal(rows=30, columns=80):
    """Both ends of a terminal."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    yield ours, theirs
    os.close(ours)
    os.close(theirs)


def read_until(end, words, seconds=60):
    """What comes out of a terminal until these words do."""
    text, deadline = b"", time.monotonic() + seconds
    while words not in text and time.monotonic() < deadline:
        if select.select([end], [], [], 0.2)[0]:
            text += os.read(end, 65536)
    assert words in text, text
    return text


@pytest.mark.parametrize(
    ("leave", "size"),
    [(b"q", {}), (b"\x03", {"COLUMNS": "60"})],
    ids=["q", "an interrupt, with a width in the environment"],
)
def test_on_a_terminal_it_is_a_screen_that_is_drawn_again(tmp_path, leave, size):
    path = tmp_path / ("a" * 120) / "record.jsonl"
    ours = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES")}
    environment = {**ours, **size, "TERM": "xterm-256color"}
    with terminal() as (ours, theirs):
        before = termios.tcgetattr(theirs)
        ends = dict.fromkeys(("stdin", "stdout", "stderr"), theirs)
        process = run(str(path), env=environment, start_new_session=True, **ends)
        try:
            shown = read_until(ours, b"is waited for")
            assert b"\x1b[?1049h" in shown  # the terminal's other screen
            write(path, 0, 1200)
            read_until(ours, b"step 1,200")
            write(path, 1300)
            read_until(ours, b"step 1,300")
            os.write(ours, b"x")
            os.write(ours, leave) if leave == b"q" else process.send_signal(2)
            shown = read_until(ours, b"\x1b[?1049l")
            shown += read_until(ours, b"last  effective_rank")  # and stays when it has ended
            assert process.wait(60) == 0
            assert termios.tcgetattr(theirs) == before
        finally:
            process.kill()
            process.wait()


def test_the_checks_of_these_tests_can_be_told_apart():
    assert check(0, 0.5).to_dict() != check(0, 0.9).to_dict()


def test_a_terminal_without_a_keyboard_is_watched_too(path, monkeypatch):
    with open(os.devnull) as nothing:
        monkeypatch.setattr(sys, "stdin", nothing)
        with _keys() as pressed:
            assert not pressed(0.0)
