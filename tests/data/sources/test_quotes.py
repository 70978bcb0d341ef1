"""Quotation marks in CSV and TSV: what they swallow; oracles are Python's csv module and a walk over single letters."""

import csv
import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
from PIL import Image

from coadvise.data.sources import text_table
from coadvise.data.sources.opening import open_source, open_sources
from coadvise.data.sources.path_table import PathTable
from coadvise.data.sources.quotes import look_at_quotes
from coadvise.errors import DataError
from coadvise.recipe.data import Data

Writer = Callable[[str, str], str]


@pytest.fixture
def table(tmp_path: Path) -> Writer:
    """Writes a table beside 40 images, and gives its path."""
    for number in range(40):
        Image.new("L", (4, 4), number).save(tmp_path / f"{number}.png")

    def write(name: str, text: str) -> str:
        content = text.encode()
        (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
        return str(tmp_path / name)

    return write


def rows_of(cells: Callable[[int], tuple[str, ...]], delimiter: str = ",") -> str:
    """Rows of 40 images, of which each has the cells that are given for its number."""
    return "".join(delimiter.join((f"{number}.png", *cells(number))) + "\n" for number in range(40))


def walked(text: str, delimiter: str) -> int:
    """Line of the quotation mark that is open at the end of a text, 0 where none is; letter by letter."""
    state, line, opened = "start", 1, 0
    for letter in text:
        if state == "start" and letter == '"':
            state, opened = "quoted", line
        elif state == "quoted":
            state = "mark" if letter == '"' else "quoted"
        elif state == "mark" and letter == '"':
            state = "quoted"
        else:
            state = "start" if letter in (delimiter, "\n") else "plain"
        line += letter == "\n"
    return opened if state == "quoted" else 0


def test_any_text_against_the_csv_module_and_a_walk_over_its_letters() -> None:
    rng, swallowed = Random(0), 0
    for _ in range(5_000):
        mark = rng.choice(",\t;|")
        parts = ["a", "b", '"', mark, "\n", " ", '""', f'{mark}"', f'"{mark}', '"\n', '\n"']
        text = "".join(rng.choice(parts) for _ in range(rng.randint(1, 25)))
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=mark)
        rows = sum(1 for _ in reader)  # the reader counts lines, too
        found = look_at_quotes(io.StringIO(text), mark, 2)
        assert found.open_at_end == walked(text, mark), text
        assert found.rows <= reader.line_num - rows, text
        assert (found.opens == 0) == (found.rows == 0)
        swallowed += found.rows > 0
    assert swallowed > 250


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz"])
@pytest.mark.parametrize("block", [64, 1 << 20])
def test_a_mark_that_is_never_closed_is_refused(
    table: Writer, name: str, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without it, 21 of the 40 images are read, or one class is made of 19 rows."""
    monkeypatch.setattr(text_table, "_BLOCK", block)
    caption = rows_of(lambda n: ("ab"[n % 2], '"Queen of hearts' if n == 20 else "x"))
    label = rows_of(lambda n: ('"b' if n == 20 else "ab"[n % 2], "x"))
    last = rows_of(lambda n: ("ab"[n % 2], '"x' if n == 39 else "x"))
    for text, line in ((caption, 22), (label, 22), (last, 41)):
        with pytest.raises(DataError, match=rf"{name} line {line}: a quotation mark begins a value .* never closed"):
            open_sources(Data(source=table(name, "image,label,caption\n" + text)))
    splits = rows_of(lambda n: ("ab"[n % 2], '"train' if n == 5 else "val"))
    with pytest.raises(DataError, match=rf"{name} line 7: a quotation mark"):
        open_sources(Data(source=table(name, "image,label,split\n" + splits)))


def test_rows_between_two_stray_marks_are_noted(table: Writer) -> None:
    text = "image\tlabel\tcaption\n" + rows_of(lambda n: ("ab"[n % 2], '"Queen' if n in (10, 30) else "x"), "\t")
    read = list(csv.reader(io.StringIO(text), delimiter="\t"))
    path, said = table("a.tsv", text), list[str]()
    source = open_source(path, say=said.append)
    assert len(source) == len(read) - 1 == 20  # of 40 rows
    assert said[1:] == [
        f"note: 20 lines of {path} between quotation marks may be rows, and no image is read from there; if so, remove "
        "or close the quotation mark in line 12"
    ]
    # A single row is swallowed, and the second mark stands in the middle of it.
    said.clear()
    rows = rows_of(lambda n: ('"Queen' if n in (10, 11) else "x", "ab"[n % 2]))
    assert len(open_source(table("a.csv", "image,caption,label\n" + rows), say=said.append)) == 39
    assert "note: 1 line of" in said[1] and said[1].endswith("line 12")


def test_captions_of_several_lines_are_read_without_a_note(table: Writer) -> None:
    captions = ["a cat,\nand a dog", '"quoted"\r\n\nand more\n', '5" of it', "\n", "x"]
    text = io.StringIO()
    csv.writer(text).writerow(["image", "caption", "about, and\tfrom", "label"])
    csv.writer(text).writerows([f"{n}.png", captions[n % 5], "", "ab"[n % 2]] for n in range(40))
    said: list[str] = []
    source = open_source(table("a.csv", text.getvalue()), say=said.append)
    assert isinstance(source, PathTable) and len(said) == 1
    assert source.labels.tolist() == [0, 1] * 20 and source.paths.to_pylist() == [f"{n}.png" for n in range(40)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('image,label\n1.png,"a\n2.png,b"\n3.png,b\n', r"line break in a label, a\\n2.png,b; write it on one line; if"),
        ('image,label,split\n1.png,a,"train\n2.png,b,train"\n3.png,b,train\n', r"line break in the column 'split', t"),
        ('label,image\na,"1.png\nb,2.png"\nb,3.png\n', r"missing, such as 1.png\\nb,2.png; write it on one line; if"),
        ('image,"label\nname"\n1.png,b\n', r"a.csv: a quotation mark in its first line, that of the names"),
        ('image,"label\n1.png,b\n', r"a.csv: a quotation mark in its first line, that of the names"),
    ],
)  # fmt: skip
def test_names_of_several_lines_are_refused(table: Writer, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        open_sources(Data(source=table("a.csv", text)))


def test_a_value_longer_than_a_block_and_a_line_without_an_end(table: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_table, "_BLOCK", 128)
    rows = rows_of(lambda n: ("ab"[n % 2], '"Queen' if n in (10, 30) else "x"))
    with pytest.raises(DataError, match=r"a row is longer than 128 bytes; a quotation mark in line 12 is closed much"):
        open_source(table("a.csv", "image,label,caption\n" + rows))
    with pytest.raises(DataError, match=r"a.csv line 2 is longer than 256 letters; give a line to each image"):
        open_source(table("a.csv", "image,label\n" + "x" * 1000))


def test_labels_of_json_lines_may_have_several_lines(tmp_path: Path) -> None:
    """There a line break is written as such, and no stray mark can make one."""
    for i in range(8):
        Image.new("L", (4, 4), i).save(tmp_path / f"{i}.png")
    rows = [json.dumps({"image": f"{i}.png", "label": "a\nb" if i % 2 else "c"}) for i in range(8)]
    (tmp_path / "all.jsonl").write_text("\n".join(rows))
    assert open_source(str(tmp_path / "all.jsonl")).class_names == ("a\nb", "c")
