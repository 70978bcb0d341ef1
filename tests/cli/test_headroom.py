"""`coadvise headroom` as a user meets it: files, messages, and what it refuses."""

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from helpers.recipes import CNN, INN, tiny
from helpers.untrained import untrained_run
from PIL import Image

from coadvise.cli.headroom import headroom
from coadvise.errors import CoadviseError
from coadvise.recipe.reading import dump_recipe
from coadvise.run.headroom import HeadroomResult
from coadvise.system.progress import QUIET
from coadvise.training.headroom import Asking, measure_headroom

WIDER = {"channels": [8, 16, 16, 16]}
STUDENTS = {
    "first": {"model": "resnet10", "options": CNN["options"], "small_stem": True},
    "second": {"model": "resnet10", "options": CNN["options"], "small_stem": True},
    "wider": {"model": "resnet10", "options": WIDER, "small_stem": True},
    "inv": {"model": "rednet26", "options": INN["options"]},
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four models of random weights; two of them differ by their seed alone."""
    folder = tmp_path_factory.mktemp("runs")
    for number, (name, student) in enumerate(STUDENTS.items()):
        untrained_run(folder / name, student, noise=0.3 + 0.1 * number, run__seed=number, data__seed=number)
    return folder


def recipe(folder: Path, runs: Path, names: list[str], **changes: Any) -> str:
    teachers = {name: {"model": f"run:{runs / name}"} for name in names}
    path = folder / "mine.yaml"
    path.write_text(dump_recipe(tiny(folder / "run", changes, teachers=teachers)))
    return str(path)


def test_it_writes_a_result_a_report_and_a_figure(
    tmp_path: Path, runs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    headroom(recipe(tmp_path, runs, list(STUDENTS)), [], views=2)
    folder = tmp_path / "run-headroom"
    shown = capsys.readouterr().out
    assert (
        "conv + inv: " in shown and "two resnet10" in shown and str(folder / "report.html") in shown.replace("\n", "")
    )
    assert sorted(path.name for path in folder.iterdir()) == ["figures", "headroom.json", "report.html"]
    assert not (tmp_path / "run").exists()
    found = HeadroomResult.read(folder / "headroom.json")
    assert [one.model for one in found.student.teachers] == ["resnet10", "resnet10", "resnet10 (2)", "rednet26"]
    assert (found.student.samples, found.plain.samples, found.student.seeds) == (202, 101, 2)
    assert {one["bias"] for one in found.facts.values()} == {"conv", "inv"}
    assert len({one["weights"] for one in found.facts.values()}) == 4
    content = json.loads((folder / "headroom.json").read_text())
    assert content["verdicts"][0]["sentence"] in shown.replace("\n", " ").replace("  ", " ")
    assert content["provenance"]["fingerprint"] and content["data"]["augment"]["mixup"] == 0.4
    page = (folder / "report.html").read_text()
    assert "NeurIPS 2020" in page and found.facts["inv"]["weights"] in page and 'id="headroom"' in page
    with Image.open(folder / "figures" / "headroom.png") as picture:
        assert picture.format == "PNG" and picture.size[0] > 1000
    with pytest.raises(CoadviseError, match="run-headroom exists, and nothing is overwritten"):
        headroom(recipe(tmp_path, runs, ["first", "inv"]), [])
    note = tmp_path / "note.txt"
    note.write_text("mine")
    for output, words in (
        (note, "note.txt exists, and nothing is overwritten"),
        (note / "in", "note.txt is no folder"),
    ):
        with pytest.raises(CoadviseError, match=words):
            headroom(recipe(tmp_path, runs, ["first", "inv"]), [], output=output)
    assert note.read_text() == "mine"


def test_files_that_do_not_say_how_they_were_trained_are_no_seeds_of_one_model(tmp_path: Path) -> None:
    """Two releases of one architecture's weights, perhaps."""
    teachers = {}
    for name in ("one", "other"):
        teachers[name] = {"model": "resnet10t", "small_stem": True, "checkpoint": str(tmp_path / f"{name}.pth")}
        torch.save(timm.create_model("resnet10t", num_classes=10).state_dict(), tmp_path / f"{name}.pth")
    found = measure_headroom(tiny(tmp_path / "run", teachers=teachers), Asking(views=1, resamples=50), QUIET)
    assert found.student.seeds == 1 and not found.student.models
    assert [one.model for one in found.student.teachers] == ["resnet10t", "resnet10t (2)"]


def test_what_is_refused_leaves_nothing(tmp_path: Path, runs: Path) -> None:
    for names, words in {("first",): "has one teacher, and pairs of them are compared", (): "has no teacher"}.items():
        with pytest.raises(CoadviseError, match=words):
            headroom(recipe(tmp_path, runs, list(names)), [])
    both = recipe(tmp_path, runs, ["first", "inv"])
    for settings, words in {
        (f"teachers.inv.model=run:{runs / 'first'}",): "teachers first and inv have the same weights",
        ("data.labels=several",): "this is made for images of one class each",
    }.items():
        with pytest.raises(CoadviseError, match=words):
            headroom(both, list(settings), quiet=True)
    untrained = tmp_path / "untrained.yaml"
    untrained.write_text(dump_recipe(tiny(tmp_path / "run", teachers={"conv": CNN, "inv": INN})))
    with pytest.raises(CoadviseError, match=r"teacher conv is to be trained first.*; add --train to do so now"):
        headroom(str(untrained), [], quiet=True)
    some = untrained_run(tmp_path / "some", STUDENTS["inv"], classes=(*"01234", *"abcde"))
    with pytest.raises(CoadviseError, match="teacher 'inv' knows 5 of the 10 classes, and the mean of two"):
        headroom(both, [f"teachers.inv.model=run:{some}"], quiet=True)
    other = untrained_run(tmp_path / "other", STUDENTS["inv"], classes=tuple("abcdefghij"))
    with pytest.raises(CoadviseError, match="knows none of the data's classes by name"):
        headroom(both, [f"teachers.inv.model=run:{other}"], quiet=True)
    assert not (tmp_path / "run-headroom").exists() and not (tmp_path / "run").exists()
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".tmp")]


def test_teachers_that_the_recipe_trains_are_trained_on_demand(tmp_path: Path) -> None:
    """They lie where a training of the student finds them."""
    second = {**CNN, "train": {"epochs": 1, "seed": 7}}
    asked = tiny(tmp_path / "run", {"data.train_size": 40}, teachers={"conv": CNN, "conv-b": second})
    first = measure_headroom(asked, Asking(views=1, resamples=20, train=True), QUIET)
    assert first.student.seeds == 2 and (tmp_path / "run" / "teachers" / "conv-b" / "best.safetensors").is_file()
    again = measure_headroom(asked, Asking(views=1, resamples=20), QUIET)
    assert (again.student, again.plain, again.facts) == (first.student, first.plain, first.facts)
