"""Pictures of matplotlib as SVG that takes its colours and fonts from the page.

A figure is drawn in stand-in colours, one for each role. In the SVG they become variables of the
page's style sheet, so that one drawing serves light, dark and print.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from xml.etree import ElementTree

from markupsafe import Markup

__all__ = ["COLOURS", "HEAT", "Shape", "drawn"]

# Role -> stand-in. Nothing else is drawn in colours like these.
HEAT = tuple(f"#0a1e{number:02x}" for number in range(9))  # of the map, lowest ratio first
COLOURS = {
    "ink": "#0a0d01",
    "muted": "#0a0d02",
    "line": "#0a0d03",
    "warn": "#0a0d04",
    "error": "#0a0d05",
    "series-1": "#0a0d11",
    "series-2": "#0a0d12",
    "series-3": "#0a0d13",
    "series-4": "#0a0d14",
    **{f"heat-{number}": colour for number, colour in enumerate(HEAT)},
}
_ROLES = {colour: role for role, colour in COLOURS.items()}
_STAND_IN = re.compile("|".join(_ROLES))
_REFERENCE = re.compile(r"#([^)\s]+)")
_FONT = re.compile(r"font: (?=[0-9.]+px)")

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text, which can be read aloud and copied
    "font.family": ["DejaVu Sans"],  # only to measure with: the page's font is no wider
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": COLOURS["line"],
    "axes.labelcolor": COLOURS["muted"],
    "axes.titlecolor": COLOURS["ink"],
    "axes.titlelocation": "left",
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": COLOURS["line"],
    "grid.linewidth": 0.8,
    "text.color": COLOURS["ink"],
    "text.parse_math": False,  # a name may have dollars
    "xtick.color": COLOURS["line"],
    "ytick.color": COLOURS["line"],
    "xtick.labelcolor": COLOURS["muted"],
    "ytick.labelcolor": COLOURS["muted"],
    "ytick.major.size": 0,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
    "lines.solid_joinstyle": "round",
    "axes.unicode_minus": True,
}


class Shape:
    """Size of one drawing: for wide pages, or for narrow ones.

    Attributes:
        name: `"wide"` or `"narrow"`: its class in the page.
        width: In the units of the drawing, of which a letter is `font` high.
        buckets: Stretches of steps into which a long series is divided.
    """

    def __init__(self, name: str, width: int, font: float, buckets: int) -> None:
        self.name, self.width, self.font, self.buckets = name, width, font, buckets

    @property
    def narrow(self) -> bool:
        """Whether there is little room."""
        return self.name == "narrow"


def drawn(draw: Callable[[Any, Shape], None], shape: Shape, height: float, key: str) -> Markup:
    """What `draw` puts on an empty figure, as an `<svg>` for the page.

    Args:
        draw: Called with a `matplotlib.figure.Figure` and `shape`.
        shape: Of the drawing.
        height: In the units of `shape.width`.
        key: Of the picture, in front of all its ids. The page has its name in an element of the id
            `key-title`, and what is seen, in words, in `key-words`.
    """
    import matplotlib
    from matplotlib.figure import Figure

    file = io.StringIO()
    with matplotlib.rc_context({**_STYLE, "font.size": shape.font, "svg.hashsalt": key}):
        figure = Figure(figsize=(shape.width / 72, height / 72))
        figure.patch.set_visible(False)
        draw(figure, shape)
        for axis in figure.axes:
            axis.patch.set_visible(False)
        with warnings.catch_warnings():
            # It measures with a font that has not all letters; the page has others.
            warnings.filterwarnings("ignore", message="Glyph .* missing from font")
            figure.savefig(file, format="svg", metadata={"Date": None})
    return _for_page(file.getvalue(), key, shape)


def _for_page(text: str, key: str, shape: Shape) -> Markup:
    prefix = f"{key}-{shape.name}"
    root = ElementTree.fromstring(text)
    for child in [child for child in root if _local(child.tag) == "metadata"]:
        root.remove(child)
    elements = list(root.iter())
    values = [value for element in elements for value in element.attrib.values()]
    used = {reference for value in values for reference in _REFERENCE.findall(value)}
    for element in elements:
        element.tag = _local(element.tag)  # inside HTML there are no namespaces
        element.attrib = dict(_adapted(element.attrib, used, prefix))
    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)
    root.attrib |= {
        "class": shape.name,
        "role": "img",
        "aria-labelledby": f"{key}-title",
        "aria-describedby": f"{key}-words",
    }
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def _local(name: str) -> str:
    return name.rpartition("}")[2]


def _adapted(
    attributes: Mapping[str, str], used: set[str], prefix: str
) -> Iterator[tuple[str, str]]:
    """Colours as variables, fonts left to the page, and ids that no other picture has."""
    for name, value in attributes.items():
        if name == "id":
            if value in used:
                yield name, f"{prefix}-{value}"
        elif name == "style":
            yield name, _themed(value).replace("url(#", f"url(#{prefix}-")
        else:
            yield _local(name), value.replace("#", f"#{prefix}-")


def _themed(style: str) -> str:
    parts = (part.strip() for part in _FONT.sub("font-size: ", style).split(";"))
    kept = "; ".join(part for part in parts if part and not part.startswith("font-family"))
    return _STAND_IN.sub(lambda found: f"var(--{_ROLES[found[0]]})", kept)
