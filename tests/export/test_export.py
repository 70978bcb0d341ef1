"""Exported files, run by the engines themselves on real digits, beside the model and pixels normalised by NumPy."""

import copy
import json
import logging
import os
import shutil
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import processes
from helpers.recipes import tiny
from PIL import Image

import coadvise
from coadvise.checkpoints.build import build_student
from coadvise.checkpoints.model_file import save_model
from coadvise.checkpoints.trained import load_trained
from coadvise.data.sources.opening import open_sources
from coadvise.errors import CheckpointError, CoadviseError, DataError, ModelError, RunError, WriteError
from coadvise.export import int8_file, onnx_file, tracing
from coadvise.export.engines import is_exported, open_exported, openvino_logits
from coadvise.export.exporting import export
from coadvise.export.images import batches
from coadvise.export.int8_file import Drop
from coadvise.export.job import Written
from coadvise.export.targets import TARGETS, target_named
from coadvise.system import extras

onnx = pytest.importorskip("onnx", reason="the extra [export] is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="the extra [export] is not installed")
openvino = pytest.importorskip("openvino", reason="the extra [export] is not installed")

CLASSES = tuple(str(i) for i in range(10))
OPTIONS = {"patch_size": 2, "embed_dim": 32, "depth": 2, "num_heads": 2, "stem": "conv+inv"}
DEQUANTISED = "DequantizeLinear"
PLACES = {"onnx": "model.onnx", "openvino": "openvino", "torch": "model.pt2", "int8": "model-int8.onnx"}


def normalised(images: list[Image.Image]) -> np.ndarray:
    """Images of 8×8 px as the recipe says: no resizing, mean and standard deviation 0.5."""
    pixels = np.stack([np.asarray(image.convert("RGB"), dtype=np.float64) for image in images]) / 255
    return ((pixels - 0.5) / 0.5).transpose(0, 3, 1, 2).astype(np.float32)


def digits(folder: Path, split: int) -> tuple[np.ndarray, np.ndarray]:
    """Training (0) or validation (1) images of the recipe, and their labels."""
    source = open_sources(load_trained(folder).data)[split]
    return normalised([source.read(i) for i in range(len(source))]), source.labels  # type: ignore[misc]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a student with both stems that knows most digits."""
    folder = tmp_path_factory.mktemp("model")
    student = {"model": "cit_tiny", "options": OPTIONS, "tokens": {"conv": "conv", "inv": "inv"}}
    recipe = tiny(folder, {"data.train_size": 400, "data.val_size": 300, "loss.tokens": "auto"}, student=student)
    torch.manual_seed(0)
    model = build_student(recipe.student, recipe.tokens(), len(CLASSES), 8)
    save = lambda: save_model(
        folder / "best.safetensors", model, recipe, CLASSES, weights="student", epoch=1, metrics={}
    )
    save()
    images, labels = digits(folder, 0)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    for _ in range(40):
        optimizer.zero_grad()
        F.cross_entropy(model(torch.from_numpy(images)), torch.from_numpy(labels)).backward()
        optimizer.step()
    save()
    return folder


@pytest.fixture(scope="module")
def written(model: Path) -> dict[str, Written]:
    """All targets, each written once; of the same graph, which takes a while to make."""
    graph = tracing.translated(load_trained(model))
    with mock.patch.object(tracing, "translated", lambda _: copy.deepcopy(graph)):
        return {name: export(model, target_named(name), max_drop=5.0)[1] for name in PLACES}


@pytest.fixture(scope="module")
def expected(model: Path, written: dict[str, Written]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Validation images, labels and the model's logits."""
    images, labels = digits(model, 1)
    with torch.no_grad():
        return images, labels, load_trained(model).model(torch.from_numpy(images)).numpy()


def same(found: np.ndarray, logits: np.ndarray) -> None:
    np.testing.assert_allclose(found, logits, atol=1e-4 * max(1, np.abs(logits).max()))
    assert (found.argmax(1) == logits.argmax(1)).all()


def test_onnx_runs_anywhere_with_any_batch(model: Path, written: dict[str, Written], expected) -> None:
    images, _, logits = expected
    path = model / "export" / "model.onnx"
    session = onnxruntime.InferenceSession(path)
    for start, stop in ((0, 1), (1, 4), (4, 300)):
        same(session.run(["logits"], {"images": images[start:stop]})[0], logits[start:stop])
    content = onnx.load(path)
    assert {node.domain for node in content.graph.node} == {""} and not content.functions
    assert [d.dim_param or d.dim_value for d in session_shape(content)] == ["batch", 3, 8, 8]
    said = {entry.key: entry.value for entry in content.metadata_props}
    assert json.loads(said["classes"]) == list(CLASSES) and json.loads(said["mean"]) == [0.5, 0.5, 0.5]
    assert (said["interpolation"], said["image_size"], said["precision"]) == ("bicubic", "8", "fp32")
    assert written["onnx"].lines[0].endswith("top class the same on 64 of 64 (64 of 300 validation images)")


def session_shape(content):
    return content.graph.input[0].type.tensor_type.shape.dim


def test_nothing_else_is_left_in_the_folder(model: Path, written: dict[str, Written]) -> None:
    assert {path.name for path in (model / "export").iterdir()} == set(PLACES.values())
    assert {path.name for path in (model / "export" / "openvino").iterdir()} == {"model.xml", "model.bin"}


def test_no_file_names_a_folder_of_the_machine(model: Path, written: dict[str, Written]) -> None:
    places = [str(Path(module.__file__).parents[1]).encode() for module in (coadvise, torch)]  # where code lies
    files = [path for path in (model / "export").rglob("*") if path.is_file()]
    assert len(files) > len(PLACES)  # folders have several
    for path in files:
        assert not [place for place in places if place in path.read_bytes()], path


def test_openvino_with_any_batch(model: Path, written: dict[str, Written], expected) -> None:
    images, _, logits = expected
    core = openvino.Core()
    graph = core.read_model(model / "export" / "openvino" / "model.xml")
    compiled = core.compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for start, stop in ((0, 1), (1, 4), (4, 300)):
        same(compiled({"images": images[start:stop]})["logits"], logits[start:stop])
    assert json.loads(str(graph.get_rt_info(["coadvise", "classes"]).value)) == list(CLASSES)
    weights = {str(op.get_element_type()) for op in graph.get_ops() if op.get_type_name() == "Constant"}
    assert not any("f16" in kind for kind in weights)


def test_a_program_holds_only_pytorchs_own_operators(model: Path, written: dict[str, Written], expected) -> None:
    images, _, logits = expected
    extra = {"coadvise.json": ""}
    program = torch.export.load(model / "export" / "model.pt2", extra_files=extra)
    assert json.loads(json.loads(extra["coadvise.json"])["classes"]) == list(CLASSES)
    for start, stop in ((0, 1), (1, 4), (4, 300)):
        same(program.module()(torch.from_numpy(images[start:stop])).detach().numpy(), logits[start:stop])
    called = {node.target for node in program.graph.nodes if node.op == "call_function"}
    assert {op.namespace for op in called if hasattr(op, "namespace")} == {"aten"}


def test_int8_reports_what_it_costs(model: Path, written: dict[str, Written], expected) -> None:
    images, labels, logits = expected
    path = model / "export" / "model-int8.onnx"
    content = onnx.load(path)
    session = onnxruntime.InferenceSession(path)
    trained = load_trained(model)
    # The measured pixels, to the last bit: another rounding there may move an image to another class in int8.
    pixels = np.concatenate([some.numpy() for some, _ in batches(trained, open_sources(trained.data)[1])])
    np.testing.assert_allclose(pixels, images, atol=1e-6)
    found = np.concatenate([session.run(None, {"images": pixels[i : i + 64]})[0] for i in range(0, 300, 64)])
    said = json.loads({entry.key: entry.value for entry in content.metadata_props}["accuracy"])
    before, after = float((logits.argmax(1) == labels).mean()), float((found.argmax(1) == labels).mean())
    assert before > 0.8
    first, *drops = written["int8"].lines
    assert first == "scales from 128 training images"
    assert drops[0].startswith(f"ONNX Runtime: accuracy {before:.2%} in fp32, {after:.2%} in int8")
    assert drops[1].startswith("OpenVINO: accuracy") and said["int8"] <= after  # of the engine that loses more
    assert said == {"fp32": pytest.approx(before), "int8": pytest.approx(after, abs=0.02), "images": 300}


def test_int8_is_in_matrix_products_and_convolutions_alone(model: Path, written: dict[str, Written]) -> None:
    graph = onnx.load(model / "export" / "model-int8.onnx").graph
    made_by = {name: node for node in graph.node for name in node.output}
    reads_int8 = lambda node: any(name in made_by and made_by[name].op_type == DEQUANTISED for name in node.input)
    assert {node.op_type for node in graph.node if reads_int8(node)} <= {"MatMul", "Gemm", "Conv"}
    products = [node for node in graph.node if node.op_type in ("MatMul", "Gemm", "Conv")]
    # Two in the attention of each of two blocks, and the stem's involution.
    assert len([node for node in products if not reads_int8(node)]) == 5 and len(products) > 15


@pytest.mark.parametrize("name", ["onnx", "openvino", "int8"])
def test_an_image_alone_is_the_same_as_in_a_batch(model: Path, written: dict[str, Written], expected, name) -> None:
    images, _, logits = expected
    card, run = open_exported(model / "export" / PLACES[name])
    assert card.classes == CLASSES and card.precision == ("int8" if name == "int8" else "fp32")
    assert is_exported(model / "export" / PLACES[name]) and not is_exported(model)
    alone = np.concatenate([run(images[i : i + 1]) for i in range(16)])
    together = run(np.concatenate([images[:16], 100 * images[16:24]]))[:16]  # scales of the batch would be far off
    np.testing.assert_allclose(together, alone, atol=1e-5 * np.abs(logits).max())


# --- refusals --------------------------------------------------------------------------------------------


def test_int8_may_lose_as_much_as_is_allowed() -> None:
    drop = Drop("engine", 181 / 200, 180 / 200, 1.0, 200)
    assert not drop.exceeds(0.5) and drop.exceeds(0.49)


def test_int8_that_loses_too_much_is_refused(model: Path, tmp_path: Path, written, monkeypatch) -> None:
    dark = torch.zeros(8, 3, 8, 8)
    content = onnx.load(model / "export" / "model.onnx")
    monkeypatch.setattr(tracing, "translated", lambda _: content)
    monkeypatch.setattr(int8_file, "load", lambda *_: (dark, dark))
    with pytest.raises(ModelError, match=r"loses too much in .*: accuracy \d.*--max-drop"):
        export(model, target_named("int8"), tmp_path / "new" / "small.onnx")
    assert not list(tmp_path.iterdir())


def test_a_file_that_computes_something_else_gets_no_name(model: Path, tmp_path: Path, written, monkeypatch) -> None:
    content = onnx.load(model / "export" / "model.onnx")
    bias = next(one for one in content.graph.initializer if list(one.dims) == [10])
    values = onnx.numpy_helper.to_array(bias) + np.float32([1e-2] + [0] * 9)
    bias.CopyFrom(onnx.numpy_helper.from_array(values, bias.name))
    monkeypatch.setattr(onnx_file, "onnx_bytes", lambda *_: content.SerializeToString())
    with pytest.raises(ModelError, match=r"does not compute what the model computes .*largest difference of logits 1"):
        export(model, target_named("onnx"), tmp_path / "new" / "other.onnx")
    assert not list(tmp_path.iterdir())


def test_images_of_ones_own_or_noise_where_there_are_none(model: Path, tmp_path: Path, written, monkeypatch) -> None:
    content = (model / "export" / "model.onnx").read_bytes()
    monkeypatch.setattr(onnx_file, "onnx_bytes", lambda *_: content)
    for i in range(3):
        Image.new("RGB", (20, 30), (90 * i, 9, 9)).save(tmp_path / f"{i}.png")
    target, own = target_named("onnx"), (str(tmp_path / "*.png"),)
    assert "3 of 3 (3 of the 3 images given)" in export(model, target, tmp_path / "a.onnx", images=own)[1].lines[0]
    with pytest.raises(DataError, match=r"--images: .*none\.png"):
        export(model, target, tmp_path / "b.onnx", images=("none.png",))
    trained = load_trained(model)
    gone = trained.recipe.model_copy(update={"data": trained.data.model_copy(update={"source": "folder:gone"})})
    save_model(tmp_path / "far.safetensors", trained.model, gone, CLASSES, weights="student", epoch=1, metrics={})
    line = export(tmp_path / "far.safetensors", target, tmp_path / "c.onnx")[1].lines[0]
    assert "64 images of noise" in line and "gone" in line
    with pytest.raises(DataError, match=r"int8 needs the run's training and validation images: .*gone"):
        export(tmp_path / "far.safetensors", target_named("int8"), tmp_path / "d.onnx")


@pytest.mark.parametrize(("target", "ending"), [("onnx", ".onnx"), ("int8", ".onnx"), ("torch", ".pt2")])
def test_a_file_gets_the_ending_by_which_it_is_opened(model: Path, tmp_path: Path, target: str, ending: str) -> None:
    with pytest.raises(RunError, match=f"--output is .*digits.bin, must end in {ending} for --to {target}"):
        export(model, target_named(target), tmp_path / "new" / "digits.bin")
    assert not list(tmp_path.iterdir())


def test_what_is_there_is_not_overwritten(model: Path, written: dict[str, Written]) -> None:
    for name, place in PLACES.items():
        with pytest.raises(RunError, match=f"{place} exists; delete it, or choose another place with --output"):
            export(model, target_named(name))


def test_packages_that_are_missing_are_named(model: Path, monkeypatch) -> None:
    monkeypatch.setattr(extras, "installed", lambda name: name != "onnxscript")
    with pytest.raises(RunError, match=r'needs onnxscript: pip install "coadvise\[export\]"'):
        export(model, target_named("onnx"), model / "x.onnx")


def test_a_full_disk_leaves_nothing(model: Path, tmp_path: Path, written, monkeypatch) -> None:
    content = (model / "export" / "model.onnx").read_bytes()
    monkeypatch.setattr(onnx_file, "onnx_bytes", lambda *_: content)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(WriteError, match=r"cannot write to .*a\.onnx: No space left"):
        export(model, target_named("onnx"), tmp_path / "new" / "a.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["onnx", "openvino", "int8"])
def test_damaged_files_are_refused(model: Path, tmp_path: Path, written: dict[str, Written], name: str) -> None:
    place = tmp_path / PLACES[name]
    source = model / "export" / PLACES[name]
    if source.is_dir():
        shutil.copytree(source, place)
        os.truncate(place / "model.bin", 100)
    else:
        place.write_bytes(source.read_bytes()[:3000])
    with pytest.raises(CheckpointError, match="cannot be loaded, it is damaged or needs"):
        open_exported(place)


def test_files_of_others_say_nothing_of_their_classes(model: Path, tmp_path: Path, written) -> None:
    content = onnx.load(model / "export" / "model.onnx")
    del content.metadata_props[:]
    onnx.save(content, tmp_path / "bare.onnx")
    with pytest.raises(CheckpointError, match="does not say which images it wants"):
        open_exported(tmp_path / "bare.onnx")
    with pytest.raises(CheckpointError, match="PyTorch runs code that stands in such a file"):
        open_exported(model / "export" / "model.pt2")
    with pytest.raises(CheckpointError, match="does not exist"):
        open_exported(tmp_path / "none.onnx")


def test_unfinished_runs_and_unknown_targets(model: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"holds no best\.safetensors, .*; give a run's folder$"):
        export(tmp_path, TARGETS["onnx"])  # a folder of photographs, say
    run = tmp_path / "run"
    run.mkdir()
    (run / "recipe.yaml").write_text("name: x\n")
    shutil.copy(model / "best.safetensors", run)
    with pytest.raises(RunError, match=r"unfinished run; or export .*best\.safetensors; or start again"):
        export(run, TARGETS["onnx"])
    with pytest.raises(RunError, match=r"must be one of .*onnx, .*\(did you mean onnx\?\)"):
        target_named("onxx")
    (tmp_path / "bad.safetensors").write_bytes(b"\x08" * 100)
    for source in (tmp_path / "bad.safetensors", tmp_path / "none", tmp_path):
        with pytest.raises(CoadviseError):
            export(source, TARGETS["onnx"], tmp_path / "x.onnx")
    with pytest.raises(RunError, match=r"--max-drop is nan, must be ≥ 0"):
        export(model, TARGETS["int8"], tmp_path / "x.onnx", max_drop=float("nan"))
    assert logging.root.manager.disable == 0
    done = processes.run("coadvise", "export", str(model), "--to", "tensorrt")
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "--to is 'tensorrt', must be one of" in done.stderr
    assert "known" not in done.stderr  # they were named
    to = ("--to", "onnx", "--output", str(tmp_path / "x.onnx"))
    done = processes.run("coadvise", "export", str(model), *to, "--max-drop", "0.3")
    assert done.returncode == 2 and "--to onnx loses nothing" in done.stderr and not (tmp_path / "x.onnx").exists()


def test_attention_with_a_mask_that_was_learned(tmp_path: Path) -> None:
    student = {"model": "beit_base_patch16_224", "options": {"embed_dim": 32, "depth": 1, "num_heads": 2}}
    recipe = tiny(tmp_path, {"data.image_size": 32}, student=student)
    model = build_student(recipe.student, recipe.tokens(), len(CLASSES), 32)
    for parameter in model.parameters():  # relative positions start at zero
        parameter.data += torch.randn_like(parameter)
    save_model(tmp_path / "best.safetensors", model, recipe, CLASSES, weights="student", epoch=1, metrics={})
    trained = load_trained(tmp_path / "best.safetensors")
    session = onnxruntime.InferenceSession(tracing.translated(trained).SerializeToString())
    x = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        same(session.run(None, {"images": x.numpy()})[0], trained.model(x).numpy())


def test_engines_agree_on_int8(tmp_path: Path) -> None:
    """A convolution whose input is in 8 bits, and a token before the patches: OpenVINO fails with a free batch."""
    rng, op = np.random.default_rng(0), onnx.helper.make_node
    weights = {
        "a": (0.08 * rng.standard_normal((64, 3, 7, 7))).astype(np.float32), "scale": np.float32(0.03),
        "bias": (0.3 * rng.standard_normal(64)).astype(np.float32), "zero": np.uint8(0),
        "w": rng.integers(-127, 128, (64, 64, 3, 3)).astype(np.int8), "ws": np.full(64, 1e-3, np.float32),
        "wz": np.zeros(64, np.int8), "token": np.ones((1, 1, 64), np.float32), "ones": np.array([1, 1]),
        "shape": np.array([0, 64, -1]),
    }  # fmt: skip
    nodes = [
        op("Conv", ["x", "a", "bias"], ["c"], kernel_shape=[7, 7], pads=[3] * 4, strides=[2, 2]),
        op("Relu", ["c"], ["r"]), op("QuantizeLinear", ["r", "scale", "zero"], ["q"]),
        op("DequantizeLinear", ["q", "scale", "zero"], ["d"]),
        op("DequantizeLinear", ["w", "ws", "wz"], ["wd"], axis=0),
        op("Conv", ["d", "wd"], ["y"], kernel_shape=[3, 3], pads=[1] * 4), op("Reshape", ["y", "shape"], ["flat"]),
        op("Transpose", ["flat"], ["patches"], perm=[0, 2, 1]), op("Shape", ["x"], ["count"], start=0, end=1),
        op("Concat", ["count", "ones"], ["size"], axis=0), op("Expand", ["token", "size"], ["tokens"]),
        op("Concat", ["tokens", "patches"], ["out"], axis=1),
    ]  # fmt: skip
    shown = [
        onnx.helper.make_tensor_value_info(*one) for one in (("x", 1, ["b", 3, 64, 64]), ("out", 1, ["b", "n", 64]))
    ]
    tensors = [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()]
    graph = onnx.helper.make_graph(nodes, "g", shown[:1], shown[1:], tensors)
    made = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=9)
    (tmp_path / "a.onnx").write_bytes(made.SerializeToString())
    x = rng.standard_normal((4, 3, 64, 64)).astype(np.float32)
    expected = onnxruntime.InferenceSession(tmp_path / "a.onnx").run(None, {"x": x})[0]
    assert np.abs(openvino_logits(tmp_path / "a.onnx")(x) - expected).max() < 0.01 * np.abs(expected).max()
