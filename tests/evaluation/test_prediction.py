"""Predictions for files, folders and patterns, beside a loop of Pillow and NumPy; also from the command line."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import processes
from helpers.recipes import tiny
from PIL import Image

import coadvise
from coadvise.checkpoints.build import build_student
from coadvise.checkpoints.model_file import save_model
from coadvise.checkpoints.trained import load_trained
from coadvise.evaluation.prediction import image_files, predict

CLASSES = ("cat", "\x1b[31mdog\x07", "two\n  99.9%  lines", "[red]b[/red] [/]", ":cat: 犬", "\u202egnp.exe")
SHOWN = ("cat", "\\x1b[31mdog\\x07", "two\\n  99.9%  lines", "[red]b[/red] [/]", ":cat: 犬", "\\u202egnp.exe")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with random weights and evil class names, and a folder of images that need no resizing."""
    root = tmp_path_factory.mktemp("predict")
    recipe = tiny(root, {"loss.tokens": "auto"})
    torch.manual_seed(0)
    model = build_student(recipe.student, {}, len(CLASSES), 8)
    for parameter in model.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)  # so that images differ in their classes
    save_model(root / "best.safetensors", model, recipe, CLASSES, weights="student", epoch=1, metrics={})
    rng = np.random.default_rng(0)
    for name in ("b.png", "a.png", "deeper/c.PNG", "deeper/d.bmp", ".hidden.png", "@eaDir/e.png", "sp ace [1].png"):
        path = root / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(path)
    (root / "photos" / "notes.txt").write_text("no image")
    return root


FOUND = ("a.png", "b.png", "deeper/c.PNG", "deeper/d.bmp", "sp ace [1].png")


def expected(root: Path, path: Path) -> dict[str, float]:
    """The classes of an image, computed by Pillow and NumPy around the model alone."""
    pixels = np.asarray(Image.open(path).convert("RGB"), dtype=np.float64) / 255
    x = torch.from_numpy(((pixels - 0.5) / 0.5).transpose(2, 0, 1)[None]).float()
    with torch.no_grad():
        z = load_trained(root).model(x)[0].double().numpy()
    odds = np.exp(z - z.max())
    return dict(zip(CLASSES, odds / odds.sum(), strict=True))


def test_folders_files_and_patterns(place: Path) -> None:
    photos, said = place / "photos", list[str]()
    assert image_files([str(photos)], said.append) == ([photos / name for name in FOUND], [])
    assert said == [f"left out of {photos}: 1 file of another kind (1 .txt)"]
    one = str(photos / "sp ace [1].png")  # a name that is a pattern, too
    files, problems = image_files([one, str(photos / "*.png"), str(photos / "**" / "*.bmp"), one])
    assert [str(path.relative_to(photos)) for path in files] == [FOUND[4], "a.png", "b.png", "deeper/d.bmp"]
    assert not problems
    (place / "empty one").mkdir()
    assert image_files([str(place / "[ep]*")]) == ([photos / name for name in FOUND], [])


@pytest.mark.parametrize("name", ["trip", "tri*"])
def test_what_is_left_out_is_said_of_folders_and_of_patterns(tmp_path: Path, name: str) -> None:
    (tmp_path / "trip").mkdir()
    for file in ("a.png", "b.HEIC", "c.heic"):
        (tmp_path / "trip" / file).touch()
    said: list[str] = []
    assert image_files([str(tmp_path / name)], said.append) == ([tmp_path / "trip" / "a.png"], [])
    assert said == [f"left out of {tmp_path / 'trip'}: 2 files of other kinds (2 .heic)"]


def test_what_is_no_file_is_said_in_words(place: Path) -> None:
    (place / "empty").mkdir()
    (place / "empty" / "IMG_1.HEIC").touch()
    places = ["https://a.b/c.jpg", "s3://a/b.png", str(place / "empty"), str(place / "*.gif"), "none.jpg", "/dev/null"]
    files, problems = image_files([*places, str(place / "photos" / "a.png")])
    words = [
        "nothing from the network",
        "nothing from the network",
        "holds no images",
        "of that pattern",
        "no such image",
    ]
    assert files == [place / "photos" / "a.png"]
    assert all(
        word in said and at in said for word, at, said in zip([*words, "neither"], places, problems, strict=True)
    )


def test_predictions_are_those_of_a_plain_loop(place: Path) -> None:
    files, _ = image_files([str(place / "photos")])
    (place / "bad.jpg").write_bytes(b"\xff\xd8 nothing")
    files = [place / "bad.jpg", *files * 5, place / "gone.png"]  # more than a batch
    seen = list(predict(coadvise.load(place), files, top=6))
    assert [one.path for one in seen] == files
    assert "bad.jpg cannot be read as an image" in str(seen[0].problem)
    assert "gone.png cannot be read: No such file" in str(seen[-1].problem)
    for one in seen[1:-1]:
        assert dict(one.classes) == pytest.approx(expected(place, one.path), abs=1e-5)
        assert [p for _, p in one.classes] == sorted((p for _, p in one.classes), reverse=True)
    assert len({one.classes[0][0] for one in seen[1:-1]}) > 1  # the images are told apart


def command(place: Path, *arguments: str | Path, encoding: str = "utf-8") -> processes.Done:
    code = f"import sys; sys.stdout.reconfigure(encoding='{encoding}', errors='strict'); "
    words = ("predict", *map(str, arguments), "--model", str(place))
    return processes.run("-c", code + "from coadvise.cli.main import main; main()", *words)


def test_good_files_are_printed_before_the_bad_ones_are_listed(place: Path) -> None:
    photos = place / "photos"
    done = command(place, photos / "a.png", "https://x.y/z.jpg", photos / "notes.txt", photos / "b.png")
    assert done.returncode == 2
    shown = [line.split("  ")[0] for line in done.stdout.splitlines()]
    assert shown == [str(photos / "a.png"), str(photos / "b.png")]
    _, error, *listed = done.stderr.splitlines()  # first, what to do next
    assert error == "error: 2 of 4 cannot be used:" and len(listed) == 2
    assert "z.jpg" in listed[0] and "notes.txt cannot be read as an image" in listed[1]
    alone = command(place, "none\x1b31m.jpg")
    assert alone.returncode == 2 and alone.stdout == "" and "none\\x1b31m.jpg: there is no such" in alone.stderr
    assert alone.stderr.count("\n") == 1


def test_names_of_classes_and_files_steer_no_terminal(place: Path) -> None:
    evil = place / "a\x1b]0;x\x07\n[bold].png"
    evil.write_bytes((place / "photos" / "a.png").read_bytes())
    done = command(place, evil, "--top", "6")
    lines = done.stdout.splitlines()
    assert done.returncode == 0 and len(lines) == 7 and lines[0].endswith("a\\x1b]0;x\\x07\\n[bold].png")
    assert {line.split("%  ", 1)[1] for line in lines[1:]} == set(SHOWN)
    assert all(letter.isprintable() for line in lines for letter in line)
    table = list(csv.DictReader(command(place, evil, "--top", "6", "--csv").stdout.splitlines()))
    assert {row["class"] for row in table} == set(SHOWN)
    escaped = command(place, evil, "--top", "6", encoding="ascii")
    assert escaped.returncode == 0 and ":cat: \\u72ac" in escaped.stdout and escaped.stdout.isascii()


def test_json_and_csv_say_the_same(place: Path) -> None:
    lines = command(place, place / "photos", "--json", "--top", "2").stdout.splitlines()
    shown = [json.loads(line) for line in lines]
    assert [Path(one["image"]).relative_to(place / "photos") for one in shown] == [Path(name) for name in FOUND]
    rows = list(csv.DictReader(command(place, place / "photos", "--csv", "--top", "2").stdout.splitlines()))
    assert [row["rank"] for row in rows] == ["1", "2"] * 5
    flat = [(one["image"], p) for one in shown for p in one["classes"].values()]
    assert [row["image"] for row in rows] == [image for image, _ in flat]
    assert [float(row["probability"]) for row in rows] == pytest.approx([p for _, p in flat], abs=1e-6)
    assert "exclude each other" in command(place, "x.jpg", "--csv", "--json").stderr
