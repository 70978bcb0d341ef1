"""`coadvise find-lr`: a learning-rate range test."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from ..errors import RunError
from ..system.progress import Display
from ..system.screen import Table
from .arguments import Quiet, RecipeName, Settings, out


def find_lr(
    recipe: RecipeName,
    settings: Settings = None,
    steps: Annotated[int, typer.Option(min=20, max=100_000, help="training steps of the test")] = 100,
    low: Annotated[float, typer.Option(help="first learning rate (after the warm-up, scaled to the batch)")] = 1e-6,
    high: Annotated[float, typer.Option(help="last learning rate")] = 1.0,
    plot: Annotated[Path | None, typer.Option(help="PNG of the losses; NAME-find-lr.png when not given")] = None,
    quiet: Quiet = False,
) -> None:
    """Find a learning rate: take training steps while it rises, and see where the loss falls and where it explodes.

    The run's own student, data, teachers and loss are used, and nothing is written but the plot.

    Example:

        coadvise find-lr my.yaml
    """
    from ..recipe.reading import load_recipe

    loaded = load_recipe(recipe, settings or [])
    target = plot or Path(f"{loaded.name}-find-lr.png")
    if not 0 < low < high < float("inf"):
        raise RunError(f"--low {low:g} and --high {high:g} are no range; give 0 < low < high, such as 1e-6 and 1")
    if target.exists():
        raise RunError(f"{target} exists; remove it, or name another file with --plot FILE")
    if not target.parent.is_dir():
        raise RunError(f"--plot: there is no folder {target.parent}; make it, or name another file")
    from ..reports.plots.learning_rate import range_test_figure
    from ..reports.plots.style import draw
    from ..system.files import write_new
    from ..training.optimizer import peak_lr
    from ..training.range_test import as_setting
    from ..training.range_test import find_lr as run

    main = os.environ.get("RANK", "0") == "0"
    found = run(loaded, low, high, steps, Display(quiet=quiet or not main))
    if not main:
        return
    scale = as_setting(loaded, 1.0)  # the setting is scaled to the batch
    marked = {
        "steepest descent": found.steepest * scale, "a third of the turn": found.third * scale,
        "turn": found.lowest * scale, "the recipe's": loaded.optim.lr,
    }  # fmt: skip
    curves = ((found.rates * scale).tolist(), found.losses.tolist(), found.smoothed.tolist())
    alt = f"loss of {loaded.name} while the learning rate rises"
    write_new(target, draw("find-lr", alt, lambda: range_test_figure(*curves, marked, "optim.lr")).png)
    table = Table("rule", "optim.lr", "learning rate", "from", title="learning rates", title_justify="left")
    turned = found.diverged or found.lowest < found.rates[-1]
    sources = (
        "fastai (steep), Lightning's lr_find", "Smith 2017: 1/3 to 1/4 of the largest that converges",
        "the smoothed loss rises from here on" if turned else "none: the loss still falls at the last rate", "",
    )  # fmt: skip
    for (rule, setting), source in zip(marked.items(), sources, strict=True):
        table.add_row(rule, f"{setting:.2g}", f"{setting / scale:.2g}", source)
    out.print(table)
    out.print(f"{len(found.rates)} steps of {loaded.optim.batch_size} images; the plot is {target}")
    if peak_lr(loaded.optim) != loaded.optim.lr:
        batch, unit = loaded.optim.batch_size, loaded.optim.lr_batch
        out.print(f"optim.lr is multiplied by {batch} / {unit} (optim.batch_size / optim.lr_batch)")
    if not found.clear:
        out.print(f"the loss fell by no more than its noise, so nothing is suggested; try --steps {4 * steps}")
        return
    out.print(f"suggested: optim.lr={marked['steepest descent']:.2g}")
