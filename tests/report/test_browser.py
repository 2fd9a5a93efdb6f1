"""The page in headless Chromium: quiet, within its width, and accessible.

Needs the Debian package chromium, the Python package playwright to drive it, and axe-core by
`npm ci` in this folder; `.ci/run` installs them.
"""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path

import pytest

from sigma_monitor.report import write_report
from tests.report.chains import CHAIN, hostile_chain, written_chain
from tests.report.records import collapsing, hostile, written

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
AXE = Path(__file__).parent / "node_modules" / "axe-core" / "axe.min.js"
WIDTHS = (360, 800, 1600)
PAGES = ("run", "layers", "hostile", "comparison", "chain", "hostile chain")
GRAVE = {"serious", "critical"}

OPEN_ALL = "document.querySelectorAll('details').forEach(d => d.open = true)"
# Width of the narrowest place for a name or a text of the record.
NARROWEST = """() => Math.min(
    ...[...document.querySelectorAll('th.data, td.data, .pairs dt, .pairs dd')]
        .map(place => place.getBoundingClientRect().width)
        .filter(width => width > 0))"""
# Of each figure: the classes of the drawings that are seen, and the length of what describes them.
FIGURES = """() => [...document.querySelectorAll('figure')].map(figure => {
    const drawings = [...figure.querySelectorAll('svg[role=img]')];
    const seen = drawings.filter(d => d.getClientRects().length > 0);
    const words = d => document.getElementById(d.getAttribute('aria-describedby'));
    return {
        seen: seen.map(d => d.getAttribute('class')),
        words: Math.min(...drawings.map(d => words(d).textContent.length)),
    };
})"""

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium is on the path")
needs_axe = pytest.mark.skipif(not AXE.exists(), reason="axe-core is missing: npm ci here")


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Address of each page by its name."""
    folder = tmp_path_factory.mktemp("pages")
    runs = folder / "runs"
    collapsing(runs / "a run" / "sigma" / "record.jsonl")
    collapsing(folder / "layers" / "record.jsonl", layers=16)
    hostile(runs / "hostile" / "record.jsonl")
    written(runs / "healthy" / "record.jsonl", range(0, 100, 5))
    sources = {
        "run": runs / "a run",
        "layers": folder / "layers",
        "hostile": runs / "hostile",
        "comparison": runs,
        "chain": written_chain(folder / "chain.json", CHAIN),
        "hostile chain": written_chain(folder / "hostile chain.json", hostile_chain()),
    }
    made = {n: write_report(s, folder / f"{n}.html").path for n, s in sources.items()}
    return {name: path.as_uri() for name, path in made.items()}


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def visit(browser, pages):
    """Open a page; what it asked for and said lies in `requests` and `messages` of the result."""
    contexts = []

    def opened(name):
        # The page forbids scripts; axe-core has to run nonetheless.
        context = browser.new_context(bypass_csp=True)
        contexts.append(context)
        page = context.new_page()
        page.requests, page.messages = [], []
        page.on("request", lambda request: page.requests.append(request.url))
        page.on("console", lambda message: page.messages.append(message.text))
        page.on("pageerror", lambda error: page.messages.append(str(error)))
        page.on("dialog", lambda dialog: page.messages.append(dialog.message))
        page.goto(pages[name])
        return page

    yield opened
    for context in contexts:
        context.close()


def look(page, width, scheme):
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 900})


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_quiet_fits_and_shows_one_drawing_of_each_figure(visit, pages, name):
    page = visit(name)
    page.evaluate(OPEN_ALL)
    for width, scheme in itertools.product(WIDTHS, ("light", "dark")):
        look(page, width, scheme)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate(NARROWEST) > 100
        figures = page.evaluate(FIGURES)
        assert figures != []
        expected = "narrow" if width <= 600 else "wide"
        assert [figure["seen"] for figure in figures] == [[expected]] * len(figures)
        assert min(figure["words"] for figure in figures) > 40
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (background == "rgb(17, 21, 27)") == (scheme == "dark")
    assert page.requests == [pages[name]]
    assert page.messages == []


@needs_axe
@pytest.mark.parametrize("name", PAGES)
def test_axe_finds_nothing_grave(visit, name):
    page = visit(name)
    page.evaluate(OPEN_ALL)
    page.evaluate(AXE.read_text(encoding="utf-8"))
    for width, scheme in ((360, "dark"), (1600, "light")):
        look(page, width, scheme)
        found = page.evaluate("axe.run()")
        assert found["passes"]  # it did look
        grave = [v for v in found["violations"] if v["impact"] in GRAVE]
        assert [(v["id"], [n["html"] for n in v["nodes"]]) for v in grave] == []


@needs_axe
def test_axe_would_find_something(visit):
    page = visit("run")
    page.evaluate("document.querySelector('.headline').style.color = '#f4f4f4'")
    page.evaluate(AXE.read_text(encoding="utf-8"))
    found = page.evaluate("axe.run()")
    assert "color-contrast" in {v["id"] for v in found["violations"]}


@pytest.mark.parametrize("name", ["hostile", "hostile chain"])
def test_scripts_that_came_with_the_record_do_not_run(browser, pages, name):
    context = browser.new_context()
    page = context.new_page()
    said = []
    page.on("dialog", lambda dialog: said.append(dialog.message))
    page.goto(pages[name])
    assert page.evaluate("document.querySelectorAll('script, img').length") == 0
    page.evaluate("document.body.append(document.createElement('script'))")
    page.evaluate("document.body.lastChild.textContent = 'window.ran = 1'")
    assert page.evaluate("window.ran") is None  # the page's policy forbids scripts altogether
    assert said == []
    context.close()


def test_everything_that_opens_is_reached_by_the_keyboard(visit):
    page = visit("run")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    reached = set()
    for _ in range(200):
        page.keyboard.press("Tab")
        tag = page.evaluate("document.activeElement.tagName")
        if tag == "BODY" or page.evaluate("document.activeElement.className") == "skip":
            break  # once around
        reached.add(tag)
        if tag == "SUMMARY":
            page.keyboard.press("Enter")
    assert reached >= {"A", "SUMMARY", "DIV"}  # the last scrolls a table
    unopened = page.evaluate("document.querySelectorAll('details:not([open])').length")
    assert unopened == 0


def test_print_is_light_wide_and_has_all_alerts(visit):
    page = visit("run")
    look(page, 360, "dark")
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.locator("svg.wide").first.is_visible()
    assert not page.locator("svg.narrow").first.is_visible()
    assert not page.locator("nav").is_visible()
    information = page.locator("#alerts details .alerts li").first
    assert information.is_visible()
    assert len(page.pdf(format="A4")) > 10_000
