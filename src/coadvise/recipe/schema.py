"""Recipes: one YAML file describes a run completely.

A recipe is validated once, in whole, and then frozen. All problems are reported together, each with its
place and, for an unknown key, the nearest known one. Functions elsewhere take the narrow part they need
(`recipe.data`, `recipe.optim`, …), never the whole recipe.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from ..errors import did_you_mean
from ..names import APART, CLASS
from ..system.digests import json_digest
from .address import KINDS, REFUSED, address, guess_bias
from .advice import Advice
from .data import Augmentation as Augmentation
from .data import Data
from .fields import (
    AutoSwitch,
    Count,
    Deviations,
    Means,
    Options,
    Part,
    Seed,
)
from .loss import Loss, loss_problems, mixes
from .optim import Optim, TeacherTraining, optim_problems, training_problems
from .schedule import Schedule, schedule_problems

# Settings that may change when a run is resumed: where and how often is written, what else is measured, and on what it
# runs. They do not decide what is computed.
FREE = (
    "run.output", "run.log_every", "run.checkpoint_every", "run.tensorboard", "run.device", "run.allow_weak",
    "run.teacher_check_size", "run.eval_batch_size", "run.trackers", "run.baselines", "data.workers", "data.on_error",
    "data.views_folder", "advice.folder",
)  # fmt: skip
# Settings that runs of earlier versions do not name: at these values a run is the one that it was without them.
LATER: dict[str, Any] = {
    "advice.change": "none",
    "data.balance": "none",
    "data.labels": "one",
    "data.unlabelled": None,
    "data.views_folder": None,
    "loss.apart": 0.0,
    "loss.decoupled": {"alpha": 1.0, "beta": 1.0},
    "loss.dist": {"inter": 1.0, "intra": 1.0},
    "loss.gate": "none",
    "loss.gate_drop": None,
    "optim.backbone_lr": 1.0,
    "optim.layer_decay": None,
    "optim.momentum": 0.9,
    "optim.name": "adamw",
    "optim.token_lr": 1.0,
    "run.baselines": ["auto"],
    "run.trackers": [],
    "schedule.decay_epochs": None,
    "schedule.decay_rate": 0.1,
    "schedule.head_epochs": 0,
    "schedule.name": "cosine",
    "schedule.patience": None,
    "schedule.time": None,
    "student.checkpoint_weights": None,
    "student.freeze_blocks": 0,
    "student.read_at": {},
    "student.separate": "none",
}
LATER_OF_TEACHERS: dict[str, Any] = {"checkpoint_weights": None}


CheckpointWeights = Literal["ema", "plain"] | None
"""Which weights of a training checkpoint that has averaged ones too; by default `ema` of timm's, `plain` of ours."""


class Student(Part):
    """The model that is trained."""

    model: str = "cit_small"
    """Any model registered with timm, CiT or not."""
    options: Options = {}
    """Keyword arguments of the model: patch_size, embed_dim, depth, num_heads, stem, align, …"""
    tokens: dict[str, str | None] | None = None
    """Advised tokens, name → bias. By default one for each teacher, with the teacher's bias. A ViT of timm gets them
    where they are named here, or with `loss.tokens: own`."""
    separate: Literal["none", "direct", "full"] = "none"
    """Advised tokens that keep apart in attention: with `direct` none reads another; with `full` nothing of one reaches
    another through patches and class token either. The class token of a CiT reads them all; nothing of a ViT reads
    tokens that were added."""
    read_at: dict[str, Count] = {}
    """The block after which the head of an advised token reads it, by name, counted from 1; else the last."""
    small_stem: bool = False
    """Small-image stem (3×3, stride 1, no pooling) for convolutional students."""
    pretrained: AutoSwitch = False
    """timm's published weights. `auto`: where they can be had; else it starts from random ones, and says so."""
    checkpoint: str | None = None
    """Weights to start from."""
    checkpoint_weights: CheckpointWeights = None
    """Which weights of a checkpoint that has averaged ones, too: `ema` or `plain`; by default `ema` of timm's files,
    `plain` of ours."""
    freeze_blocks: Annotated[int, Field(ge=0, le=10**9)] = 0
    """So many blocks stay as they were loaded, with all that comes before them."""


class Teacher(Part):
    """A frozen classifier that advises one token."""

    model: str
    """Any model registered with timm: `regnety_040`, `rednet101`, …; or one of another place: `run:FOLDER`, the model
    that a run of ours trained; `transformers:NAME_OR_FOLDER`, `torchvision:NAME`, `onnx:FILE`."""
    bias: str | None = None
    """Kind of the teacher: `conv`, `inv` or another; by default read off the model's name."""
    options: Options = {}
    """Keyword arguments of the model."""
    small_stem: bool = False
    """Small-image stem (3×3, stride 1, no pooling), for 32 and 64 pixels."""
    pretrained: AutoSwitch = False
    """timm's published weights; with `train`, they are fine-tuned. `auto`: where they can be had, else it is trained
    from random ones."""
    checkpoint: str | None = None
    """Path to weights, or the folder of a run that trained such a model; with `train`, they are fine-tuned."""
    checkpoint_weights: CheckpointWeights = None
    """Which weights of a checkpoint that has averaged ones, too: `ema` or `plain`; by default `ema` of timm's files,
    `plain` of ours."""
    train: Annotated[TeacherTraining | None, BeforeValidator(lambda value: None if value is False else value)] = None
    """Train this teacher first, on the recipe's data, labels only; `false` or `null` takes it as it is."""
    classes: list[Annotated[int, Field(ge=0, le=10**9)] | None] | None = None
    """Index map for a teacher with other classes: entry c is the teacher's index of the student's class c, `null` where
    it does not know that one. Where both sides have names, these say it."""
    mean: Means | None = None
    """Normalisation the teacher was trained with. By default what its checkpoint of ours records, else what timm states
    for the model (ImageNet's for most), else the data's."""
    std: Deviations | None = None
    """Per-channel standard deviation, likewise."""
    image_size: Annotated[int, Field(ge=4, le=4096)] | None = None
    """Resolution the teacher wants; the student's images are resized when it differs. By default what its checkpoint
    was trained with, the published one for models of a fixed size, else the data's."""


def _listed(value: Any) -> Any:
    """One word, or each word of a list once."""
    return [value] if isinstance(value, str) else list(dict.fromkeys(value)) if isinstance(value, list) else value


class Run(Part):
    """What does not change the method: seed, precision, output, how often things are written."""

    seed: Seed = 0
    """Seed of initial weights, dropout and drop path."""
    output: str | None = None
    """Folder of the run; `runs/NAME` when not given."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """`auto`: bf16 on a GPU that has it or a CPU that trains faster in it, fp16 on an older GPU, fp32 on other CPUs."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where it computes; `auto`: on a GPU where there is one."""
    eval_every: Count = 1
    """Epochs between evaluations; the last epoch is always evaluated."""
    eval_batch_size: Count | None = None
    """Images that are evaluated at once by each process; by default as many as it trains on at once."""
    log_every: Count | None = None
    """Steps between log lines; losses are read from the device only then. By default 50, and less in a run of under
    2,500 steps, so that its curves have 50 points, or one for each step."""
    checkpoint_every: Count | None = None
    """Steps between checkpoints inside an epoch; beside them one is written after each evaluation, on Ctrl-C, and at
    the end of an epoch where the last one is older than a minute."""
    allow_weak: bool = False
    """Go on with a teacher that is near chance level or whose classes are in another order."""
    teacher_check_size: Count = 2000
    """Validation images on which each teacher's accuracy is measured before the student trains."""
    fuse_teachers: bool = True
    """Fold the teachers' BatchNorm into their convolutions, where the logits stay the same."""
    compile: Literal["auto", True, False] = "auto"
    """Compile student and loss as one with `torch.compile`, and the teachers. `auto`: on a GPU, where the steps of the
    run win more time than that takes."""
    grad_checkpointing: bool = False
    """Compute parts of the student again in the backward pass, in place of keeping them: less memory, more time. So do
    teachers that are trained first, where they can."""
    tensorboard: bool = True
    """Write curves for TensorBoard, too, in the run's folder."""
    trackers: Annotated[tuple[Literal["wandb", "mlflow", "trackio"], ...], BeforeValidator(_listed)] = ()
    """Trackers that are told every metric as well, where they are installed."""
    baselines: Annotated[tuple[Literal["auto", "probe", "labels"], ...], BeforeValidator(_listed)] = ("auto",)
    """What one would do instead: `probe` on all models with weights, `auto` not on those from Python; `labels` trains
    the same student without teachers, which costs as much as a second run; [] nothing."""


class Recipe(Part):
    """A whole run."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=200)]
    """Name of the run; also the name of its folder."""
    data: Data
    student: Student = Student()
    teachers: dict[str, Teacher] = {}
    """The teachers, by name. The name `class` is reserved for the class token."""
    advice: Annotated[Advice, BeforeValidator(lambda value: {"source": value} if isinstance(value, str) else value)] = (
        Advice()
    )
    loss: Loss = Loss()
    optim: Optim = Optim()
    schedule: Schedule = Schedule()
    run: Run = Run()

    @model_validator(mode="after")
    def _names_fit(self) -> Recipe:
        """Check what no single field can see; every problem is named."""
        problems = list(_name_problems(self)) + list(_size_problems(self)) + list(_teacher_problems(self))
        problems += _label_problems(self)
        stored = self.advice.top_k if self.advice.source == "cache" else None
        problems += loss_problems(self.loss, self.data, len(self.advice.names(self.teachers)), stored)
        if problems:
            raise ValueError("\n".join(problems))
        return self

    @property
    def adds_tokens(self) -> bool:
        """Whether a student without advised tokens of its own is given some."""
        return self.student.tokens is not None or self.loss.tokens == "own"

    def tokens(self) -> dict[str, str | None]:
        """Advised tokens of the student, name → bias."""
        if self.student.tokens is not None:
            return dict(self.student.tokens)
        if self.loss.tokens == "single":
            return {}
        biases = self.biases()
        if self.advice.change != "mean":
            return biases
        kinds = set(biases.values())
        return dict.fromkeys(self.advice.names(biases), kinds.pop() if len(kinds) == 1 else None)

    def biases(self) -> dict[str, str | None]:
        """Kind of each teacher; None where neither the recipe nor the model's name says it."""
        return {name: teacher.bias or guess_bias(teacher.model) for name, teacher in self.teachers.items()}

    def content(self) -> dict[str, Any]:
        """All settings, without those that were added later and change nothing: as an earlier version wrote them."""
        content = self.model_dump(mode="json")
        for key, value in LATER.items():
            part, name = key.split(".")
            if content[part][name] == value:
                del content[part][name]
        for key, teacher in content["teachers"].items():
            for name, value in LATER_OF_TEACHERS.items():
                if teacher[name] == value:
                    del teacher[name]
            if (train := self.teachers[key].train) is not None:
                teacher["train"] = train.content()
        return content

    def fingerprint(self) -> str:
        """Hash of everything that changes what is computed; where and how often is written does not count."""
        return json_digest({key: value for key, value in flat(self.content()).items() if key not in FREE})


def flat(content: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by their dotted names, as `optim.lr`."""
    found: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, dict) and value:
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = value
    return found


def _name_problems(recipe: Recipe) -> Iterable[str]:
    tokens = recipe.tokens()
    for where, names in (("teachers", recipe.teachers), ("student.tokens", recipe.student.tokens or {})):
        for name in names:
            if name == CLASS:
                yield f"{where}: the name 'class' is reserved for the class token; choose another"
            elif not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_-]{0,49}", name):
                yield f"{where}: '{name}' is no name; use letters, digits, - and _"
    if recipe.loss.apart and APART in {*tokens, *recipe.teachers}:
        yield f"loss.apart: the term of that name stands beside those of tokens and teachers; rename '{APART}'"
    if recipe.student.tokens and recipe.loss.tokens == "single":
        yield (
            "student.tokens declares tokens, but with loss.tokens=single only the class token learns; "
            "leave out student.tokens, or loss.tokens"
        )
    if recipe.student.tokens is not None and recipe.loss.tokens != "single":
        for name in sorted({*recipe.advice.names(recipe.teachers)} - recipe.student.tokens.keys()):
            of = "the teachers' mean, named" if recipe.advice.change == "mean" else "teacher"
            yield f"student.tokens has no token for {of} '{name}'; add it, or set loss.tokens=single"
    for name in recipe.student.read_at.keys() - tokens.keys() if "teachers" not in recipe.student.options else ():
        yield f"student.read_at: there is no advised token '{name}'{did_you_mean(name, tokens)}"
    for where, given in (("loss.weights", recipe.loss.weights), ("loss.temperatures", recipe.loss.temperatures)):
        known = tokens.keys() | {*recipe.advice.names(recipe.teachers)}
        for name in given.keys() - known:
            hint = " (the class token's weight is loss.label_weight)" if name == CLASS else did_you_mean(name, known)
            yield f"{where}: there is no '{name}'{hint}"


def _label_problems(recipe: Recipe) -> Iterable[str]:
    change = recipe.advice.change
    if recipe.data.unlabelled is not None and change in ("shuffled-in-class", "smoothed"):
        yield f"advice.change={change} asks for the label of every image; leave out data.unlabelled"
    if recipe.data.balance == "weights" and mixes(recipe.data.augment) and change in ("shuffled-in-class", "smoothed"):
        yield (
            f"advice.change={change} asks which share of a mixed image is the larger, which weights of classes hide; "
            "take data.balance=sampling, or leave it out"
        )
    if recipe.data.labels == "one":
        return
    if change != "none":
        yield f"advice.change={change} is for images of one class each; leave it out with data.labels=several"
    if recipe.data.balance != "none":
        yield "data.balance is for images of one class each; leave it out with data.labels=several"
    if "labels" in recipe.run.baselines:
        yield "run.baselines: labels is measured on images of one class each; leave it out with data.labels=several"
    if recipe.data.unlabelled is not None:
        yield "data.unlabelled goes with images of one class each; leave it out with data.labels=several"
    if recipe.advice.source == "cache":
        yield "advice: cache keeps what is said of images of one class each; leave it out with data.labels=several"


def _size_problems(recipe: Recipe) -> Iterable[str]:
    options, size = recipe.student.options, recipe.data.image_size
    patch = options.get("patch_size")
    if isinstance(patch, int) and not isinstance(patch, bool):
        if patch < 1:
            yield f"student.options.patch_size is {patch}, must be ≥ 1"
        elif size % patch:
            yield f"data.image_size {size} is not divisible by student.options.patch_size {patch}"
        elif patch % 2 and options.get("stem", "patchify") != "patchify":
            stem = options["stem"]
            yield f"student.options.patch_size is {patch}; a {stem} stem needs an even one (its stride is 2)"
    batch, accumulate = recipe.optim.batch_size, recipe.optim.accumulate
    if batch % accumulate:
        yield f"optim.batch_size {batch} is not divisible by optim.accumulate {accumulate}"
    yield from schedule_problems(recipe.schedule)
    yield from optim_problems(recipe.optim, recipe.schedule)
    if recipe.data.balance == "sampling" and recipe.data.augment.repeats > 1:
        yield (
            "data.balance=sampling shows images of rare classes several times an epoch already; set "
            "data.augment.repeats=1, or take data.balance=weights"
        )
    if recipe.data.unlabelled is not None and recipe.data.augment.repeats > 1:
        yield "data.unlabelled and repeated augmentation exclude each other; set data.augment.repeats=1"
    for field in ("scale", "ratio"):
        low, high = getattr(recipe.data.augment, field)
        if low > high:
            yield f"data.augment.{field}: {low:g} is larger than {high:g}; give the smaller one first"


def _teacher_problems(recipe: Recipe) -> Iterable[str]:
    for name, teacher in recipe.teachers.items():
        if teacher.classes is not None and teacher.train:
            yield f"teachers.{name}: a teacher that is trained first learns the data's own classes; remove classes"
        if teacher.pretrained == "auto" and not (teacher.train or teacher.checkpoint):
            yield f"teachers.{name} would advise with random weights where there are no others; give pretrained: true"
        if teacher.pretrained is True and teacher.checkpoint:
            yield f"teachers.{name}: pretrained and checkpoint exclude each other"
        if teacher.train is not None:
            yield from training_problems(f"teachers.{name}.train", teacher.train, recipe.optim, recipe.schedule)
        kind = teacher.model.partition(":")[0]
        if ":" in teacher.model and kind in REFUSED:
            yield f"teachers.{name}.model is {teacher.model}: {REFUSED[kind]}"
        elif place := address(teacher.model):
            yield from (f"teachers.{name}{problem}" for problem in _problems_elsewhere(teacher, *place))
        elif not (teacher.pretrained or teacher.checkpoint or teacher.train):
            yield (
                f"teachers.{name} would advise with random weights; give pretrained: true, a checkpoint, "
                "or train: {epochs: N}"
            )


def _problems_elsewhere(teacher: Teacher, kind: str, place: str) -> Iterable[str]:
    if not place.strip():
        yield f".model: '{kind}:' is to be followed by {KINDS[kind]}"
    given = {name: getattr(teacher, name) for name in ("options", "small_stem", "checkpoint", "train")}
    if found := [name for name, value in given.items() if value]:
        advice = "; to train it, give its model's name and checkpoint" if kind == "run" and "train" in found else ""
        yield f": {kind}:{place} advises as it is; leave out {' and '.join(found)}{advice}"
