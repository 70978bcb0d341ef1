"""Arguments that several commands have, where all commands print, and a table that several print."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import typer

from ..system.screen import Screen, Table
from .completing import recipes_from, settings_from

out = Screen(soft_wrap=True)

RecipeName = Annotated[
    str, typer.Argument(help="a YAML file, or the name of a built-in recipe", autocompletion=recipes_from)
]
Settings = Annotated[
    list[str] | None,
    typer.Argument(help="settings that replace the recipe's, key=value", autocompletion=settings_from),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="no progress, only errors and the result")]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON")]


def next_steps(*steps: str) -> None:
    """Say how to go on, a line each."""
    for step in steps:
        out.print(f"next: {step}")


def accuracy_table(title: str, metrics: Mapping[str, float]) -> Table:
    """Accuracy of every token and, where they are among the metrics, its cross entropy and expected calibration error.

    Of images that have any number of classes: the mAP, and what follows where each is answered with more than half.
    """
    if "map/class" in metrics:
        return _several_table(title, metrics)
    table = Table("token", title=title, title_justify="left")
    table.add_column("accuracy", justify="right")
    more = {"loss": ("cross entropy", ".3f"), "ece": ("calibration error", ".2%")}
    shown = {kind: form for kind, (_, form) in more.items() if any(name.startswith(f"{kind}/") for name in metrics)}
    for kind in shown:
        table.add_column(more[kind][0], justify="right")
    for name, value in metrics.items():
        if name.startswith("accuracy/"):
            token = name.removeprefix("accuracy/")
            found = {kind: metrics.get(f"{kind}/{token}") for kind in shown}  # the average of all heads has no loss
            table.add_row(token, f"{value:.2%}", *("" if v is None else f"{v:{shown[k]}}" for k, v in found.items()))
    return table


def _several_table(title: str, metrics: Mapping[str, float]) -> Table:
    table = Table("token", title=title, title_justify="left")
    for column in ("mAP", "F1 of all", "mean F1 of classes", "every class right", "cross entropy"):
        table.add_column(column, justify="right")
    for name in metrics:
        if name.startswith("map/"):
            token = name.removeprefix("map/")
            shares = [f"{metrics[f'{what}/{token}']:.2%}" for what in ("map", "f1_micro", "f1_macro", "exact")]
            loss = metrics.get(f"loss/{token}")  # the average of all heads has none
            table.add_row(token, *shares, "" if loss is None else f"{loss:.3f}")
    return table
