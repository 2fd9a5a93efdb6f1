"""The documentation as a site: complete, without a warning, and without a network."""

from __future__ import annotations

import re
import socket
import zlib
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from mkdocs.commands.build import build
from mkdocs.config import load_config

import sigma_monitor
from sigma_monitor import sinks, spectrum
from tests.docs.commands import ROOT

LOADS = {  # attributes that make a browser fetch something
    "script": ("src",),
    "img": ("src", "srcset"),
    "iframe": ("src",),
    "source": ("src", "srcset"),
    "video": ("src",),
}


class Resources(HTMLParser):
    """Addresses that a page loads without being asked to."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        names: tuple[str, ...] = LOADS.get(tag, ())
        if tag == "link" and given.get("rel") not in ("canonical", "prev", "next"):
            names = ("href",)
        self.found += [value for name in names if (value := given.get(name))]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built as `make docs` builds it, on a machine where no connection is possible."""

    def refused(*address: Any) -> None:
        raise OSError(f"there is no network in this test: {address}")

    folder = tmp_path_factory.mktemp("site")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        patch.setattr(socket.socket, "connect", refused)
        patch.setattr(socket, "getaddrinfo", refused)
        config = load_config(str(ROOT / "mkdocs.yml"), strict=True, site_dir=str(folder))
        config.plugins.on_startup(command="build", dirty=False)
        build(config)  # raises on a warning
        config.plugins.on_shutdown()
    return folder


def pages(site: Path) -> list[Path]:
    return sorted(site.rglob("*.html"))


def inventory(site: Path) -> set[str]:
    """Dotted names that the reference describes."""
    lines = (site / "objects.inv").read_bytes().split(b"\n", 4)
    return {line.split()[0] for line in zlib.decompress(lines[4]).decode().splitlines()}


def described(site: Path, name: str) -> bool:
    """Under any of the modules that it can be imported from."""
    return any(entry.endswith(f".{name}") for entry in inventory(site))


def test_it_is_built_without_a_warning_and_without_a_network(site: Path) -> None:
    assert len(pages(site)) > 10
    assert (site / "search" / "search_index.json").exists()


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    for page in pages(site):
        resources = Resources()
        resources.feed(page.read_text(encoding="utf-8"))
        assert resources.found, page
        assert [a for a in resources.found if re.match(r"(\w+:)?//", a)] == [], page
    for sheet in site.rglob("*.css"):
        loaded = re.findall(r"url\(\s*[\"']?(?:https?:)?//|@import", sheet.read_text())
        assert loaded == [], sheet


@pytest.mark.parametrize("name", sigma_monitor.__all__)
def test_the_reference_has_every_name_of_the_package(site: Path, name: str) -> None:
    assert described(site, name)


@pytest.mark.parametrize("name", ["read_record", *(n for n in sinks.__all__ if n.endswith("Sink"))])
def test_the_reference_has_every_sink(site: Path, name: str) -> None:
    assert described(site, name)


@pytest.mark.parametrize("name", ["spectral_summaries", "sharded_summary", "GramStream"])
def test_the_reference_has_the_engine(site: Path, name: str) -> None:
    assert name in spectrum.__all__
    assert described(site, name)


def test_the_commands_are_those_of_the_command_line(site: Path) -> None:
    text = (site / "api" / "cli.html").read_text(encoding="utf-8")
    for command in ("demo", "analyze", "replay", "wandb-workspace"):
        assert f"usage: sigma-monitor {command}" in text
