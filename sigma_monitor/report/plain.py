"""What came from a record, made safe to be shown: text without controls, numbers that may be none.

A record is a file that anybody may have written; only its checks and observations are read by
their schema, and not all of their fields are looked at there.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

__all__ = [
    "clean",
    "compact",
    "fields",
    "figures",
    "finite",
    "mapping",
    "number",
    "objects",
    "percent",
    "power_of_ten",
    "step_label",
    "tail",
]

_CUT = 2_000  # characters of one text
_LONGEST = 1e16  # of a number that is written out
_MOST_FIELDS = 40
_DEEPEST = 4

# Controls, halves of surrogate pairs, non-characters, and what turns the direction of writing.
_UNSHOWN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff"
    "\ufdd0-\ufdef\ufff0-\uffff]"
)
_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_GAP = "\N{REPLACEMENT CHARACTER}"


def clean(value: Any, limit: int = _CUT) -> str:
    """A value as text of at most about `limit` characters, of those that can be shown.

    Args:
        value: Text as it is, nothing for None, anything else as JSON.
        limit: What is cut off is counted.
    """
    text = value if isinstance(value, str) else "" if value is None else _as_json(value)
    cut = "" if len(text) <= limit else f" … ({len(text) - limit:,} characters more)"
    return _UNSHOWN.sub(_GAP, text[:limit]) + cut


def fields(body: Any, *, without: tuple[str, ...] = ()) -> dict[str, str]:
    """The fields of a mapping as texts, nested ones as `outer.inner`.

    Args:
        body: Anything else has no fields.
        without: Names that are left out.
    """
    found: dict[str, str] = {}
    if isinstance(body, Mapping):
        _flatten({name: x for name, x in body.items() if name not in without}, "", found, _DEEPEST)
    return found


def tail(name: str, limit: int) -> str:
    """The end of a long name, by which the layers of a model differ.

    Args:
        name: As `clean` gives it.
        limit: Characters that are kept, with the sign of the cut.
    """
    return name if len(name) <= limit else f"…{name[1 - limit :]}"


def number(value: Any) -> float:
    """A number, or the name of one that JSON has not (`"inf"`); NaN for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return math.nan
    try:
        return float(value)
    except (ValueError, OverflowError):
        return math.nan


def mapping(value: Any) -> Mapping[str, Any]:
    """A mapping; an empty one for anything else."""
    return value if isinstance(value, Mapping) else {}


def objects(value: Any) -> list[Mapping[str, Any]]:
    """The mappings of a list; none of anything else."""
    found = value if isinstance(value, list) else []
    return [body for body in found if isinstance(body, Mapping)]


def finite(value: Any) -> float | None:
    """A finite number, or None."""
    found = number(value)
    return found if math.isfinite(found) else None


def figures(value: float | None) -> str:
    """A number in three significant figures; a dash for none."""
    if value is None:
        return "–"
    if not math.isfinite(value):
        return {math.inf: "∞", -math.inf: "−∞"}.get(value, "not finite")
    text = f"{value:.3g}" if abs(value) < 1000 or abs(value) >= 1e7 else f"{value:,.0f}"
    return text.replace("-", "−")


def percent(ratio: float) -> str:
    """A ratio in per cent: with a decimal where it is small."""
    if not math.isfinite(ratio):
        return figures(ratio)
    if abs(ratio) > _LONGEST:
        return f"{figures(ratio)} times"
    text = f"{ratio:.1%}" if abs(ratio) < 0.1 else f"{ratio:,.0%}"
    return text.replace("-", "−")


def step_label(step: float) -> str:
    """A step with separators."""
    return f"{step:,.0f}" if abs(step) < _LONGEST else figures(step)


def compact(value: float) -> str:
    """A step on an axis: 1500 -> 1.5k."""
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{unit}".replace("-", "−")
    return f"{value:g}".replace("-", "−")


def power_of_ten(value: float) -> str:
    """A tick of a logarithmic axis: 0.01 -> 10⁻²; 1 to 1000 as they are."""
    exponent = round(math.log10(value))
    return f"{value:g}" if 0 <= exponent <= 3 else f"10{str(exponent).translate(_RAISED)}"


def _as_json(value: Any) -> str:
    if isinstance(value, float) and math.isfinite(value):
        return f"{value:.6g}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    try:
        return json.dumps(value, ensure_ascii=False, default=str)
    except (RecursionError, ValueError):  # nested without end, or a number without
        return "…"


def _flatten(body: Mapping[Any, Any], prefix: str, found: dict[str, str], depth: int) -> None:
    for name, value in body.items():
        if len(found) >= _MOST_FIELDS:
            return
        label = f"{prefix}{clean(name, 80)}"
        if isinstance(value, Mapping) and value and depth > 1:
            _flatten(value, f"{label}.", found, depth - 1)
        else:
            found[label] = "none" if value is None else clean(value)
