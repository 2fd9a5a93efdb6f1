"""A file that grows, and is moved, cut, replaced or copied while it is read."""

from __future__ import annotations

import json
import os
import shutil

import pytest

from sigma_monitor.errors import InputError
from sigma_monitor.live.follow import Follower, News
from sigma_monitor.sinks import JsonlSink
from tests.live.records import write


@pytest.fixture
def path(tmp_path):
    return tmp_path / "record.jsonl"


@pytest.fixture
def follower(path):
    follower = Follower(path)
    yield follower
    follower.close()


def steps(news):
    return [json.loads(line)["step"] for line in news.lines]


def test_a_file_may_come_later(path, follower):
    assert follower.poll() == News([])
    path.write_bytes(b"one\ntwo\n")
    assert follower.poll() == News([b"one", b"two"])
    assert follower.poll() == News([])


def test_a_folder_may_come_later(tmp_path):
    follower = Follower(tmp_path / "run" / "sigma" / "record.jsonl")
    assert follower.poll() == News([])
    write(tmp_path / "run" / "sigma" / "record.jsonl", 0)
    assert steps(follower.poll()) == [0]


def test_a_line_waits_for_its_end(path, follower):
    with path.open("ab", buffering=0) as file:
        file.write(b'{"a"')
        assert follower.poll() == News([])
        file.write(b": 1}")
        assert follower.poll() == News([])
        file.write(b'\n{"b"')
        assert follower.poll() == News([b'{"a": 1}'])


def test_a_new_run_that_puts_the_record_aside_begins_anew(path, follower):
    write(path, 0, 10, 20)
    assert steps(follower.poll()) == [0, 10, 20]
    write(path, 0, afresh=True, ratio=0.8)
    assert path.with_name("record-1.jsonl").exists()
    news = follower.poll()
    assert (steps(news), news.anew) == ([0], True)


def test_a_longer_record_of_another_run_begins_anew(path, follower):
    write(path, 0)
    follower.poll()
    path.unlink()
    write(path, 0, 10, 20, ratio=0.5)
    news = follower.poll()
    assert (steps(news), news.anew) == ([0, 10, 20], True)


def test_a_record_that_is_put_aside_alone_is_read_on(path, follower):
    sink = JsonlSink(path)
    sink.note("started", {"step": 0})
    assert steps(follower.poll()) == [0]
    path.rename(path.with_name("elsewhere.jsonl"))
    sink.note("resumed", {"step": 10})
    assert follower.poll().anew is False
    sink.note("resumed", {"step": 20})
    sink.close()
    write(path, 30)
    news = follower.poll()
    assert (steps(news), news.anew) == ([30], True)


def test_a_record_that_is_copied_again_is_read_on(path, follower, tmp_path):
    """As by rsync, which puts a new file in the place of the old one."""
    source = tmp_path / "far" / "record.jsonl"
    write(source, 0, 10)
    shutil.copy(source, path)
    assert steps(follower.poll()) == [0, 10]
    write(source, 20)
    shutil.copy(source, tmp_path / "copied")
    os.replace(tmp_path / "copied", path)
    news = follower.poll()
    assert (steps(news), news.anew) == ([20], False)


@pytest.mark.parametrize("replace", [False, True], ids=["in place", "by another file"])
def test_a_record_that_is_cut_begins_anew(path, follower, tmp_path, replace):
    write(path, 0, 10, 20)
    follower.poll()
    whole = path.read_bytes()
    cut = whole[: whole.index(b"\n") + 1]
    if replace:
        (tmp_path / "shorter").write_bytes(cut)
        os.replace(tmp_path / "shorter", path)
    else:
        os.truncate(path, len(cut))
    news = follower.poll()
    assert (steps(news), news.anew) == ([0], True)
    write(path, 30)
    assert steps(follower.poll()) == [30]


def test_the_beginning_of_a_torn_line_does_not_join_another_run(path, follower):
    path.write_bytes(b'{"torn')
    follower.poll()
    path.unlink()
    write(path, 0)
    news = follower.poll()
    assert (steps(news), news.anew) == ([0], True)


def test_what_is_no_file_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"it is no file\. Pass the path of a record"):
        Follower(tmp_path).poll()


def test_a_pipe_is_refused_and_not_waited_for(path, follower):
    os.mkfifo(path)
    with pytest.raises(InputError, match="it is no file"):
        follower.poll()


def test_what_cannot_be_read_is_refused(path, follower, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    path.write_bytes(b"")
    monkeypatch.setattr(type(path), "open", refuse)
    with pytest.raises(InputError, match="jsonl: Permission denied"):
        follower.poll()
