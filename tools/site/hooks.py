"""Pages that are made while the site is built, and files of the repository that pages link to (MkDocs calls these)."""

from __future__ import annotations

import api_page
import command_page
import findings_page
import notebook_page
import outside
import paper_page
import recipe_page
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

# In the repository each but the first is a few words that say how to see it, so that links lead somewhere there, too.
PAGES = {
    "findings.md": findings_page.text,
    "paper.md": paper_page.text,
    "reference/recipe.md": recipe_page.text,
    "reference/cli.md": command_page.text,
    "reference/api.md": api_page.text,
}


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    for name, text in PAGES.items():
        if (short := files.get_file_from_path(name)) is not None:
            files.remove(short)
        files.append(File.generated(config, name, content=text()))
    for name, content in notebook_page.pages().items():
        files.append(File.generated(config, name, content=content))
    outside.add_linked(files, config)
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    return outside.with_links_inside(markdown, page.file.src_uri)


def on_post_page(output: str, *, page: Page, config: MkDocsConfig) -> str:
    return _with_named_search(output)


def on_post_template(output: str, *, template_name: str, config: MkDocsConfig) -> str:
    """The page for addresses that do not exist is no page of the list, but a template."""
    return _with_named_search(output)


def _with_named_search(page: str) -> str:
    """The theme's search is a dialog without a name, which a screen reader needs."""
    dialog = 'data-md-component="search" role="dialog"'
    return page.replace(dialog, f'{dialog} aria-label="Search"')
