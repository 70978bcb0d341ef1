"""The model card of an uploaded model: what it knows, how good it is, how it was made, how to load it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from huggingface_hub import EvalResult, ModelCardData

from ..checkpoints.model_file import Header
from ..data.sources.columns import split_columns
from ..data.sources.kinds import KINDS
from ..names import TOP1
from ..recipe.reading import dump_recipe
from ..reports.page import Section, markdown_sections
from ..reports.plots.style import Drawing
from ..reports.run import run_page
from ..reports.tables import count, markdown_text, percent
from ..run.reading import RunFiles
from ..system.files import write_atomic
from .public import public, public_result

# Of a run's report, what may be shown to everybody: no photographs, no folders of the machine.
SHOWN = ("curves", "accuracy", "classes", "calibration")
_LISTED = 40
CARD = "README.md"
"""File of a model card, where the Hub looks for it."""

LOADING = """\
import numpy as np
import timm, torch{imports}
from PIL import Image, ImageOps

model = timm.create_model("hf-hub:{repository}", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
image = ImageOps.exif_transpose(Image.open("image.jpg"))
if image.mode.startswith("I"):  # greyscale of 16 bits, which `convert` would clip
    image = Image.fromarray(np.rint(np.asarray(image) / 257).astype(np.uint8))
if image.has_transparency_data:  # the model was trained to see white there
    image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
image = image.convert("RGB")
with torch.no_grad():
    probabilities = model(transform(image)[None]).softmax(dim=1)[0]
best = int(probabilities.argmax())
print(model.pretrained_cfg["label_names"][best], float(probabilities[best]))
"""


@dataclass(frozen=True)
class Subject:
    """What a card is about.

    Attributes:
        repository: OWNER/NAME.
        licence: of the weights, if it is known.
        header: of the model's file.
        run: the run, and its folder, if there is more than the file.
        ours: whether timm makes the model only after `import coadvise`.
    """

    repository: str
    licence: str | None
    header: Header
    run: RunFiles | None
    folder: Path
    ours: bool

    @property
    def name(self) -> str:
        """The last part of the repository's name."""
        return self.repository.rpartition("/")[2]


def write_model_card(folder: Path, subject: Subject) -> None:
    """Write README.md, and the figures that it shows, into the folder of a model."""
    sections = [section for section in _sections(subject) if section.id in SHOWN]
    for section in sections:
        for part in section.parts:
            if isinstance(part, Drawing):
                write_atomic(folder / "figures" / f"{part.name}.png", part.png)
    blocks = [
        f"---\n{_front_matter(subject)}\n---",
        f"# {markdown_text(subject.name)}",
        *_lead(subject),
        f"## How to use it\n\n{_needs(subject)}```python\n{_loading(subject)}```",
        *([markdown_sections(sections)] if sections else []),
        f"<details><summary>Recipe</summary>\n\n```yaml\n{dump_recipe(public(subject.header.recipe))}```\n\n</details>",
    ]
    write_atomic(folder / CARD, "\n\n".join(blocks) + "\n")


def _sections(subject: Subject) -> list[Section]:
    if subject.run is None or subject.run.result is None:
        return []
    run = replace(subject.run, result=public_result(subject.run.result))
    return list(run_page(run, subject.folder).sections)


def _front_matter(subject: Subject) -> str:
    recipe, accuracy = subject.header.recipe, subject.header.accuracy
    source = public(recipe).data.source
    named = source == recipe.data.source  # and no folder here
    results = []
    if accuracy is not None:
        task, dataset = "image-classification", _data_set(source)
        results = [
            EvalResult(
                task_type=task, dataset_type=dataset, dataset_name=dataset, dataset_split="validation",
                metric_type="accuracy", metric_value=round(accuracy, 4),
            )
        ]  # fmt: skip
    data = ModelCardData(
        license=subject.licence,
        library_name="timm",
        pipeline_tag="image-classification",
        tags=["image-classification", "timm", "coadvise", *(["knowledge-distillation"] if _teachers(subject) else [])],
        datasets=[_data_set(source)] if source.startswith("hf:") and named else None,
        metrics=["accuracy"] if results else None,
        model_name=subject.name,
        eval_results=results or None,
    )
    return str(data.to_yaml()).strip()


def _data_set(source: str) -> str:
    """The name of a data set: what its source is without its kind, configuration and columns."""
    name, _ = split_columns(source)
    kind, colon, rest = name.partition(":")
    if not (colon and kind in KINDS):
        return name
    return rest.partition(":")[0] if kind == "hf" else rest


def _teachers(subject: Subject) -> dict[str, tuple[str, str | None]]:
    """Model and bias of each teacher by whose advice the model was trained, as everybody may see them."""
    recipe = public(subject.header.recipe)
    weights = recipe.loss.weights
    if subject.run is not None and subject.run.result is not None:
        given = public_result(subject.run.result).teachers
        found = {name: (facts.model, facts.bias) for name, facts in given.items()}
    else:
        biases = recipe.biases()
        found = {name: (teacher.model, biases[name]) for name, teacher in recipe.teachers.items()}
    return found if any(weights.get(name, 1.0) for name in recipe.advice.names(found)) else {}


def _origin(subject: Subject, images: str) -> str:
    """How a model came to be, as the end of a clause.

    Args:
        images: how many it was trained on, in words; empty where that is not known.
    """
    if _is_probe(subject):
        return ", frozen, with a linear probe that coadvise fitted as its last layer"
    if _is_given(subject.header):
        return ", with the weights that it came with"
    teachers = _teachers(subject)
    kinds = {bias for _, bias in teachers.values()} - {None}
    method = "cross inductive bias distillation" if len(kinds) > 1 else "knowledge distillation"
    return f", trained{images} with coadvise{f', {method}' if teachers else ''}"


def _is_given(header: Header) -> bool:
    """Whether a model was measured without an epoch of training."""
    return header.epoch == 0 and bool(header.metrics)


def _is_probe(subject: Subject) -> bool:
    """Whether it is a model behind a linear probe, of which nothing but its accuracy is known."""
    return _is_given(subject.header) and subject.run is None and subject.header.metrics.keys() == {TOP1}


def _measured(subject: Subject) -> str:
    """How the accuracy is to be taken, as the end of a sentence."""
    if _is_probe(subject):
        return "measured once; nothing was picked on these images."
    if _is_given(subject.header):
        return "measured once."
    return (
        f"measured after epoch {subject.header.epoch}, the best of its run; picked on these very images, it is no fair "
        "estimate."
    )


def _lead(subject: Subject) -> list[str]:
    recipe, classes, accuracy = public(subject.header.recipe), subject.header.classes, subject.header.accuracy
    shown = ", ".join(markdown_text(name) for name in classes[:_LISTED])
    rest = f" and {count(len(classes) - _LISTED)} more" if len(classes) > _LISTED else ""
    size = recipe.data.image_size
    result = public_result(subject.run.result) if subject.run is not None and subject.run.result is not None else None
    teachers = ", ".join(f"{name} ({model})" for name, (model, _) in _teachers(subject).items())
    blocks = []
    if accuracy is not None:
        on = f" on {count(result.data.val)} validation images" if result else " on its validation images"
        blocks.append(f"**{percent(accuracy)} % top-1{on}**, {_measured(subject)}")
    more = f" and {count(result.data.unlabelled)} without labels" if result and result.data.unlabelled else ""
    images = f" on {count(result.data.train)} images{more}" if result else ""
    advised = f" Its teachers were {markdown_text(teachers)}." if teachers else ""
    blocks.append(
        f"An image classifier: {markdown_text(recipe.student.model)} at {size}×{size} pixels"
        f"{_origin(subject, images)}.{advised} It tells {count(len(classes))} classes apart: {shown}{rest}."
    )
    return blocks


def _needs(subject: Subject) -> str:
    return "timm makes this architecture once the package coadvise is imported.\n\n" if subject.ours else ""


def _loading(subject: Subject) -> str:
    return LOADING.format(imports=", coadvise" if subject.ours else "", repository=subject.repository)
