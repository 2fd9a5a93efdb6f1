"""`sigma-monitor report` from its arguments to its exit code."""

import json
import subprocess
import sys

import pytest

from sigma_monitor.cli import main
from tests.report.records import collapsing, written


def refuse(constant):
    raise AssertionError(f"{constant} is no JSON")


def test_the_page_and_what_it_says(tmp_path, capsys):
    path = collapsing(tmp_path / "record.jsonl")
    output = tmp_path / "made" / "page.html"
    assert main(["report", str(path), "-o", str(output)]) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith(f"{output} (")
    assert printed.err == ""
    assert main(["report", str(path), "-o", str(output), "--json"]) == 0
    found = json.loads(capsys.readouterr().out, parse_constant=refuse)
    assert found["page"] == str(output)
    assert found["bytes"] == output.stat().st_size
    assert found["verdict"]["status"] == "COLLAPSED"
    kinds = {alert["kind"] for alert in found["alerts"]}
    assert kinds == {"BASELINE", "WARNING", "COLLAPSED"}


def test_the_page_lies_here_by_default(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    written(tmp_path / "record.jsonl", (0, 10))
    assert main(["report", "."]) == 0
    assert (tmp_path / "report.html").is_file()


@pytest.mark.parametrize("source", ["missing.jsonl", "empty", "other.bin"])
def test_bad_input_exits_with_2_and_leaves_nothing(tmp_path, capsys, source):
    (tmp_path / "empty").mkdir()
    (tmp_path / "other.bin").write_bytes(bytes(range(256)) * 100)
    assert main(["report", str(tmp_path / source), "-o", str(tmp_path / "page.html")]) == 2
    assert source in capsys.readouterr().err
    assert not (tmp_path / "page.html").exists()


def test_an_output_that_cannot_be_written_exits_with_2(tmp_path, capsys):
    path = written(tmp_path / "record.jsonl", (0, 10))
    assert main(["report", str(path), "-o", str(path / "page.html")]) == 2
    assert "Pass a path that can be written" in capsys.readouterr().err


def test_an_internal_error_exits_with_70(tmp_path, capsys, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("broken on purpose")

    monkeypatch.setattr("sigma_monitor.report.write_report", broken)
    assert main(["report", str(tmp_path / "record.jsonl")]) == 70
    assert "broken on purpose" in capsys.readouterr().err


def test_it_loads_no_torch(tmp_path):
    path = written(tmp_path / "record.jsonl", (0, 10))
    code = (
        "import sys; from sigma_monitor.cli import main\n"
        f"code = main(['report', {str(path)!r}, '-o', {str(tmp_path / 'page.html')!r}])\n"
        "print('torch' in sys.modules, file=sys.stderr); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "False\n")
