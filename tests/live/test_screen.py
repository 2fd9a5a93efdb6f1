"""What stands on the screen."""

from __future__ import annotations

import io
import json
import time

import pytest
from rich.cells import cell_len
from rich.console import Console

from sigma_monitor import Estimate, Status
from sigma_monitor.live.screen import Screen, drawn
from sigma_monitor.live.seen import Seen
from tests.live.records import CLEAR, check
from tests.snapshots import alert, observation


def seen(*held, path="runs/a/record.jsonl", started=None, closed=None):
    """A run of snapshots, observations and alerts."""
    run = Seen(path)
    kinds = {"Snapshot": "check", "Observation": "observation", "Alert": "alert"}
    bodies = [{"type": kinds[type(h).__name__], **h.to_dict()} for h in held]
    if started is not None:
        bodies.insert(0, {"type": "event", "event": "started", **started})
    if closed is not None:
        bodies.append({"type": "event", "event": "closed", **closed})
    for body in bodies:
        run.take(json.dumps(body).encode())
    return run


def screen(run, width=100, height=30, **options):
    out = io.StringIO()
    console = Console(
        file=out, width=width, height=height, markup=False, highlight=False, emoji=False, **options
    )
    console.print(drawn(run, console))
    return out.getvalue()


def test_status_steps_cost_and_loss_are_on_top():
    text = screen(seen(check(0), check(1200, 0.95), started={"max_steps": 3000}))
    top = text.splitlines()[:2]
    assert top[0].split() == ["HEALTHY", "runs/a/record.jsonl"]
    assert top[1] == "step 1,200 of 3,000   check 2 in 0.125 s   overhead 0.75%   held-out loss 2.5"


def test_the_last_values_have_their_intervals():
    text = screen(seen(check(0), check(10, 0.5)))
    assert "last  effective_rank          20  [18, 22]    0.5" in text
    assert "last  participation_ratio     10" in text


def test_the_worst_layer_is_drawn():
    both = {name: check(0).layers["last"] for name in ("last", "0")}
    text = screen(seen(check(0, layers=both, ratios={"last": 0.9, "0": 0.4})))
    assert "ratio of layer 0, and the default thresholds: 80%, 50%" in text


def test_before_there_is_a_baseline_the_rank_is_drawn():
    text = screen(seen(check(0, None), check(10, None)))
    assert "rank of layer last\n" in text
    assert "thresholds" not in text


def test_the_band_of_the_ratio_is_that_of_the_rank():
    name, points = seen(check(0, None), check(10, 0.5)).points()
    assert (name, [(p.x, p.value) for p in points]) == ("ratio", [(10, 0.5)])
    assert (points[0].low, points[0].high) == pytest.approx((0.45, 0.55), rel=1e-12)


def test_the_level_of_expansion_is_drawn_where_it_is_near():
    assert "thresholds: 125%, 80%, 50%" in screen(seen(check(0, 1.2)))


def test_text_and_observed_rows_have_lines_of_their_own():
    writes = {"effective_rank": Estimate.exact(7.25), "output_entropy": Estimate.exact(2.0)}
    text = screen(seen(check(0, generation=writes), check(10), observation(10)))
    assert "generation  effective_rank        7.25" in text
    assert "generation  output_entropy           2" in text
    assert "codebook    effective_rank          40  [35, 46]       0.97" in text


def test_observed_rows_are_shown_without_a_check_too():
    text = screen(seen(observation(10), alert(channel="observed", layer="codebook")))
    assert text.splitlines()[0] == "runs/a/record.jsonl has no check yet"
    assert "codebook  effective_rank     40  [35, 46]   0.97" in text
    assert "representations are contracting" in text


def test_the_latest_alerts_are_below_newest_first():
    alerts = [alert(step=step, text=f"It is step {step}.") for step in (10, 20, 30, 40)]
    lines = screen(seen(check(50), *alerts)).splitlines()
    assert [line.strip() for line in lines if "It is step" in line] == [
        "It is step 40.",
        "It is step 30.",
        "It is step 20.",
    ]


def test_alerts_of_superseded_checks_are_gone():
    run = seen(check(0), check(10), alert(step=10), check(5, 0.8))
    text = screen(run)
    assert "contracting" not in text
    assert [point.x for point in run.points()[1]] == [0, 5]


@pytest.mark.parametrize(
    ("closed", "said"),
    [
        ({"status": "HEALTHY", "stop_reason": None}, "ended"),
        ({"stop_reason": "effective rank at 0.4"}, "ended: effective rank at 0.4"),
        ({"interrupted": True}, "interrupted"),
    ],
)
def test_it_says_how_the_run_ended(closed, said):
    run = seen(check(0), closed=closed)
    assert run.ended
    assert screen(run).splitlines()[2] == said


def test_a_run_that_goes_on_has_not_ended():
    run = seen(check(0), closed={"status": "HEALTHY"})
    run.take(b'{"type": "event", "event": "resumed", "step": 0}')
    assert not run.ended


@pytest.mark.parametrize(("age", "late"), [(20, False), (200, True)])
def test_a_record_that_falls_silent_is_told(age, late):
    now = time.time()
    run = seen(check(0, time=now - age - 10), check(10, time=now - age))
    line = screen(run).splitlines()[2]
    assert line.startswith("last check ")
    assert line.endswith("; they came every 10 s") == late


def test_it_is_drawn_again_when_something_is_new_and_else_now_and_then(monkeypatch):
    now = 100.0
    monkeypatch.setattr("sigma_monitor.live.screen.time.monotonic", lambda: now)
    shown = Screen(Console(file=io.StringIO(), force_terminal=True))
    drawings = []
    monkeypatch.setattr(shown._live, "update", lambda *_, **__: drawings.append(now))
    run = seen(check(0))
    shown.show(run)
    shown.show(run)
    assert drawings == [100]
    run.take(json.dumps({"type": "event", "event": "resumed"}).encode())
    shown.show(run)
    assert drawings == [100, 100]
    now = 104.0
    shown.show(run)
    now = 106.0
    shown.show(run)
    assert drawings == [100, 100, 106]
    shown.show(seen(check(0)))  # a new run
    assert drawings == [100, 100, 106, 106]


def test_a_run_without_checks_says_so():
    assert screen(seen()).strip() == "runs/a/record.jsonl is waited for"
    assert screen(seen(started={})).strip() == "runs/a/record.jsonl has no check yet"


LONG = "/" + "a" * 100 + "/run7/record.jsonl"


@pytest.mark.parametrize("width", [40, 80])
@pytest.mark.parametrize("path", [LONG, LONG.replace("a", "\u6f22")])
@pytest.mark.parametrize(
    ("held", "words"),
    [
        ([], "{} is waited for"),
        ([observation(10)], "{} has no check yet"),
        ([check(0)], " HEALTHY   {}"),
    ],
)
def test_a_long_path_loses_its_beginning_and_not_the_words_beside_it(width, path, held, words):
    first = screen(seen(*held, path=path), width).splitlines()[0]
    assert cell_len(first) in (width - 1, width)  # no character is half on the screen
    before, after = words.split("{}")
    assert first.startswith(before + "\u2026")
    assert first.endswith("/run7/record.jsonl" + after)


def test_a_screen_too_narrow_for_the_words_cuts_them():
    assert screen(seen(path=LONG), width=10) == "\u2026 is wait\u2026\n"


@pytest.mark.parametrize(("width", "height"), [(80, 24), (40, 20), (200, 60)])
def test_it_fits_the_terminal(width, height):
    layers = {f"model.layers.{i}": check(0).layers["last"] for i in range(40)}
    ratios = dict.fromkeys(layers, 0.9)
    run = seen(
        *[check(step, layers=layers, ratios=ratios) for step in range(0, 2000, 7)],
        *[alert(step=step, text="long " * 100) for step in range(9)],
    )
    lines = screen(run, width, height).splitlines()
    assert len(lines) == height if height < 30 else len(lines) <= height
    assert max(map(len, lines)) <= width
    assert any(line.startswith("and ") for line in lines)  # there are more rows


@pytest.mark.parametrize("colour", [None, "truecolor"])
def test_nothing_of_the_data_moves_the_cursor(colour):
    layers = {CLEAR: {"effective_rank": Estimate.exact(1.0)}}
    hostile = check(0, layers=layers, ratios={CLEAR: 0.5}, status=Status.COLLAPSED)
    run = seen(
        hostile,
        alert(title=CLEAR, text="[red]markup[/red] :boom: " + CLEAR, severity=CLEAR),
        started={"max_steps": CLEAR},
        closed={"stop_reason": CLEAR},
    )
    text = screen(run, force_terminal=colour is not None, color_system=colour)
    assert "\x1b[2J" not in text
    assert "\x9b" not in text
    assert "\u202e" not in text
    assert "[red]markup[/red] :boom:" in text
    if colour is None:
        assert "\x1b" not in text


def test_values_that_are_no_numbers_are_shown():
    broken = check(
        10, 0.9, layers={"last": {"effective_rank": Estimate(*[float("nan")] * 3, "sampling")}}
    )
    text = screen(seen(check(0, 0.9), broken))
    assert "last  effective_rank    nan  [nan, nan]    0.9" in text
