"""The section on what teachers know together: its numbers are those of the file, and the file is read as written."""

from pathlib import Path

import numpy as np
import pytest

from coadvise.errors import RunError
from coadvise.evaluation.headroom import Member, headroom_from
from coadvise.reports.headroom import headroom_page, headroom_section, pairs_drawing, tables
from coadvise.reports.page import Text, html
from coadvise.run.headroom import HeadroomResult
from coadvise.system.files import write_json


@pytest.fixture(scope="module")
def result() -> HeadroomResult:
    rng = np.random.default_rng(0)
    label = rng.integers(4, size=200)
    p = rng.dirichlet(np.ones(4), size=(5, 200)) + 0.4 * np.eye(4)[label]
    p /= p.sum(axis=2, keepdims=True)
    kinds = {"a<b": "conv", "a2": "conv", "b": "inv", "b2": "inv", "c": None}
    members = [Member(name, bias, name[0]) for name, bias in kinds.items()]
    plain, seen = (headroom_from(p[:, at:], label[at:], members, resamples=100) for at in (0, 50))
    facts = {
        name: {"model": name[0], "bias": bias, "weights": f"{i:016x}"} for i, (name, bias) in enumerate(kinds.items())
    }
    return HeadroomResult(
        "some", seen, plain, 1, 100, 0, 3.25, facts=facts, provenance={"command": "coadvise headroom x"}
    )


def test_tables_show_the_numbers(result: HeadroomResult) -> None:
    teachers, pairs, kinds = tables(result)
    first = result.plain.teachers[0].accuracy
    assert first.value is not None and first.low is not None and first.high is not None
    assert teachers.rows[0][3] == f"{100 * first.value:.1f} [{100 * first.low:.1f}, {100 * first.high:.1f}]"
    shown = {str(row[0]): row for row in pairs.rows}
    assert set(shown) == {"two a", "two b", "a + b", "a + c", "b + c"}
    two = next(one for one in result.student.models if one.names == ("a", "b"))
    assert two.kappa.value is not None and two.delta is not None and two.delta.value is not None
    assert shown["a + b"][6] == f"{two.kappa.value:.2f}".replace("-", "−")
    assert str(shown["a + b"][7]).startswith(f"{100 * two.delta.value:+.1f}".replace("-", "−"))
    # Also of "b + c", the name of a pair of teachers, too.
    plain = [next(one for one in result.plain.models if one.names == two.names) for two in result.student.shown]
    assert [str(row[2]).partition(" ")[0] for row in pairs.rows] == [f"{100 * one.accuracy.value:.1f}" for one in plain]  # type: ignore[operator]
    assert ("b", "c") in {one.names for one in result.plain.pairs} & {one.names for one in result.plain.models}
    assert shown["two a"][7] == "–" and shown["a + c"][1] == "–"
    assert [row[1] for row in kinds.rows] == ["as the student sees them", "plain"]


def test_the_page_stands_alone_and_escapes_names(result: HeadroomResult) -> None:
    page = html(headroom_page(result))
    assert "a&lt;b" in page and "a<b" not in page and "0000000000000003" in page and "coadvise headroom x" in page
    assert "5 teachers on 200 validation images" in page
    drawing = pairs_drawing(result.student)
    assert drawing is not None and drawing.png.startswith(b"\x89PNG") and "two of conv" in drawing.svg
    assert "kind not known" in drawing.svg and "(two of inv)" in drawing.alt
    assert headroom_section(result).id == "headroom"
    assert "other trainings" not in page
    first = headroom_section(result, ["b", "c"]).parts[0]
    assert isinstance(first, Text) and "of other trainings of b, c than those that taught" in first.text


def test_the_file_is_read_as_it_was_written(result: HeadroomResult, tmp_path: Path) -> None:
    path = tmp_path / "headroom.json"
    write_json(path, result.content())
    assert HeadroomResult.read(path) == result
    write_json(path, {**result.content(), "student": {"images": "many"}})
    with pytest.raises(RunError, match=r"student\.images: .*run the command that writes it again"):
        HeadroomResult.read(path)
    path.write_text("{")
    with pytest.raises(RunError, match="run `coadvise headroom` again"):
        HeadroomResult.read(path)
