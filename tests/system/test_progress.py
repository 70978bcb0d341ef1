"""Plain progress lines."""

from __future__ import annotations

import re

import pytest

from coadvise.system.progress import Display
from coadvise.system.screen import Screen


def test_no_line_runs_past_its_end_or_counts_time_below_zero(capsys: pytest.CaptureFixture[str]) -> None:
    with Display(every=0).bar("steps", 3) as bar:
        for _ in range(5):
            bar.advance()
    lines = [line for line in capsys.readouterr().err.splitlines() if line]
    found = [re.fullmatch(r"steps  (\d+)/(\d+)  eta (\d+):(\d\d):(\d\d)  ", line) for line in lines]
    assert len(found) == 5 and all(found), lines
    assert [tuple(map(int, match.groups()[:2])) for match in found if match] == [(1, 3), (2, 3), (3, 3), (4, 4), (5, 5)]


def test_colours_that_are_asked_for_are_no_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Notebooks and CI services set FORCE_COLOR; a bar that is redrawn would fill their pages."""
    monkeypatch.setattr("coadvise.system.progress.console", Screen(stderr=True, force_terminal=True))
    with Display(every=0).bar("steps", 1) as bar:
        bar.advance()
    assert re.fullmatch(r"steps  1/1  eta 0:00:00  \n", capsys.readouterr().err)
