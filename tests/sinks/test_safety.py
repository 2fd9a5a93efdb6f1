"""Nothing leaves the machine, and no file is readable, beyond what was asked for."""

import os
import socket
import stat

import pytest

from sigma_monitor.monitor import RECORD
from tests.monitor.test_monitor import Dial, run


def collapsing(folder, **options):
    """A monitor that has told a collapse and is closed."""
    model = Dial()
    monitor = model.monitor(output_dir=folder, sinks=None, **options)
    run(monitor, model, range(40), scale={20: 0.0})
    monitor.close()
    return monitor


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
def test_the_record_has_the_mode_that_the_umask_leaves(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        collapsing(tmp_path)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / RECORD).stat().st_mode) == mode


def test_by_default_nothing_is_sent_anywhere(tmp_path, monkeypatch, capsys):
    def refuse(*_):
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monitor = collapsing(tmp_path)
    assert "sigma:" in capsys.readouterr().err
    assert monitor.failures == 0
    assert '"lost": {}' in (tmp_path / RECORD).read_text()


def test_all_files_lie_below_the_folder_of_the_run(tmp_path, monkeypatch):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    collapsing(tmp_path / "run")
    assert list(elsewhere.iterdir()) == []
    assert [path.name for path in (tmp_path / "run").rglob("*") if path.is_file()] == [RECORD.name]
