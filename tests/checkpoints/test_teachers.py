"""Teachers of other places: they answer as the library that they come from says they do."""

import hashlib
import json
import math
import pickle
from importlib.util import find_spec
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from helpers.recipes import CNN, INN, tiny
from helpers.runs import photographs, run
from PIL import Image

from coadvise.checkpoints.model_file import save_model
from coadvise.checkpoints.teachers import build_teacher
from coadvise.checkpoints.trained import load_trained
from coadvise.errors import CheckpointError, CoadviseError, ModelError
from coadvise.models.from_onnx import OnnxModel, _digest_of
from coadvise.models.teachers import FrozenTeacher, Teachers
from coadvise.recipe.schema import Teacher
from coadvise.run.result import RunResult
from coadvise.system.progress import Display
from coadvise.training.caching import cache_advice
from coadvise.training.student import new_student
from coadvise.training.teachers import given_teacher
from coadvise.training.train import train

if find_spec("transformers"):
    import transformers
if find_spec("onnx"):
    import onnx
needs_transformers = pytest.mark.skipif(not find_spec("transformers"), reason="Transformers is not installed")
needs_onnx = pytest.mark.skipif(
    not (find_spec("onnx") and find_spec("onnxruntime")), reason="onnx or onnxruntime is not installed"
)

NAMES = ("cat", "dog", "owl")


def run_of(folder: Path, names: tuple[str, ...] = NAMES, **parts: object) -> Path:
    """A folder with the best weights of a run whose student is new."""
    recipe = tiny(folder, **parts)
    folder.mkdir()
    student = new_student(recipe, len(names), 1, None, recipe.teachers)
    save_model(folder / "best.safetensors", student, recipe, names, weights="student", epoch=1, metrics={})
    return folder


STUDENTS = [
    {"teachers": {"conv": CNN, "inv": INN}},
    {"student": {"model": "resnet10", "options": {"channels": [8, 8, 16, 16]}, "small_stem": True}},
    {  # a ViT with tokens that were added
        "student": {
            "model": "vit_tiny_patch16_224",
            "options": {"patch_size": 4, "embed_dim": 24, "depth": 1, "num_heads": 2},
            "tokens": {"conv": "conv"},
        }
    },
]


@pytest.mark.parametrize("parts", STUDENTS)
def test_the_model_of_a_run_advises_as_the_run_predicts(tmp_path: Path, parts: dict) -> None:
    """By name where the data has the classes in another order."""
    folder = run_of(tmp_path / "run", **parts)
    x = torch.randn(3, 3, 8, 8)
    trained = load_trained(folder)
    with torch.no_grad():
        expected = trained.model(x)[:, [2, 0, 1]]
    for place in (folder, folder / "best.safetensors"):
        teacher = build_teacher("t", Teacher(model=f"run:{place}"), ("owl", "cat", "dog"))
        torch.testing.assert_close(teacher(x), expected)
        assert teacher.mean == teacher.std == (0.5, 0.5, 0.5) and teacher.image_size == 8


def test_the_folder_of_a_run_is_a_checkpoint(tmp_path: Path) -> None:
    folder = run_of(tmp_path / "run", **STUDENTS[1])
    one = Teacher(model="resnet10", checkpoint=str(folder))
    file = one.model_copy(update={"checkpoint": str(folder / "best.safetensors")})
    x = torch.randn(3, 3, 8, 8)
    torch.testing.assert_close(build_teacher("t", one, NAMES)(x), build_teacher("t", file, NAMES)(x))
    (folder / "teachers" / "t").mkdir(parents=True)
    with pytest.raises(
        CheckpointError, match=r"run of a resnet10, .* a rednet26; its teacher t lies in .*run/teachers/t"
    ):
        build_teacher("t", one.model_copy(update={"model": "rednet26"}), NAMES)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"model": "run:"}, "'run:' is to be followed by a folder of a run"),
        ({"model": "run:x", "train": {"epochs": 1}}, "run:x advises as it is; leave out train; to train it, give its"),
        ({"model": "run:x", "small_stem": True, "checkpoint": "y"}, "leave out small_stem and checkpoint"),
        ({"model": "run:nowhere"}, "nowhere does not exist"),
        ({"model": "run:."}, "holds no best.safetensors"),
        ({"model": "export:a.pt2"}, "is export:a.pt2: PyTorch runs code that stands in such a file .* from Python"),
    ],
)
def test_what_cannot_be_is_one_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CoadviseError, match=words):
        run(tiny(tmp_path / "out", teachers={"t": settings}))
    assert not (tmp_path / "out").exists()


def test_a_student_learns_from_two_runs(tmp_path: Path) -> None:
    recipe = tiny(tmp_path / "first", {"schedule.epochs": 1, "schedule.warmup_epochs": 0}, teachers={"conv": CNN})
    run(recipe)
    assert (tmp_path / "first" / "teachers" / "conv" / "best.safetensors").is_file()
    places = {"a": {"model": f"run:{tmp_path}/first"}, "b": {"model": f"run:{tmp_path}/first/teachers/conv"}}
    result = run(tiny(tmp_path / "second", {"schedule.epochs": 1, "schedule.warmup_epochs": 0}, teachers=places))
    assert set(result.teachers) == {"a", "b"} and result.teachers["a"].samples == 101
    facts = RunResult.read(tmp_path / "second" / "result.json").teachers["b"]
    assert facts.source == f"run:{facts.opens}" and facts.opens == f"{tmp_path}/first/teachers/conv"


def pixels(image: Image.Image, mean: float = 0.3, std: float = 0.2) -> torch.Tensor:
    """An image as a student with that normalisation sees it (1, 3, h, w)."""
    x = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)[None] / 255
    return (x - mean) / std


def photograph(side: int) -> Image.Image:
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8))


def advice(settings: dict[str, object], image: Image.Image, names: tuple[str, ...]) -> torch.Tensor:
    """What such a teacher says of an image that a student sees in its own normalisation."""
    teacher = build_teacher("t", Teacher.model_validate(settings), names)
    return Teachers({"t": teacher}, input_mean=(0.3,) * 3, input_std=(0.2,) * 3)(pixels(image))["t"]


def transformers_folder(folder: Path, processor: object | None = None, **config: object) -> Path:
    """A tiny ViT, stored in half precision."""
    made = {
        "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "image_size": 32,
        "patch_size": 8, "num_labels": 3, "id2label": {0: "owl", 1: "cat", 2: "dog"}, "initializer_range": 0.3,
    }  # fmt: skip
    torch.manual_seed(0)
    model = transformers.ViTForImageClassification(transformers.ViTConfig(**made | config))
    model.half().save_pretrained(folder)
    if processor is not None:
        processor.save_pretrained(folder)  # type: ignore[attr-defined]
    return folder


@needs_transformers
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("ViTImageProcessor", {}),
        ("ViTImageProcessor", {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.1, 0.2, 0.3]}),
        ("ViTImageProcessor", {"do_normalize": False}),
        ("ViTImageProcessor", {"do_rescale": False, "image_mean": [120.0] * 3, "image_std": [60.0] * 3}),
        ("EfficientNetImageProcessor", {"rescale_offset": True, "rescale_factor": 1 / 127.5}),
        ("MobileViTImageProcessor", {"do_flip_channel_order": True, "crop_size": {"height": 32, "width": 32}}),
    ],
)
def test_transformers_answers_as_with_its_own_processor(tmp_path: Path, kind: str, options: dict) -> None:
    """Rescaling, offsets, the order of the channels: whatever the processor does to an image of the model's size."""
    size = {"shortest_edge": 32} if kind.startswith("Mobile") else {"height": 32, "width": 32}
    folder = transformers_folder(tmp_path / "m", getattr(transformers, kind)(size=size, **options))
    image, names = photograph(32), ("cat", "dog", "owl")
    model = transformers.AutoModelForImageClassification.from_pretrained(folder, dtype=torch.float32).eval()
    seen = transformers.AutoImageProcessor.from_pretrained(folder)(images=image, return_tensors="pt")
    with torch.no_grad():
        expected = model(**seen).logits[:, [1, 2, 0]]
    found = advice({"model": f"transformers:{folder}"}, image, names)
    assert expected.std() > 0.02
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@needs_transformers
def test_transformers_from_python_are_asked_for_their_logits_and_names(tmp_path: Path) -> None:
    folder = transformers_folder(tmp_path / "m")
    model = transformers.AutoModelForImageClassification.from_pretrained(folder, dtype=torch.float32)
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = model.eval()(x).logits[:, [1, 0]]
    torch.testing.assert_close(given_teacher("t", model, ("cat", "owl"))(x), expected)


@needs_transformers
def test_code_in_a_transformers_folder_never_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even where somebody says yes: the library would ask, and wait for an answer."""
    folder = transformers_folder(tmp_path / "a")
    ran = tmp_path / "ran"
    (folder / "own.py").write_text(
        "from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor as P\n"
        f"open({str(ran)!r}, 'w').close()\n"
        "class Own(P): pass\n"
        "class OwnConfig(ViTConfig): model_type = 'own'\n"
        "class OwnModel(ViTForImageClassification): config_class = OwnConfig\n"
    )
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    (folder / "preprocessor_config.json").write_text(
        json.dumps({"image_processor_type": "Own", "auto_map": {"AutoImageProcessor": "own.Own"}})
    )
    with pytest.raises(ModelError, match=r"does not say how it sees images"):
        build_teacher("t", Teacher(model=f"transformers:{folder}"), NAMES)
    config = json.loads((folder / "config.json").read_text())
    mapped = {"AutoConfig": "own.OwnConfig", "AutoModelForImageClassification": "own.OwnModel"}
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "own", "auto_map": mapped}))
    with pytest.raises(ModelError, match="cannot be loaded as an image classifier"):
        build_teacher("t", Teacher(model=f"transformers:{folder}"), NAMES)
    assert not ran.exists()


@needs_transformers
def test_a_transformers_folder_that_lacks_something_says_what(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bare = transformers_folder(tmp_path / "bare")
    with pytest.raises(ModelError, match=r"teachers.t: .*bare does not say how it sees images .* give .*mean and std"):
        build_teacher("t", Teacher(model=f"transformers:{bare}"), NAMES)
    given = Teacher(model=f"transformers:{bare}", mean=(0.5,) * 3, std=(0.5,) * 3)
    assert build_teacher("t", given, NAMES).image_size == 32
    torch.manual_seed(0)
    config = transformers.AutoConfig.from_pretrained(bare)
    transformers.ViTModel(config, add_pooling_layer=False).save_pretrained(tmp_path / "backbone")
    (tmp_path / "text").mkdir()
    transformers.BertConfig().save_pretrained(tmp_path / "text")
    monkeypatch.setattr("coadvise.models.from_transformers.silence", lambda *_: OSError("no route"))
    for place, words in (
        (tmp_path / "backbone", "no weights for classifier.bias and 1 more: it is a backbone"),
        (tmp_path / "text", "cannot be loaded as an image classifier"),
        (tmp_path / "nowhere", "there is no such folder"),
        ("owner/no-such-model-here", r"no folder of that name, and no answer from the Hugging Face Hub \(no route\)"),
    ):
        with pytest.raises(ModelError, match=words):
            build_teacher("t", given.model_copy(update={"model": f"transformers:{place}"}), NAMES)


def test_a_program_of_torch_export_is_a_teacher_from_python() -> None:
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()).eval()
    shapes = ({0: torch.export.Dim.AUTO},)
    program = torch.export.export(model, (torch.randn(2, 3, 8, 8),), dynamic_shapes=shapes)
    x = torch.randn(5, 3, 8, 8)
    torch.testing.assert_close(Teachers({"t": program})(x)["t"], model(x).detach())
    torch.testing.assert_close(FrozenTeacher(program)(x), model(x).detach())


WEIGHTS = np.random.default_rng(1).normal(size=(4, 3, 2, 2)).astype(np.float32)


def onnx_file(
    path: Path, shape: tuple = ("n", 3, 16, 16), metadata: dict[str, str] | None = None, *, softmax: bool = False
) -> Path:
    """A classifier of one convolution, in channels-last order where the shape says so."""
    node, last = onnx.helper.make_node, shape[3] == 3
    nodes = [node("Transpose", ["images"], ["x"], perm=[0, 3, 1, 2])] if last else [node("Identity", ["images"], ["x"])]
    nodes += [node("Conv", ["x", "w"], ["c"]), node("Relu", ["c"], ["r"]), node("GlobalAveragePool", ["r"], ["p"])]
    nodes += [node("Flatten", ["p"], ["f"]), node("Softmax" if softmax else "Identity", ["f"], ["out"])]
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        nodes, "g", [value("images", onnx.TensorProto.FLOAT, shape)],
        [value("out", onnx.TensorProto.FLOAT, (shape[0], 4))], [onnx.numpy_helper.from_array(WEIGHTS, "w")],
    )  # fmt: skip
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    onnx.helper.set_model_props(model, metadata or {})
    onnx.save(model, path)
    return path


@needs_onnx
@pytest.mark.parametrize(
    ("shape", "softmax"),
    [
        (("n", 3, 16, 16), False), ((2, 3, 16, 16), False), ((1, 3, "h", "w"), False), (("n", 16, 16, 3), False),
        (("n", 3, 16, 16), True),
    ],
)  # fmt: skip
def test_an_onnx_file_answers_as_the_same_network_in_torch(tmp_path: Path, shape: tuple, softmax: bool) -> None:
    path = onnx_file(tmp_path / "m.onnx", shape, softmax=softmax)
    settings = {"model": f"onnx:{path}", "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "classes": [3, 0, 1, 2]}
    teacher = build_teacher("t", Teacher.model_validate(settings), ("a", "b", "c", "d"))
    x = torch.cat([pixels(photograph(16)), torch.randn(4, 3, 16, 16)])
    found = Teachers({"t": teacher}, input_mean=(0.3,) * 3, input_std=(0.2,) * 3)(x)["t"]
    mean, std = (torch.tensor(settings[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    z = torch.conv2d((x * 0.2 + 0.3 - mean) / std, torch.from_numpy(WEIGHTS)).relu().mean(dim=(2, 3))[:, [3, 0, 1, 2]]
    torch.testing.assert_close(found.softmax(dim=1) if softmax else found, z.softmax(dim=1) if softmax else z)
    assert teacher.image_size == (None if "h" in shape else 16)


@needs_onnx
def test_an_onnx_file_of_ours_says_all_that_a_teacher_needs(tmp_path: Path) -> None:
    said = {"format": "coadvise-export-1", "mean": "[0.1, 0.2, 0.3]", "std": "[0.4, 0.5, 0.6]", "image_size": "24"}
    names = json.dumps(["cat", "dog", "owl", "cow"])
    path = onnx_file(tmp_path / "m.onnx", ("n", 3, "h", "w"), said | {"classes": names})
    teacher = build_teacher("t", Teacher(model=f"onnx:{path}"), ("owl", "cat"))
    assert teacher.mean == (0.1, 0.2, 0.3) and teacher.std == (0.4, 0.5, 0.6) and teacher.image_size == 24
    assert teacher.classes.tolist() == [2, 0]
    other = onnx_file(tmp_path / "other.onnx", ("n", 3, 24, 24), said | {"classes": names})
    weights = [list(OnnxModel(one).state_dict().values()) for one in (path, other)]
    assert len(weights[0]) == 1 and not torch.equal(weights[0][0], weights[1][0])  # told apart by a digest of the file


@needs_onnx
@pytest.mark.parametrize("name", ["m.onnx.data", "weights.bin", "parts/gewichte-ä.bin", "w" * 200])
def test_weights_outside_of_an_onnx_file_count(tmp_path: Path, name: str) -> None:
    """Wherever they lie: `onnx` says where, and bytes there that change are another teacher."""
    from onnx.external_data_helper import ExternalDataInfo

    (tmp_path / "parts").mkdir()
    path = onnx_file(tmp_path / "m.onnx")
    whole = onnx.load(path)
    before = OnnxModel(path).file_digest
    assert bytes(before.tolist()) == hashlib.sha256(path.read_bytes()).digest()  # as caches have it
    onnx.save(whole, path, save_as_external_data=True, location=name, size_threshold=0)
    (tensor,) = onnx.load(path, load_external_data=False).graph.initializer
    assert ExternalDataInfo(tensor).location == name
    now, beside = OnnxModel(path).file_digest, tmp_path / name
    assert bytes(now.tolist()) == hashlib.sha256(path.read_bytes() + beside.read_bytes()).digest()
    content = bytearray(beside.read_bytes())
    content[0] ^= 1
    beside.write_bytes(content)
    assert not torch.equal(OnnxModel(path).file_digest, now)


def test_a_location_that_no_file_of_a_model_has_is_passed_over(tmp_path: Path) -> None:
    """Files of others name what they like: files elsewhere are not read, and no name is too long or broken."""
    (tmp_path / "model").mkdir()
    elsewhere, path = tmp_path / "elsewhere.bin", tmp_path / "model" / "m.onnx"
    elsewhere.write_bytes(b"1")
    for name in (str(elsewhere).encode(), b"../elsewhere.bin", b"x" * 5000, b"\0x", b"\xff", b"."):
        length = [len(name)] if len(name) < 128 else [len(name) & 0x7F | 0x80, len(name) >> 7]
        path.write_bytes(b"\x0a\x08location\x12" + bytes(length) + name)
        assert _digest_of(path) == hashlib.sha256(path.read_bytes()).digest()


@needs_onnx
def test_an_onnx_file_of_ours_for_several_classes_is_no_teacher(tmp_path: Path) -> None:
    said = {"format": "coadvise-export-1", "mean": "[0, 0, 0]", "std": "[1, 1, 1]", "classes": '["a", "b", "c", "d"]'}
    path = onnx_file(tmp_path / "m.onnx", metadata=said | {"labels": "several"})
    with pytest.raises(ModelError, match=r"any number of classes.*folder of the run"):
        build_teacher("t", Teacher(model=f"onnx:{path}"), ("a", "b", "c", "d"))


@needs_onnx
def test_an_onnx_file_that_is_no_teacher_says_why(tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_text("no model")
    value, proto = onnx.helper.make_tensor_value_info, onnx.TensorProto
    for name, kind, shape in (("ints", proto.UINT8, (1, 3, 8, 8)), ("flat", proto.FLOAT, (1, 10))):
        graph = onnx.helper.make_graph(
            [onnx.helper.make_node("Identity", ["x"], ["y"])], "g", [value("x", kind, shape)], [value("y", kind, shape)]
        )
        opset = [onnx.helper.make_opsetid("", 17)]
        onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=8), tmp_path / f"{name}.onnx")
    onnx_file(tmp_path / "bare.onnx")
    onnx_file(tmp_path / "two.onnx", metadata={"classes": '["a", "b"]'})
    onnx_file(tmp_path / "bad.onnx", metadata={"classes": "[", "format": "coadvise-export-1"})
    for name, words in (
        ("nowhere", "there is no such file"), ("text", "cannot be loaded by ONNX Runtime"),
        ("ints", r"images of tensor\(uint8\)"), ("flat", r"takes x \[1, 10\]; give a classifier that takes"),
        ("bare", r"does not say how it sees images; give teachers\.t\.mean and teachers\.t\.std"),
        ("two", "names 2 classes and gives 4 logits"), ("bad", "damaged metadata"),
    ):  # fmt: skip
        with pytest.raises(ModelError, match=words):
            build_teacher("t", Teacher(model=f"onnx:{tmp_path / name}.onnx"), ("a", "b"))


@pytest.fixture
def torch_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where torchvision finds what it has downloaded; nothing else can be had."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("urllib.request.urlopen", mock.Mock(side_effect=OSError("no route")))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def test_torchvision_answers_as_with_its_own_transforms(torch_home: Path) -> None:
    import torchvision.models as zoo

    weights = zoo.SqueezeNet1_1_Weights.DEFAULT
    model = zoo.squeezenet1_1().eval()
    torch.save(model.state_dict(), torch_home / weights.url.rpartition("/")[2])
    image = photograph(64)
    with torch.no_grad():
        expected = model(weights.transforms(crop_size=64, resize_size=64)(image)[None])
    data = ("n01443537", "tench", "my own class")  # ImageNet's second class, its first, and none
    for name in ("squeezenet1_1", "squeezenet1_1.IMAGENET1K_V1"):
        found = advice({"model": f"torchvision:{name}", "image_size": 64}, image, data)
        torch.testing.assert_close(found[:, :2], expected[:, [1, 0]], rtol=1e-4, atol=1e-5)
        assert found[0, 2] == -torch.inf
    teacher = build_teacher("t", Teacher(model="torchvision:squeezenet1_1"), data)
    assert teacher.image_size == 224 and teacher.mean == (0.485, 0.456, 0.406)


def test_torchvision_weights_that_cannot_be_had(torch_home: Path) -> None:
    (torch_home / "alexnet-owt-7be5be79.pth").write_bytes(pickle.dumps(Path("a")))
    for name, words in (
        (
            "resnet18",
            r"cannot be had \(no route\): connect .* or put https://.*pth to .*checkpoints/resnet18",
        ),
        ("resnet81", "no classifier 'resnet81': did you mean resnet18"),
        ("resnet18.V9", "no weights 'V9'; choose among IMAGENET1K_V1"),
        ("alexnet", "cannot be loaded .*; remove .*alexnet-owt-7be5be79.pth"),
    ):
        with pytest.raises(ModelError, match=f"teachers.t: .*{words}"):
            build_teacher("t", Teacher(model=f"torchvision:{name}"), NAMES)


def brightness(x: torch.Tensor) -> np.ndarray:
    """A teacher that is no module, of classes `light`, `none` and `dark`, of images with mean 0.5 and deviation 0.5."""
    level = x.mean(dim=(1, 2, 3)).numpy()
    return np.stack([20 * level, -99 + 0 * level, -20 * level], axis=1)


def test_a_function_with_fewer_classes_advises_on_those_it_knows(tmp_path: Path) -> None:
    """What is said, measured and written is of the images of these classes; stored advice is the same."""
    root = photographs(tmp_path / "images", 20)
    said: list[str] = []

    class Heard(Display):
        def say(self, message: str) -> None:
            said.append(message)

    changes = {"data.source": root, "data.train_size": None, "data.val_size": None, "schedule.epochs": 2}
    changes |= {"run.allow_weak": False}
    plain = {"mean": (0.5,) * 3, "std": (0.5,) * 3}
    teachers = {"tone": FrozenTeacher(brightness_as_tensor, classes=[2, None, 0], **plain), "all": tone}
    tokens = {"tone": None, "all": None}
    recipe = tiny(tmp_path / "run", {"student.tokens": tokens, **changes})
    result = train(recipe, teachers=teachers, display=Heard())
    assert "teacher tone: 100.0% on 40 validation images of the 2 of 3 classes that it knows and advises on" in said
    assert result.teachers["tone"].samples == 40 and result.teachers["all"].samples == 60
    assert result.teachers["tone"].asked == 40 and result.teachers["all"].asked is None
    assert result.teachers["all"].model == "tone" and result.final["teacher/tone"] == 1
    assert all(math.isfinite(value) for value in result.final.values())
    cached = tiny(tmp_path / "cached", {"student.tokens": tokens, "advice.source": "cache", **changes}
                  | {"advice.folder": str(tmp_path / "cache")})  # fmt: skip
    cache_advice(cached, teachers=teachers, display=Heard())
    again = train(cached, teachers=teachers, display=Heard())
    for name, value in result.final.items():
        assert again.final[name] == pytest.approx(value, abs=0.02, rel=0.02), name


def brightness_as_tensor(x: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(brightness(x))


def tone(x: torch.Tensor) -> np.ndarray:
    """A teacher of dark, grey and light images, as an array."""
    level = x.mean(dim=(1, 2, 3), keepdim=False).numpy()[:, None]
    return -20 * (level - np.array([[-0.76, 0.0, 0.72]])) ** 2


def test_a_teacher_with_a_checkpoint_that_is_trained_again_says_so(tmp_path: Path) -> None:
    folder = run_of(tmp_path / "old", tuple("0123456789"), **STUDENTS[1])
    said: list[str] = []

    class Heard(Display):
        def say(self, message: str) -> None:
            said.append(message)

    changes = {"schedule.epochs": 1, "schedule.warmup_epochs": 0, "teachers.conv.checkpoint": str(folder)}
    train(tiny(tmp_path / "a", changes, teachers={"conv": dict(CNN)}), display=Heard())
    words = f"training teacher conv (resnet10, 1 epoch) from {folder}; teachers.conv.train=false takes it as it is"
    assert words in said
    said.clear()
    kept = tiny(tmp_path / "b", {**changes, "teachers.conv.train": False}, teachers={"conv": dict(CNN)})
    assert kept.teachers["conv"].train is None
    train(kept, display=Heard())
    assert not any("training teacher" in line for line in said)
