"""One status and one episode of several members."""

import json
from dataclasses import dataclass

import pytest

from sigma_monitor.alert import Alert, Side, Status
from sigma_monitor.channels.channel import ChannelWatch, combined
from sigma_monitor.detection import Evidence, Thresholds

W, H, N, C = Status.WARMUP, Status.HEALTHY, Status.WARNING, Status.COLLAPSED


def named(statuses):
    return {str(i): status for i, status in enumerate(statuses)}


@pytest.mark.parametrize(
    ("layers", "collapsing"), [(1, 1), (2, 1), (3, 1), (4, 1), (5, 2), (8, 2), (9, 3), (12, 3)]
)
def test_a_quarter_of_the_layers_is_a_collapse(layers, collapsing):
    for collapsed in range(layers + 1):
        statuses = [C] * collapsed + [H] * (layers - collapsed)
        expected = C if collapsed >= collapsing else N if collapsed else H
        assert combined(named(statuses)) is expected
        assert combined(named(statuses[::-1])) is expected


@pytest.mark.parametrize("layers", [1, 3, 4, 8, 9])
def test_the_deciding_layer_is_enough(layers):
    for place in range(layers):
        statuses = [H] * layers
        statuses[place] = C
        assert combined(named(statuses), deciding=str(place)) is C
        if layers > 4:
            assert combined(named(statuses), deciding=str((place + 1) % layers)) is N
    assert combined(named([H] * layers), deciding="0") is H
    assert combined(named([N] * layers), deciding="0") is N


@pytest.mark.parametrize("layers", [1, 3, 4, 8, 9])
def test_any_layer_that_warns_is_a_warning(layers):
    for place in range(layers):
        statuses = [H] * layers
        statuses[place] = N
        assert combined(named(statuses)) is N
    assert combined(named([N] * layers)) is N  # and no number of them a collapse


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [
        ([W], W),
        ([W, W, W], W),
        ([W, H], H),
        ([W, N], N),
        ([W, C], C),
        ([W, C, W, W, W, W, W, W], N),
    ],
)
def test_layers_in_warm_up_count_as_quiet_ones(statuses, expected):
    assert combined(named(statuses)) is expected


@dataclass
class Voice:
    """A member that says what it is told to."""

    name: str
    status: Status = H
    onset_step: int | None = None
    side: Side = "contraction"
    floor: float | None = None

    def describe(self, kind, step):
        return Alert(kind, "warn", step, 1, layer=self.name, side=self.side, floor=self.floor)


class Choir:
    """A channel of some members, and all that it says."""

    def __init__(self, *names, rule=None, **options):
        self.members = {name: Voice(name) for name in names}
        self.watch = ChannelWatch("representation", rule or Thresholds(), **options)
        self.step = 0

    def at(self, loss=None, **changes):
        """One more check; `changes` maps a member to (status, onset)."""
        for name, change in changes.items():
            self.members[name].status, self.members[name].onset_step = change
        self.step += 1
        return self.watch.conclude(self.step, self.members, lambda alarm: Evidence(loss))


def test_nothing_is_said_while_all_is_well():
    choir = Choir("a", "b")
    assert choir.watch.status is W
    assert [choir.at(a=(W, None), b=(W, None)), choir.at(a=(H, None)), choir.at()] == [[], [], []]
    assert choir.watch.status is H


def test_an_episode_is_told_once_from_its_beginning_to_its_end():
    choir = Choir("a", "b", rule=Thresholds(flapping_transitions=4))
    (warning,) = choir.at(a=(N, 1))
    assert (warning.kind, warning.severity, warning.step) == ("WARNING", "warn", 1)
    assert [choir.at(), choir.at()] == [[], []]
    assert choir.at(b=(N, 4)) == []  # one episode of the channel, not of each member
    (collapsed,) = choir.at(b=(C, 4))
    assert (collapsed.kind, collapsed.severity) == ("COLLAPSED", "error")
    assert choir.at(a=(H, None)) == []
    (recovered,) = choir.at(b=(H, None))
    assert (recovered.kind, recovered.severity, recovered.verdict) == ("RECOVERED", "info", None)
    assert choir.watch.status is H
    assert choir.at() == []
    assert [alert.kind for alert in choir.at(a=(N, 9))] == ["WARNING"]


def test_an_alert_is_attributed_to_the_earliest_onset():
    choir = Choir("a", "b", "c", "d")
    (alert,) = choir.at(a=(N, 30), b=(N, 10), c=(N, 20))
    assert alert.layer == "b"
    assert alert.affected == ("b", "c", "a")
    assert alert.channel == "representation"


def test_a_collapse_is_attributed_among_those_that_have_collapsed():
    choir = Choir("a", "b", "c", "d")
    (alert,) = choir.at(a=(C, 30), b=(N, 10), c=(C, 20))
    assert (alert.kind, alert.layer, alert.affected) == ("COLLAPSED", "c", ("c", "a"))


def test_a_collapse_of_too_few_is_a_warning_of_those():
    choir = Choir(*"abcdefgh")
    (alert,) = choir.at(d=(C, 30), b=(N, 40))
    assert (alert.kind, alert.layer, alert.affected) == ("WARNING", "d", ("d", "b"))
    (alert,) = choir.at(b=(C, 40))
    assert (alert.kind, alert.layer) == ("COLLAPSED", "d")


def test_a_member_without_an_onset_comes_last_and_ties_keep_their_order():
    choir = Choir("a", "b", "c")
    (alert,) = choir.at(a=(N, None), b=(N, 20), c=(N, 20))
    assert alert.affected == ("b", "c", "a")


@pytest.mark.parametrize(("others", "kind"), [((), "COLLAPSED"), (tuple("cdefgh"), "WARNING")])
def test_a_floor_is_never_hidden_behind_what_a_loss_excuses(others, kind):
    choir = Choir("a", "b", *others)
    (alert,) = choir.at(loss="better", a=(N, 1))
    assert (alert.layer, alert.severity) == ("a", "info")
    choir.members["b"].floor = 2.0
    (alert,) = choir.at(loss="better", b=(C, 7))
    loud = "error" if kind == "COLLAPSED" else "warn"
    assert (alert.layer, alert.kind, alert.severity) == ("b", kind, loud)
    assert not choir.watch.excused
    choir = Choir("a", "b", *others)
    choir.members["b"].floor = 2.0
    (alert,) = choir.at(loss="better", a=(C, 1), b=(C, None))
    assert (alert.layer, alert.affected) == ("b", ("a", "b"))


def test_a_recovery_is_told_of_the_member_that_the_alarm_was_about():
    choir = Choir("a", "b", "c")
    choir.at(b=(N, 4))
    (recovered,) = choir.at(b=(H, None))
    assert (recovered.kind, recovered.layer) == ("RECOVERED", "b")


def test_evidence_is_asked_for_about_the_member_that_is_named():
    choir = Choir("a", "b")
    choir.members["b"].status, choir.members["b"].onset_step = N, 3
    asked = []

    def evidence(alarm):
        asked.append(alarm.layer)
        return Evidence("better" if alarm.layer == "b" else "worse")

    (alert,) = choir.watch.conclude(1, choir.members, evidence)
    assert (alert.severity, asked) == ("info", ["b"])


def test_a_channel_tells_of_loss_where_an_alarm_that_was_raised_says_so():
    choir = Choir("a")
    heard = []
    # Told at the second and the fifth, not at the third, whose severity is that of the second.
    for loss, status in [(None, H), ("flat", N), ("worse", N), ("worse", H), ("worse", N)]:
        choir.at(loss=loss, a=(status, None))
        heard.append(choir.watch.tells_of_loss)
    assert heard == [False, False, False, False, True]
    assert not choir.at(loss="flat")
    assert choir.watch.tells_of_loss
    choir.at(a=(H, None))
    assert not choir.watch.tells_of_loss


def test_an_only_member_is_not_listed():
    (alert,) = Choir("a").at(a=(N, 3))
    assert (alert.layer, alert.affected) == ("a", ())


def test_what_is_excused_at_first_is_told_again_when_it_is_not():
    choir = Choir("a")
    (alert,) = choir.at(loss="better", a=(N, 1))
    assert (alert.kind, alert.severity) == ("WARNING", "info")
    assert choir.watch.excused
    assert choir.at(loss="better") == []
    (alert,) = choir.at(loss="flat")
    assert (alert.kind, alert.severity, alert.reminder) == ("WARNING", "warn", False)
    assert "stays as it is" in alert.verdict
    assert not choir.watch.excused
    # A severity that was told is not told again, whatever comes in between.
    assert [choir.at(loss="better"), choir.at(loss="worse")] == [[], []]
    assert choir.at(loss="better", a=(H, None))[0].kind == "RECOVERED"
    assert not choir.watch.excused
    (alert,) = choir.at(loss="better", a=(N, 9))
    assert alert.severity == "info"  # of a new episode


def test_an_excused_collapse_is_told_and_told_again_when_the_excuse_ends():
    choir = Choir("a")
    told = [choir.at(loss=loss, a=(C, 1)) for loss in ("better", "better", None, "worse")]
    assert [[(a.kind, a.severity) for a in alerts] for alerts in told] == [
        [("COLLAPSED", "info")],
        [],
        [("COLLAPSED", "error")],
        [],
    ]


def test_an_excused_collapse_that_becomes_a_warning_of_harm_is_told():
    choir = Choir("a")
    choir.at(loss="better", a=(C, 1))
    (alert,) = choir.at(loss="worse", a=(N, 1))
    assert (alert.kind, alert.severity) == ("WARNING", "warn")


def test_the_rule_of_the_channel_decides_on_reminders_and_flapping():
    choir = Choir("a", rule=Thresholds(reminder_checks=3, flapping_transitions=2))
    told = [choir.at(a=(N, 1)), choir.at(), choir.at(), choir.at()]
    assert [[a.reminder for a in alerts] for alerts in told] == [[False], [], [], [True]]
    told = [choir.at(a=(H, None)), choir.at(a=(N, 6)), choir.at(a=(H, None))]
    assert [[a.kind for a in alerts] for alerts in told] == [["RECOVERED"], ["FLAPPING"], []]


SERIES = [
    (None, {"a": (W, None), "b": (H, None)}),
    ("better", {"a": (N, 1)}),
    ("better", {}),
    ("flat", {}),
    ("flat", {"b": (C, 4), "c": (C, 3)}),
    ("worse", {"a": (H, None)}),
    ("worse", {"b": (N, 4), "c": (N, 3)}),
    (None, {"b": (H, None), "c": (H, None)}),
    (None, {}),
    ("better", {"b": (N, 9)}),
    ("worse", {}),
]


def test_a_state_kept_as_json_changes_nothing_at_any_check():
    rule = Thresholds(reminder_checks=2, flapping_transitions=5)
    unbroken, resumed = (Choir("a", "b", "c", rule=rule) for _ in range(2))
    told = []
    for loss, changes in SERIES:
        fresh = ChannelWatch("representation", rule)
        fresh.load_state_dict(json.loads(json.dumps(resumed.watch.state_dict(), allow_nan=False)))
        assert fresh.state_dict() == resumed.watch.state_dict()
        resumed.watch = fresh
        alerts = unbroken.at(loss, **changes)
        assert resumed.at(loss, **changes) == alerts
        assert (fresh.status, fresh.excused) == (unbroken.watch.status, unbroken.watch.excused)
        told += [alert.kind for alert in alerts]
    assert len(told) >= 7
    assert {"WARNING", "COLLAPSED", "RECOVERED"} <= set(told)


def test_a_reset_forgets_the_episode_untold():
    choir = Choir("a")
    choir.at(a=(C, 1))
    choir.watch.reset()
    assert (choir.watch.status, choir.watch.excused) == (W, False)
    assert choir.at(a=(H, None)) == []
