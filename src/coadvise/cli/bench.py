"""`coadvise bench`: the cost of a model, or of a training step, on this machine."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import RecipeError
from ..system.progress import Display
from ..system.screen import Table
from .arguments import out

if TYPE_CHECKING:
    from ..cost.profile import Profile


def bench(
    names: Annotated[list[str] | None, typer.Argument(help="models; with --recipe, settings of the recipe")] = None,
    recipe: Annotated[str | None, typer.Option("--recipe", "-r", help="measure a training step of this recipe")] = None,
    image_size: Annotated[int, typer.Option(min=4, help="side of the images, in pixels")] = 224,
    batch_size: Annotated[int | None, typer.Option(min=1, help="images at a time; searched when not given")] = None,
    precision: Annotated[str, typer.Option(help="fp32, bf16, fp16 or auto")] = "auto",
    rounds: Annotated[int, typer.Option(min=1, help="measurements, of which the median counts")] = 5,
) -> None:
    """Measure models (parameters, multiply-adds, images/s, memory), or where a training step's time goes.

    Examples:

        coadvise bench cit_small rednet101 regnety_040

        coadvise bench --recipe cit-s data.source=/data/imagenet
    """
    if recipe is not None:
        if (image_size, batch_size, precision) != (224, None, "auto"):
            raise RecipeError("with --recipe, size, batch and precision are settings: data.image_size=64 "
                              "optim.batch_size=32 run.precision=bf16")  # fmt: skip
        _bench_step(recipe, names or [], rounds)
        return
    if not names:
        raise RecipeError("name the models to measure, such as `coadvise bench cit_small deit_small_patch16_224`, "
                          "or a recipe with --recipe")  # fmt: skip
    if precision not in ("auto", "fp32", "bf16", "fp16"):
        raise RecipeError(f"--precision is '{precision}', must be auto, fp32, bf16 or fp16")
    from ..cost.model import model_cost
    from ..system.clock import short_bytes

    table = Table("model", "parameters", "GMACs", "images/s", "batch", "memory", title=f"inference at {image_size} px",
                  title_justify="left")  # fmt: skip
    for name in names:
        cost = model_cost(name, image_size=image_size, batch_size=batch_size, precision=precision, rounds=rounds)
        table.add_row(
            name, f"{cost.parameters / 1e6:.2f} M", f"{cost.multiply_adds / 1e9:.2f}", f"{cost.images_per_s:,.1f}",
            str(cost.batch_size), short_bytes(cost.memory),
        )  # fmt: skip
    out.print(table)


def _bench_step(recipe: str, settings: list[str], rounds: int) -> None:
    from ..recipe.reading import load_recipe

    loaded = load_recipe(recipe, settings)
    from ..cost.hints import hints
    from ..cost.step import step_cost
    from ..system.clock import short_bytes

    cost = step_cost(loaded, rounds=rounds, display=Display())
    table = Table("part", "ms", "of the step", title=f"one step of {cost.batch_size} images", title_justify="left")
    for name, seconds in cost.parts.items():
        table.add_row(name, f"{1e3 * seconds:.1f}", f"{seconds / cost.whole:.0%}" if name != "input" else "")
    table.add_row("whole step", f"{1e3 * cost.whole:.1f}", "", style="bold")
    if cost.running is not None:
        table.add_row("step in the training loop", f"{1e3 * cost.running:.1f}", "", style="bold")
    out.print(table)
    memory = f"; memory at the peak: {short_bytes(cost.memory)}" if cost.memory is not None else ""
    out.print(f"{cost.images_per_s:,.1f} images/s as it trains, in {cost.precision}, {cost.compiled}{memory}")
    out.print(
        f"{cost.of_peak:.1%} of the {cost.peak / 1e12:.3g} TFLOP/s that a matrix product reaches here, in a step whose "
        "images are there already"
    )
    if cost.profile is not None:
        _print_profile(cost.profile)
    for sentence in hints(cost, loaded, os.cpu_count() or 1):
        out.print(sentence)


def _print_profile(profile: Profile) -> None:
    waits = ", ".join(f"{count:.1f} {name}" for name, count in profile.waits.items()) or "none"
    busy = "" if profile.busy is None else f"the device is busy {profile.busy:.0%} of a step, with "
    out.print(f"{busy}{profile.kernels:,.0f} kernels in {profile.launches:,.0f} launches; waits in a step: {waits}")
    table = Table("kernel", "ms", "times", title="a step on the device", title_justify="left")
    for kernel in profile.top[:6]:
        table.add_row(kernel.name[:70], f"{1e3 * kernel.seconds:.2f}", f"{kernel.calls:,.0f}")
    out.print(table)
