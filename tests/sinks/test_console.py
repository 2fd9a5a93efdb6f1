"""Alerts on standard error, beside a progress bar."""

import sys

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
