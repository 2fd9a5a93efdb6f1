"""What came from a record as text and numbers that can be shown."""

import math

import pytest

from sigma_monitor.report.plain import (
    clean,
    compact,
    fields,
    figures,
    finite,
    number,
    percent,
    power_of_ten,
    step_label,
    tail,
)


@pytest.mark.parametrize(
    "text", ["\x00", "\x1b[31m", "\x7f", "\u202e", "\u2066", "\ud800", "\ufffe", "\x85", "\u200f"]
)
def test_what_is_no_text_is_replaced(text):
    shown = clean(f"a{text}b")
    assert shown[0] == "a"
    assert shown[-1] == "b"
    assert text[0] not in shown
    shown.encode()


def test_lines_letters_and_symbols_stay():
    text = "two\nlines\tand 日本 🙂 <b> & $x$"
    assert clean(text) == text


def test_long_names_keep_their_end():
    assert tail("model.layers.7", 14) == "model.layers.7"
    assert tail("model.layers.10", 14) == "…del.layers.10"


def test_long_texts_say_what_is_cut():
    assert clean("x" * 30, 10) == "x" * 10 + " … (20 characters more)"
    assert clean("x" * 10, 10) == "x" * 10


def test_other_values_are_shown_as_json():
    assert clean(None) == ""
    assert clean(True) == "yes"
    assert clean(0.1 + 0.2) == "0.3"
    assert clean({"a": [1, "x"]}) == '{"a": [1, "x"]}'
    assert clean(10**400, 8).startswith("10000000 …")


def test_fields_are_flat_few_and_safe():
    body = {"a": {"b": {"c": 1}}, "d": None, "e": {}, "left out": 1, "\x00": "\ud800"}
    found = fields(body, without=("left out",))
    assert found == {"a.b.c": "1", "d": "none", "e": "{}", "\ufffd": "\ufffd"}
    assert fields([1]) == {}
    assert len(fields({str(n): n for n in range(1000)})) == 40
    deep: dict = {}
    for _ in range(3000):
        deep = {"x": deep}
    assert list(fields(deep)) == ["x.x.x.x"]


@pytest.mark.parametrize("value", [None, True, [], {}, "many", 10**400, "1e9999x"])
def test_what_is_no_number_is_nan(value):
    assert math.isnan(number(value))
    assert finite(value) is None


def test_numbers_and_their_names_are_numbers():
    assert number("inf") == math.inf
    assert number(3) == 3.0
    assert finite("2.5") == 2.5
    assert finite(math.nan) is None


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "–"),
        (math.nan, "not finite"),
        (-math.inf, "−∞"),
        (0.0, "0"),
        (-1.23456, "−1.23"),
        (999.6, "1e+03"),
        (12345.6, "12,346"),
        (3e9, "3e+09"),
    ],
)
def test_three_figures(value, shown):
    assert figures(value) == shown


def test_shares_and_steps():
    assert [percent(x) for x in (0.004, 0.099, 0.66, 1.0, 12.5)] == [
        "0.4%",
        "9.9%",
        "66%",
        "100%",
        "1,250%",
    ]
    assert percent(math.nan) == "not finite"
    assert percent(-0.5) == "−50%"
    assert percent(1e308) == "1e+308 times"
    assert [step_label(x) for x in (0, 2e6, -1e308)] == ["0", "2,000,000", "−1e+308"]
    powers = [power_of_ten(x) for x in (1e-12, 0.01, 1, 100, 1e5)]
    assert powers == ["10⁻¹²", "10⁻²", "1", "100", "10⁵"]
    assert [compact(x) for x in (0, 900, 1500, 2e6, 3e12)] == ["0", "900", "1.5k", "2M", "3T"]
