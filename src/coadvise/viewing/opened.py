"""A run to look at: its model, the teachers that are at hand, and its validation images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from ..checkpoints.model_file import BEST
from ..checkpoints.teachers import build_teacher
from ..checkpoints.trained import TrainedModel, load_trained
from ..data.sources.base import ImageSource
from ..data.sources.opening import open_sources
from ..errors import CheckpointError, CoadviseError, ModelError, one_line
from ..evaluation.inference import classifier
from ..evaluation.prediction import Classifier
from ..evaluation.teacher_check import advice_that_fits, finite
from ..models.students import answering_output, classifier_of
from ..models.teachers import FrozenTeacher, Teachers, class_count_message
from ..names import ALL_HEADS, CLASS, told_apart


@dataclass(frozen=True)
class OpenedRun:
    """A run in the memory of this process.

    Attributes:
        name: how it is called on the page, no two alike.
        trained: its student.
        classifier: the same as `coadvise predict` uses it.
        teachers: those that can be asked, for images as the student sees them.
        missing: teacher → why it cannot be asked.
        images: the validation set; None where it is not at hand, and `why` says why.
    """

    name: str
    trained: TrainedModel
    classifier: Classifier
    teachers: Teachers
    missing: Mapping[str, str]
    images: ImageSource | None
    why: str = ""

    @property
    def tokens(self) -> tuple[str, ...]:
        """Outputs of the student, `class` first."""
        return tuple(self.trained.model.token_names)  # type: ignore[arg-type]

    @property
    def averages(self) -> bool:
        """Whether the student answers with the mean of its outputs."""
        return answering_output(self.trained.model, self.tokens) == ALL_HEADS

    @property
    def several(self) -> bool:
        """Whether an image may have any number of classes."""
        return self.trained.data.labels == "several"

    def bias(self, output: str) -> str | None:
        """Kind of a teacher, and of the token that it advises."""
        return self.trained.recipe.tokens().get(output) or self.trained.recipe.biases().get(output)

    def described(self) -> str:
        """What the student is: its architecture, as the recipe names it."""
        return self.trained.recipe.student.model or type(classifier_of(self.trained.model)).__name__


def open_run(path: Path, name: str, device: torch.device) -> OpenedRun:
    """Load a run's model and all that belongs to it; what is not at hand is left out, with the reason.

    Args:
        path: a run's folder, or its best.safetensors.

    Raises:
        CheckpointError: the student itself cannot be loaded.
    """
    trained = load_trained(path, device, several=True).with_workers(0)
    found: dict[str, FrozenTeacher] = {}
    missing: dict[str, str] = {}
    for teacher, got in _teachers(trained):
        if isinstance(got, str):
            missing[teacher] = got
        else:
            found[teacher] = got
    data = trained.data
    teachers = Teachers(found, input_mean=data.mean, input_std=data.std, may_be_none=True).to(device)
    images, why = _validation(trained)
    return OpenedRun(name, trained, classifier(trained), teachers, missing, images, why)


def names_of(paths: list[Path]) -> list[str]:
    """A short name for each run: its folder's, or as much of its path as tells them apart."""
    folders = [(path.parent if path.is_file() else path).absolute() for path in paths]
    longest = max(len(folder.parts) for folder in folders)
    return told_apart(["/".join(folder.parts[-parts:]) for folder in folders] for parts in range(1, max(2, longest)))


def _teachers(trained: TrainedModel) -> Iterator[tuple[str, FrozenTeacher | str]]:
    """Each teacher of a run, or why it cannot be asked."""
    recipe = trained.recipe
    for name in recipe.teachers:
        try:
            yield name, _teacher(trained, name)
        # Files of others fail in many ways, and a page without one teacher is worth more than none.
        except CoadviseError as error:
            yield name, one_line(error)
        except OSError as error:
            yield name, f"its weights cannot be read: {one_line(error)}"
    tokens = tuple(trained.model.token_names)  # type: ignore[arg-type]
    for name in tokens:
        if name != CLASS and name not in recipe.teachers and recipe.advice.change == "none":
            yield name, "it was given from Python, and the run keeps no weights of it"


def _teacher(trained: TrainedModel, name: str) -> FrozenTeacher:
    recipe, own = trained.recipe, trained.path.parent / "teachers" / name / BEST
    settings = recipe.teachers[name]
    if own.is_file():
        settings = settings.model_copy(update={"checkpoint": str(own), "pretrained": False, "train": None})
    elif settings.train is not None:
        raise CheckpointError(f"its weights {own} are not there; copy the run with its folder `teachers`")
    teacher = build_teacher(name, settings, trained.classes)
    data, classes = trained.data, len(trained.classes)
    alone = Teachers({name: teacher}, input_mean=data.mean, input_std=data.std).to(trained.device)
    blank = torch.zeros(1, 3, data.image_size, data.image_size, device=trained.device)
    found = finite(name, advice_that_fits(alone, blank)[name]).shape[1]  # now, and not at each image
    if found != classes:
        raise ModelError(class_count_message(name, found, classes))
    return teacher


def _validation(trained: TrainedModel) -> tuple[ImageSource | None, str]:
    try:
        images = open_sources(trained.data, several=True)[1]
    except (CoadviseError, OSError) as error:
        return None, one_line(error)
    if tuple(images.class_names) != trained.classes:
        return None, f"{trained.data.source} has other classes now than the run was trained on"
    return images, ""
