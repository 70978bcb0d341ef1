"""Uploads to a stand-in for the Hub, and the model card, whose lines of Python are run."""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import yaml
from helpers import processes
from helpers.hub_server import TOKEN, Hub, hub
from helpers.recipes import tiny
from helpers.runs import photographs, run
from helpers.untrained import untrained_run
from PIL import Image, ImageOps

import coadvise
from coadvise.checkpoints.model_file import Header, read_header
from coadvise.data.decode import decode
from coadvise.export.hub import HubError, parcel, upload
from coadvise.export.model_card import Subject, write_model_card
from coadvise.run.reading import RunFiles, read_run

OFFLINE = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_TOKEN": TOKEN}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was really trained, on photographs in a folder whose name nobody has to know."""
    root = tmp_path_factory.mktemp("secret-place")
    source = photographs(root / "pets", 10)
    teachers = {
        "conv": {
            "model": "resnet10",
            "options": {"channels": [8, 8, 16, 16]},
            "small_stem": True,
            "train": {"epochs": 1},
        }
    }
    changes = {"data.source": source, "data.train_size": None, "data.val_size": None, "schedule.epochs": 2}
    run(tiny(root / "run", changes, teachers=teachers))
    return root / "run"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with hub() as state:
        monkeypatch.setenv("HF_ENDPOINT", state.address)
        yield state


@pytest.mark.usefixtures("blank_figures")
def test_what_lies_on_the_hub_is_what_was_sent(trained: Path, server: Hub, tmp_path: Path) -> None:
    with parcel(trained, "me/pets") as files:
        sent = {name: path.read_bytes() for name, path in files.files().items()}
        assert files.address == f"{server.address}/me/pets"
        said = upload(files, private=True)
    assert not files.folder.exists()
    assert (
        server.repositories["me/pets"] == sent and server.private == {"me/pets"} and said == f"{server.address}/me/pets"
    )
    figures = {f"figures/{name}.png" for name in ("training", "classes", "confusion", "calibration")}
    assert set(sent) == {"README.md", "config.json", "model.safetensors"} | figures
    assert len(sent["model.safetensors"]) > server.limit  # it went the other way
    for name, content in sent.items():
        assert b"secret-place" not in content, name

    server.repositories["me/pets"]["README.md"] = b"my own words"
    with parcel(trained, "me/pets", "mit") as files:
        server.private.clear()
        with pytest.raises(HubError, match=r"me/pets is there already, and everybody can see it; .*/me/pets/settings"):
            upload(files, private=True)
        assert server.repositories["me/pets"] == sent | {"README.md": b"my own words"}
        server.private.add("me/pets")
        assert "README.md there was kept" in upload(files, private=True)
        assert server.repositories["me/pets"]["README.md"] == b"my own words"
        upload(files, replace_card=True)
    assert b"license: mit" in server.repositories["me/pets"]["README.md"]


@pytest.mark.usefixtures("blank_figures")
def test_the_card_says_how_good_and_how_to_load(trained: Path, tmp_path: Path) -> None:
    with parcel(trained, "me/my-pets") as files:
        text = (files.folder / "README.md").read_text()
        (tmp_path / "model").mkdir()
        for name, path in files.files().items():
            (tmp_path / "model" / Path(name).name).write_bytes(path.read_bytes())
    _, front, body = text.split("---\n", 2)
    data = yaml.safe_load(front)
    assert data["library_name"] == "timm" and data["pipeline_tag"] == "image-classification" and "license" not in data
    model = coadvise.load(trained)
    best = coadvise.load(trained).path.read_bytes()
    (result,) = data["model-index"][0]["results"]
    accuracy = result["metrics"][0]["value"]
    assert result["dataset"]["name"] == "pets" and result["metrics"][0]["type"] == "accuracy"
    assert f'"accuracy/class": {accuracy}'[:24].encode() in best.replace(b"\\", b"")
    assert f"**{100 * accuracy:.1f} % top-1 on 30 validation images**" in body
    for words in ("dark, grey, light", "conv (resnet10)", "| conv ", "![Loss terms", "schedule:", "hf-hub:me/my-pets"):
        assert words in body, words

    lines = body.partition("```python\n")[2].partition("```")[0]
    wide, clear = tmp_path / "wide.png", tmp_path / "clear.png"
    levels = np.linspace(0, 65535, 30 * 20).astype(np.uint16).reshape(20, 30)
    Image.fromarray(levels).save(wide)
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 4), dtype=np.uint8)
    Image.fromarray(pixels, "RGBA").save(clear)
    Image.fromarray(pixels, "RGBA").quantize(16).save(tmp_path / "palette.png", transparency=3)
    for odd in (wide, clear, tmp_path / "palette.png"):
        known: dict[str, Any] = {"Image": Image, "ImageOps": ImageOps, "np": np}
        own = lines.partition("\nimage = ")[2].partition("\nwith torch")[0].replace("image.jpg", str(odd))
        exec(f"image = {own}", known)
        seen = np.asarray(known["image"], dtype=float) - np.asarray(decode(odd.read_bytes(), str(odd)), dtype=float)
        assert np.abs(seen).max() <= 1, odd
    image = tmp_path / "image.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 20, 3), dtype=np.uint8)).save(image)
    lines = lines.replace("hf-hub:me/my-pets", f"local-dir:{tmp_path / 'model'}").replace("image.jpg", str(image))
    done = subprocess.run([sys.executable, "-c", lines], capture_output=True, text=True)
    (seen,) = model.predict(image, top=1)
    name, probability = done.stdout.split()
    assert name == seen.name and float(probability) == pytest.approx(seen.probability, abs=1e-4), done.stderr


def test_the_card_names_no_folder_of_a_teacher(trained: Path, tmp_path: Path) -> None:
    run, header = read_run(trained), read_header(trained / "best.safetensors")
    assert run.result is not None and header is not None
    teachers = {"conv": replace(run.result.teachers["conv"], model="run:/home/secret-place/resnet10")}
    run = replace(run, result=replace(run.result, teachers=teachers))
    write_model_card(tmp_path, Subject("me/pets", None, header, run, trained, False))
    text = (tmp_path / "README.md").read_text()
    assert "conv (run:resnet10)" in text and "| run:resnet10 |" in text and "secret-place" not in text


def _card(folder: Path, header: Header, run: RunFiles | None = None) -> tuple[Any, str]:
    """What a card says to programs, and to people."""
    write_model_card(folder, Subject("me/pets", None, header, run, folder, False))
    _, front, body = (folder / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(front), body.partition("## How")[0]


def test_the_card_says_by_what_the_model_was_trained(trained: Path, tmp_path: Path) -> None:
    """By teachers of one kind, of two kinds, none of them; and a linear probe, which has no epoch to pick."""
    header = read_header(trained / "best.safetensors")
    assert header is not None
    name, distilled = "cross inductive bias distillation", "knowledge-distillation"
    data, words = _card(tmp_path, header)
    assert distilled in data["tags"] and "coadvise, knowledge distillation. Its teachers were conv" in words
    of_teacher = read_header(trained / "teachers" / "conv" / "best.safetensors")
    assert of_teacher is not None
    for known in (read_run(trained / "teachers" / "conv"), None):
        data, words = _card(tmp_path, of_teacher, known)
        assert data["tags"] == ["image-classification", "timm", "coadvise"] and "teachers" not in words
        assert "distillation" not in words and "with coadvise. It tells 3 classes" in words

    two = header.recipe.teachers | {"inv": header.recipe.teachers["conv"].model_copy(update={"model": "rednet26"})}
    recipe = header.recipe.model_copy(update={"teachers": two})
    data, words = _card(tmp_path, replace(header, recipe=recipe))
    assert distilled in data["tags"] and f"with coadvise, {name}. Its teachers were conv (resnet10), inv" in words
    loss = recipe.loss.model_copy(update={"weights": {"conv": 0.0, "inv": 0.0}})
    data, words = _card(tmp_path, replace(header, recipe=recipe.model_copy(update={"loss": loss})))
    assert distilled not in data["tags"] and "distillation" not in words

    probe = replace(of_teacher, epoch=0, metrics={"accuracy/class": 0.75})
    data, words = _card(tmp_path, probe)
    assert "**75.0 % top-1 on its validation images**, measured once; nothing was picked on these images." in words
    assert "a linear probe" in words and "epoch" not in words and distilled not in data["tags"]
    many = replace(header, classes=tuple(f"class {i}" for i in range(43)))
    assert "class 39 and 3 more." in _card(tmp_path, many)[1]


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("torchvision:CIFAR10@/home/me", "CIFAR10"), ("hf:owner/pets:small", "owner/pets"),
        ("folder:/home/me/pets", "pets"),
        ("/home/me/pets.csv:image=file:label=kind", "pets.csv"), ("wds:/home/me/pets.tar", "pets.tar"),
        ("hf:owner/pets:image=photo", "owner/pets"), ("digits", "digits"),
    ],
)  # fmt: skip
def test_the_card_names_the_data_set(trained: Path, tmp_path: Path, source: str, name: str) -> None:
    header = read_header(trained / "best.safetensors")
    assert header is not None
    recipe = header.recipe.model_copy(update={"data": header.recipe.data.model_copy(update={"source": source})})
    data, _ = _card(tmp_path, replace(header, recipe=recipe))
    dataset = data["model-index"][0]["results"][0]["dataset"]
    assert (dataset["type"], dataset["name"]) == (name, name)
    assert data.get("datasets") == ([name] if source.startswith("hf:") else None)


def test_a_dry_run_needs_no_network(trained: Path) -> None:
    done = processes.run(
        "coadvise", "push", str(trained), "me/pets", "--dry-run", "--license", "mit", environment=OFFLINE
    )
    assert done.returncode == 0, done.stderr
    assert "model.safetensors" in done.stdout and "would go to http://127.0.0.1:9/me/pets" in done.stdout
    assert "license: mit" in done.stdout and "nothing was sent" in done.stdout


@pytest.mark.usefixtures("blank_figures")
def test_what_fails_is_one_message(trained: Path, server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, words in (("pets", "it has no owner"), ("me/a b", "no name of a repository"), ("a/b/c", "no name of a")):
        with pytest.raises(HubError, match=words), parcel(trained, name):
            pass
    with parcel(trained, "you/pets") as files, pytest.raises(HubError, match="the token may not write there"):
        upload(files)
    with parcel(trained, "me/pets") as files:
        monkeypatch.setenv("HF_TOKEN", "hf_wrong")
        with pytest.raises(HubError, match=r"me/pets cannot be uploaded to .*log in with `hf auth login`"):
            upload(files)
    assert server.repositories == {}
    bare = untrained_run(tmp_path / "bare", {"model": "resnet10", "options": {"channels": [8, 8, 16, 16]}})
    with parcel(bare / "best.safetensors", "me/pets") as files:  # a file alone has a card, too
        assert "50.0 % top-1" in (files.folder / "README.md").read_text()
    done = processes.run("coadvise", "push", str(trained), "me/pets", environment=OFFLINE)
    assert done.returncode == 2 and done.stderr.count("error:") == 1 and "check the network" in done.stderr, done.stderr
