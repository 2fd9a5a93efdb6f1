"""Records of many rows, read by the command in a process of its own."""

import json
import os
import subprocess
import sys

import pytest

from sigma_monitor.report.page import MOST_BYTES
from sigma_monitor.sinks import JsonlSink
from tests.processes import REPOSITORY
from tests.report.records import BASELINE, band, news
from tests.snapshots import snapshot

# The peak of this process alone: `getrusage` counts that of the one that began it, too.
PROGRAM = """
import sys
from sigma_monitor.cli import main
code = main(sys.argv[1:])
with open("/proc/self/status") as status:
    kib = next(line for line in status if line.startswith("VmHWM")).split()[1]
print("peak", kib, file=sys.stderr)
sys.exit(code)
"""
EVERY = 1000  # rows to an alert
DIP = 0.3  # of the rank, at one check of all
BYTES_OF_A_ROW = 120  # that are kept: two series of four numbers, and the columns of the checks

pytestmark = pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="no /proc")


def many_rows(path, rows):
    """A record of so many lines, as short as checks and alerts can be."""
    sink = JsonlSink(path)
    sink.check(snapshot(0, layers={"last": {"effective_rank": band(BASELINE)}}, conventions={}))
    sink.alert(news("BASELINE", "info", 0, layer="last", baseline=BASELINE))
    sink.alert(news("WARNING", "warn", 7, layer="last"))
    sink.close()
    check, baseline, warning = path.read_bytes().splitlines(keepends=True)
    head, tail = check.split(b'"step": 0,')
    dip = tail.replace(b"[50.0, 48.0, 52.0,", b"[%g, %g, %g," % ((DIP * BASELINE,) * 3))
    assert dip != tail
    with path.open("wb") as file:
        file.writelines([check, baseline])
        for row in range(1, rows - 1):
            if row % EVERY == 0:
                file.write(warning.replace(b'"step": 7,', b'"step": %d,' % (row - 1)))
            else:
                rest = dip if row == rows // 2 + 1 else tail
                file.write(head + b'"step": %d,' % row + rest)
    return path


def reported(path):
    """What the command says as JSON, and its peak of memory in bytes."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "report", path, "--json", "-o", path.with_suffix(".html")],
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    (peak,) = (line.split()[1] for line in done.stderr.splitlines() if line.startswith("peak "))
    return json.loads(done.stdout), 1024 * int(peak)


def assert_whole(found, rows):
    """The page is small, counts every row, and has the one check that is unlike the others."""
    assert found["bytes"] < MOST_BYTES
    alerts = (rows - 2) // EVERY
    assert found["facts"]["checks"] == f"{rows - 1 - alerts:,}"
    assert found["unshown_alerts"] + len(found["alerts"]) == alerts + 1
    assert f"lowest {DIP:.0%} at step {rows // 2 + 1:,}" in found["figures"][0]["words"]


def test_twenty_thousand_rows_make_a_small_page(tmp_path):
    rows = 20_000
    found, _ = reported(many_rows(tmp_path / "record.jsonl", rows))
    assert_whole(found, rows)


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_a_million_rows_make_a_small_page_in_little_memory(tmp_path):
    _, least = reported(many_rows(tmp_path / "few.jsonl", 1000))
    path = many_rows(tmp_path / "record.jsonl", 1_000_000)
    size = path.stat().st_size
    found, peak = reported(path)
    path.unlink()
    assert_whole(found, 1_000_000)
    # Columns grow by an eighth at a time, and for a picture a few of them are copied.
    assert peak - least < 3 * 1_000_000 * BYTES_OF_A_ROW < size
