"""The sentence at the top: who, status, since when, what to do."""

import pytest

from sigma_monitor import Estimate, Status
from sigma_monitor.report.reading import read_run
from sigma_monitor.report.verdict import verdict_of
from sigma_monitor.sinks import JsonlSink
from tests.report.records import check, collapsing, news
from tests.snapshots import observation


@pytest.fixture
def say(tmp_path):
    """The verdict on a record of these lines."""

    def verdict(*lines):
        sink = JsonlSink(tmp_path / "record.jsonl")
        for line in lines:
            if isinstance(line, dict):
                sink.note(line.pop("event"), line)
            elif hasattr(line, "severity"):
                sink.alert(line)
            elif hasattr(line, "layers"):
                sink.check(line)
            else:
                sink.observe(line)
        sink.close()
        return verdict_of(read_run(tmp_path / "record.jsonl"))

    return verdict


def test_a_collapse_names_layer_onset_ratio_and_remedy(tmp_path):
    found = verdict_of(read_run(collapsing(tmp_path / "record.jsonl")))
    assert found.status is Status.COLLAPSED
    assert not found.excused
    expected = "Layer model.layers.0 has collapsed since step 124, now at 9.8% of its baseline."
    assert found.headline == expected
    assert found.advice.startswith("Stop, go back to a checkpoint before the onset")


def test_all_is_well(say):
    found = say(check(0, 1, 1), check(40, 2, 1), {"event": "closed", "status": "HEALTHY"})
    assert found.status is Status.HEALTHY
    assert "near its baseline" in found.headline
    assert "101% of it at step 40, layer model.layers.0" in found.headline
    assert found.advice == "Nothing needs to be done."
    assert not any("closing line" in sentence for sentence in found.footing)


def test_a_move_that_held_out_loss_excuses_is_no_alarm(say):
    text = "contracting while held-out loss improves: no sign of harm"
    told = news("WARNING", "info", 10, verdict=text, onset_step=5, side="contraction")
    found = say(check(10, 1, 1, status=Status.WARNING), told)
    assert found.excused
    assert found.headline.startswith("Layer last is contracting since step 5")
    assert found.headline.endswith(f"{text}.")
    assert found.advice.startswith("No alarm.")


def test_the_worst_episode_that_is_open_is_told(say):
    text = news("WARNING", "warn", 10, channel="generation", layer=None, side="contraction")
    layer = news("COLLAPSED", "error", 20, layer="a", side="contraction")
    later = news("WARNING", "warn", 30, channel="loss", layer=None, ratio=1.2)
    now = check(30, 1, 1, status=Status.COLLAPSED)
    assert "Layer a has collapsed" in say(text, layer, later, now).headline


def test_an_episode_that_is_over_is_not_told(say):
    text = news("WARNING", "warn", 10, channel="generation", layer=None, side="contraction")
    layer = news("WARNING", "warn", 20, layer="a")
    over = news("RECOVERED", "info", 30, layer="a")
    found = say(text, layer, over, check(30, 1, 1, status=Status.WARNING))
    assert "The text that the model writes loses its variety since step 10" in found.headline


def test_what_came_before_stays_in_view(say):
    lines = [check(s, 1, 1, status=x) for s, x in ((0, 1), (10, 3), (20, 1))]
    lines = [check(0, 1, 1, status=Status.HEALTHY), check(10, 2, 1, status=Status.COLLAPSED)]
    found = say(*lines, check(20, 3, 1, status=Status.HEALTHY))
    assert found.status is Status.HEALTHY
    assert "It was COLLAPSED before, first at step 10." in found.footing


def test_a_collapse_that_is_partly_back(say):
    told = news("COLLAPSED", "error", 10, layer="a", onset_step=4)
    found = say(told, check(20, 1, 1, status=Status.WARNING))
    assert "Layer a is partly back from a collapse, since step 4" in found.headline


def test_loss_is_compared_with_its_best(say):
    told = news("WARNING", "warn", 20, channel="loss", layer=None, functional="loss")
    lines = [check(s, 1, 1, loss=x, status=Status.WARNING) for s, x in ((0, 4.0), (10, 2.0))]
    found = say(*lines, check(20, 1, 1, loss=3.0, status=Status.WARNING), told)
    assert "Held-out loss is rising since step 20, now at 150% of its best." in found.headline


def test_observed_rows_alone_have_a_verdict(say):
    told = news("COLLAPSED", "error", 10, channel="observed", layer="codebook")
    found = say(observation(10, status=Status.COLLAPSED), told)
    assert "Observed rows codebook have collapsed since step 10" in found.headline


def test_an_alarm_without_an_alert_is_told_by_its_checks(say):
    lines = [(0, Status.HEALTHY), (10, Status.WARNING), (20, Status.WARNING)]
    found = say(*(check(step, 1, 1, status=status) for step, status in lines))
    assert found.headline == "The run is WARNING since step 10."


def test_nothing_yet(say):
    assert say({"event": "started"}).headline == "Nothing was measured."
    found = say(check(0, 1, 1, status=Status.WARMUP))
    assert found.status is Status.WARMUP
    assert "no baseline yet, after 1 checks up to step 0" in found.headline


def test_how_the_record_ends(say):
    assert any("closing line" in s for s in say(check(0, 1, 1)).footing)
    closed = say(check(10, 1, 1), {"event": "closed", "interrupted": True})
    assert "The run was interrupted." in closed.footing
    resumed = say({"event": "resumed", "step": 10}, check(20, 1, 1))
    assert any("closing line" in s for s in resumed.footing)


def test_a_ratio_that_is_not_finite_is_said(say):
    nothing = Estimate(float("nan"), float("nan"), float("nan"), "exact")
    body = {"model.layers.0": {"effective_rank": nothing}}
    told = news("NONFINITE", "error", 10)
    found = say(told, check(10, 1, 1, layers=body, ratios={}, status=Status.WARNING))
    assert found.headline
