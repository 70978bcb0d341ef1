"""`coadvise headroom` from end to end: what a recipe's teachers know together, before its student is trained."""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from ..advice.cache import kept_weights
from ..advice.identity import images_digest
from ..advice.request import CacheRequest
from ..checkpoints.model_file import read_header, weights_file
from ..data.sources.base import ImageSource
from ..data.sources.opening import open_sources
from ..data.sources.subsets import Subset, balanced_subset
from ..errors import Interrupted, ModelError, RecipeError
from ..evaluation.headroom import Member, headroom
from ..evaluation.resampling import RESAMPLES
from ..evaluation.views_asked import asked_as_trained_on, asked_plainly
from ..models.bias import bias_of
from ..models.teachers import FrozenTeacher
from ..recipe.address import address
from ..recipe.schema import FREE, Recipe, Teacher, flat
from ..run.folder import RunFolder
from ..run.headroom import HeadroomResult
from ..run.provenance import manifest
from ..system.digests import digest, file_digest, json_digest
from ..system.progress import Display
from .fitting import fitted_for_teachers
from .processes import start_processes
from .published import settled
from .teachers import built_teacher, eval_batch_size, on_device
from .train import load_teachers

_LARGEST = 256  # images in a batch
_SEEDS = ("name", "run.seed", "data.seed")


@dataclass(frozen=True)
class Asking:
    """How the teachers are asked.

    Attributes:
        images: validation images at most, classes in balance.
        views: training views of each.
        train: whether teachers that the recipe trains first are trained now.
    """

    images: int = 5000
    views: int = 4
    resamples: int = RESAMPLES
    seed: int = 0
    train: bool = False


def measure_headroom(recipe: Recipe, asking: Asking, display: Display) -> HeadroomResult:
    """Ask a recipe's teachers about validation images, as its student would see them and plainly.

    Raises:
        CoadviseError: fewer than two teachers, two with the same weights, one that is not trained yet or does not know
            all classes, or images of several classes each.
    """
    if len(recipe.teachers) < 2:
        found = "one teacher" if recipe.teachers else "no teacher"
        raise RecipeError(
            f"recipe {recipe.name} has {found}, and pairs of them are compared; add others, as "
            "teachers.NAME.model=run:FOLDER"
        )
    accelerator = start_processes(recipe.run, recipe.optim)
    recipe = settled(recipe, RunFolder.of(recipe), accelerator, display, ["student"])
    sources = open_sources(recipe.data, display.say_once)
    val = sources[1]
    if len(val) > asking.images:
        val = Subset(val, balanced_subset(val.labels, asking.images))
    loaded, files = _loaded(recipe, sources, accelerator, asking.train, display)
    facts = {name: _facts(recipe.teachers[name], one, files.get(name)) for name, one in loaded.items()}
    _require_different(loaded, facts, val.class_names)
    members = _members(facts)
    # Logits in half precision tie now and then, and the first of two equal classes would win.
    accelerator = start_processes(recipe.run.model_copy(update={"precision": "fp32"}), recipe.optim)
    began = time.monotonic()
    ready = on_device(loaded, recipe.data, recipe.run.fuse_teachers, accelerator, display)
    batch = min(eval_batch_size(recipe.run, recipe.optim, 1), _LARGEST)
    total = len(val) * (1 + asking.views)
    with display.bar("asking the teachers", total) as bar:
        plain = asked_plainly(ready, val, recipe.data, batch, bar.advance)
        student = asked_as_trained_on(ready, val, recipe.data, asking.views, batch, bar.advance)
    seconds = time.monotonic() - began
    display.say(f"{asking.resamples:,} resamples of the images")
    how = {"resamples": asking.resamples, "seed": asking.seed}
    shown = {"augment": recipe.data.augment.model_dump(mode="json"), "image_size": recipe.data.image_size}
    return HeadroomResult(
        name=recipe.name, student=headroom(student, members, **how), plain=headroom(plain, members, **how),
        views=asking.views, seconds=round(seconds, 1), facts=facts, **how,
        data={"source": recipe.data.source, "images": len(val), "classes": len(val.class_names),
              "digest": images_digest(val), "data seed": recipe.data.seed, **shown},
        provenance=manifest(fingerprint=recipe.fingerprint(), precision="fp32"),
    )  # fmt: skip


def _loaded(
    recipe: Recipe,
    sources: tuple[ImageSource, ImageSource],
    accelerator: Accelerator,
    train: bool,
    display: Display,
) -> tuple[Mapping[str, FrozenTeacher], dict[str, Path]]:
    """The teachers, and the files of those that the recipe trains first."""
    folder = RunFolder.of(recipe)
    kept = dict(kept_weights(CacheRequest.of(recipe))) if recipe.advice.source == "cache" else {}
    files, missing = {}, []
    for name, settings in recipe.teachers.items():
        if settings.train is None:
            continue
        place = folder.teacher(name)
        files[name] = kept.get(name, place.best)
        if name not in kept and not place.finished:
            missing.append(name)
    if missing and not train:
        raise ModelError(
            f"teacher {missing[0]} is to be trained first, and is not yet in {folder.teacher(missing[0]).path}; add "
            "--train to do so now: a training of the student then finds it there"
        )
    if missing:
        try:
            recipe = fitted_for_teachers(recipe, folder, accelerator, {}, kept, display)
            return load_teachers(recipe, folder, sources, accelerator, {}, display), files
        except Interrupted as stopped:
            raise Interrupted(
                "stopped while a teacher was trained; everything is saved, the same command goes on"
            ) from stopped
    classes = sources[0].class_names
    return {name: built_teacher(recipe, name, files.get(name), classes) for name in recipe.teachers}, files


def _facts(settings: Teacher, teacher: FrozenTeacher, trained: Path | None) -> dict[str, Any]:
    """What says which teacher it is: its model, bias and weights, and what its seeds have in common."""
    place = address(settings.model)
    own = place[1] if place is not None and place[0] == "run" else settings.checkpoint
    file = trained or (None if own is None else weights_file(own))
    header = None if file is None else read_header(file)
    hashed = None if file is None else file_digest(Path(file))
    model, options = settings.model, settings.model_dump(mode="json", include={"options", "small_stem", "image_size"})
    seedless: Any = [settings.model, options, settings.pretrained]
    if file is not None and header is None:  # how it was trained is not known
        seedless.append(hashed)
    if header is not None:
        model = header.recipe.student.model
        seedless = {k: v for k, v in flat(header.recipe.content()).items() if k not in (*FREE, *_SEEDS)}
    return {
        "model": model,
        "bias": settings.bias or bias_of(model),
        "weights": digest(teacher.model.state_dict().values()),
        "file": None if file is None else str(file),
        "file digest": hashed,
        "but for seeds": json_digest(seedless),
    }


def _require_different(
    loaded: Mapping[str, FrozenTeacher], facts: Mapping[str, Mapping[str, Any]], class_names: tuple[str, ...]
) -> None:
    for name, teacher in loaded.items():
        if teacher.known is not None:
            raise ModelError(
                f"teacher '{name}' knows {len(teacher.known)} of the {len(class_names)} classes, and the mean of two "
                "distributions needs all of them; give one that knows them all"
            )
    for one, other in itertools.combinations(facts, 2):
        if facts[one]["weights"] == facts[other]["weights"]:
            raise ModelError(
                f"teachers {one} and {other} have the same weights ({facts[one]['weights']}), so that their mean says "
                "what each says; give two different ones"
            )


def _members(facts: Mapping[str, Mapping[str, Any]]) -> list[Member]:
    """Teachers whose trainings differ by seeds alone are seeds of one model; others of its name are numbered."""
    names: dict[str, str] = {}
    for one in facts.values():
        model, same = one["model"], one["but for seeds"]
        others = sum(title.split(" (")[0] == model for title in names.values())
        names.setdefault(same, model if not others else f"{model} ({others + 1})")
    return [Member(name, one["bias"], names[one["but for seeds"]]) for name, one in facts.items()]
