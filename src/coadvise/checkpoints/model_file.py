"""Files of trained models: weights, and in the header all that is needed to rebuild the model and to feed it images."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import nn

from ..errors import CheckpointError, CoadviseError, RecipeError, one_line
from ..models.advised import AdvisedViT
from ..models.students import answering_output, classifier_of
from ..names import ALL_HEADS, AVERAGE, CLASS
from ..recipe.reading import recipe_from
from ..recipe.schema import Recipe
from ..system.files import read_json
from .writing import save_safetensors_atomic

FORMAT = "coadvise-model-1"
BEST = "best.safetensors"


def save_model(
    path: Path,
    student: nn.Module,
    recipe: Recipe,
    class_names: tuple[str, ...],
    *,
    weights: str,
    epoch: int,
    metrics: Mapping[str, float],
    given: str | None = None,
) -> None:
    """Write a model for inference, atomically; for the record which weights it has, after which epoch, how good.

    Args:
        weights: `student` or `ema`.
        given: class of a student that was given from Python; the recipe does not say how to build it.
    """
    header = {
        "recipe": recipe.content(),
        "classes": list(class_names),
        "weights": weights,
        "epoch": epoch,
        "metrics": dict(metrics),
        "given": given,
    }
    # `average` is measured where there are several outputs; a file without this answers with its class token.
    measured = [name for name in (CLASS, ALL_HEADS) if {f"accuracy/{name}", f"map/{name}"} & metrics.keys()]
    if (answering := answering_output(student, measured)) != CLASS:
        header["answering"] = answering
    if ":" in recipe.student.model and (built_as := _built_as(classifier_of(student))):
        header["built_as"] = built_as
    save_safetensors_atomic(
        path, classifier_of(student).state_dict(), {"format": FORMAT, "coadvise": json.dumps(header)}
    )


def weights_file(path: str | os.PathLike[str]) -> Path:
    """The file that is meant by a path: of a run's folder, its best weights.

    Raises:
        CheckpointError: a folder that has none.
    """
    path = Path(path)
    if not path.is_dir():
        return path
    if not (path / BEST).is_file():
        if (path / "model.xml").is_file() or _of_timm(path / "config.json"):
            raise exported(path)
        raise CheckpointError(
            f"{path} holds no {BEST}, which a run writes at its first evaluation; give a run's folder"
        )
    return path / BEST


def exported(path: Path) -> CheckpointError:
    """The message for a file or folder that was written for other programs."""
    opens = "" if path.suffix == ".pt2" else "`coadvise predict` opens it, and "
    return CheckpointError(
        f"{path} is for other programs: {opens}this takes the run that it comes from, or what `coadvise export --to "
        "safetensors` wrote"
    )


def _of_timm(path: Path) -> bool:
    content = None
    with contextlib.suppress(CoadviseError):
        content = read_json(path) if path.is_file() else None
    return isinstance(content, dict) and "architecture" in content


def is_safetensors(path: Path) -> bool:
    """Whether a file is of that format, by its name or else by its first bytes."""
    if path.suffix == ".safetensors":
        return True
    with path.open("rb") as file:
        start = file.read(9)
    # Length of the header, then the header itself, which is JSON.
    return len(start) == 9 and start[8:] == b"{" and int.from_bytes(start[:8], "little") < path.stat().st_size


def _built_as(model: nn.Module) -> dict[str, Any] | None:
    """What timm made of a name such as `hf-hub:…`, of which only another place says it."""
    model = model.model if isinstance(model, AdvisedViT) else model
    cfg = getattr(model, "pretrained_cfg", None)
    if not isinstance(cfg, Mapping) or not isinstance(cfg.get("architecture"), str):
        return None
    options: dict[str, Any] = {}
    if cfg.get("global_pool") is not None:
        options["global_pool"] = cfg["global_pool"]
    if cfg.get("fixed_input_size") and cfg.get("input_size"):
        options["img_size"] = list(cfg["input_size"][-2:])
    options |= getattr(model, "pretrained_model_args", {})
    return {"model": cfg["architecture"], "options": json.loads(json.dumps(options, default=str))}


@dataclass(frozen=True)
class BuiltAs:
    """Name and options of the model here that a model of another place is made as."""

    model: str
    options: Mapping[str, Any]


@dataclass(frozen=True)
class Header:
    """What `save_model` recorded, as far as a model is rebuilt from it.

    Attributes:
        classes: names of the model's classes, in the order of its outputs.
        given: class of a module that was given from Python, else None.
        built_as: of a model whose name is an address.
        weights, epoch, metrics: see `save_model`; for the record, as far as they have the form of one.
        answering: the output by which the model answers.
    """

    recipe: Recipe
    classes: tuple[str, ...]
    given: str | None
    built_as: BuiltAs | None = None
    weights: str = "student"
    epoch: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)
    answering: str = CLASS

    @property
    def accuracy(self) -> float | None:
        """Top-1 of what the model answers, as a share; None where it was not measured."""
        return self.metrics.get(f"accuracy/{self.answering}")


def read_header(path: str | Path) -> Header | None:
    """What `save_model` recorded; None for a file of another kind.

    Raises:
        CheckpointError: the file is missing or damaged.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"checkpoint {path} does not exist: check the path")
    if not is_safetensors(path):
        return None
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
    except (OSError, SafetensorError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    return header_in(metadata, path)


def header_in(metadata: Mapping[str, str], path: Path) -> Header | None:
    """The same from a file's metadata.

    Raises:
        CheckpointError: metadata that `save_model` cannot have written.
    """
    if metadata.get("format") != FORMAT:
        return None
    damaged = f"{path} has a damaged header"
    hint = "get the file again, or load its weights without its metadata"
    try:
        content = json.loads(metadata.get("coadvise", ""))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{damaged} (no JSON: {one_line(error)}): {hint}") from error
    if not isinstance(content, dict) or not isinstance(content.get("recipe"), dict):
        raise CheckpointError(f"{damaged} (without a recipe): {hint}")
    classes, given = content.get("classes"), content.get("given")
    if not isinstance(classes, list) or not classes or not all(isinstance(name, str) for name in classes):
        raise CheckpointError(f"{damaged} (classes is no list of names): {hint}")
    if len(set(classes)) < len(classes):
        raise CheckpointError(f"{damaged} (a class is named twice): {hint}")
    if given is not None and not isinstance(given, str):
        raise CheckpointError(f"{damaged} (given is no name): {hint}")
    try:
        recipe = recipe_from(content["recipe"], where=f"the header of {path}")
    except (RecipeError, RecursionError) as error:
        raise CheckpointError(f"{damaged} ({one_line(error)}): {hint}") from error
    found = content.get("built_as")
    if found is not None:
        if not isinstance(found, dict) or not isinstance(found.get("model"), str):
            raise CheckpointError(f"{damaged} (built_as names no model): {hint}")
        if not isinstance(found.get("options"), dict):
            raise CheckpointError(f"{damaged} (built_as.options are no settings): {hint}")
    built_as = BuiltAs(found["model"], found["options"]) if found else None
    record = _record(content)
    averaged = recipe.student.options.get("inference") == ALL_HEADS and AVERAGE in record.get("metrics", {})
    record.setdefault("answering", ALL_HEADS if averaged else CLASS)  # which an earlier version did not write
    return Header(recipe, tuple(classes), given or None, built_as, **record)


def _record(content: Mapping[str, Any]) -> dict[str, Any]:
    kinds = {"weights": str, "epoch": int, "metrics": dict, "answering": str}
    record = {name: content[name] for name, kind in kinds.items() if isinstance(content.get(name), kind)}
    if "metrics" in record:
        record["metrics"] = {k: float(v) for k, v in record["metrics"].items() if isinstance(v, (int, float))}
    return record
