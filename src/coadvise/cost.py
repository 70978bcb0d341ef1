"""What models cost: parameters, multiply-adds, memory, images per second; and where a training step's time goes."""

from __future__ import annotations

import contextlib
import copy
import ctypes
import dataclasses
import itertools
import math
import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode, register_flop_formula

from .build import build_student, build_teacher
from .compiling import WORTHWHILE_STEPS, compile_blocks, plain_attention
from .data.finish import Batch
from .data.loader import TrainLoader
from .data.sources import open_sources
from .errors import ModelError
from .losses import co_advise_loss
from .models.build import build_model
from .preparation import loss_mode, make_optimizer, student_tokens
from .processes import resolve_precision
from .progress import Display
from .recipe import Recipe
from .teachers import FrozenTeacher, Teachers

DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
# The batch is doubled while that brings a tenth more images per second, up to so many images.
LARGEST_BATCH = {"cpu": 64, "cuda": 2048}


@register_flop_formula(torch.ops.coadvise.involution)  # type: ignore[untyped-decorator]
def _involution_flops(x: tuple[int, ...], kernel: tuple[int, ...], size: int, stride: int, **_: Any) -> int:
    b, c = x[:2]
    return 2 * b * c * size**2 * kernel[2] * kernel[3]


@register_flop_formula(torch.ops.coadvise.involution_backward)  # type: ignore[untyped-decorator]
def _involution_backward_flops(
    grad: tuple[int, ...], x: tuple[int, ...], kernel: tuple[int, ...], size: int, stride: int, **_: Any
) -> int:
    return 2 * _involution_flops(x, kernel, size, stride)


def multiply_adds(model: nn.Module, image_size: int) -> int:
    """Multiply-adds of one image through a model, its involutions included. Nothing is computed."""
    model = copy.deepcopy(model).to("meta")
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter, sdpa_kernel(SDPBackend.MATH):
        model.eval()(torch.empty(1, 3, image_size, image_size, device="meta"))
    return counter.get_total_flops() // 2


@dataclasses.dataclass(frozen=True)
class ModelCost:
    """One row of `coadvise bench`.

    Attributes:
        parameters: of the whole model.
        multiply_adds: of one image.
        images_per_s: in evaluation mode, median.
        memory: bytes at the peak beside the weights, None where it cannot be measured.
    """

    name: str
    parameters: int
    multiply_adds: int
    batch_size: int
    images_per_s: float
    memory: int | None


def model_cost(
    name: str,
    *,
    image_size: int = 224,
    classes: int = 1000,
    batch_size: int | None = None,
    precision: str = "auto",
    device: torch.device | None = None,
    rounds: int = 5,
) -> ModelCost:
    """Measure a model by its name.

    Args:
        batch_size: images at a time; None searches the smallest one that is about as fast as any.
        precision: fp32, bf16, fp16 or auto.

    Raises:
        ModelError: no model of that name, or it does not take images of that size.
        RunError: a precision that the device does not have.
    """
    device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = DTYPES[resolve_precision(precision, device.type == "cpu")]
    model = build_model(name, classes, image_size=image_size).eval()
    try:
        count = multiply_adds(model, image_size)
    except (RuntimeError, AssertionError) as error:
        raise ModelError(f"{name} cannot take images of {image_size}×{image_size}: {error}") from error
    model = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def images_per_s(batch: int) -> float:
        x = torch.randn(batch, 3, image_size, image_size, device=device).to(memory_format=torch.channels_last)
        return batch / seconds_of(lambda: _answer(model, x, dtype), device, rounds)

    if batch_size is None:
        batch_size, speed = 1, images_per_s(1)
        while batch_size < LARGEST_BATCH[device.type]:
            try:
                faster = images_per_s(2 * batch_size)
            except torch.OutOfMemoryError:
                break
            if faster < 1.1 * speed:
                break
            batch_size, speed = 2 * batch_size, faster
    else:
        speed = images_per_s(batch_size)
    x = torch.randn(batch_size, 3, image_size, image_size, device=device).to(memory_format=torch.channels_last)
    memory = peak_bytes(lambda: _answer(model, x, dtype), device.type)
    return ModelCost(name, sum(p.numel() for p in model.parameters()), count, batch_size, speed, memory)


@torch.inference_mode()
def _answer(model: nn.Module, x: Tensor, dtype: torch.dtype | None) -> Tensor:
    with torch.autocast(x.device.type, dtype, enabled=dtype is not None):
        answer: Tensor = model(x)
    return answer


@dataclasses.dataclass(frozen=True)
class StepCost:
    """Where the time of a training step goes, in seconds (medians).

    Attributes:
        parts: input (one batch from the loader, alone), each teacher, student forward, backward, optimizer.
        whole: one step on a batch that is there already.
        flops: floating-point operations of teachers, forward and backward.
        peak: operations per second that a large matrix product reaches here, in the same precision.
    """

    batch_size: int
    parts: dict[str, float]
    whole: float
    flops: int
    peak: float

    @property
    def of_peak(self) -> float:
        """Fraction of the device's matrix speed that the step reaches."""
        return self.flops / self.whole / self.peak


def step_cost(recipe: Recipe, *, rounds: int = 5, display: Display | None = None) -> StepCost:
    """Measure a training step of a recipe, on its own data and one process. Teachers that are still to be trained or
    downloaded get random weights.

    Raises:
        CoadviseError: settings, data and models that do not fit each other.
    """
    display = display or Display(quiet=True)
    device = torch.device("cuda" if torch.cuda.is_available() and recipe.run.device != "cpu" else "cpu")
    dtype = DTYPES[resolve_precision(recipe.run.precision, device.type == "cpu")]
    train_source, _ = open_sources(recipe.data)
    classes, batch_size = len(train_source.class_names), recipe.optim.batch_size // recipe.optim.accumulate
    members = _teachers_to_time(recipe, classes)
    teachers = Teachers(members, input_mean=recipe.data.mean, input_std=recipe.data.std).to(device)
    fresh = recipe.student.model_copy(update={"pretrained": False, "checkpoint": None})
    student = build_student(recipe.model_copy(update={"student": fresh}), classes).to(device).train()
    plain_attention(student, device, dtype)
    compile_blocks(student, recipe.run.compile, device, WORTHWHILE_STEPS)
    tokens = student_tokens(student, recipe, device)
    mode = loss_mode(recipe, tokens, members)
    optimizer = make_optimizer(student, recipe, recipe.optim.lr)
    loader = TrainLoader(train_source, recipe.data, batch_size, device=device)
    batch, input_s = _timed_input(loader, rounds + 4 * recipe.data.workers, device, display)
    parts = {"input": input_s}
    if recipe.run.fuse_teachers:
        teachers.fuse(batch.images[:2], dtype)
    weights = {"class": recipe.loss.label_weight, **recipe.loss.weights}
    autocast = torch.autocast(device.type, dtype, enabled=dtype is not None)

    def advise() -> dict[str, Tensor]:
        with autocast:
            advice: dict[str, Tensor] = teachers(batch.images)
        return advice

    def forward(advice: Mapping[str, Tensor]) -> Tensor:
        with autocast:
            logits = student.forward_tokens(batch.images)  # type: ignore[operator]
        return co_advise_loss(
            logits, advice, batch.target, weights=weights, temperatures=recipe.loss.temperatures,
            kind=recipe.loss.advice, tokens=mode,
        ).total  # fmt: skip

    for name, member in zip(teachers.names, teachers.members, strict=True):
        parts[f"teacher {name}"] = seconds_of(partial(_advised, member, batch.images, autocast), device, rounds)
    advice = advise()

    def update() -> None:
        optimizer.step()
        optimizer.zero_grad()

    def whole() -> None:
        forward(advise()).backward()
        update()

    with display.bar("steps", rounds) as bar:
        times = _timed_steps(partial(forward, advice), update, whole, device, rounds, bar.advance)
    whole_s = times.pop("whole")
    parts |= times
    counter = FlopCounterMode(display=False)
    with counter, sdpa_kernel(SDPBackend.MATH):
        forward(advise()).backward()
    optimizer.zero_grad()
    return StepCost(batch_size, parts, whole_s, counter.get_total_flops(), matrix_peak(device, dtype))


def _teachers_to_time(recipe: Recipe, classes: int) -> dict[str, FrozenTeacher]:
    """Teachers of the right shape; their weights do not matter."""
    members = {}
    for name, settings in recipe.teachers.items():
        # What a checkpoint says of its model counts; one that is not there yet, or is downloaded, does not.
        known = settings.checkpoint if settings.checkpoint and Path(settings.checkpoint).is_file() else None
        bare = settings.model_copy(update={"pretrained": False, "checkpoint": known, "train": None})
        members[name] = build_teacher(name, bare, recipe, classes)
    return members


def _timed_input(loader: TrainLoader, count: int, device: torch.device, display: Display) -> tuple[Batch, float]:
    """A batch, and the mean seconds of `count` batches from a loader; `count` should exceed what its workers hold."""
    batches = chain.from_iterable(map(loader.epoch, itertools.count()))
    batch = next(batches)  # workers start, small sets are read
    start = _now(device)
    with display.bar("input", count) as bar:
        for batch in itertools.islice(batches, count):  # noqa: B007 - the last one is returned
            bar.advance()
    seconds = (_now(device) - start) / count
    loader.close()
    return batch, seconds


def _timed_steps(
    forward: Callable[[], Tensor],
    update: Callable[[], None],
    whole: Callable[[], None],
    device: torch.device,
    rounds: int,
    advance: Callable[[], None],
) -> dict[str, float]:
    """Median seconds of a step's parts and of whole steps, in turn; the first round does not count."""
    times: dict[str, list[float]] = {"student forward": [], "backward": [], "optimizer": [], "whole": []}
    for number in range(rounds + 1):
        marks = [_now(device)]
        loss = forward()
        marks.append(_now(device))
        loss.backward()
        marks.append(_now(device))
        update()
        marks.append(_now(device))
        whole()
        marks.append(_now(device))
        if number:
            for name, start, end in zip(times, marks[:-1], marks[1:], strict=True):
                times[name].append(end - start)
        advance()
    return {name: statistics.median(seconds) for name, seconds in times.items()}


def _advised(member: nn.Module, images: Tensor, autocast: torch.autocast) -> None:
    with torch.no_grad(), autocast:
        member(images)


def matrix_peak(device: torch.device, dtype: torch.dtype | None, size: int | None = None) -> float:
    """Floating-point operations per second of a large matrix product; the best of a few."""
    size = size or (8192 if device.type == "cuda" else 2048)
    a = torch.randn(size, size, device=device, dtype=dtype or torch.float32)
    best = min(_times(lambda: a @ a, device, 5))
    return 2 * size**3 / best


# --- clocks and memory -------------------------------------------------------------------------------------


def synchronize(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _now(device: torch.device) -> float:
    synchronize(device)
    return time.perf_counter()


def _times(run: Callable[[], Any], device: torch.device, rounds: int) -> list[float]:
    times = []
    for number in range(rounds + 1):
        start = _now(device)
        run()
        end = _now(device)
        if number:
            times.append(end - start)
    return times


def seconds_of(run: Callable[[], Any], device: torch.device, rounds: int = 5) -> float:
    """Median seconds of a call, after one that does not count."""
    return statistics.median(_times(run, device, rounds))


def peak_bytes(run: Callable[[], Any], device: str = "cpu") -> int | None:
    """Memory that a call needs at its peak beside what is there before; None where it cannot be measured."""
    run()
    if device.startswith("cuda"):
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        return torch.cuda.max_memory_allocated() - before
    try:
        c = ctypes.CDLL(None)
        c.mallopt(-3, 1 << 16)  # M_MMAP_THRESHOLD: what is freed goes back at once, and counts again when needed
        c.malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts at what is resident now
        before = _status("VmRSS")
        run()
        return max(_status("VmHWM") - before, 0)
    except (OSError, AttributeError):  # not Linux
        return None
    finally:
        # As glibc has it for large blocks in the long run; without this all that follows would be slower.
        with contextlib.suppress(OSError, AttributeError):
            c = ctypes.CDLL(None)
            c.mallopt(-3, 1 << 25)
            c.mallopt(-1, 1 << 26)  # M_TRIM_THRESHOLD


def _status(key: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) * 1024


def short_bytes(count: int | None) -> str:
    """`412 MiB`; empty for None."""
    if count is None:
        return ""
    unit = min(int(math.log2(max(count, 1))) // 10, 4)
    return f"{count / 2 ** (10 * unit):.3g} {('B', 'KiB', 'MiB', 'GiB', 'TiB')[unit]}"
