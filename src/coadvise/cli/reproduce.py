"""`coadvise reproduce`: the paper's tables and figures, run anew."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from ..errors import RecipeError
from ..system.imports import importing
from ..system.progress import Display
from .arguments import out


def reproduce(
    names: Annotated[
        list[str],
        typer.Argument(
            help="table1 … table9, figure1, figure2, figure4 or all; "
            "sweep, longer, fresh, heads, controls, losses, kinds, demo; key=value"
        ),
    ],
    scale: Annotated[
        str, typer.Option("--scale", "-s", help="digits, cifar-cpu, cifar-long, cifar, tiny or imagenet")
    ] = "digits",
    data: Annotated[
        str | None,
        typer.Option("--data", help="images in place of the scale's own", rich_help_panel="Images and weights"),
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option(
            "--classes", help="file with the classes to use, one a line", rich_help_panel="Images and weights"
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="runs/reproduce-SCALE by default", rich_help_panel="Where it goes"),
    ] = None,
    results: Annotated[
        Path | None,
        typer.Option("--results", help="result files, OUTPUT/results by default", rich_help_panel="Where it goes"),
    ] = None,
    weights: Annotated[
        list[str] | None,
        typer.Option(
            help="MODEL=FILE or MODEL=timm: weights in place of a training", rich_help_panel="Images and weights"
        ),
    ] = None,
    shifted: Annotated[
        list[str] | None,
        typer.Option(
            help="a=FOLDER, r=FOLDER or c=FOLDER: ImageNet-A, -R, -C or the like", rich_help_panel="Images and weights"
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="runs of each kind", rich_help_panel="How much")] = 1,
    budget: Annotated[
        str | None, typer.Option(help="stop after so long, such as 40m or 2h", rich_help_panel="How much")
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="runs side by side; one for each GPU, or for each core, four at most",
            rich_help_panel="How much",
        ),
    ] = None,
) -> None:
    """Run what tables and figures of the paper need, and report it beside the paper's numbers.

    Runs are shared between tables and done once; the same command goes on where an earlier one stopped.

    Examples:

        coadvise reproduce all --scale digits

        coadvise reproduce table6 --scale cifar --seeds 5 --budget 8h

        coadvise reproduce table4 table6 --scale imagenet --data /data/imagenet --classes imagenet100.txt

        coadvise reproduce table1 table9 --scale imagenet --data /data/imagenet --shifted a=/data/imagenet-a
            --weights regnety_040=timm --weights rednet101=rednet101.pth

        coadvise reproduce sweep --scale cifar-cpu --seeds 3

        coadvise reproduce table6 --scale tiny --data my-images schedule.epochs=50 teachers.epochs=30
    """
    from ..reproduce.work import begin_workers

    begin_workers()
    with importing():
        from ..reproduce.command import find_experiments, seconds
        from ..reproduce.command import reproduce as run
        from ..reproduce.measure import Shifted, shifted_sources
        from ..reproduce.runner import Orders
        from ..reproduce.scales import find_scale
        from ..reproduce.setup import set_up

    settings = [name for name in names if "=" in name]
    wanted = find_experiments([name for name in names if "=" not in name])
    if not wanted:
        raise RecipeError("name what to reproduce, such as `coadvise reproduce table6`, or all")
    output = output or Path("runs") / f"reproduce-{scale}"
    limit, size = None if budget is None else seconds(budget), find_scale(scale)
    given = dict(_pairs(weights or []))
    display = Display(every=10.0)
    setup = set_up(size, output, source=data, classes=classes, settings=settings, weights=given, say=display.say_once)
    places = Shifted(shifted_sources(shifted or []), size.check_size)
    orders = Orders(results or output / "results", seeds, limit, jobs, places)
    page = run(setup, wanted, orders, display)
    out.print(f"report: {page}")


def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="folder of the demo")] = Path("runs/demo"),
    seeds: Annotated[int, typer.Option(min=1, help="students of each kind")] = 5,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="runs side by side; by default one for each core, four at most")
    ] = None,
) -> None:
    """See the method work in minutes: teachers and students on real handwritten digits, then a report.

    Its runs are those of `coadvise reproduce table6 --scale digits`.

    Example:

        coadvise demo --output runs/demo
    """
    from ..reproduce.work import begin_workers

    begin_workers()
    with importing():
        from ..reproduce.command import find_experiments
        from ..reproduce.command import reproduce as run
        from ..reproduce.runner import Orders
        from ..reproduce.scales import find_scale
        from ..reproduce.setup import set_up

    setup = set_up(find_scale("digits"), output)
    orders = Orders(output / "results", seeds, jobs=jobs)
    page = run(setup, find_experiments(["demo"]), orders, Display(every=5.0))
    out.print()
    out.print(f"report: {page}")


def _pairs(words: list[str]) -> Iterator[tuple[str, str]]:
    for word in words:
        name, _, value = word.partition("=")
        if not (name and value):
            raise RecipeError(f"--weights {word}: write MODEL=FILE or MODEL=timm")
        if value != "timm" and not Path(value).is_file():
            raise RecipeError(f"--weights {word}: there is no file {value}")
        yield name, value
