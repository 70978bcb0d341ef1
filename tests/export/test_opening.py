"""What was exported is used like a run: by `load`, `predict`, and docs/guides/export.md without PyTorch."""

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers import processes
from helpers.untrained import CLASSES, untrained_run
from PIL import Image
from sklearn.datasets import load_digits

import coadvise
from coadvise.checkpoints.trained import load_trained
from coadvise.errors import CheckpointError
from coadvise.export.engines import onnx_logits, openvino_logits
from coadvise.export.exporting import export
from coadvise.export.opening import Told, load
from coadvise.export.parity import Logits
from coadvise.export.targets import TARGETS

DOCS = Path(__file__).parents[2] / "docs" / "guides" / "export.md"
FORMS = [name for name in TARGETS if name not in ("int8", "torch")]
WITHOUT_TORCH = "import sys\nfor name in ('torch', 'torchvision', 'timm', 'coadvise'):\n    sys.modules[name] = None\n"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    student = {"model": "resnet10", "options": {"channels": [8, 8, 16, 16]}, "small_stem": True}
    return untrained_run(
        tmp_path_factory.mktemp("run"), student, noise=0.05, data__image_size=24, data__eval_crop=0.8, data__val_size=9
    )


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scanned digits in folders, more than a batch, of several sizes and modes, one of them lying on its side."""
    folder = tmp_path_factory.mktemp("digits")
    for number, pixels in enumerate(load_digits().images[:20]):
        grey = Image.fromarray((pixels * 15).astype(np.uint8)).resize((40 + number, 37), Image.Resampling.BICUBIC)
        exif = Image.Exif()
        exif[274] = 6 if number == 3 else 1
        (folder / str(number % 3)).mkdir(exist_ok=True)
        grey.save(folder / str(number % 3) / f"{number:02}.{'jpg' if number % 2 else 'png'}", exif=exif)
    return folder


@pytest.fixture(scope="module")
def exported(run: Path) -> dict[str, Path]:
    for package in ("onnxruntime", "openvino"):
        pytest.importorskip(package)
    return {name: export(run, TARGETS[name])[0] for name in FORMS}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_sees_what_the_run_sees(form: str, exported: dict[str, Path], run: Path, images: Path) -> None:
    model = coadvise.load(exported[form])
    expected = coadvise.load(run).probabilities(images)
    assert model.classes == CLASSES and np.ptp(expected, axis=0).max() > 0.01
    np.testing.assert_allclose(model.probabilities(images), expected, atol=2e-5)


def test_the_lines_of_the_documentation_need_no_pytorch(
    exported: dict[str, Path], images: Path, tmp_path: Path
) -> None:
    (code,) = [block for block in DOCS.read_text().split("```python\n") if "onnxruntime" in block.partition("```")[0]]
    model = coadvise.load(exported["onnx"])
    levels = np.linspace(0, 65535, 40 * 37).astype(np.uint16).reshape(40, 37)
    for wide in (tmp_path / "wide.png", tmp_path / "wide.pgm", tmp_path / "wide.tif"):
        Image.fromarray(levels).save(wide)
    for image in (*sorted(images.rglob("0[0-3].*")), *sorted(tmp_path.glob("wide.*"))):
        lines = code.partition("```")[0].replace("model.onnx", str(exported["onnx"])).replace("cat.jpg", str(image))
        done = subprocess.run([sys.executable, "-c", WITHOUT_TORCH + lines], capture_output=True, text=True)
        shown = [line.split(maxsplit=1) for line in done.stdout.splitlines()]
        (seen,) = model.predict(image)
        assert [name for _, name in shown] == [name for name, _ in seen.classes], done.stderr
        assert [float(p) for p, _ in shown] == pytest.approx([p for _, p in seen.classes], abs=2e-5)


def test_predict_on_an_onnx_file_needs_no_pytorch(exported: dict[str, Path], run: Path, images: Path) -> None:
    code = WITHOUT_TORCH.replace(", 'coadvise'", "") + "from coadvise.cli.main import main; main()"
    words = [str(images / "*"), "--model", str(exported["onnx"]), "--top", "2"]
    done = subprocess.run([sys.executable, "-c", code, "predict", *words, "--csv"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader(done.stdout.splitlines()))
    expected = [p for one in coadvise.load(run).predict(images, top=2) for _, p in one.classes]
    assert len(rows) == 40 and [float(row["probability"]) for row in rows] == pytest.approx(expected, abs=2e-5)


def foreign(exported: Path, folder: Path) -> Path:
    """A file as of another program, which says nothing and calls its input otherwise, and `classes.txt` beside it."""
    onnx = pytest.importorskip("onnx")
    content = onnx.load(exported)
    del content.metadata_props[:]
    for place in (content.graph.input[0], *content.graph.node):
        if hasattr(place, "name") and place.name == "images":
            place.name = "pixels"
        if hasattr(place, "input"):
            place.input[:] = ["pixels" if name == "images" else name for name in place.input]
    onnx.save(content, folder / "foreign.onnx")
    (folder / "classes.txt").write_text("\n".join(CLASSES))
    return folder / "foreign.onnx"


def test_a_foreign_file_asks_for_what_it_does_not_say(
    exported: dict[str, Path], run: Path, images: Path, tmp_path: Path
) -> None:
    foreign(exported["onnx"], tmp_path)
    (tmp_path / "few.txt").write_text("a\nb")
    one = str(next(images.rglob("00.png")))
    refused = processes.run("coadvise", "predict", one, "-m", str(tmp_path / "foreign.onnx"))
    assert refused.returncode == 2 and "--classes FILE" in refused.stderr and "--image-size" in refused.stderr
    told = [
        "--classes",
        str(tmp_path / "classes.txt"),
        "--image-size",
        "24",
        "--mean",
        "0.5,0.5,0.5",
        "--std",
        "0.5,.5,.5",
    ]
    done = processes.run("coadvise", "predict", one, "-m", str(tmp_path / "foreign.onnx"), *told, "--json")
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    assert sum(json.loads(line)["classes"].values()) <= 1.0001
    for words, message in (
        (["--classes", str(tmp_path / "classes.txt")], "--image-size"),
        ([*told[:4], "--mean", "1,2"], "--mean is '1,2', must be three numbers"),
        (["--classes", str(images), *told[2:4]], "cannot be read"),
        (["--classes", str(tmp_path / "few.txt"), *told[2:]], "values of shape (1, 10), and 2 classes are named"),
    ):
        done = processes.run("coadvise", "predict", one, "-m", str(tmp_path / "foreign.onnx"), *words)
        assert done.returncode == 2 and message in done.stderr, done.stderr
    done = processes.run("coadvise", "predict", one, "-m", str(run), *told)
    assert done.returncode == 2 and "says itself which images it wants" in done.stderr


def test_a_foreign_file_sees_images_as_it_is_said(
    exported: dict[str, Path], run: Path, images: Path, tmp_path: Path
) -> None:
    """Cropped by 0.875 unless said otherwise: with the crop of the run it answers as the run."""
    file = foreign(exported["onnx"], tmp_path)
    half = (0.5, 0.5, 0.5)
    told = Told(CLASSES, 24, half, half)
    expected = coadvise.load(run).probabilities(images)
    seen = {crop: load(file, told=replace(told, crop=crop)).probabilities(images)
            for crop in (None, 0.875, 0.8)}  # fmt: skip
    np.testing.assert_allclose(seen[0.8], expected, atol=2e-5)
    assert np.array_equal(seen[None], seen[0.875]) and not np.allclose(seen[None], expected, atol=2e-5)
    one = next(images.rglob("00.png"))
    words = [
        "--classes",
        str(tmp_path / "classes.txt"),
        "--image-size",
        "24",
        "--mean",
        "0.5,0.5,0.5",
        "--std",
        ".5,.5,.5",
    ]
    words += ["--crop", "0.8", "--top", "10", "--json"]
    done = processes.run("coadvise", "predict", str(one), "-m", str(tmp_path / "foreign.onnx"), *words)
    assert done.returncode == 0, done.stderr
    (wanted,) = coadvise.load(run).predict(one, top=10)
    assert json.loads(done.stdout)["classes"] == pytest.approx(dict(wanted.classes), abs=2e-5)


def test_folders_of_timm_by_others(exported: dict[str, Path], run: Path, images: Path, tmp_path: Path) -> None:
    """A folder as timm writes it, without our own metadata."""
    folder = tmp_path / "timm"
    folder.mkdir()
    config = json.loads((exported["timm"] / "config.json").read_text())
    del config["coadvise"]
    (folder / "model.safetensors").write_bytes((exported["timm"] / "model.safetensors").read_bytes())
    (folder / "config.json").write_text(json.dumps(config))
    expected = coadvise.load(run).probabilities(images)
    np.testing.assert_allclose(coadvise.load(folder).probabilities(images), expected, atol=2e-5)
    names = config.pop("label_names")
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="does not say which classes it knows: give --classes"):
        coadvise.load(folder)
    config["label_names"], config["pretrained_cfg"]["crop_mode"] = names, "squash"
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="cropped by squash"):
        coadvise.load(folder)
    config["pretrained_cfg"]["crop_mode"] = "center"
    for key, value, words in (
        ("mean", [0.5], "mean"),
        ("input_size", 24, "form that timm"),
        ("crop_pct", "a", "form"),
        ("input_size", [3, 24, 48], "images of 24×48, which are not square"),
    ):
        changed = config | {"pretrained_cfg": config["pretrained_cfg"] | {key: value}}
        (folder / "config.json").write_text(json.dumps(changed))
        with pytest.raises(CheckpointError, match=words):
            coadvise.load(folder)


@pytest.mark.parametrize("engine", [onnx_logits, openvino_logits])
def test_a_file_for_a_fixed_number_of_images_takes_any(
    exported: dict[str, Path], tmp_path: Path, engine: Callable[[Path], Logits]
) -> None:
    """As many programs write it: for one, or for four, of which the last are filled up."""
    onnx = pytest.importorskip("onnx")
    content = onnx.load(exported["onnx"])
    pixels = np.random.default_rng(0).normal(size=(10, 3, 24, 24)).astype(np.float32)
    expected = engine(exported["onnx"])(pixels)
    for count in (1, 4):
        content.graph.input[0].type.tensor_type.shape.dim[0].dim_value = count
        content.graph.output[0].type.tensor_type.shape.dim[0].dim_value = count
        onnx.save(content, tmp_path / f"{count}.onnx")
        np.testing.assert_allclose(engine(tmp_path / f"{count}.onnx")(pixels), expected, atol=1e-5)


def test_what_is_for_other_programs_is_not_evaluated(exported: dict[str, Path]) -> None:
    for form in ("onnx", "timm", "openvino"):
        with pytest.raises(CheckpointError, match="is for other programs: `coadvise predict` opens it, and this takes"):
            load_trained(exported[form])
    program = exported["onnx"].with_name("model.pt2")
    program.write_bytes(b"code, perhaps")
    with pytest.raises(CheckpointError, match=r"model\.pt2 is for other programs: this takes the run"):
        load_trained(program)
    with pytest.raises(CheckpointError, match=r"nosuch\.onnx does not exist"):
        load_trained(exported["onnx"].with_name("nosuch.onnx"))


def test_probabilities_of_a_foreign_file_stay_as_they_are(
    exported: dict[str, Path], images: Path, tmp_path: Path
) -> None:
    onnx = pytest.importorskip("onnx")
    content = onnx.load(exported["onnx"])
    del content.metadata_props[:]
    onnx.save(content, tmp_path / "logits.onnx")
    content.graph.node.append(onnx.helper.make_node("Softmax", ["logits"], ["shares"], axis=-1))
    content.graph.output[0].name = "shares"
    onnx.save(content, tmp_path / "shares.onnx")
    logits, shares = (load(tmp_path / f"{name}.onnx", told=Told(CLASSES, 24)) for name in ("logits", "shares"))
    expected = logits.probabilities(images)
    assert expected.max() > 0.2  # far from 1 / 10, so that a second softmax would show
    np.testing.assert_allclose(shares.probabilities(images), expected, atol=1e-6)
