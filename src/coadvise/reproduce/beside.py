"""The settings of a scale beside the paper's: read from the recipes that are run, not written by hand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from ..paper.arms import Arm, Teacher
from ..paper.declared import Experiment
from ..recipe.data import Augmentation
from ..recipe.reading import validated
from ..recipe.schema import Optim, Recipe, Schedule
from .planner import Planner
from .scales import FAMILIES, ScaleTeachers, find_scale
from .setup import ExperimentSetup, content_of

STUDENTS = {
    "transformer_tiny": ("Transformer-Ti", {"embed_dim": 192, "depth": 12, "num_heads": 3, "patch_size": 16}),
    "transformer_small": ("Transformer-S", {"embed_dim": 384, "depth": 12, "num_heads": 6, "patch_size": 16}),
}
"""The paper's transformers."""
NONE = "none"


def beside_paper(setup: ExperimentSetup, experiments: Sequence[Experiment]) -> list[tuple[str, str, str]]:
    """Setting, the paper's value, and that of this scale with its changed settings; for students, then for teachers.

    Those that the experiments have; of each family of teachers, whose models are trained alike, the first.

    The paper's are those of the scale `imagenet`: what the paper says, and where it is silent its authors' code.
    """
    paper = find_scale("imagenet")
    content = content_of(paper, "imagenet", None)
    teachers = validated(ScaleTeachers, content.pop("teachers"), "scale imagenet")
    original = replace(
        setup, scale=paper, content={**content, "teachers": {}}, teachers=teachers, weights={}, changed=(), source=None
    )
    both = [Planner(one) for one in (original, replace(setup, weights={}))]
    arms = [one for experiment in experiments for one in experiment.arms()]
    models = [model for model in STUDENTS if any(one.model == model for one in arms)] or list(STUDENTS)[:1]
    teachers_of = [teacher.model for one in arms for teacher in one.teachers]
    families = [next((one for one in teachers_of if one.startswith(family)), None) for family in FAMILIES]
    advisers = [one for one in families if one is not None]
    rows: list[Any] = []
    for i, model in enumerate(models):
        arm = Arm(model, tuple(map(Teacher, advisers[:1])))
        students = [_student(one.run(arm, 0).recipe, model, alone=bool(i)) for one in both]
        rows += zip(*students, strict=True)
    for name in advisers:
        recipes = [one.run(Arm(name), 0).recipe for one in both]
        rows += zip(*(_teacher(name, one) for one in recipes), strict=True)
    return [(before[0], before[1], here[1]) for before, here in rows]


def _student(recipe: Recipe, model: str, *, alone: bool) -> Iterator[tuple[str, str]]:
    """Its size, and unless that `alone` is wanted, how it is trained."""
    title, own = STUDENTS[model]
    data, options = recipe.data, {**own, **recipe.student.options}
    yield (
        title,
        f"width {options['embed_dim']}, depth {options['depth']}, {options['num_heads']} heads, "
        f"patches of {options['patch_size']} px",
    )
    if alone:
        return
    yield "image size", f"{data.image_size} px"
    yield "views of an image", "new in every epoch" if data.views is None else f"{data.views} in turn"
    yield from _trained(recipe.optim, recipe.schedule, data.augment)
    yield "drop path", _number(options.get("drop_path_rate") or 0)
    for name in recipe.teachers:
        yield "λ of an advised token", _number(recipe.loss.weights.get(name, 1.0))
        yield "τ", _number(recipe.loss.temperatures.get(name, 1.0))


def _teacher(name: str, recipe: Recipe) -> Iterator[tuple[str, str]]:
    yield f"{name}: image size", f"{recipe.data.image_size} px"
    for what, value in _trained(recipe.optim, recipe.schedule, recipe.data.augment):
        yield f"{name}: {what}", value


def _trained(optim: Optim, schedule: Schedule, augment: Augmentation) -> Iterator[tuple[str, str]]:
    yield "epochs", f"{schedule.epochs}"
    yield "augmentation", _augmentation(augment)
    mixed = augment.mix_probability if augment.mixup or augment.cutmix else 0.0
    yield "mixed images", f"{100 * mixed:.0f} %" if mixed else NONE
    yield "label smoothing", _number(augment.label_smoothing)
    rate = optim.lr * (optim.batch_size / optim.lr_batch if optim.lr_batch else 1.0)
    yield "optimizer", f"{optim.name}, {rate:.3g} at batch {optim.batch_size}"
    yield "weight decay", _number(optim.weight_decay)
    shape = "cosine" if schedule.name == "cosine" else f"× {schedule.decay_rate:g} {_epochs(schedule)}"
    warmup = f"{schedule.warmup_epochs:.3g} epochs of warm-up" if schedule.warmup_epochs else "no warm-up"
    yield "schedule", f"{shape}, {warmup}"
    yield "largest gradient norm", NONE if optim.clip is None else f"{optim.clip:g}"
    yield "averaged weights", NONE if optim.ema is None else f"decay {optim.ema:g}"


def _epochs(schedule: Schedule) -> str:
    decay = schedule.decay_epochs
    return f"at {', '.join(f'{one:g}' for one in decay)}" if isinstance(decay, list) else f"every {decay:g} epochs"


def _augmentation(augment: Augmentation) -> str:
    if augment.policy == "none":
        return NONE
    words = ["padded crop"] if augment.policy == "light" else ["random resized crop"]
    words += ["flip"] if augment.hflip else []
    words += ["RandAugment"] if augment.policy == "deit" and augment.randaugment else []
    words += ["colour jitter"] if augment.policy == "deit" and not augment.randaugment and augment.color_jitter else []
    words += [f"erasing {augment.erasing:g}"] if augment.erasing else []
    words += [f"repeated × {augment.repeats}"] if augment.repeats > 1 else []
    return ", ".join(words)


def _number(value: float) -> str:
    return f"{value:g}" if value else "0"
