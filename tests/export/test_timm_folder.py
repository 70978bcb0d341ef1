"""Folders for timm, opened by processes that import timm alone, or timm and coadvise, on real images."""

import io
import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from helpers.untrained import CLASSES, untrained_run
from PIL import Image
from safetensors.torch import load_file
from sklearn.datasets import load_digits

import coadvise
from coadvise.checkpoints.trained import load_trained
from coadvise.data.sources.opening import open_source
from coadvise.errors import WriteError
from coadvise.export.exporting import export
from coadvise.export.public import public, public_name
from coadvise.export.targets import TARGETS
from coadvise.recipe.reading import dump_recipe

SMALL = {"patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 2, "drop_path_rate": 0.1}
TOKENS = {"conv": "conv", "inv": "inv"}
CNN = {"channels": [8, 8, 16, 16]}
# Students, and what has to be imported before timm can make them again.
STUDENTS = {
    "registers": ("timm", {"model": "cit_tiny", "options": SMALL, "tokens": TOKENS}),
    "labels": ("timm", {"model": "transformer_tiny", "options": SMALL}),
    "resnet": ("timm", {"model": "resnet10", "options": CNN}),
    "vit": ("timm", {"model": "vit_tiny_patch16_224", "options": {"depth": 1, "patch_size": 8}}),
    "looking on": (
        "timm",
        {"model": "vit_tiny_patch16_224", "options": {"depth": 1, "patch_size": 8}, "tokens": TOKENS},
    ),
    "distilled": (
        "timm",
        {"model": "deit_tiny_distilled_patch16_224", "options": {"depth": 1, "patch_size": 8}, "tokens": TOKENS},
    ),
    "aligned": ("timm, coadvise", {"model": "cit_tiny_sa", "options": SMALL, "tokens": TOKENS}),
    "average": (
        "timm, coadvise",
        {"model": "cit_tiny", "options": {**SMALL, "inference": "average"}, "tokens": TOKENS},
    ),
    "rednet": ("timm, coadvise", {"model": "rednet26", "options": {"layers": [1, 1], "width": 32}, "small_stem": True}),
    "small stem": ("timm, coadvise", {"model": "resnet10", "options": CNN, "small_stem": True}),
}
READER = """
import sys, json, {imports}
import numpy as np, torch
from PIL import Image
assert ("coadvise" in sys.modules) == ("coadvise" in "{imports}")
for folder in {folders}:
    model = timm.create_model("local-dir:" + folder, pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    images = torch.stack([transform(Image.open(path)) for path in {images}])
    with torch.no_grad():
        np.save(folder + ".npy", model(images).numpy())
    assert model.pretrained_cfg["label_names"] == {classes}, model.pretrained_cfg
    other = timm.create_model("local-dir:" + folder, pretrained=True, num_classes=3)
    assert other(images).shape == (len(images), 3)
"""


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Scanned digits of 60×40 pixels, and photographs where there are any."""
    folder = tmp_path_factory.mktemp("images")
    for number, pixels in enumerate(load_digits().images[:6]):
        grey = Image.fromarray((pixels * 15).astype(np.uint8)).resize((60, 40), Image.Resampling.BICUBIC)
        grey.convert("RGB").save(folder / f"{number}.png")
    return [str(path) for path in sorted(folder.iterdir())]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run of each student, exported."""
    root, found = tmp_path_factory.mktemp("runs"), {}
    data = {"data__image_size": 24, "data__eval_crop": 0.9, "data__mean": [0.2, 0.3, 0.4], "data__val_size": 7}
    for name, (_, student) in STUDENTS.items():
        found[name] = untrained_run(root / name.replace(" ", "-"), student, noise=0.05, **data)
        export(found[name], TARGETS["timm"])
    return found


def test_the_same_logits_in_a_process_that_imports_no_more(runs: dict[str, Path], images: list[str]) -> None:
    """First those that need timm alone."""
    chosen, code = [], ""
    for imports in ("timm", "timm, coadvise"):
        chosen += [runs[name] for name, (needs, _) in STUDENTS.items() if needs == imports]
        folders = [str(runs[name] / "export" / "timm") for name, (needs, _) in STUDENTS.items() if needs == imports]
        code += READER.format(imports=imports, folders=folders, images=images, classes=list(CLASSES))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for run in chosen:
        folder = str(run / "export" / "timm")
        model = coadvise.load(run)
        with torch.no_grad():
            expected = model.model(torch.stack([model.transform(path) for path in images])).numpy()
        assert np.ptp(expected, axis=0).max() > 0.01  # images are told apart
        np.testing.assert_allclose(np.load(folder + ".npy"), expected, atol=2e-5, rtol=1e-4, err_msg=folder)


def test_what_stands_in_the_folder(runs: dict[str, Path]) -> None:
    folder = runs["registers"] / "export" / "timm"
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    config = json.loads((folder / "config.json").read_text())
    assert config["architecture"] == "vit_small_patch16_224" and config["model_args"]["reg_tokens"] == 2
    assert config["label_names"] == list(CLASSES) and config["num_classes"] == 10
    cfg = config["pretrained_cfg"]
    assert cfg["input_size"] == [3, 24, 24] and cfg["mean"] == [0.2, 0.3, 0.4] and cfg["interpolation"] == "bicubic"
    assert int(24 / cfg["crop_pct"]) == 27  # as the run resizes: round(24 / 0.9)
    assert "license" not in cfg and "tag" not in cfg
    weights = load_file(folder / "model.safetensors")
    assert weights["reg_token"].shape == (1, 2, 24) and not any("advised" in key for key in weights)


def test_timms_reader_numbers_classes_as_ours_by_a_map_or_a_file(tmp_path: Path) -> None:
    """As docs/guides/export.md says; by itself it numbers them in another way."""
    for number, name in enumerate(["1", "10", "2", "B", "a b", "ä"]):
        (tmp_path / "images" / name).mkdir(parents=True)
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / "images" / name / "x.png")
    ours = open_source(str(tmp_path / "images"))
    colours = [Image.open(io.BytesIO(ours.read(index))).getpixel((0, 0))[0] for index in range(6)]  # of encoded files
    expected = dict(zip(colours, ours.labels.tolist(), strict=True))
    classes = {name: index for index, name in enumerate(ours.class_names)}
    (tmp_path / "classes.txt").write_text("\n".join(classes), encoding="utf-8")

    def numbered(**options: Any) -> dict[int, int]:
        dataset = timm.data.create_dataset("", str(tmp_path / "images"), **options)
        return {image.getpixel((0, 0))[0]: label for image, label in dataset}

    assert numbered(class_map=classes) == numbered(class_map=str(tmp_path / "classes.txt")) == expected
    assert numbered() != expected


@pytest.mark.parametrize("name", ["looking on", "registers", "resnet", "small stem"])
def test_where_weights_came_from_is_left_behind(tmp_path: Path, name: str) -> None:
    """A file of the weights that it started from, and a folder of downloads; its own weights go along."""
    _, student = STUDENTS[name]
    came: Any = {"pretrained_cfg_overlay": {"file": "/secret/a.pth", "crop_pct": 0.7}, "cache_dir": "secret/cache"}
    options = student["options"] | came  # type: ignore[operator]
    places = {"data__views_folder": "secret/views", "data__views": 2}
    run = untrained_run(tmp_path / "run", student | {"options": options}, noise=0.05, data__val_size=7, **places)
    place, written = export(run, TARGETS["timm"])
    assert "the same on 7 of 7" in written.lines[0]
    assert "secret" not in (place / "config.json").read_text()
    recipe = load_trained(run).recipe
    data = recipe.data.model_copy(update={"unlabelled": "secret/more", "classes": "secret/names.txt"})
    assert "secret" not in dump_recipe(public(recipe.model_copy(update={"data": data})))
    made, x = timm.create_model(f"local-dir:{place}", pretrained=True).eval(), torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(made(x), load_trained(run).model(x), atol=2e-5, rtol=1e-4)


def test_our_own_file_names_no_folder_of_the_machine(tmp_path: Path) -> None:
    student = {"model": "cit_tiny", "options": SMALL, "tokens": TOKENS}
    run = untrained_run(tmp_path / "secret" / "run", student, data__val_size=7)
    place, written = export(run, TARGETS["safetensors"])
    assert place == run / "export" / "model.safetensors" and "the same on 7 of 7" in written.lines[0]
    content = place.read_bytes()
    assert b"secret" in (run / "best.safetensors").read_bytes() and b"secret" not in content
    before, after = load_file(run / "best.safetensors"), load_file(place)
    assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)
    again = load_trained(place)
    assert again.recipe.student == load_trained(run).recipe.student and again.classes == CLASSES
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
    record = json.loads(header["coadvise"])
    assert record["weights"] == "ema" and record["epoch"] == 3 and record["metrics"] == {"accuracy/class": 0.5}


@pytest.mark.parametrize(
    ("text", "path", "shown"),
    [
        ("/home/me/pets/", False, "pets"), ("~/pets", False, "pets"), ("~me", False, "images"),
        ("me/pets", True, "pets"), ("..", True, "images"), (r"C:\Users\me\pets", False, "pets"),
        ("parquet:/home/me/*.parquet", True, "parquet:*.parquet"), ("/home/me/a.csv:image=b", True, "a.csv:image=b"),
        ("hf:/home/me/pets", True, "hf:pets"), ("hf:owner/pets:small", True, "hf:owner/pets:small"),
        ("torchvision:CIFAR10@/home/me", True, "torchvision:CIFAR10"), ("run:me/runs/resnet18", False, "run:resnet18"),
        ("onnx:/home/me/a.onnx", False, "onnx:a.onnx"), ("local-dir:/home/me/a", False, "local-dir:a"),
        ("transformers:owner/vit", False, "transformers:owner/vit"), ("hf-hub:timm/vit", False, "hf-hub:timm/vit"),
        ("resnet18.a1_in1k", False, "resnet18.a1_in1k"), ("digits", True, "digits"),
    ],
)  # fmt: skip
def test_what_everybody_may_see_names_no_folders(text: str, path: bool, shown: str) -> None:
    assert public_name(text, path=path) == shown


def test_a_full_disk_is_said_in_one_message(tmp_path: Path) -> None:
    run = untrained_run(tmp_path / "run", STUDENTS["labels"][1])
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))  # as if the disk were full after so many bytes
    try:
        with pytest.raises(WriteError, match=r"cannot write to .*; check the folder and free space"):
            export(run, TARGETS["timm"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not (run / "export").exists()
