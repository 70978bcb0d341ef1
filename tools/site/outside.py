"""Files of the repository beside docs/ that pages link to: they become pages and files of the site.

A link such as `../results/README.md` leads to the file on a disk and wherever the repository is shown; in the site the
file lies in `repository/`, where its own links are followed in turn.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
INSIDE = "repository"
# Code that is shown as a page, and the language that it is coloured as.
_CODE = {".sh": "bash", ".py": "python", ".yaml": "yaml"}
_HOME = {"README.md": "index.md", "docs": "index.md", "findings/README.md": "findings.md"}  # what has a page of its own
# Code, in which nothing is a link, comes first; then the target of a link, a picture, a definition of one.
_FENCE = r"^(?P<indent>[ >]*)(?P<fence>```+|~~~+).*?^(?P=indent)(?P=fence) *$"
_LINK = r"(?<=\]\()(?P<link>[^)\s]+)(?=[)\s])|(?<=^\[)[^]]+\]: (?P<definition>\S+)|(?:src|href)=\"(?P<html>[^\"]+)\""
_SPAN = re.compile(rf"(?P<code>{_FENCE}|`+[^`]+`+)|{_LINK}", re.M | re.S)


def add_linked(files: Files, config: MkDocsConfig) -> None:
    """Add every file of the repository that a page links to, and what those link to."""
    waiting = [(f"docs/{file.src_uri}", file.content_string) for file in files.documentation_pages()]
    while waiting:
        path, text = waiting.pop()
        for link in links(text):
            target = _resolved(link, path)
            place = target and place_of(target)
            if not place or not place.startswith(INSIDE) or files.get_file_from_path(place):
                continue
            file = File.generated(config, place, abs_src_path=str(ROOT / target))
            if place.endswith(".md"):
                content = _page(target)
                file = File.generated(config, place, content=content)
                waiting.append((target, content))
            files.append(file)


def with_links_inside(markdown: str, src_uri: str) -> str:
    """The text of a page, its links to files of the repository leading to where these are in the site."""
    path = _origin(src_uri)

    def changed(link: str) -> str:
        target = _resolved(link, path)
        place = target and place_of(target)
        if not place or (path.startswith("docs/") and target.startswith("docs/")):
            return link
        anchor = link.partition("#")[2]
        return posixpath.relpath(place, posixpath.dirname(src_uri) or ".") + (f"#{anchor}" if anchor else "")

    return _each_link(markdown, changed)


def links(markdown: str) -> Iterator[str]:
    """Targets of links and pictures outside of code."""
    found: list[str] = []
    _each_link(markdown, lambda link: found.append(link) or link)
    return iter(found)


def place_of(target: str) -> str | None:
    """Where a file of the repository is in the site, both as posix paths; None where it is not there."""
    if target in _HOME:
        return _HOME[target]
    if target.startswith("docs/"):
        return target.removeprefix("docs/")
    path = ROOT / target
    if path.is_dir():
        return place_of(f"{target}/README.md")
    if not path.is_file():
        return None
    return f"{INSIDE}/{target}.md" if path.suffix in _CODE else f"{INSIDE}/{target}"


def _origin(src_uri: str) -> str:
    """The file of the repository that a page of the site is."""
    if not src_uri.startswith(f"{INSIDE}/"):
        return f"docs/{src_uri}"
    path = src_uri.removeprefix(f"{INSIDE}/")
    return path if (ROOT / path).is_file() else path.removesuffix(".md")


def _resolved(link: str, path: str) -> str | None:
    """The file of the repository that a link in one of its files leads to; None for another host, or the same page."""
    target = link.partition("#")[0]
    if not target or re.match(r"[a-z][a-z0-9+.-]*:|/", target):
        return None
    return posixpath.normpath(posixpath.join(posixpath.dirname(path), target))


def _page(target: str) -> str:
    """A file of the repository as Markdown; it is not searched, so that pages for readers come first."""
    path = ROOT / target
    text = path.read_text(encoding="utf-8")
    head = "---\nsearch: {exclude: true}\n---\n"
    if path.suffix in _CODE:
        return f"{head}# {target}\n\n````{_CODE[path.suffix]}\n{text}\n````\n"
    return head + text


def _each_link(markdown: str, change: Callable[[str], str]) -> str:
    def one(match: re.Match[str]) -> str:
        for kind in ("link", "definition", "html"):
            if match[kind] is not None:
                return match[0].replace(match[kind], change(match[kind]))
        return match[0]

    return _SPAN.sub(one, markdown)
