"""Features of images: what a model's classifier sees."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..data.loader import EvalLoader
from ..data.sources.base import ImageSource
from ..data.views.finish import Batch
from ..errors import DataError, ModelError
from ..models.advised import AdvisedViT
from ..models.cit import CiT
from ..models.students import classifier_of
from ..names import CLASS
from ..recipe.schema import Data
from ..shapes import Float, Int


@dataclass(frozen=True)
class Features:
    """Features of a set of images, on the CPU.

    Attributes:
        values: (n, d) in float32.
        label: (n,) of the images that could be read.
    """

    values: Float[Tensor, "n d"]
    label: Int[Tensor, " n"]


def features_of(
    model: nn.Module,
    source: ImageSource,
    data: Data,
    *,
    batch_size: int = 64,
    device: torch.device | str = "cpu",
    advance: Callable[[int], None] = lambda samples: None,
) -> Features:
    """Features of every image of a source, as evaluation sees it: no augmentation.

    Args:
        model: a classifier in evaluation mode, on the device; of a token student the class token's features count.
        data: size and normalisation that the model was made for.
        advance: called with the number of images done, for a progress bar.

    Raises:
        ModelError: the model does not say which of its layers is the classifier.
        DataError: no image can be read.
    """
    parts = list(features_by_batch(model, source, data, batch_size=batch_size, device=device, advance=advance))
    if not parts:
        raise DataError("none of the images can be read; repair them")
    return Features(torch.cat([one.values for one in parts]), torch.cat([one.label for one in parts]))


def features_by_batch(
    model: nn.Module,
    source: ImageSource,
    data: Data,
    *,
    batch_size: int = 64,
    device: torch.device | str = "cpu",
    advance: Callable[[int], None] = lambda samples: None,
) -> Iterator[Features]:
    """As `features_of`, a batch at a time: those of many images need not fit into memory. Nothing of unreadable ones.

    Raises:
        ModelError: the model does not say which of its layers is the classifier.
    """
    with closing(EvalLoader(source, data, batch_size, device=device)) as loader, watched(model) as seen:
        for batch in _told(loader, advance):
            if len(batch.label):
                with torch.no_grad():
                    model(batch.images)
                yield Features(flat_features(seen[CLASS]).float().cpu(), batch.label.cpu())


def _told(batches: Iterable[Batch], advance: Callable[[int], None]) -> Iterator[Batch]:
    for batch in batches:
        yield batch
        advance(len(batch.label) + len(batch.skipped))


def flat_features(x: Tensor) -> Float[Tensor, "b d"]:
    """Input of a classifier as one vector for each image; a map or a sequence is averaged over its places."""
    if x.ndim == 4:  # classifiers that are convolutions
        return x.mean(dim=(2, 3))
    return x.mean(dim=1) if x.ndim == 3 else x.flatten(1)


@contextmanager
def watched(model: nn.Module) -> Iterator[dict[str, Tensor]]:
    """The last input of every classifier, by token.

    Raises:
        ModelError: the model does not say which of its layers they are.
    """
    seen: dict[str, Tensor] = {}
    handles = []
    for token, head in classifiers(model).items():
        keep = lambda _, inputs, token=token: seen.__setitem__(token, inputs[0].detach())  # type: ignore[misc]
        handles.append(head.register_forward_pre_hook(keep))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def classifiers(model: nn.Module) -> dict[str, nn.Module]:
    """The last layer of every token; of a model with one head, of its class output.

    Raises:
        ModelError: the model does not say which one it is.
    """
    if isinstance(model, AdvisedViT):
        return model.heads
    if isinstance(model, CiT):
        return {CLASS: model.head, **dict(model.advised_heads.items())}
    inner = classifier_of(model)
    find: Any = getattr(inner, "get_classifier", None)
    if find is None:
        name = type(inner).__name__
        raise ModelError(f"{name} has no get_classifier(), as timm's models have; add one that returns its last layer")
    found = find()  # of timm's distilled models both heads, the class token's first
    return {CLASS: found[0] if isinstance(found, (tuple, nn.ModuleList)) else found}
