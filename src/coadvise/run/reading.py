"""A run's files, read leniently: a report of a killed run is worth more than none."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..errors import RunError
from ..names import CLASS
from ..system.files import read_json


@dataclass(frozen=True)
class Run:
    """One run folder. `result` is empty while the run has not finished."""

    path: str
    result: Mapping[str, Any]
    lines: Sequence[Mapping[str, Any]]
    recipe: str | None = None
    bad_lines: int = 0

    @property
    def seed(self) -> int | None:
        """Seed of the model."""
        return self.result.get("seed")

    @property
    def final(self) -> Mapping[str, float]:
        """Metrics after the last epoch, by name."""
        return self.result.get("final") or {}

    @property
    def accuracy(self) -> float | None:
        """Top-1 of the class token after the last epoch, as a share; None if absent or not finite."""
        return finite(self.final.get(f"accuracy/{CLASS}"))

    @property
    def tokens(self) -> list[str]:
        """Names of the outputs: `class` first, `average` of all heads last."""
        names = [key.removeprefix("accuracy/") for key in self.final if key.startswith("accuracy/")]
        return sorted(names, key=lambda name: (name != CLASS, name == "average"))

    def curve(self, name: str, weights: Literal["metrics", "ema"] = "metrics") -> list[tuple[float, float]]:
        """(epochs completed, value) of metric `name` at every evaluation; `ema`: of the averaged weights."""
        found = []
        for line in self.lines:
            value = finite((line.get(weights) or {}).get(name)) if line.get("kind") == "eval" else None
            if value is not None and "epoch" in line:
                found.append((float(line["epoch"]), value))
        return found

    @property
    def directions_named(self) -> bool:
        """Whether the result tells KL(teacher ‖ token) and KL(token ‖ teacher) apart by name."""
        return any(key.startswith("kl_reverse/") for key in self.final)

    def kl(self, teacher: str, token: str, direction: Literal["teacher‖token", "token‖teacher"]) -> float | None:
        """KL divergence on the validation set in nats; None where it is absent or cannot be told apart.

        `kl/TEACHER|TOKEN` and `kl_reverse/TEACHER|TOKEN` say what they are. Results without `kl_reverse/` write
        the reverse as `kl/TOKEN|TEACHER`, and with tokens named after teachers `kl/conv|inv` is then two things.
        """
        if self.directions_named:
            kind = "kl" if direction == "teacher‖token" else "kl_reverse"
            return finite(self.final.get(f"{kind}/{teacher}|{token}"))
        if teacher in self.tokens and token in (self.result.get("teachers") or {}):
            return None
        pair = (teacher, token) if direction == "teacher‖token" else (token, teacher)
        return finite(self.final.get(f"kl/{pair[0]}|{pair[1]}"))


def finite(value: object) -> float | None:
    """`value` as a float; None unless it is a finite number."""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    return None


def _read_object(path: Path) -> dict[str, Any]:
    value = read_json(path)
    if not isinstance(value, dict):
        raise RunError(f"{path} holds no JSON object; run the command that writes it again")
    return value


def read_run(folder: Path, path: str | None = None) -> Run:
    """A run folder, finished or not; `path` is how the report names it.

    Raises:
        RunError: neither a result nor any metrics, or a result that cannot be read.
    """
    result_file, metrics_file, recipe_file = (folder / n for n in ("result.json", "metrics.jsonl", "recipe.yaml"))
    if not result_file.is_file() and not metrics_file.is_file():
        raise RunError(f"{folder} is no run: it has neither result.json nor metrics.jsonl; name a run's folder")
    lines, bad = _json_lines(metrics_file) if metrics_file.is_file() else ([], 0)
    recipe = recipe_file.read_text(encoding="utf-8", errors="replace") if recipe_file.is_file() else None
    result = _read_object(result_file) if result_file.is_file() else {}
    return Run(path or folder.name, result, lines, recipe, bad)


def _json_lines(path: Path) -> tuple[list[Mapping[str, Any]], int]:
    """The JSON objects of a file, and how many lines were none (a killed run leaves half a line)."""
    lines: list[Mapping[str, Any]] = []
    bad = 0
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            value = json.loads(text)
        except json.JSONDecodeError:
            value = None
        if isinstance(value, dict):
            lines.append(value)
        elif text.strip():
            bad += 1
    return lines, bad
