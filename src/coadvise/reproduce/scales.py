"""Scales: the data, the sizes of models and the lengths of training with which the paper's experiments are run.

At every scale the teachers are ResNets, RegNetYs and RedNets of the paper's kinds of blocks and the students ViTs and
Mixers: only depth, width, patch and stem shrink. `imagenet` is the paper's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import Field

from ..errors import RecipeError, did_you_mean
from ..recipe.schema import TeacherTraining

FAMILIES = ("resnet", "regnety", "rednet")
"""Models that may be trained in a way of their own family, by the beginnings of their names."""


class ScaleTeachers(TeacherTraining):
    """How models that may teach are trained, where it differs from the students; a family's own settings come before
    those of all."""

    image_size: Annotated[int, Field(ge=4)] | None = None
    resnet: TeacherTraining | None = None
    regnety: TeacherTraining | None = None
    rednet: TeacherTraining | None = None

    def of(self, model: str) -> TeacherTraining:
        """How a model is trained."""
        family = next((one for one in FAMILIES if model.startswith(one)), None)
        own: TeacherTraining | None = getattr(self, family) if family else None
        found = {key: getattr(self, key) for key in TeacherTraining.model_fields}
        if own is not None:
            found |= {key: value for key in found if (value := getattr(own, key)) is not None}
        return TeacherTraining(**found)

    def ways(self) -> dict[str, TeacherTraining]:
        """How the families are trained, by name; under `teachers` alone where all are trained alike."""
        apart = [family for family in FAMILIES if getattr(self, family) is not None]
        return {family: self.of(family) for family in apart} or {"teachers": self.of("")}


@dataclass(frozen=True)
class Scale:
    """One size at which every experiment can be run.

    Attributes:
        words: what the scale is made on; `{images}` and `{size}` stand for the numbers.
        images, size: its training images, where they are not all of the data's, and the side of an image in pixels.
        recipe: built-in recipe whose data, optimiser and schedule the students take.
        source: of the images; None must be given with `--data`.
        models: what takes the place of a model of the paper: the keys of `recipe.schema.Student`. A model that is not
            named is used as it is, with `full` added.
        full: keys for models that are used as they are.
        teachers: how models that may teach are trained, all and each family: the keys of `ScaleTeachers`.
        weight: λ of every advised token.
        views: training views whose advice is stored and recurs; None asks the teachers anew in every step.
        data_seed: of the order and the views of all students; None gives each seed its own.
        check_size: validation images for measurements that take many passes.
    """

    name: str
    words: str
    recipe: str
    source: str | None
    size: int
    images: int | None = None
    models: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    full: Mapping[str, Any] = field(default_factory=dict)
    teachers: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    weight: float = 1.0
    views: int | None = None
    data_seed: int | None = None
    check_size: int = 1000

    @property
    def title(self) -> str:
        """What the scale is made on, in its own sizes."""
        return self.title_with(self.images, self.size)

    def title_with(self, images: int | None, size: int) -> str:
        """What experiments at this scale are made on, where settings change the number or the size of the images."""
        count = "" if images is None else f"{images:,}"
        few = f"{count} images of " if count and "{images}" not in self.words else ""
        return few + self.words.format(images=count, size=size)

    def model(self, name: str) -> dict[str, Any]:
        """Keys of `recipe.schema.Student` for a model of the paper."""
        return dict(self.models[name]) if name in self.models else {"model": name, **self.full}


def _named(options: Mapping[str, Mapping[str, Any]], **keys: Any) -> dict[str, dict[str, Any]]:
    """Models by the paper's names, each with its options and further keys of `recipe.schema.Student`."""
    return {name: {"model": name, "options": dict(one), **keys} for name, one in options.items()}


def _resnets(base: int) -> dict[str, dict[str, Any]]:
    """Narrow ResNets of full depth; bottlenecks widen by four, so they start at half the width."""
    basic = [base * 2**i for i in range(4)]
    narrow = [width // 2 for width in basic]
    channels = {10: basic, 18: basic, 34: basic, 50: narrow, 101: narrow, 152: narrow}
    return _named({f"resnet{depth}": {"channels": widths} for depth, widths in channels.items()}, small_stem=True)


def _rednets(width: int, **options: Any) -> dict[str, dict[str, Any]]:
    depths = {"26": [1, 1, 1], "38": [1, 2, 1], "50": [2, 2, 2], "101": [2, 3, 2], "152": [3, 4, 3]}
    layers = {f"rednet{name}": {"layers": depth, "width": width, **options} for name, depth in depths.items()}
    return _named(layers, **({} if options else {"small_stem": True}))


def _regnets(factor: int) -> dict[str, dict[str, Any]]:
    """Four stages that double in width, as the smallest RegNetYs do; depth and width grow with the name's FLOPs."""
    shapes = {
        "regnety_002": (6, 8, 8.0, 8),
        "regnety_004": (8, 8, 8.0, 8),
        "regnety_006": (8, 16, 14.0, 8),
        "regnety_040": (12, 16, 10.0, 16),
        "regnety_080": (10, 32, 24.0, 16),
        "regnety_160": (12, 40, 22.0, 24),
    }
    keys = ("depth", "w0", "wa", "wm", "group_size", "stem_width")
    options = {
        name: dict(zip(keys, (depth, factor * width, factor * slope, 2.0, group, factor * 8), strict=True))
        for name, (depth, width, slope, group) in shapes.items()
    }
    return _named(options, small_stem=True)


def _students(patch: int, width: int, depth: int, heads: int = 3) -> dict[str, dict[str, Any]]:
    """The tiny transformer and Mixer of that width, the small transformer twice as wide, as in the paper."""
    tiny = {"patch_size": patch, "embed_dim": width, "depth": depth, "num_heads": heads}
    small = {**tiny, "embed_dim": 2 * width, "num_heads": 2 * heads}
    mixer = {"patch_size": patch, "embed_dim": width, "num_blocks": depth}
    return _named({"transformer_tiny": tiny, "transformer_small": small, "mixer_tiny": mixer})


def _patches(size: int) -> dict[str, dict[str, Any]]:
    """The students of the paper's sizes on smaller patches."""
    return _named({name: {"patch_size": size} for name in ("transformer_tiny", "transformer_small", "mixer_tiny")})


def _swin(patch: int, width: int | None = None, stages: int = 4) -> dict[str, dict[str, Any]]:
    """Swin with windows of 4 × 4 patches; full size, or of that width in the first of stages of two blocks."""
    options: dict[str, Any] = {"patch_size": patch, "window_size": 4}
    if width is not None:
        heads = [width // 16 * 2**i for i in range(stages)]
        options |= {"embed_dim": width, "depths": [2] * stages, "num_heads": heads}
    return _named({"swin_tiny_patch4_window7_224": options})


def _mixer(patch: int, width: int = 512, depth: int = 8) -> dict[str, dict[str, Any]]:
    """A Mixer that teaches: by default of the size of Mixer-S, of which timm's own takes no other patches."""
    options = {"patch_size": patch, "embed_dim": width, "num_blocks": depth}
    return {"mixer_s16_224": {"model": "mixer_tiny", "options": options}}


_DIGITS_TEACHERS = {
    "policy": "light", "hflip": 0.0, "erasing": 0.0, "mixup": 0.2, "cutmix": 0.0, "label_smoothing": 0.0,
}  # fmt: skip

_CROP_AND_FLIP = {
    "policy": "light", "erasing": 0.0, "mixup": 0.0, "cutmix": 0.0, "label_smoothing": 0.0,
}  # fmt: skip

_INCEPTION_CROP = {
    "policy": "deit", "randaugment": None, "color_jitter": 0.0, "erasing": 0.0, "mixup": 0.0, "cutmix": 0.0,
    "label_smoothing": 0.0, "repeats": 1,
}  # fmt: skip
_SGD = {"optimizer": "sgd", "momentum": 0.9, "clip": False, "ema": False, "augment": _INCEPTION_CROP}

_AUTHORS: dict[str, dict[str, Any]] = {
    "resnet": _SGD
    | {"epochs": 90, "batch_size": 256, "lr": 0.1, "lr_batch": 256, "weight_decay": 1e-4, "warmup_epochs": 0.0}
    | {"schedule": "step", "decay_epochs": 30, "decay_rate": 0.1},
    "regnety": _SGD
    | {"epochs": 100, "batch_size": 1024, "lr": 0.1, "lr_batch": 128, "weight_decay": 5e-5, "warmup_epochs": 5.0}
    | {"schedule": "cosine", "warmup_lr": 0.08, "min_lr": 0.0},
    "rednet": _SGD
    | {"epochs": 130, "batch_size": 2048, "lr": 0.8, "lr_batch": 2048, "weight_decay": 1e-4, "warmup_epochs": 5.0}
    | {"schedule": "cosine", "warmup_lr": 0.2, "min_lr": 0.0, "augment": _INCEPTION_CROP | {"label_smoothing": 0.1}},
}
"""How the authors of the teachers train them on ImageNet.

- ResNet: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016 (0.1 for 256 images, momentum 0.9, weight
  decay 1e-4, divided by 10), in the form that is usual since: random crops of 8 to 100 % of the area, 90 epochs, a
  tenth after each 30 (Goyal et al., "Accurate, Large Minibatch SGD", 2017, who use Nesterov's momentum, too).
- RegNetY: Radosavovic et al., "Designing Network Design Spaces", CVPR 2020: 0.8 for 1024 images, 100 epochs, a cosine,
  5 of warm-up from a tenth, weight decay 5e-5. The authors take 512 images and half the rate for the larger ones, and
  change the colours a little (PCA noise); here all have 1024 and their own colours. DeiT's RegNetY-16GF is trained so
  as well; its authors used DeiT's augmentation, and do not give the rest.
- RedNet: Li et al., "Involution", CVPR 2021, after the configuration in d-li14/involution (imagenet_bs2048_coslr_130e):
  0.8 for 2048 images, Nesterov's momentum, 130 epochs, a cosine to 0, 3130 updates (5 epochs) of warm-up from a
  quarter, label smoothing 0.1.

Here norms and biases do not decay (theirs do), and images are resized as the student's are (bicubic).
"""

SCALES: dict[str, Scale] = {
    scale.name: scale
    for scale in (
        Scale(
            name="digits",
            words="{images} handwritten digits of {size} × {size} pixels",
            recipe="digits",
            source="digits",
            size=8,
            images=200,
            models=_students(2, 48, 3)
            | _resnets(8)
            | _rednets(16, stem="small")
            | _regnets(1)
            | _swin(2, 32, stages=2)
            | _mixer(4, 48, depth=4),
            teachers={"epochs": 150, "lr": 2.0e-3, "image_size": 16, "augment": _DIGITS_TEACHERS},
            weight=10.0,
            views=25,
        ),
        Scale(
            name="cifar-cpu",
            words="{images} images of CIFAR-10, small models",
            recipe="cifar10-cpu",
            source="torchvision:CIFAR10",
            size=32,
            images=10_000,
            models=_students(8, 96, 6) | _resnets(16) | _rednets(32) | _regnets(2) | _swin(2, 32, 3) | _mixer(4, 96),
            teachers={"epochs": 20, "lr": 2.0e-3},
            settings={"schedule": {"epochs": 25, "warmup_epochs": 3}, "run": {"eval_every": 25}},
            views=10,
        ),
        Scale(
            name="cifar-long",
            words="{images} images of CIFAR-10, small models, DeiT's augmentation",
            recipe="cifar10-cpu",
            source="torchvision:CIFAR10",
            size=32,
            images=10_000,
            models=_students(8, 64, 6, heads=2) | _resnets(8) | _rednets(16, stem="small") | _regnets(1),
            teachers={
                "optimizer": "sgd",
                "epochs": 40,
                "lr": 0.1,
                "lr_batch": 128,
                "weight_decay": 5e-4,
                "warmup_epochs": 1.0,
                "augment": _CROP_AND_FLIP,
            },
            settings={
                "data": {"augment": {"policy": "deit"}},
                "optim": {"clip": 15.0},
                "schedule": {"epochs": 100, "warmup_epochs": 7},
                "run": {"eval_every": 100},
            },
            views=50,
            data_seed=0,
        ),
        Scale(
            name="cifar",
            words="CIFAR-10",
            recipe="cifar10",
            source="torchvision:CIFAR10",
            size=32,
            models=_patches(4) | _swin(2) | _mixer(4),
            full={"small_stem": True},
            teachers={"epochs": 60, "lr": 5.0e-4},
            settings={"run": {"eval_every": 10}},
            views=50,
        ),
        Scale(
            name="tiny",
            words="100 classes of Tiny ImageNet at {size} × {size} pixels",
            recipe="tiny",
            source=None,
            size=64,
            models=_patches(8) | _swin(2) | _mixer(8),
            full={"small_stem": True},
            teachers={"epochs": 60, "lr": 1.0e-3},
            views=25,
        ),
        Scale(
            name="imagenet",
            words="ImageNet at {size} × {size} pixels, the paper's settings",
            recipe="transformer-ti",
            source=None,
            size=224,
            teachers=_AUTHORS,
            check_size=50_000,
        ),
    )
}


def find_scale(name: str) -> Scale:
    """A scale by its name.

    Raises:
        RecipeError: there is none of that name.
    """
    if name not in SCALES:
        raise RecipeError(f"there is no scale '{name}'{did_you_mean(name, SCALES)}")
    return SCALES[name]
