"""The page of findings has every script once, with all that its table says."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def test_every_finding_has_its_section() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "tools" / "site"))
        page: str = importlib.import_module("findings_page").text()
    scripts = sorted(path.name for path in (ROOT / "findings").glob("*.sh"))
    assert sorted(re.findall(r"\(\.\./findings/(\w+\.sh)\)", page)) == scripts
    assert sorted(re.findall(r"\{ #(\w+) \}", page)) == [name.removesuffix(".sh") for name in scripts]
    flat = " ".join(page.split())
    readme = (ROOT / "findings" / "README.md").read_text()
    for line in readme.splitlines():
        if line.startswith("| ["):
            cells = [cell.strip() for cell in line.strip("|").split(" | ")]
            assert all(cell[1:] in flat for cell in cells[1:]), cells[0]
