"""The built site: links lead somewhere, nothing comes from elsewhere, pages are small, what is made is complete."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from coadvise.recipe.schema import Recipe, flat

pytest.importorskip("mkdocs")
ROOT = Path(__file__).resolve().parents[2]
# What a page loads by itself; `a` is followed by hand.
LOADS = {
    "script": "src",
    "img": "src",
    "iframe": "src",
    "source": "src",
    "video": "src",
    "object": "data",
    "use": "href",
}


class Page(HTMLParser):
    """Places in a page, what it links to, and what it loads."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.places: set[str] = {"", "__comments"}
        self.links: list[str] = []
        self.loads: list[str] = []
        self.without_words: list[str] = []
        self.dialogs: list[str] = []
        text = file.read_text(encoding="utf-8")
        self.typed = set(re.findall(r"&lt;([^&]+)&gt;", text))
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {key: value or "" for key, value in attrs}
        self.places |= {given[key] for key in ("id", "name") if key in given}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        if tag == "link" and given.get("rel") in ("stylesheet", "icon", "preload", "modulepreload"):
            self.loads.append(given["href"])
        elif tag in LOADS and LOADS[tag] in given:
            self.loads.append(given[LOADS[tag]])
        if tag == "img" and not given.get("alt"):
            self.without_words.append(given.get("src", ""))
        if given.get("role") == "dialog":
            self.dialogs.append(given.get("aria-label", ""))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    words = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--strict",
        "--site-dir",
        str(folder),
    ]  # --quiet would count no warnings
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_every_link_in_the_repository_leads_somewhere() -> None:
    """As a host of repositories shows the files, without a site that was built."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "tools" / "site"))
        outside = importlib.import_module("outside")
    listed = subprocess.run(["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    problems = []
    for name in listed.split():
        file = ROOT / name
        for link in outside.links(file.read_text(encoding="utf-8")):
            split = urlsplit(link)
            if not split.scheme and not split.netloc and not (file.parent / unquote(split.path)).exists():
                problems.append(f"{name}: {link} is not there")
    assert not problems, "\n".join(problems)


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    return {file.resolve(): Page(file) for file in site.rglob("*.html")}


def test_every_link_leads_somewhere(site: Path, pages: dict[Path, Page]) -> None:
    problems = []
    for file, page in pages.items():
        for link in page.links + page.loads:
            split = urlsplit(link)
            if split.scheme in ("http", "https", "mailto"):
                if split.scheme != "mailto" and not re.fullmatch(r"[\w.-]+\.[a-z]{2,}", split.netloc):
                    problems.append(f"{file.name}: {link} is no address")
                continue
            target = (file.parent / unquote(split.path)).resolve() if split.path else file
            if file.name == "404.html" and split.path.startswith("/"):
                target = (site / unquote(split.path).lstrip("/")).resolve()
            if not target.exists():
                problems.append(f"{file.relative_to(site.resolve())}: {link} is not there")
            elif target in pages and unquote(split.fragment) not in pages[target].places:
                problems.append(f"{file.relative_to(site.resolve())}: {link}: no such place in that page")
    assert not problems, "\n".join(sorted(set(problems))[:40])


def test_nothing_is_loaded_from_elsewhere(site: Path, pages: dict[Path, Page]) -> None:
    for file, page in pages.items():
        assert not [link for link in page.loads if urlsplit(link).netloc], file.name
    for sheet in site.rglob("*.css"):
        found = re.findall(r"(?:url\(|@import)\s*[\"']?(https?:|//)", sheet.read_text(encoding="utf-8"))
        assert not found, sheet.name


def test_pictures_are_described(pages: dict[Path, Page]) -> None:
    assert not {file.name: page.without_words for file, page in pages.items() if page.without_words}


def test_the_search_has_a_name_on_every_page(pages: dict[Path, Page]) -> None:
    """Also on that of addresses which do not exist."""
    assert {file.name: page.dialogs for file, page in pages.items() if not all(page.dialogs)} == {}
    assert all(page.dialogs for page in pages.values())


def test_pages_are_small(site: Path, pages: dict[Path, Page]) -> None:
    """What a page needs before it is seen; a disk gives 2 MB in a fraction of a second."""
    for file, page in pages.items():
        if "repository" in file.parts:
            continue  # whole reports of experiments
        own = {(file.parent / unquote(link)).resolve() for link in page.loads if not urlsplit(link).netloc}
        size = file.stat().st_size + sum(one.stat().st_size for one in own if one.is_file())
        assert size < 2e6, f"{file.name} has {size} bytes"


def test_every_key_and_command_has_its_place(pages: dict[Path, Page]) -> None:
    by_name = {file.name: page for file, page in pages.items() if "reference" in file.parts}
    recipe = Recipe.model_validate({
        "name": "all", "data": {"source": "digits"},
        "teachers": {"NAME": {"model": "resnet18", "train": {"epochs": 1, "augment": {}}}},
    })  # fmt: skip
    keys = {key for key in flat(recipe.model_dump(mode="json")) if not key.startswith("teachers.NAME.train.augment.")}
    assert len(keys) > 100
    assert keys <= by_name["recipe.html"].places
    listed = subprocess.run([sys.executable, "-m", "coadvise", "--help"], capture_output=True, text=True, check=True)
    names = re.findall(r"^│ ([a-z][a-z-]+)  ", listed.stdout, re.M)
    # Words of Python's types are not a reader's.
    assert not {one for one in by_name["cli.html"].typed if "[" in one or "range" in one}
    assert len(names) > 15 and set(names) <= by_name["cli.html"].places
    import coadvise

    public = set(coadvise.__all__) - {"models"}
    assert {f"coadvise.{name}" for name in public} <= by_name["api.html"].places


def test_every_key_says_what_it_means() -> None:
    from coadvise.recipe.reading import json_schema

    parts = {name: part["properties"] for name, part in json_schema()["$defs"].items()}
    silent = [f"{part}.{key}" for part, keys in parts.items() for key, said in keys.items() if not _means(said)]
    assert not silent


def _means(field: dict[str, object]) -> bool:
    return "description" in field or "$ref" in field
