"""What is drawn of intervals."""

import math

import numpy as np
import pytest
from matplotlib.figure import Figure

from sigma_monitor import Estimate
from sigma_monitor.report.axes import band, line, ratio_scale, value_scale
from sigma_monitor.report.track import Track, thinned


def curve_of(*estimates):
    track = Track()
    for step, (value, low, high) in enumerate(estimates):
        track.add(step, Estimate(value, low, high, "sampling"))
    return thinned(track, 240)


def drawn(curve, scale):
    """The corners of the band, and the ends of the axis."""
    axis = Figure().add_subplot()
    line(axis, curve, 0)
    scale(axis)
    limits = axis.get_ylim()
    band(axis, curve, 0)
    assert axis.get_ylim() == limits
    (shape,) = axis.collections
    (path,) = shape.get_paths()
    return path.vertices, limits


SCALES = [value_scale, lambda axis: ratio_scale(axis, [], [])]


@pytest.mark.parametrize("scale", SCALES)
def test_a_band_without_bounds_goes_to_the_edges(scale):
    curve = curve_of((1.0, 0.9, 1.1), (0.7, -math.inf, math.inf), (0.8, 0.7, math.inf))
    corners, (bottom, top) = drawn(curve, scale)
    for step, low, high in ((0, 0.9, 1.1), (1, bottom, top), (2, 0.7, top)):
        at = corners[corners[:, 0] == step, 1]
        assert (at.min(), at.max()) == pytest.approx((low, high))


def test_the_axis_has_room_for_intervals_but_those_far_beyond_the_values():
    for high, room in ((1.5, 1.5), (50.0, 2.0)):
        curve = curve_of((1.0, 0.9, 1.1), (1.0, 0.5, high))
        _, (_, top) = drawn(curve, lambda axis, curve=curve: ratio_scale(axis, [curve], []))
        assert room < top < 1.2 * room
        _, (_, top) = drawn(curve, value_scale)
        assert top > high


@pytest.mark.parametrize("value", [0.0, 3.0])
def test_an_axis_of_values_above_0_does_not_go_below(value):
    _, (bottom, top) = drawn(curve_of(*[(value, value, value)] * 3), value_scale)
    assert bottom >= 0
    assert bottom <= value < top


def test_an_axis_of_values_below_0_does():
    corners, (bottom, _) = drawn(curve_of((1, 0, 2), (-1, -2, 0)), value_scale)
    assert bottom < -2 == np.min(corners[:, 1])
