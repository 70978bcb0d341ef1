"""A recipe's training as `coadvise train` sets it up and runs it, on batches that are on the device already."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gpu_common import Noise

from coadvise.checkpoints.build import build_student
from coadvise.cost.profile import Profile, profiled
from coadvise.cost.step import FORMS, run_loop, training_of
from coadvise.data.views.finish import Batch
from coadvise.models.compiling import Form
from coadvise.models.factory import build_model
from coadvise.models.teachers import Teachers
from coadvise.recipe.reading import load_recipe
from coadvise.recipe.schema import Recipe
from coadvise.system.clock import now, seconds_of
from coadvise.system.progress import Display
from coadvise.training.setup import Setup
from coadvise.training.state import State
from coadvise.training.teachers import teachers_to_time

SMALL_TEACHERS = (
    "teachers.conv.model=resnet10", "teachers.conv.options={channels: [8, 8, 8, 8]}", "teachers.conv.small_stem=true",
    "teachers.inv.model=rednet26", "teachers.inv.options={layers: [1, 1], width: 16, stem: small}",
    "teachers.inv.small_stem=true",
)  # fmt: skip


class Told(Display):
    """Keeps what a run says of itself."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def say(self, message: str) -> None:
        self.lines.append(message)
        print(f"  {message}", flush=True)


class Held:
    """In place of a loader: some batches, again and again."""

    def __init__(self, loader: Any, batches: list[Batch]) -> None:
        self._loader, self._batches = loader, batches

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """As many as an epoch has."""
        return itertools.islice(itertools.cycle(self._batches), (self._loader.steps_per_epoch - start))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)


@dataclasses.dataclass
class Training:
    """A training that can be made to go on by some steps.

    Attributes:
        operations: floating-point operations of a step.
        said: by the run, of itself.
    """

    recipe: Recipe
    setup: Setup
    state: State
    operations: int
    said: list[str]

    def steps(self, count: int, logged: bool = True) -> None:
        """So many steps of the loop of `coadvise train`, its log lines included, or without any."""
        run = self.setup.run.model_copy(update={} if logged else {"log_every": 10**9})
        run_loop(dataclasses.replace(self.setup, run=run), self.state, lambda done: done >= count)

    @property
    def per_epoch(self) -> int:
        """Steps of an epoch."""
        return self.setup.loader.steps_per_epoch

    def epoch(self) -> None:
        """To the end of an epoch: a whole one, with its start, where the last step was the last of one."""
        self.steps(self.per_epoch - self.state.count.step % self.per_epoch)

    def in_forms(
        self, times: int | None, order: tuple[Form, ...] = ("whole", "graphs", "blocks", "plain")
    ) -> dict[str, Any]:
        """Images/s of this training in each form of student and loss, whatever it has chosen; and the seconds until the
        first two steps were done. A form that cannot be had is not among them.

        Args:
            times: steps of a turn; None: whole epochs.
        """
        trained, found = self.setup.trained, dict[str, Any]()
        device, chosen = self.setup.accelerator.device, trained.form
        for form in order:
            trained.use(form)
            begun = now(device)
            self.steps(2)
            first = now(device) - begun
            if trained.form == form:
                if times is None:
                    self.epoch()
                    seconds = seconds_of(self.epoch, device, 3) / self.per_epoch
                else:
                    seconds = seconds_of(lambda: self.steps(times), device, 3) / times
                found[form] = {"images_per_s": self.recipe.optim.batch_size / seconds, "first_s": first}
                said = f"{found[form]['images_per_s']:,.0f} images/s"
                print(f"  {self.recipe.student.model}, {FORMS[form]}: {said}", flush=True)
        trained.use(chosen)
        return found

    def profile(self, steps: int = 2) -> Profile:
        """Of some steps."""
        return profiled(lambda: self.steps(steps), self.setup.accelerator.device, steps)

    @property
    def form(self) -> dict[str, Any]:
        """What the run chose."""
        return {
            "precision": self.setup.accelerator.mixed_precision, "compiled": FORMS[self.setup.trained.form],
            "teachers compiled": self.setup.validation.teachers.compiled(), "said": self.said,
        }  # fmt: skip


@contextmanager
def in_training(recipe: Recipe, images: int, classes: int, held: int = 2) -> Iterator[Training]:
    """Set a recipe's training up, with random images.

    Args:
        images: of the epoch.
        held: batches that are on the device and take turns; 0 leaves the loader as it is.
    """
    source, told = Noise(recipe.data.image_size, images, classes), Told()
    with training_of(recipe, (source, source), told) as (setup, state, operations):
        device, size = setup.accelerator.device, recipe.optim.batch_size
        if held:
            batches = [random_batch(size, recipe.data.image_size, classes, device, seed) for seed in range(held)]
            setup = dataclasses.replace(setup, loader=Held(setup.loader, batches))  # type: ignore[arg-type]
        yield Training(recipe, setup, state, operations * size, told.lines)


def random_batch(size: int, side: int, classes: int, device: torch.device, seed: int) -> Batch:
    """Images as the loader gives them: normalised, float32, channels last in memory; labels smoothed."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(size, side, side, 3, generator=generator).to(device).permute(0, 3, 1, 2)
    label = torch.randint(classes, (size,), generator=generator).to(device)
    target = torch.full((size, classes), 0.1 / classes, device=device)
    target[torch.arange(size, device=device), label] += 0.9
    return Batch(images, target, label, torch.arange(size), (), 0, np.arange(size))


def co_advised(name: str, work: Path, tiny: bool, *settings: str) -> Recipe:
    """A built-in recipe of a student with RegNetY-4GF and RedNet-101, whose weights are random, drop path off."""
    small = SMALL_TEACHERS if tiny else ("teachers.conv.model=regnety_040",)
    shape = (
        ("data.image_size=32", "student.options={drop_path_rate: 0.0, depth: 2, embed_dim: 32, num_heads: 2}")
        if tiny
        else ("student.options={drop_path_rate: 0.0}",)
    )
    size = ("optim.batch_size=4",) if tiny else ("optim.batch_size=256",)
    chosen = [*shape, *size, "data.source=-", "data.workers=0", *small, *settings]
    return load_recipe(name, [*chosen, *weights_of(name, chosen, work, 10 if tiny else 1000)])


def weights_of(name: str, settings: list[str], work: Path, classes: int) -> list[str]:
    """Settings that take the recipe's teachers from files of random weights; the files are made."""
    found = []
    recipe = load_recipe(name, [*settings, *(f"teachers.{t}.checkpoint=x" for t in ("conv", "inv")),
                                *(f"teachers.{t}.pretrained=false" for t in ("conv", "inv"))])  # fmt: skip
    for number, (teacher, one) in enumerate(recipe.teachers.items()):
        torch.manual_seed(number)
        model = build_model(
            one.model, classes, image_size=one.image_size or recipe.data.image_size, small=one.small_stem,
            options=one.options,
        )  # fmt: skip
        path = work / f"{one.model}-{recipe.data.image_size}-{classes}.pth"
        torch.save(model.state_dict(), path)
        found += [f"teachers.{teacher}.checkpoint={path}", f"teachers.{teacher}.pretrained=false",
                  f"teachers.{teacher}.train=null"]  # fmt: skip
    return found


def plain_copy(training: Training, classes: int) -> tuple[torch.nn.Module, Teachers]:
    """The same student and teachers as they were built: nothing fused or compiled."""
    recipe, device = training.recipe, training.setup.accelerator.device
    fresh = recipe.student.model_copy(update={"pretrained": False, "checkpoint": None})
    student = build_student(fresh, recipe.tokens(), classes, recipe.data.image_size, add=recipe.adds_tokens)
    student.load_state_dict(training.state.student.state_dict())
    names = training.setup.validation.source.class_names
    loaded = teachers_to_time(recipe, names)
    teachers = Teachers(loaded, input_mean=recipe.data.mean, input_std=recipe.data.std, may_be_none=True)
    return student.to(device).train(), teachers.to(device)
