"""How far the gradients of cut advice turn: k of 100 classes, over the course of a student's training.

Two small teachers are trained, then a student with live teachers; at its start, middle and end the gradient of the
advice from all logits is compared with that from the k largest, on mixed and on unmixed images apart, the rest spread
by the teachers' profiles, as a cache does, and evenly.

python benchmarks/cache_gradients.py data.source=FOLDER_OF_TINY_IMAGENET
"""

from __future__ import annotations

import argparse
import itertools
import shlex
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

from coadvise.advice.layout import BATCH, Layout
from coadvise.advice.profile import ProfileSums
from coadvise.advice.record import RecordFormat
from coadvise.checkpoints.build import build_student
from coadvise.data.loader import TrainLoader
from coadvise.data.sources.base import ImageSource
from coadvise.data.sources.opening import open_sources
from coadvise.losses import co_advise_loss, soft_advice
from coadvise.models.teachers import Teachers
from coadvise.recipe.reading import load_recipe
from coadvise.recipe.schema import Recipe
from coadvise.run.folder import RunFolder
from coadvise.run.provenance import manifest
from coadvise.system.files import write_json
from coadvise.system.progress import Display
from coadvise.training.optimizer import make_optimizer, make_scheduler, peak_lr
from coadvise.training.processes import start_processes
from coadvise.training.teachers import check_teachers, on_device
from coadvise.training.train import load_teachers

RESULTS = Path(__file__).resolve().parents[1] / "results" / "cache"
TOPS = (5, 10, 20, 50)


def profiles_of(recipe: Recipe, source: ImageSource, teachers: Teachers) -> dict[str, Tensor]:
    """The teachers' profiles, from as many views as a cache takes."""
    loader, classes = TrainLoader(source, recipe.data, BATCH), len(source.class_names)
    images = Layout(len(source), 1, RecordFormat(classes, min(TOPS))).profile_images
    sums = {name: ProfileSums(classes) for name in teachers.names}
    for batch in itertools.islice(loader.epoch(0), images // BATCH):
        for name, z in teachers(batch.images).items():
            sums[name].add(z)
    return {name: one.profile() for name, one in sums.items()}


def cosines(
    recipe: Recipe,
    source: ImageSource,
    student: nn.Module,
    teachers: Teachers,
    mixed: bool,
    profiles: dict[str, Tensor] | None,
) -> dict[int, float]:
    """k → cosine of the student's gradients from k and from all logits, over one batch."""
    augment = recipe.data.augment.model_copy(update={"mix_probability": 1.0 if mixed else 0.0})
    data = recipe.data.model_copy(update={"augment": augment, "seed": 1000})
    batch = next(iter(TrainLoader(source, data, 256).epoch(0)))
    student.eval()
    advice, logits = teachers(batch.images), student.forward_tokens(batch.images)  # type: ignore[operator]
    exact = _gradient(student, logits, advice)
    found = {}
    for top in TOPS:
        record = RecordFormat(len(source.class_names), top)
        tables = profiles if profiles and record.profile_bytes else {}
        read = {name: record.decode(record.encode(z), tables.get(name)) for name, z in advice.items()}
        cut = _gradient(student, logits, read)
        found[top] = float(torch.cosine_similarity(exact, cut, dim=0))
    student.train()
    return found


def _gradient(student: nn.Module, logits: dict[str, Tensor], advice: dict[str, Tensor]) -> Tensor:
    loss = torch.stack([soft_advice(logits[name], z, 1.0) for name, z in advice.items()]).sum()
    found = torch.autograd.grad(loss, list(student.parameters()), retain_graph=True, allow_unused=True)
    return torch.cat([g.flatten() for g in found if g is not None])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="+")
    parser.add_argument("--recipe", default="cifar10-cpu")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    recipe = load_recipe(options.recipe, [*options.settings, "run.tensorboard=false", "run.precision=fp32"])
    display, accelerator = Display(every=60.0), start_processes(recipe.run, recipe.optim)
    sources = open_sources(recipe.data)
    source, run = sources[0], RunFolder(Path(recipe.run.output or "runs/cache-gradients"))
    members = load_teachers(recipe, run, sources, accelerator, {}, display)
    teachers = on_device(members, recipe.data, True, accelerator, display)
    checks = check_teachers(teachers, recipe.data, recipe.run, recipe.optim, sources[1], accelerator, display)
    torch.manual_seed(recipe.run.seed)
    student = build_student(recipe.student, recipe.tokens(), len(source.class_names), recipe.data.image_size).train()
    optimizer = make_optimizer(student, recipe.optim)
    loader = TrainLoader(source, recipe.data, recipe.optim.batch_size)
    steps = recipe.schedule.epochs * loader.steps_per_epoch
    scheduler = make_scheduler(optimizer, recipe.schedule, loader.steps_per_epoch, peak_lr(recipe.optim))
    batches = itertools.chain.from_iterable(map(loader.epoch, itertools.count()))
    profiles = profiles_of(recipe, source, teachers)
    found: dict[str, dict[str, dict[str, dict[int, float]]]] = {"cosines": {}, "cosines, spread evenly": {}}
    with display.bar("student", steps) as bar:
        for step in range(steps + 1):
            if step in (0, steps // 2, steps):
                for way, spread in zip(found, (profiles, None), strict=True):
                    found[way][f"step {step}"] = {
                        kind: cosines(recipe, source, student, teachers, mixed, spread)
                        for kind, mixed in (("mixed", True), ("unmixed", False))
                    }
            if step == steps:
                break
            batch = next(batches)
            scheduler.step_update(step)
            co_advise_loss(student.forward_tokens(batch.images), teachers(batch.images), batch.target).total.backward()  # type: ignore[operator]
            optimizer.step()
            optimizer.zero_grad()
            bar.advance()
    facts = manifest(command=shlex.join(["python", *sys.argv]))
    accuracy = {name: check.accuracy for name, check in checks.items()}
    write_json(RESULTS / "gradients.json", {**found, "teachers": accuracy, "provenance": facts})
    for way, moments in found.items():
        for moment, kinds in moments.items():
            for kind, values in kinds.items():
                print(way, moment, kind, {top: round(value, 4) for top, value in values.items()}, flush=True)


if __name__ == "__main__":
    main()
