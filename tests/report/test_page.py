"""The page: one file, whole, small, without scripts, whatever the record holds."""

import json
import re
from html.parser import HTMLParser

import pytest

from sigma_monitor.errors import InputError
from sigma_monitor.report import write_report
from sigma_monitor.report.page import LEVELS, MOST_BYTES
from sigma_monitor.sinks import JsonlSink
from tests.report.records import check, collapsing, hostile, news, written
from tests.snapshots import observation

VOID = {"meta", "img", "br", "input", "link", "hr"}


class Page(HTMLParser):
    """Elements with their attributes, ids and text of a page, in which every element is closed."""

    def __init__(self, path):
        super().__init__()
        self.elements, self.text, self.open = [], "", []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert self.open == []
        self.ids = [attributes["id"] for _, attributes in self.elements if "id" in attributes]

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data

    def of(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def assert_safe(page):
    """No script, nothing from elsewhere, no id twice, and every picture has its words."""
    tags = {tag for tag, _ in page.elements}
    assert tags.isdisjoint({"script", "img", "iframe", "object", "embed", "link", "form", "base"})
    for _, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("href", "src", "xlink:href"):
            assert attributes.get(name, "#").startswith("#")
    assert len(page.ids) == len(set(page.ids))
    for tag, attributes in page.elements:
        if tag == "svg" and "role" in attributes:
            named = [attributes["aria-labelledby"], attributes["aria-describedby"]]
            assert set(named) <= set(page.ids)
        if tag == "use":
            assert attributes["href"][1:] in page.ids
    style = page.text  # that of the style sheet, too
    assert "@import" not in style
    assert not re.findall(r"url\((?!#)", style)


@pytest.fixture
def report(tmp_path):
    """The report on a record, and its page."""

    def make(source, name="report.html"):
        made = write_report(source, tmp_path / name)
        assert made.bytes == made.path.stat().st_size < MOST_BYTES
        return made, Page(made.path)

    return make


def test_every_row_of_the_map_has_a_name_of_its_own(tmp_path, report):
    made, _ = report(collapsing(tmp_path / "record.jsonl", layers=12))
    _, _, rest = made.path.read_text(encoding="utf-8").partition('id="map-title"')
    drawings = re.findall(r"<svg [^>]*role=\"img\".*?</svg>", rest, re.DOTALL)[:2]
    assert len(drawings) == 2  # narrow and wide
    for drawing in drawings:
        labels = re.findall(r"<text [^>]*>([^<]*layers[^<]*)</text>", drawing)
        assert len(set(labels)) == 12


@pytest.mark.parametrize("layers", [1, 3, 60])
def test_a_page_has_everything(tmp_path, report, layers):
    made, page = report(collapsing(tmp_path / "run" / "record.jsonl", layers=layers))
    assert_safe(page)
    keys = [figure["key"] for figure in made.data["figures"]]
    assert keys == ["ratio", "map", "spectrum", "generation"]
    assert set(keys) | {"alerts", "settings", "events"} <= set(page.ids)
    assert len(page.of("svg")) >= 2 * len(keys)
    last = f"model.layers.{layers - 1}"
    assert f"Layer {last} has collapsed since step 124" in page.text
    assert "Stop, go back to a checkpoint before the onset" in page.text
    assert "0123456789abcdef" in page.text
    assert "Checks that failed: 1." in page.text
    assert "Deliveries that W&B lost: 2." in page.text
    assert "as configured" in made.data["settings"]["thresholds drawn"]


def test_pictures_take_their_colours_from_the_page(tmp_path, report):
    made, _ = report(collapsing(tmp_path / "record.jsonl"))
    text = made.path.read_text(encoding="utf-8")
    drawings = re.findall(r"<svg [^>]*role=\"img\".*?</svg>", text, re.DOTALL)
    assert len(drawings) == 8
    for drawing in drawings:
        assert "var(--" in drawing
        assert re.findall(r"#[0-9a-f]{6}\b", drawing) == []


def test_the_same_record_gives_the_same_page(tmp_path, report):
    path = collapsing(tmp_path / "record.jsonl", layers=2)
    one, two = report(path)[0].path, report(path, "again.html")[0].path
    assert one.read_bytes() == two.read_bytes()


def test_what_came_from_the_record_is_text(tmp_path, report):
    made, page = report(hostile(tmp_path / "record.jsonl"))
    assert_safe(page)
    assert "<script>alert(1)</script>" in page.text  # as text
    assert "{{ 7 * 7 }}" in page.text
    assert "49" not in made.data["title"]
    for character in "\x00\u202e":
        assert character not in page.text
    json.dumps(made.to_dict(), allow_nan=False)


def test_a_name_of_a_folder_is_text_too(tmp_path, report):
    made, page = report(written(tmp_path / "<b>run" / "sigma" / "record.jsonl", (0, 10)))
    assert "<b>run" in made.data["title"]
    assert_safe(page)
    assert "b" not in {tag for tag, _ in page.elements}


def with_numbers(text, value):
    """Every estimate of a record replaced."""
    return re.sub(r'\[[^][" ]+, [^][" ]+, [^][" ]+, "', f'[{value}, {value}, {value}, "', text)


EXTREMES = ["NaN", "Infinity", "-Infinity", "1e308", "-1e308", "0.0", "1e-320"]


@pytest.mark.parametrize("value", EXTREMES)
def test_numbers_at_the_ends_of_their_range_are_drawn(tmp_path, report, value):
    path = collapsing(tmp_path / "record.jsonl", layers=2)
    text = path.read_text()
    loss = re.sub(r'"loss": [0-9.]+', f'"loss": {value}', with_numbers(text, value))
    lines = text.splitlines(keepends=True)
    half = len(lines) // 2
    path.write_text("".join(lines[:half] + loss.splitlines(keepends=True)[half:]))
    made, page = report(path)
    assert_safe(page)
    json.dumps(made.to_dict(), allow_nan=False)


def test_every_value_may_be_at_the_end_of_its_range(tmp_path, report):
    for value in ('"nan"', '"inf"', "1e308", "5e-324"):
        path = tmp_path / "record.jsonl"
        path.unlink(missing_ok=True)
        written(path, (0, 10), loss=float("inf"))
        path.write_text(with_numbers(path.read_text(), value))
        assert_safe(report(path)[1])


def test_one_check_makes_a_page(tmp_path, report):
    assert_safe(report(written(tmp_path / "record.jsonl", [0]))[1])


def test_a_record_without_checks_makes_a_page(tmp_path, report):
    sink = JsonlSink(tmp_path / "record.jsonl")
    sink.note("failed", {"step": 0, "error": "no probe set"})
    sink.close()
    made, page = report(tmp_path / "record.jsonl")
    assert_safe(page)
    assert made.data["figures"] == []
    assert "Nothing was measured." in page.text


def test_observed_rows_alone_make_a_page(tmp_path, report):
    sink = JsonlSink(tmp_path / "record.jsonl")
    for step in range(0, 100, 10):
        sink.observe(observation(step))
        if step == 0:
            told = {"layer": "codebook", "channel": "observed", "baseline": 40.0}
            sink.alert(news("BASELINE", "info", step, **told))
    sink.close()
    made, page = report(tmp_path / "record.jsonl")
    assert_safe(page)
    assert [figure["key"] for figure in made.data["figures"]] == ["map", "observed"]


def test_what_is_too_much_for_a_page_is_cut(tmp_path, report):
    """Texts of a hundred thousand letters, each of which takes five when escaped."""
    sink = JsonlSink(tmp_path / "record.jsonl")
    long = "&" * 100_000
    sink.note("started", {str(n): long for n in range(50)})
    for step in range(0, 300, 2):
        sink.check(check(step, 1, 1))
        texts = dict.fromkeys(("text", "advice", "verdict", "forecast"), long)
        sink.alert(news("WARNING", "warn", step, **texts))
        sink.note("failed", {str(n): long for n in range(3)})
    sink.close()
    made, page = report(tmp_path / "record.jsonl")
    assert_safe(page)
    assert "characters more" in page.text
    assert "between the first and the latest are not listed" in page.text
    assert made.data["unshown_alerts"] == 150 - LEVELS[1].rows  # the second level fits


def test_nothing_is_left_behind_when_writing_fails(tmp_path, monkeypatch):
    path = written(tmp_path / "record.jsonl", (0, 10))
    output = tmp_path / "out" / "report.html"
    output.parent.mkdir()
    output.write_text("the one before")

    def broken(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.replace", broken)
    with pytest.raises(InputError, match="No space left"):
        write_report(path, output)
    assert [p.name for p in output.parent.iterdir()] == ["report.html"]
    assert output.read_text() == "the one before"


def test_the_record_itself_is_never_overwritten(tmp_path):
    path = written(tmp_path / "record.jsonl", (0, 10))
    before = path.read_bytes()
    (tmp_path / "link.html").symlink_to(path)
    for output in (path, tmp_path / "link.html", tmp_path / "." / "record.jsonl"):
        with pytest.raises(InputError, match="the record itself"):
            write_report(path, output)
    with pytest.raises(InputError, match="that is a folder"):
        write_report(path, tmp_path)
    assert path.read_bytes() == before
