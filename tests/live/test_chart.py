"""The curve of a terminal."""

from __future__ import annotations

import math

import pytest

from sigma_monitor.live.chart import Point, chart


def points(*values, width=0.0):
    return [Point(10.0 * i, v, v - width, v + width) for i, v in enumerate(values)]


def rows(text):
    """Label and dots of each line of the plot."""
    found = [line.split("|") for line in text.plain.splitlines()]
    plot = [line for line in found if len(line) == 2 and line[0].strip()]
    return [(float(label), dots.replace("\u2800", " ").strip()) for label, dots in plot]


def drawn(*args, **options):
    return chart("ratio", *args, **{"width": 60, "height": 15, "levels": {}, **options})


def test_a_fall_goes_from_the_upper_left_to_the_lower_right():
    lines = (
        drawn(points(*[1 - i / 100 for i in range(80)])).plain.replace("\u2800", " ").splitlines()
    )
    places = [line.rstrip() for line in lines if "|" in line][1:-2]
    ends = [len(line) for line in places if line.split("|")[1].strip()]
    assert ends == sorted(ends)
    assert ends[0] < 20 < 45 < ends[-1]


def test_the_band_is_drawn_on_both_sides():
    alone = [
        label
        for label, dots in rows(drawn(points(*[1.0] * 20), levels={0.5: "red", 1.5: "red"}))
        if dots
    ]
    band = rows(drawn(points(*[1.0] * 20, width=0.3), levels={0.5: "red", 1.5: "red"}))
    assert len([label for label, dots in band if dots]) == len(alone) + 2


def test_the_axis_reaches_to_every_level_and_value():
    labels = [
        label for label, _ in rows(drawn(points(1.0, 0.9), levels={0.5: "red", 1.25: "yellow"}))
    ]
    assert labels[-1] <= 0.5
    assert labels[0] >= 1.2


def test_levels_have_their_colour(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")  # without it, on a terminal alone
    text = drawn(points(1.0, 0.9), levels={0.5: "red"})
    assert {str(span.style) for span in text.spans} == {"color(1)", "color(6)"}  # red and cyan


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_left_out(bad):
    good = points(1.0, 0.9, 0.8)
    within = [*good[:1], Point(5.0, bad, bad, bad), *good[1:]]
    assert drawn(within).plain == drawn(good).plain


def test_a_long_series_keeps_the_ends_of_its_intervals():
    series = points(*[1.0] * 10_000)
    series[4321] = Point(series[4321].x, 1.0, 0.2, 3.0)
    labels = [label for label, dots in rows(drawn(series)) if dots]
    assert min(labels) < 0.3
    assert max(labels) > 2.5


@pytest.mark.parametrize("values", [[], [1.0], [0.0, 0.0], [5.0, 5.0], [1e-12, 1e12], [-3.0, 3.0]])
def test_any_series_is_drawn(values):
    text = drawn(points(*values))
    assert all(len(line) <= 60 for line in text.plain.splitlines())
