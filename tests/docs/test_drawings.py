"""The drawings of the documentation: they say what they show, stand alone, and can be read in light and in dark."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from coadvise.advice.layout import SHARD_BYTES
from coadvise.advice.record import RecordFormat

DOCS = Path(__file__).resolve().parents[2] / "docs"
DRAWINGS = sorted((DOCS / "drawings").glob("*.svg"))
SVG = "{http://www.w3.org/2000/svg}"
TEXTS = ("ink", "muted", "blue", "orange")


def colours(style: str) -> list[dict[str, str]]:
    """The colours by name, in light and in dark."""
    light, _, dark = style.partition("@media (prefers-color-scheme: dark)")
    return [dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", part)) for part in (light, dark)]


def luminance(colour: str) -> float:
    """Relative luminance as WCAG 2.1 defines it."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    """From 1 to 21."""
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("path", DRAWINGS, ids=lambda path: path.stem)
def test_a_drawing_says_what_it_shows_and_stands_alone(path: Path) -> None:
    text, root = path.read_text(), ElementTree.parse(path).getroot()
    assert root.get("role") == "img"
    assert root.get("aria-labelledby") == "title desc"
    title, description = root.find(f"{SVG}title"), root.find(f"{SVG}desc")
    assert title is not None and title.get("id") == "title" and title.text
    assert description is not None and description.get("id") == "desc" and len(description.text or "") > 100
    assert re.findall(r"https?://[^\"]+", text) == ["http://www.w3.org/2000/svg"]
    assert not re.search(r"currentColor|@import|url\((?!#)|<script", text)
    assert len(text) < 12_000


@pytest.mark.parametrize("path", DRAWINGS, ids=lambda path: path.stem)
def test_a_drawing_is_read_in_light_and_in_dark(path: Path) -> None:
    style = "".join(element.text or "" for element in ElementTree.parse(path).iter(f"{SVG}style"))
    light, dark = colours(style)
    assert light.keys() == dark.keys()
    for scheme in (light, dark):
        on = [(text, "paper") for text in TEXTS] + [("ink", wash) for wash in scheme if wash.endswith("wash")]
        on += [("muted", "wash")]
        low = {pair: ratio for pair in on if (ratio := contrast(scheme[pair[0]], scheme[pair[1]])) < 4.5}
        assert not low


def test_every_drawing_is_shown_with_its_words() -> None:
    pages = "\n".join(path.read_text() for path in DOCS.rglob("*.md"))
    for path in DRAWINGS:
        shown = re.findall(rf"!\[([^\]]+)\]\((?:\.\./)*drawings/{path.name}\)", pages)
        assert shown and all(len(words) > 40 for words in shown), path.name


def test_the_record_drawn_is_the_one_written() -> None:
    text = (DOCS / "drawings" / "record.svg").read_text()
    record = RecordFormat(classes=1000, top=10)
    cells = re.findall(r'<rect class="(conv|inv|box)" x="\d+" y="66" width="9"', text)
    assert [cells.count(kind) for kind in ("conv", "inv", "box")] == [20, 20, 2]
    assert len(cells) == record.bytes and f"{record.bytes} bytes" in text
    assert RecordFormat(classes=21, top=10).dense and not RecordFormat(classes=22, top=10).dense
    assert "from 22 classes up to 65,535" in text
    assert RecordFormat(65_535, 10).bytes == 42 < RecordFormat(65_536, 10).bytes
    assert f"files of {SHARD_BYTES >> 20} MiB" in text
