"""A report as one HTML page."""

from html.parser import HTMLParser

import pytest

from coadvise.reports.alignment import aligned
from coadvise.reports.page import Folded, Page, Section, Text, html, markdown
from coadvise.reports.tables import Cell, Table


def page_of(*parts: Text | Table | Folded) -> Page:
    return Page("a", "b", [], [Section("one", "One", parts)], [])


def test_commands_are_shown_as_such_and_nothing_in_them_is_markup() -> None:
    text = Text("Use it (`coadvise predict '<b>.jpg' --model a&b`), or 3 ` 4.")
    page = html(page_of(text))
    assert "Use it (<code>coadvise predict &#39;&lt;b&gt;.jpg&#39; --model a&amp;b</code>), or 3 ` 4." in page
    library = pytest.importorskip("markdown")
    shown = library.markdown(markdown(page_of(text)))
    assert "Use it (<code>coadvise predict '&lt;b&gt;.jpg' --model a&amp;b</code>), or 3 ` 4." in shown


@pytest.mark.parametrize(
    ("cells", "wholes", "fractions", "rests"),
    [
        (["9.5", "10.25", "3"], ["9", "10", "3"], [".5", ".25", ""], ["", "", ""]),
        (["90.1 ± 1.1", "97.3", "–"], ["90", "97", "–"], [".1", ".3", ""], [" ± 1.1", "", ""]),
        (["< 0.001", "0.0498", "1.000"], ["< 0", "0", "1"], [".001", ".0498", ".000"], ["", "", ""]),
        (["183 k", "85.1 k"], ["183", "85"], ["", ".1"], [" k", " k"]),
        (["+5.9 (±1.5)", "−0.2", "+0.015 nat"], ["+5", "−0", "+0"], [".9", ".2", ".015"], [" (±1.5)", "", " nat"]),
        (["94.0 [91.2, 96]", "8.5 [8.0, 9.25]"], ["94", "8"], [".0", ".5"], [" [91.2, 96]", " [8.0, 9.25]"]),
        (["+4.5 … +7.4", "+7.9 … +10.3"], ["+4", "+7"], [".5", ".9"], [" … +7.4", " … +10.3"]),
    ],
)
def test_numbers_fall_into_what_stands_before_their_point_the_fraction_and_the_rest(
    cells: list[str], wholes: list[str], fractions: list[str], rests: list[str]
) -> None:
    found = aligned(cells)
    assert found is not None
    assert [[one.whole, one.fraction, one.rest] for one in found] == [
        list(parts) for parts in zip(wholes, fractions, rests, strict=True)
    ]
    assert {one.fractions for one in found} == {max(fractions, key=len)}
    assert {one.rests for one in found} == {max(rests, key=len)}
    assert [one.whole + one.fraction + one.rest for one in found] == cells


@pytest.mark.parametrize("cells", [["2 min 05 s", "8.4 s"], ["compared", "0.05"], ["1.0", "2.5"], ["5, 4", "3"]])
def test_columns_that_are_no_numbers_or_stand_right_already_are_left_alone(cells: list[str]) -> None:
    found = aligned(cells)
    assert found is None


class Cells(HTMLParser):
    """Texts of all cells, with what generated content reserves for the widest of a column in braces."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.cells: list[str] = []
        self.inside = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("td", "th"):
            self.cells.append("")
            self.inside = True
        if self.inside:
            self.cells[-1] += {"i": f"{{{dict(attrs).get('data-w')}}}", "small": " / "}.get(tag, "")

    def handle_endtag(self, tag: str) -> None:
        self.inside = self.inside and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.cells[-1] += data


def test_a_second_line_holds_the_column_that_follows_and_a_cell_may_lead_somewhere() -> None:
    rows = [["x", "9.5", "8 … 11", Cell("1", link="one")], ["y", "10.25", "–", "2"]]
    table = Table("c", ["Name", "Mean", "95 %", "In"], rows, "lrrl", frozenset({2}))
    page = page_of(table)
    found = Cells(html(page)).cells
    assert found == ["Name", "Mean / 95 %", "In", "x", "9{.25}.5 / 8 … 11", "1", "y", "10{.25}.25 / ", "2"]
    assert '<a href="#one">1</a>' in html(page)
    assert "| x    |   9.5 | 8 … 11 | 1   |" in markdown(page), "as wide as it is"


def test_what_is_folded_is_behind_its_title_and_plain_in_markdown() -> None:
    page = page_of(Folded("Every seed", [Text("94.1"), Table("t", ["a"], [["1"]])]))
    assert "<details>\n<summary>Every seed</summary>\n<p>94.1</p>" in html(page)
    assert markdown(page).endswith("## One\n\n94.1\n\n*t*\n\n| a   |\n| :-- |\n| 1   |\n")


def test_the_head_of_a_page_has_its_lines_and_folds_how_it_was_measured() -> None:
    page = Page("a", "b", ["Of the last epoch."], [], [], [("Against what", "<chance>, `coadvise train`")])
    text = html(page)
    assert "<dt>Against what</dt><dd>&lt;chance&gt;, <code>coadvise train</code></dd>" in text
    assert text.index("How this was measured") < text.index("Of the last epoch.")
    assert "**b**\n\n- **Against what**: &lt;chance>, `coadvise train`\n\nOf the last epoch." in markdown(page)
