"""A view through a template to the bytes of a page."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, partial
from typing import Any

from sigma_monitor import __version__
from sigma_monitor.report.plain import clean, figures, percent, step_label

__all__ = ["LEVELS", "MOST_BYTES", "Level", "render"]

MOST_BYTES = 2_000_000


@dataclass(frozen=True)
class Level:
    """How much detail a page has."""

    rows: int  # alerts and events that are listed
    characters: int  # of a text of the record


LEVELS = (Level(100, 2_000), Level(40, 600), Level(10, 120))  # tried in turn until the page fits


def render(template: str, level: Level, **content: Any) -> bytes:
    """The page in UTF-8; everything in `content` is escaped, but drawings.

    Args:
        template: Name of a file in `templates/`.
        level: Of detail.
        **content: Names that the template uses.
    """
    cut = partial(clean, limit=level.characters)
    page: str = (
        _environment().get_template(template).render(cut=cut, version=__version__, **content)
    )
    return page.encode()


@cache
def _environment() -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("sigma_monitor.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"figures": figures, "percent": percent, "step": step_label}
    return environment
