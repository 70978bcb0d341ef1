"""The files of a run, read leniently: the report of a killed run is worth more than none."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..errors import RecipeError, RunError
from ..names import ALL_HEADS, CLASS
from ..recipe.yaml import parse_yaml
from ..system.files import read_json_lines
from .result import RunResult


@dataclass(frozen=True)
class RunFiles:
    """One run folder. `result` is None while the run has not finished."""

    path: str
    result: RunResult | None
    lines: Sequence[Mapping[str, Any]]
    recipe: str | None = None
    bad_lines: int = 0

    @property
    def answering(self) -> str:
        """The output by which the student answers; while the run has not finished, as its recipe says."""
        if self.result is not None:
            return self.result.answering
        try:
            options = parse_yaml(self.recipe or "", "recipe.yaml")["student"]["options"]
            averaged = options["inference"] == ALL_HEADS
        except (RecipeError, KeyError, TypeError):
            return CLASS
        several = any(self.curve(f"{what}/{ALL_HEADS}") for what in ("accuracy", "map"))
        return ALL_HEADS if averaged and several else CLASS

    def curve(self, name: str, weights: Literal["metrics", "ema"] = "metrics") -> list[tuple[float, float]]:
        """(epochs completed, value) of metric `name` at every evaluation; `ema`: of the averaged weights."""
        found = []
        for line in self.lines:
            value = finite((line.get(weights) or {}).get(name)) if line.get("kind") == "eval" else None
            if value is not None and "epoch" in line:
                found.append((float(line["epoch"]), value))
        return found


def finite(value: object) -> float | None:
    """`value` as a float; None unless it is a finite number."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:  # a whole number of hundreds of digits
            return None
        return number if math.isfinite(number) else None
    return None


def read_metric_lines(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The lines of a metrics file that have the form of one, and how many others there are."""
    objects, bad = read_json_lines(path)
    lines = [line for line in objects if _is_metrics(line)]
    return lines, bad + len(objects) - len(lines)


def _is_metrics(line: Mapping[str, Any]) -> bool:
    """Whether a line has the places and the mappings of names to numbers that its kind has."""
    places = {"train": ("step",), "eval": ("step", "epoch")}.get(str(line.get("kind")))
    mappings = [line.get(key) for key in ("terms", "metrics", "ema")]
    return (
        places is not None
        and all(finite(line.get(key)) is not None for key in places)
        and all(value is None or isinstance(value, Mapping) for value in mappings)
    )


def read_run(folder: Path) -> RunFiles:
    """A run folder, finished or not.

    Raises:
        RunError: neither a result nor any metrics, or a result that cannot be read.
    """
    result_file, metrics_file, recipe_file = (folder / n for n in ("result.json", "metrics.jsonl", "recipe.yaml"))
    if not result_file.is_file() and not metrics_file.is_file():
        raise RunError(f"{folder} is no run: it has neither result.json nor metrics.jsonl; name a run's folder")
    lines, bad = read_metric_lines(metrics_file)
    recipe = recipe_file.read_text(encoding="utf-8", errors="replace") if recipe_file.is_file() else None
    result = RunResult.read(result_file) if result_file.is_file() else None
    return RunFiles(folder.name, result, lines, recipe, bad)
