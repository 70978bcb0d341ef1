"""A trained model, rebuilt from its file."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from ..errors import CheckpointError, ModelError
from ..recipe.schema import Data, Recipe
from ..shapes import Float
from .bounds import local, within
from .build import build_student
from .loading import load_checkpoint
from .model_file import exported, read_header, weights_file


@dataclasses.dataclass(frozen=True)
class TrainedModel:
    """A model in evaluation mode, with its recipe and the names of its classes."""

    model: nn.Module
    recipe: Recipe
    classes: tuple[str, ...]
    path: Path

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    @property
    def data(self) -> Data:
        """How the model was trained to see images."""
        return self.recipe.data

    def with_workers(self, workers: int | None) -> TrainedModel:
        """The same model, whose images are read by so many processes; None leaves it to the recipe."""
        if workers is None:
            return self
        return self._with_data(workers=workers)

    def without_unreadable(self) -> TrainedModel:
        """The same model, which leaves out images that cannot be read, whatever its recipe says of them."""
        return self._with_data(on_error="skip")

    def _with_data(self, **update: object) -> TrainedModel:
        data = self.data.model_copy(update=update)
        return dataclasses.replace(self, recipe=self.recipe.model_copy(update={"data": data}))

    def tokens(self, images: Float[Tensor, "b 3 h w"]) -> Mapping[str, Float[Tensor, "b k"]]:
        """Logits by token of normalised images."""
        return self.model.forward_tokens(images)  # type: ignore[operator]


def load_trained(path: str | Path, device: str | torch.device = "cpu", *, several: bool = False) -> TrainedModel:
    """Rebuild a model from a run folder, or from its `best.safetensors`.

    Args:
        several: whether the caller can do with a model that gives an image any number of classes.

    Raises:
        CheckpointError: missing, damaged, not written by `coadvise train`, or a model that the caller cannot do with.
    """
    path = weights_file(path)
    if path.suffix in (".onnx", ".xml", ".pt2") and path.is_file():
        raise exported(path)
    header = read_header(path)
    if header is None:
        raise CheckpointError(
            f"{path} does not say how its model is built; give the best.safetensors of a run, or load weights alone "
            "with coadvise.load_checkpoint(model, path)"
        )
    if header.given:
        raise CheckpointError(
            f"{path} holds the weights of a module that was given from Python ({header.given}); make it there, and "
            "load them with coadvise.load_checkpoint(module, path)"
        )
    recipe = header.recipe
    if recipe.data.labels == "several" and not several:
        raise CheckpointError(
            f"{path} gives an image any number of classes (data.labels=several), and this is made for models that give "
            "one; evaluate, report, predict and export can do with it"
        )
    # The weights come from this file: whatever the training started from is not needed any more.
    student = recipe.student.model_copy(update={"pretrained": False, "checkpoint": None})
    student = local(student, header.built_as, path)
    try:
        with within(path):
            model = build_student(
                student, recipe.tokens(), len(header.classes), recipe.data.image_size, add=recipe.adds_tokens
            )
    except ModelError as error:
        raise CheckpointError(f"{path} describes a model that cannot be made: {error}") from error
    load_checkpoint(model, path)
    if bad := next((name for name, value in model.state_dict().items() if not value.isfinite().all()), None):
        raise CheckpointError(
            f"{path} is damaged or of a training that diverged: {bad} is not finite; take another file"
        )
    return TrainedModel(model.eval().to(device), recipe, header.classes, path)
