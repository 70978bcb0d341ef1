"""A report as one HTML page."""

from coadvise.reports.page import Page, Section, Text, html


def test_commands_are_shown_as_such_and_nothing_in_them_is_markup() -> None:
    text = Text("Use it (`coadvise predict '<b>.jpg' --model a&b`), or 3 ` 4.")
    page = html(Page("a", "b", [], [Section("next", "Next", [text])], []))
    assert "Use it (<code>coadvise predict &#39;&lt;b&gt;.jpg&#39; --model a&amp;b</code>), or 3 ` 4." in page
