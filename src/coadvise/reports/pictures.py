"""Single images: the answers of teachers and students where the teachers disagree, and where the tokens look."""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import RunError
from ..shapes import Float
from ..system.files import read_json
from .page import Part, Text
from .plots.disagreement import Disagreement, disagreement_figure
from .plots.style import draw
from .results import ATTENTION, IMAGES, Results
from .tables import ABSENT, Table

NOTE = (
    "Images on which the teachers disagree, chosen for that: they show how advice combines, not how often. Shaded: the "
    "true class. Green with ✓: predicted and right; orange with ✗: predicted and wrong. With more than ten classes "
    "only the likeliest are shown."
)


@dataclass(frozen=True)
class Pictures:
    """Images with the answers of some models; `problems` says what is left out, and why."""

    classes: Sequence[str]
    images: Sequence[Disagreement]
    problems: Sequence[str] = ()


def pictures_of(output: Path, results: Results) -> Path | None:
    """The folder of what was made of single images, if it was made of these runs and not of earlier ones."""
    path = output / IMAGES
    ids = {run.id for run in results.files.values()}
    return output if path.is_file() and set(read_json(path).get("runs", [""])) <= ids else None


def read_pictures(path: Path) -> Pictures:
    """A file that `evaluation.disagreement.disagreements` wrote."""
    try:
        content = read_json(path)
        classes = [str(name) for name in content["classes"]]
        entries = list(content["images"])
    except (RunError, KeyError, TypeError) as error:
        return Pictures([], [], [f"The figure of single images is missing: {path.name} cannot be read ({error})."])
    images, problems = [], []
    for position, entry in enumerate(entries, start=1):
        try:
            images.append(_disagreement(entry, len(classes)))
        except (KeyError, TypeError, ValueError, AttributeError, binascii.Error) as error:
            problems.append(f"Image {position} of {path.name} is left out: {error!r}.")
    return Pictures(classes, images, problems)


def _disagreement(entry: Mapping[str, Any], classes: int) -> Disagreement:
    outputs = {str(name): [float(p) for p in row] for name, row in entry["outputs"].items()}
    label = int(entry["label"])
    if not 0 <= label < classes:
        raise ValueError(f"label {label} of {classes} classes")
    for name, row in outputs.items():
        if len(row) != classes or not all(math.isfinite(p) for p in row):
            raise ValueError(f"{name} needs {classes} finite probabilities")
    png = base64.b64decode(entry["png"], validate=True)
    if not png.startswith(b"\x89PNG\r\n\x1a\n"):
        raise ValueError("no PNG")
    return Disagreement(png, int(entry.get("index", -1)), label, outputs)


def disagreement_parts(name: str, folder: Path) -> list[Part]:
    """A figure of the answers, named `name`, and the same as a table."""
    found = read_pictures(folder / IMAGES)
    problems = [Text(problem, "warning") for problem in found.problems]
    if not found.images:
        return [*problems]
    images, classes = found.images, found.classes
    models = list(dict.fromkeys(model for image in images for model in image.outputs))
    rows = []
    for image in images:
        answers = [_answer(image, image.outputs.get(model), classes) for model in models]
        rows.append([str(image.index) if image.index >= 0 else ABSENT, classes[image.label], *answers])
    columns = ["Image", "True class", *models]
    table = Table("Predicted class (probability) of each model", columns, rows, "rl" + "l" * len(models))
    right = {model: sum(row[i].startswith("✓") for row in rows) for i, model in enumerate(models, start=2)}
    said = "; ".join(f"{model} is right on {n} of {len(rows)}" for model, n in right.items())
    alt = f"Class probabilities on {len(images)} chosen images: {said}."
    drawing = draw(name, alt, lambda: disagreement_figure(images, classes))
    return [drawing, Text(NOTE, "note"), table, *problems]


def _answer(image: Disagreement, shares: Sequence[float] | None, classes: Sequence[str]) -> str:
    if shares is None:
        return ABSENT
    best = int(np.argmax(shares))
    return f"{'✓' if best == image.label else '✗'} {classes[best]} ({shares[best]:.2f})"


def read_attention(folder: Path | None) -> list[tuple[bytes, str, dict[str, Float[np.ndarray, "gh gw"]]]]:
    """(PNG, class name, token → attention to the patches) for some images; empty where there are none."""
    path = None if folder is None else folder / ATTENTION
    if path is None or not path.is_file():
        return []
    return [
        (base64.b64decode(one["png"]), str(one["name"]), {k: np.asarray(v, float) for k, v in one["maps"].items()})
        for one in read_json(path)["images"]
    ]
