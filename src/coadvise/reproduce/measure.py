"""Measuring a finished run; every number has one flat name in its `Measurement`.

| name | what |
|---|---|
| `accuracy/TOKEN`, `loss/TOKEN` | top-1 (a share) and cross entropy (nats) after the last epoch; `average`: all heads |
| `teacher/NAME` | top-1 of a teacher on the same images |
| `kl/TEACHER|TOKEN`, `kl_reverse/TEACHER|TOKEN` | KL(teacher ‖ token) and KL(token ‖ teacher) in nats (Table 5) |
| `parameters`, `throughput`, `training_ms` | count; images/s in evaluation; ms an image in training, as it ran |
| `corruptions/TOKEN` | mean top-1 error over 15 kinds of corruption at five severities |
| `a/TOKEN`, `r/TOKEN` | top-1 on ImageNet-A and on renditions |
| `ece/TOKEN`, `kappa/TEACHER|TOKEN`, `cka/TEACHER|TOKEN`, `ensemble/…` | see `evaluation.similarity.likeness` |
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..checkpoints.trained import TrainedModel, load_trained
from ..data.sources.base import ImageSource
from ..data.sources.opening import open_source, open_sources
from ..errors import RecipeError
from ..evaluation.inference import with_classes
from ..evaluation.robustness import corruption_errors, imagenet_c_errors, require_imagenet_c, subset_accuracy
from ..evaluation.similarity import likeness
from ..recipe.schema import FREE, flat
from ..run.folder import RunFolder
from ..run.measurement import MEASURED_ON, Measurement
from ..run.provenance import manifest
from ..run.result import RunResult
from ..system.clock import seconds_of
from ..system.devices import choose_device
from ..system.digests import file_digest
from ..system.files import read_json, write_json
from .planner import Planned

THROUGHPUT_BATCH = 64

GROUPS = {"corruptions": "corruptions", "a": "a", "r": "r"} | dict.fromkeys(
    ("ece", "kappa", "cka", "ensemble"), "likeness"
)
"""Beginning of a metric's name → the group of measurements that gives it; all others are of the run itself."""


def groups_of(metrics: Iterable[str]) -> set[str]:
    """Groups that give some metrics."""
    return {GROUPS.get(metric.partition("/")[0], "run") for metric in metrics}


def result_path(results: Path, run: Planned) -> Path:
    """File of a run's result."""
    return results / f"{run.name}.json"


def read_result(results: Path, run: Planned) -> Measurement | None:
    """A run's measurement, or None where there is none.

    Raises:
        RunError: a damaged file.
    """
    path = result_path(results, run)
    found = Measurement.read(path) if path.is_file() else None
    return found if found is not None and found.id == run.id else None


@dataclass(frozen=True)
class Shifted:
    """Where shifted data is: for `a`, `r` and `c` (ImageNet-C) a source, with `@SPLIT,SPLIT` where it has several.

    Attributes:
        limit: validation images that are corrupted on the fly, and on which likeness is measured.
    """

    sources: Mapping[str, str] = field(default_factory=dict)
    limit: int = 1000

    def of(self, group: str) -> str | None:
        """The name of a group's given source: its last part, since folders lie elsewhere on another machine."""
        source = self.sources.get({"corruptions": "c"}.get(group, group))
        if source is None:
            return None
        # Earlier versions cropped ImageNet-C once more; what they measured is measured again.
        return source.rstrip("/").rpartition("/")[2] + (", whole images" if group == "corruptions" else "")

    def splits(self, name: str) -> Iterator[tuple[str, ImageSource]]:
        """The parts of `a` or `r`, by their split (empty for a source without).

        Raises:
            DataError: no such source or split.
        """
        source, _, splits = self.sources[name].partition("@")
        for split in splits.split(","):
            yield split, open_source(source, split or None)

    def require(self, classes: tuple[str, ...]) -> None:
        """Open everything once, before hours go into training.

        Raises:
            DataError: a source that is not there, or a class that the models will not know.
        """
        for name in self.sources:
            if name == "c":
                require_imagenet_c(self.sources["c"], classes)
            else:
                for _, source in self.splits(name):
                    with_classes(source, classes)


def groups_there(found: Measurement | None, shifted: Shifted) -> set[str]:
    """Groups of measurements that were made, without those made of other shifted data than is given now."""
    if found is None:
        return set()
    return {g for g in found.groups if shifted.of(g) is None or found.sources.get(g) == shifted.of(g)}


def shifted_sources(words: Iterable[str]) -> dict[str, str]:
    """`a=FOLDER` and the like by name.

    Raises:
        RecipeError: another form or name.
    """
    sources = {}
    for word in words:
        name, _, source = word.partition("=")
        if name not in ("a", "r", "c") or not source:
            raise RecipeError(
                f"--shifted {word}: write a=FOLDER, r=FOLDER or c=FOLDER; r=FOLDER@SPLIT,SPLIT takes splits"
            )
        sources[name] = source
    return sources


def measure(run: Planned, groups: Sequence[str], results: Path, scale: str, shifted: Shifted) -> None:
    """Measure a finished run and write its result; what an earlier call measured of the same weights is kept."""
    before, result = read_result(results, run), RunFolder(run.folder).result()
    if before is not None and not _same_weights(before, result):  # it came from elsewhere, and the run was made again
        before = None
    trained = load_trained(run.folder, choose_device(run.recipe.run.device))
    measured = {**(before.measured if before else {}), **result.final, "parameters": float(result.student.parameters)}
    if result.seconds:
        measured["training_ms"] = 1000 * result.seconds / max(1, result.images_seen)
    detail, sources = (dict(before.detail), dict(before.sources)) if before else ({}, {})
    if "throughput" not in measured:
        measured["throughput"] = _throughput(trained)
        detail[MEASURED_ON] = manifest()["hardware"]  # which need not be where it was trained
    for group in sorted({*groups} - {"run"} - groups_there(before, shifted)):
        numbers, more = _measured(group, run, trained, shifted)
        measured |= numbers
        detail |= more
        sources.pop(group, None)
        if (source := shifted.of(group)) is not None:
            sources[group] = source
    settings = flat(run.recipe.model_dump(mode="json")).items()
    Measurement(
        arm=run.arm.id,
        scale=scale,
        seed=run.seed,
        id=run.id,
        student=result.student,
        data=result.data,
        epochs=result.epochs,
        steps=result.steps,
        images_seen=result.images_seen,
        seconds=result.seconds,
        measured=measured,
        advisers={name: one.id for name, one in run.teachers.items()},
        teacher_weights=known_teachers(run) or (before and before.teacher_weights) or teacher_weights(run),
        teachers=result.teachers,
        groups=tuple(sorted({*(before.groups if before else ()), *groups})),
        sources=sources,
        detail=detail,
        settings={k: v for k, v in settings if k not in FREE and not k.endswith("checkpoint") and v is not None},
        provenance={**result.provenance, "measured": manifest()["date"]},
    ).write(result_path(results, run))


def teacher_weights(run: Planned) -> dict[str, str]:
    """Hash of each teacher's weights as they are now."""
    return {name: file_digest(RunFolder(one.folder).best) for name, one in run.teachers.items()}


def known_teachers(run: Planned) -> dict[str, str]:
    """Hashes of the teachers that a run was begun with; empty for a run that was not begun here."""
    path = run.folder / ".teachers.json"
    return dict(read_json(path)) if path.is_file() else {}


def note_teachers(run: Planned, weights: Mapping[str, str]) -> None:
    """Store the hashes in the run's folder: for its result, and to notice that a teacher was trained again."""
    write_json(run.folder / ".teachers.json", dict(weights))


def _same_weights(before: Measurement, result: RunResult) -> bool:
    """Whether a measurement is of this very run: the same losses, to the decimals that older files have."""
    return all(abs(before.measured.get(name, value) - value) < 1e-6 for name, value in result.final.items())


def _measured(
    group: str, run: Planned, trained: TrainedModel, shifted: Shifted
) -> tuple[Mapping[str, float], Mapping[str, Any]]:
    """Numbers of a group other than `run`, and what is more than a number."""
    if group in ("a", "r"):  # accuracy on one or several splits of a source; the mean over the splits counts
        found = {split: subset_accuracy(trained, source)[0] for split, source in shifted.splits(group)}
        tokens = next(iter(found.values()))
        means = {f"{group}/{token}": sum(one[token] for one in found.values()) / len(found) for token in tokens}
        return means, ({f"{group} by split": found} if "" not in found else {})
    validation = open_sources(trained.recipe.data)[1]
    if group == "likeness":
        device = choose_device(trained.recipe.run.device)
        teachers = {name: load_trained(one.folder, device) for name, one in run.teachers.items()}
        return likeness(trained, teachers, validation, limit=shifted.limit)
    if "c" in shifted.sources:
        errors = imagenet_c_errors(trained, shifted.sources["c"])
    else:
        errors = corruption_errors(trained, validation, limit=shifted.limit)
    detail = {"corruptions": errors.kinds, "corrupted images": errors.images}
    return {f"corruptions/{token}": value for token, value in errors.mean.items()}, detail


@torch.inference_mode()
def _throughput(trained: TrainedModel) -> float:
    """Images/s of the answer alone, float32, in batches of 64; the median of five."""
    device = next(trained.model.parameters()).device
    side = trained.recipe.data.image_size
    x = torch.randn(THROUGHPUT_BATCH, 3, side, side, device=device)
    return THROUGHPUT_BATCH / seconds_of(lambda: trained.model(x), device)
