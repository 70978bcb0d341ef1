"""`run.compile`: whether what is trained is compiled, decided before the first step by what a step takes here.

A step is tried as it is; what compiling takes and brings is known from earlier runs of the same student on this
machine, or else assumed. It is compiled where the steps that are left win more than that. With the first batch the
compiled form shows what it takes and brings: this is remembered, and a form that brings nothing is given up.

On the CPU, where compiling brings little, blocks of a small transformer are one operation each in long runs (`fused`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config
from torch import Tensor

from ..errors import CoadviseError, out_of_memory
from ..losses import Kept
from ..models.cit import CiT
from ..models.compiling import FORMS, Form, lacking
from ..ops.block import bf16_pays
from ..run.folder import RunFolder
from ..system.clock import short_time
from ..system.digests import json_digest
from ..system.files import cache_folder, read_json, write_json
from .trained import Trained, Tried

# What is assumed where nothing is remembered. Of students on an H100 the step took between 0.44 and 0.63 of its time.
SHARE = 0.65
SECONDS = 60.0
# What compiling a teacher takes for the first time.
TEACHER_SECONDS = 20.0
# Share of the first compilation's time that another one takes, which finds its code in the cache folder.
AGAIN = 0.4
# Seconds of a step that CUDA graphs save by launching all kernels at once.
LAUNCHES = 0.0008
# A form has to bring so much of a step's time to be kept.
WORTH = 0.97
TRIES = 4
# Images seen in a run from which on a CPU trains with fused blocks. Shorter runs stay what they were, bit for bit.
ENOUGH = 100_000
NOTE = "compiled"
"""Key of the chosen form in a run's manifest."""


@with_config(ConfigDict(extra="ignore", allow_inf_nan=False))
@dataclass(frozen=True)
class Remembered:
    """Seconds that a student's step, forward and backward, takes on this machine.

    Attributes:
        plain: not compiled.
        whole: compiled as one.
        first: of the first compilation.
        again: of the last one that found its code in the cache folder.
    """

    plain: float
    whole: float
    first: float
    again: float | None = None

    @property
    def seconds(self) -> float:
        """Until the compiled form would run."""
        return AGAIN * self.first if self.again is None else self.again


def expected(plain: float, known: Remembered | None) -> tuple[float, float]:
    """Seconds that compiling takes, and those that it then saves in each step."""
    if known is None:
        return SECONDS, plain * (1 - SHARE)
    return known.seconds, plain * (1 - known.whole / known.plain)


def noted_form(folder: RunFolder) -> Form | None:
    """The form that an earlier start of an unfinished run chose; None where there was none, or none that is known."""
    path = folder.path / "manifest.json"
    if not (folder.last.is_file() and path.is_file()):
        return None
    content = read_json(path)
    noted = content.get(NOTE) if isinstance(content, dict) else None
    return next((form for form in FORMS if form == noted), None)


def place_of(trained: Trained, device: torch.device, *facts: Any) -> Path:
    """Where is remembered what a student takes on this machine."""
    shapes = {name: tuple(one.shape) for name, one in trained.named_parameters()}
    kinds = sorted({f"{type(one).__module__}.{type(one).__name__}" for one in trained.modules()})
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    versions = [torch.__version__, *(_version(name) for name in ("triton", "timm", "coadvise"))]
    key = json_digest([shapes, kinds, gpu, versions, [str(one) for one in facts]])
    return cache_folder() / f"compiling-{key}.json"


def remembered(path: Path) -> Remembered | None:
    """What `remember` wrote; None where there is nothing, or nothing that makes sense."""
    try:
        known = TypeAdapter(Remembered).validate_python(read_json(path))
    except (CoadviseError, OSError, ValidationError):
        return None
    return known if min(known.plain, known.whole, known.first) > 0 else None


def remember(path: Path, plain: float, tried: Tried) -> None:
    """Note what a form took and brought, for later runs."""
    before = remembered(path)
    first, again = (tried.first, None) if before is None else (before.first, min(tried.first, before.first))
    with contextlib.suppress(CoadviseError, OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, dataclasses.asdict(Remembered(plain, tried.step, first, again)))


@dataclass(frozen=True)
class Place:
    """What the choice depends on, beside the student.

    Attributes:
        setting: `run.compile`.
        noted: the form that an earlier start of the run chose.
        steps: micro-batches that are left.
        shape: of a micro-batch, (b, 3, h, w).
        classes: number of classes.
        graphs: whether CUDA graphs may be used: gradients of several micro-batches would be summed in their memory.
        live: number of teachers that are compiled with the student.
        resumed: whether the run has steps behind it; without a noted form these were plain ones.
    """

    setting: Literal["auto", True, False]
    noted: Form | None
    steps: int
    shape: tuple[int, int, int, int]
    classes: int
    graphs: bool = False
    live: int = 0
    resumed: bool = False


def choose(
    trained: Trained, teachers: Sequence[str], accelerator: Accelerator, place: Place, say: Callable[[str], None]
) -> Form:
    """Set the form in which a student and its loss run; the same on all processes.

    Args:
        trained: on its device, in training mode.
        teachers: names of those whose advice comes with every batch.
    """
    device = accelerator.device
    auto, gpu = place.setting == "auto", device.type == "cuda"
    if place.setting is False or place.noted == "plain":
        return "plain"
    if auto and not gpu:
        return _on_cpu(trained, accelerator, place)
    if lacks := lacking(device):
        say(f"the student is not compiled: {lacks}")
        return "plain"
    path = place_of(trained, device, place.shape, accelerator.mixed_precision, place.classes, sorted(teachers))
    known, plain = remembered(path), None
    alone = accelerator.num_processes == 1
    if auto and alone and place.noted == "whole" and known is not None and _brings_nothing(known.whole, known.plain):
        return "plain"  # as the first batch of the earlier start showed
    seconds, saved = expected(0.0, known)
    seconds += place.live * TEACHER_SECONDS * (1.0 if known is None else AGAIN)
    if gpu and auto and place.noted is None:
        plain = _plain_seconds(trained, teachers, accelerator, place)
        saved = expected(plain, known)[1]
        if not alone:  # each has measured a little else, and may remember something else
            seconds, saved = broadcast_object_list([seconds, saved])
        if place.steps * saved <= seconds:  # what compiled teachers save is not counted
            return "plain"
    also = ", and the teachers" if place.live else ""
    again = "" if known is None else " again"
    say(f"compiling student and loss as one{also}{again}: about {short_time(seconds)} before the first step")
    trained.use("whole", partial(_first_batch, accelerator, place, path, plain, say) if gpu else Trained.try_out)
    return trained.form


def _on_cpu(trained: Trained, accelerator: Accelerator, place: Place) -> Form:
    """`fused` or `plain`, by what the run is and not by a clock: a run that is done again gives the same bits."""
    student, begins = trained.student, place.noted is None and not place.resumed
    if not isinstance(student, CiT) or accelerator.device.type != "cpu":
        return trained.form
    enough = place.steps * place.shape[0] * accelerator.num_processes >= ENOUGH
    wanted = place.noted == "fused" or (begins and enough and _blocks_pay(accelerator.mixed_precision))
    if wanted and student.can_fuse_blocks():
        trained.use("fused")
    return trained.form


def _blocks_pay(precision: str) -> bool:
    return precision == "no" or (precision == "bf16" and bf16_pays())


def _plain_seconds(trained: Trained, teachers: Sequence[str], accelerator: Accelerator, place: Place) -> float:
    """Of a step as it is; 0 where there is too little memory, which the first step will tell."""
    device = accelerator.device
    target = torch.full((place.shape[0], place.classes), 1 / place.classes, device=device)
    advice = {name: torch.zeros_like(target) for name in teachers}
    images = torch.randn(place.shape, generator=torch.Generator().manual_seed(0)).to(device)
    # As the loader's are in memory: convolutions take another time where channels come first.
    images = images.contiguous(memory_format=torch.channels_last)
    try:
        with accelerator.autocast():
            return trained.try_out(images, advice, target, tries=TRIES).step
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        return 0.0


def _first_batch(
    accelerator: Accelerator,
    place: Place,
    path: Path,
    plain: float | None,
    say: Callable[[str], None],
    trained: Trained,
    images: Tensor,
    advice: Mapping[str, Tensor],
    target: Tensor,
    kept: Kept | None = None,
) -> None:
    """Compile with the first batch, remember what it took and brought, and give up what brings nothing."""
    tried = trained.try_out(images, advice, target, kept, TRIES)
    if tried.form != "whole":
        return
    if plain is not None and accelerator.is_main_process:
        remember(path, plain, tried)
    if accelerator.num_processes > 1:
        return
    if plain is not None and _brings_nothing(tried.step, plain):
        say(f"compiled, a step takes {tried.step / plain:.2f} times as long: student and loss run as they are")
        trained.use("plain")
    # To be kept, graphs have to bring a share of a step, and what they may bring is the same for long and short steps.
    elif place.graphs and (1 - WORTH) * tried.step < LAUNCHES and place.steps * LAUNCHES > tried.first:
        trained.use("graphs")
        step = _graphs_seconds(trained, images, advice, target, kept)
        if trained.form == "graphs" and _brings_nothing(step, tried.step):
            trained.use("whole")


def _graphs_seconds(
    trained: Trained, images: Tensor, advice: Mapping[str, Tensor], target: Tensor, kept: Kept | None
) -> float:
    """Of a step that replays CUDA graphs; infinite where there is too little memory for these."""
    try:
        return trained.try_out(images, advice, target, kept, TRIES).step
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        return math.inf


def _brings_nothing(step: float, before: float) -> bool:
    return step > WORTH * before


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""
