"""What `coadvise init` proposes: the settings of a recipe for given data, device and time, each with its reason.

Nothing is measured here; `fitting` decides how many epochs fit into the time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple


class Setting(NamedTuple):
    """A setting of a recipe by its dotted name, and why it has this value; "" where that needs no words."""

    key: str
    value: Any
    reason: str = ""


@dataclass(frozen=True)
class DataFacts:
    """What a proposal depends on.

    Attributes:
        side: median of the images' shorter sides, in pixels.
        fewest, most: training images of the classes with fewest and most.
        unreadable: images that cannot be read, of both splits.
    """

    source: str
    train: int
    validation: int
    classes: int
    fewest: int
    most: int
    side: int
    unreadable: int = 0


@dataclass(frozen=True)
class GivenTeacher:
    """A teacher that knows the data's classes already.

    Attributes:
        checkpoint: file with its weights.
        accuracy: on the validation images; None where it was not measured.
        probed: whether it is a pretrained network with a linear probe as its last layer.
        image_size: side at which it sees the student's images.
    """

    model: str
    bias: str | None
    checkpoint: str
    accuracy: float | None
    probed: bool
    image_size: int


@dataclass(frozen=True)
class GivenStudent:
    """A transformer with weights to start from.

    Attributes:
        checkpoint: file of them; None for the published ones.
        options: of the model.
        image_size: side of its images.
        mean, std: that it was trained with, per channel.
    """

    model: str
    checkpoint: str | None
    options: Mapping[str, Any]
    image_size: int
    mean: Sequence[float]
    std: Sequence[float]


class _Size(NamedTuple):
    """A side of the student's images and of its patches, in pixels, and what the side is chosen by."""

    image: int
    patch: int
    why: str


_MIRRORED = "0 if a mirrored image is none of yours, as of text or digits"
_CPU_SIZES = ((64, 8), (32, 4), (16, 2), (8, 2))
_GPU_SIZES = ((224, 16), (128, 16), *_CPU_SIZES)
FEW = 5000
"""Training images below which a student is kept small and a network from scratch is a weak teacher."""


def image_size(side: int, device: Literal["cpu", "cuda"]) -> _Size:
    """The student's images: as large as the data's, or as the device affords."""
    sizes = _CPU_SIZES if device == "cpu" else _GPU_SIZES
    image, patch = next((size for size in sizes if size[0] <= side), sizes[-1])
    grid = (image // patch) ** 2
    if image == sizes[0][0]:
        limit = "a CPU has time for no more" if device == "cpu" else "the usual size"
        return _Size(image, patch, f"the images' shorter side is {side} px in the middle; {limit}: {grid} patches")
    return _Size(image, patch, f"the images' shorter side is {side} px in the middle, and enlarging adds nothing")


def teacher_size(size: int, device: Literal["cpu", "cuda"]) -> int:
    """Side at which a pretrained network sees the student's images: it was trained on larger ones."""
    return min(size * 3 // 2, 224) if device == "cpu" else max(size, 224)


def propose(
    facts: DataFacts,
    device: Literal["cpu", "cuda"],
    teacher: GivenTeacher | None,
    name: str,
    student: GivenStudent | None = None,
) -> list[Setting]:
    """Every setting but the epochs, which `fitting` adds, in the order of a recipe.

    Args:
        teacher: one that is there; without, a small convolutional and a small involution network are trained first.
        student: one that has weights; without, a small one starts from random weights.
    """
    size = image_size(facts.side, device) if student is None else _size_of(student, device)
    found = [
        Setting("name", name, f"of the run: its folder is runs/{name}"),
        *(_data(facts, size, device) if student is None else _data_of_loaded(facts, size, student)),
        *(_student(facts, size, device) if student is None else _loaded(student)),
        *(_given(teacher) if teacher else _from_scratch(facts, size, device)),
        *(_optim(facts, device) if student is None else _optim_of_loaded(facts)),
    ]
    if teacher is not None and teacher.probed:
        found.append(Setting("run.baselines", [], "none is measured: the linear probe is the teacher already"))
    return found


def _size_of(student: GivenStudent, device: str) -> _Size:
    if student.image_size >= 224:
        return _Size(student.image_size, 16, "the usual size for a pretrained student")
    less = (
        "fewer patches than it was pretrained for, since a CPU has time for no more" if device == "cpu" else "its own"
    )
    return _Size(student.image_size, 16, f"of the pretrained student: {less}")


def _data_of_loaded(facts: DataFacts, size: _Size, student: GivenStudent) -> list[Setting]:
    """As recipe `finetune` has them."""
    found = [
        Setting("data.source", facts.source),
        Setting("data.image_size", size.image, size.why),
        Setting("data.mean", list(student.mean), "as the student was pretrained"),
        Setting("data.std", list(student.std)),
    ]
    if facts.unreadable:
        what = "1 image" if facts.unreadable == 1 else f"{facts.unreadable:,} images"
        found.append(Setting("data.on_error", "skip", f"{what} cannot be read; skip goes on without"))
    light: dict[str, Any] = {
        "policy": "deit", "scale": [0.5, 1.0], "randaugment": None, "color_jitter": 0.2, "erasing": 0.0,
        "mixup": 0.0, "cutmix": 0.0,
    }  # fmt: skip
    why = "random crops of half to all of the image, and flips: loaded weights need little else"
    found += [Setting(f"data.augment.{key}", value, why if key == "policy" else "") for key, value in light.items()]
    return [*found, Setting("data.augment.hflip", 0.5, _MIRRORED)]


def _loaded(student: GivenStudent) -> list[Setting]:
    where = "its published weights" if student.checkpoint is None else "the weights that you gave"
    found = [Setting("student.model", student.model, f"fine-tuned from {where}: far better than random ones")]
    if student.checkpoint is None:
        found.append(Setting("student.pretrained", True))
    else:
        found.append(Setting("student.checkpoint", student.checkpoint))
    if student.options:
        found.append(Setting("student.options", dict(student.options)))
    return [*found, Setting("loss.tokens", "own", "each teacher advises a token of its own, which is added")]


def _optim_of_loaded(facts: DataFacts) -> list[Setting]:
    """As recipe `finetune` has them."""
    batch = max(2, min(64, facts.train // 12))
    return [
        Setting("optim.batch_size", batch // 8 * 8 or batch, "at least a dozen updates an epoch"),
        Setting("optim.lr", 2e-4, "low, and lower from layer to layer (layer_decay): what was loaded is to be kept"),
        Setting("optim.lr_batch", None, "the rate is meant as it stands"),
        Setting("optim.layer_decay", 0.75),
        Setting("optim.weight_decay", 0.05),
        Setting("optim.clip", 1.0),
        Setting("optim.ema", 0.98, "averaged weights, which are evaluated too"),
    ]


def _data(facts: DataFacts, size: _Size, device: str) -> list[Setting]:
    whole = facts.side <= 32
    found = [
        Setting("data.source", facts.source),
        Setting("data.image_size", size.image, size.why),
        Setting("data.eval_crop", 1.0, "all of the image is looked at, none of its edge is cut off"),
    ]
    if facts.unreadable:
        what = "1 image" if facts.unreadable == 1 else f"{facts.unreadable:,} images"
        found.append(Setting("data.on_error", "skip", f"{what} cannot be read; skip goes on without"))
    if whole:
        policy = {"policy": "light", "erasing": 0.0}
        why = "small images: a shifted crop and a flip; they stay in memory"
    else:
        policy = {"policy": "deit", "scale": [0.25, 1.0], "randaugment": None, "color_jitter": 0.0, "erasing": 0.0}
        why = "random crops of a quarter to all of the image, and flips: what costs the CPU least and helps most"
        if device != "cpu":
            policy = {"policy": "deit", "scale": [0.25, 1.0]}
            why = "random crops of a quarter to all of the image, with RandAugment and erasing"
    policy |= {"mixup": 0.4, "cutmix": 1.0, "mix_probability": 0.5}
    found += [Setting(f"data.augment.{key}", value, why if key == "policy" else "") for key, value in policy.items()]
    found.append(Setting("data.augment.hflip", 0.5, _MIRRORED))
    return found


def _student(facts: DataFacts, size: _Size, device: str) -> list[Setting]:
    few = facts.train < 100_000
    stem = {"stem": "conv"} if few else {}
    why = "a convolutional stem finds edges from few images, and the token conv starts from it" if few else ""
    if device != "cpu":
        model = "cit_tiny" if few else "cit_small"
        count = f"{facts.train:,} training images are {'few' if few else 'enough for its width'}"
        options = {"patch_size": size.patch, **stem}
        return [Setting("student.model", model, count), Setting("student.options", options, why)]
    options = {"patch_size": size.patch, "embed_dim": 96, "depth": 6, "num_heads": 3, **stem}
    small = "half as wide and deep as CiT-Ti: a CPU shows it several times as many views in the same time"
    return [
        Setting("student.model", "cit_tiny", small),
        Setting("student.options", options, why),
    ]


def _given(teacher: GivenTeacher) -> list[Setting]:
    right = "" if teacher.accuracy is None else f", {teacher.accuracy:.1%} right on the validation images"
    what = f"pretrained, with a linear probe as its last layer{right}" if teacher.probed else f"trained already{right}"
    found = [Setting("teachers.conv.model", teacher.model, what)]
    if teacher.bias:
        found.append(Setting("teachers.conv.bias", teacher.bias))
    found.append(Setting("teachers.conv.checkpoint", teacher.checkpoint))
    larger = "the side at which it sees the student's images: it was made for larger ones" if teacher.probed else ""
    found.append(Setting("teachers.conv.image_size", teacher.image_size, larger))
    return found


def _from_scratch(facts: DataFacts, size: _Size, device: str) -> list[Setting]:
    small = size.image <= 64
    why = "no pretrained weights: two small networks of different kinds are trained first, on these images"
    if facts.train < FEW:
        why += "; from so few they stay weak, so give a pretrained one with --checkpoint if you can"
    wide = device != "cpu"
    conv: dict[str, Any] = {"model": "resnet18" if wide else "resnet10", "small_stem": small}
    inv: dict[str, Any] = {"model": "rednet26", "small_stem": small}
    if not wide:
        conv["options"] = {"channels": [16, 32, 64, 128]}
        inv["options"] = {"layers": [1, 1, 1], "width": 32}
    found = []
    for name, settings in (("conv", conv), ("inv", inv)):
        found += [
            Setting(f"teachers.{name}.{key}", value, why if (name, key) == ("conv", "model") else "")
            for key, value in settings.items()
        ]
    on = "the student is trained even if a teacher stays near chance: the last lines of the run say how good each is"
    found.append(Setting("run.allow_weak", True, on))
    return found


def _optim(facts: DataFacts, device: str) -> list[Setting]:
    largest = 64 if device == "cpu" else 256
    batch = max(2, min(largest, facts.train // 12))
    batch = batch // 8 * 8 or batch
    why = f"at least a dozen updates an epoch; {'more at once' if device == 'cpu' else 'larger ones'} are no faster"
    return [
        Setting("optim.batch_size", batch, why if batch < largest else f"as many as the {device.upper()} uses well"),
        Setting("optim.lr", 1e-3, "the usual rate for AdamW on a small transformer from random weights"),
        Setting("optim.lr_batch", None, "the rate is meant as it stands"),
        Setting("optim.weight_decay", 0.05),
        Setting("optim.clip", 5.0),
    ]
