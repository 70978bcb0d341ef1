"""Accuracy on shifted data: corruptions, ImageNet-C, and images of some of the classes (ImageNet-A, -R, renditions)."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..checkpoints.trained import TrainedModel
from ..data.feed import Feed
from ..data.loader import EvalLoader
from ..data.samples import PlainSamples
from ..data.sources.base import ImageSource
from ..data.sources.opening import open_source
from ..data.sources.subsets import Subset, balanced_subset
from ..data.views.finish import Finish, Unfinished
from ..errors import DataError
from ..recipe.schema import Data
from ..system.progress import QUIET, Display
from .corruptions import CORRUPTIONS, SEVERITIES, corrupt
from .inference import with_classes


@dataclass(frozen=True)
class CorruptionErrors:
    """Top-1 errors on corrupted images, as shares.

    Attributes:
        kinds: token → kind of corruption → error at each severity.
        images: how many were corrupted, and counted.
    """

    kinds: Mapping[str, Mapping[str, Sequence[float]]]
    images: int

    @property
    def mean(self) -> dict[str, float]:
        """Mean error over kinds and severities by token, not normalised by AlexNet's."""
        return {token: float(np.mean(list(found.values()))) for token, found in self.kinds.items()}

    def of_kind(self, token: str, kind: str) -> float:
        """Mean error over the severities of one kind."""
        return float(np.mean(self.kinds[token][kind]))


@torch.no_grad()
def corruption_errors(
    trained: TrainedModel,
    source: ImageSource,
    *,
    limit: int | None = 1000,
    batch_size: int = 250,
    seed: int = 0,
    display: Display = QUIET,
) -> CorruptionErrors:
    """Top-1 errors on images corrupted on the fly, after they were resized and cropped as in evaluation.

    Args:
        limit: so many images of the source, classes in balance; None takes all.
        seed: of the corruptions.

    Raises:
        DataError: an image is unreadable and `data.on_error` is `raise`, or none can be read.
    """
    if limit is not None and limit < len(source):
        source = Subset(source, balanced_subset(source.labels, limit))
    finish = Finish(trained.data, len(trained.classes), trained.device)
    wrong: dict[str, dict[str, list[int]]] = {}
    read = 0
    skipped: tuple[str, ...] = ()
    with display.bar("corruptions", len(source) * len(CORRUPTIONS) * len(SEVERITIES)) as bar:
        for batch in _pixel_batches(trained, source, batch_size):
            skipped += batch.skipped
            if not len(batch.pixels):
                continue
            read += len(batch.pixels)
            pixels, labels = batch.pixels.numpy(), torch.from_numpy(source.labels[batch.index.numpy()])
            for kind, severity in itertools.product(CORRUPTIONS, SEVERITIES):
                changed = torch.from_numpy(corrupt(pixels, kind, severity, seed=seed, numbers=batch.index.tolist()))
                for token, logits in trained.tokens(finish.images(changed)).items():
                    counts = wrong.setdefault(token, {}).setdefault(kind, [0] * len(SEVERITIES))
                    counts[severity - 1] += int((logits.argmax(dim=1).cpu() != labels).sum())
                bar.note(kind)
                bar.advance(len(pixels))
    if not read:
        raise DataError(f"none of the images can be read, such as {skipped[0]}; repair them")
    shares = {
        token: {kind: [round(n / read, 6) for n in row] for kind, row in found.items()}
        for token, found in wrong.items()
    }
    return CorruptionErrors(shares, read)


def _pixel_batches(trained: TrainedModel, source: ImageSource, size: int) -> Iterator[Unfinished]:
    """The images before normalisation, so many at a time, each with its number in the source."""
    batches = [range(at, min(at + size, len(source))) for at in range(0, len(source), size)]
    return Feed(PlainSamples(source, trained.data), 0, torch.device("cpu")).batches(batches)


def require_imagenet_c(folder: str | Path, classes: tuple[str, ...] | None = None) -> None:
    """Refuse a folder that is not ImageNet-C, or not all of it, or has other classes than a model's.

    Raises:
        DataError: some of the 15 kinds or 5 severities are missing, or a class that is none of `classes`.
    """
    folder = Path(folder)
    missing = [f"{kind}/{s}" for kind in CORRUPTIONS for s in SEVERITIES if not (folder / kind / str(s)).is_dir()]
    if missing:
        raise DataError(
            f"{folder} lacks {len(missing)} of the 75 folders of ImageNet-C, such as {missing[0]}; unpack all of its "
            "archives (blur, digital, noise, weather) there"
        )
    if classes is not None:
        with_classes(open_source(f"folder:{folder / next(iter(CORRUPTIONS)) / str(SEVERITIES[0])}"), classes)


def imagenet_c_errors(
    trained: TrainedModel, folder: str | Path, *, batch_size: int = 64, display: Display = QUIET
) -> CorruptionErrors:
    """Top-1 errors on ImageNet-C as it is unpacked: KIND/SEVERITY/CLASS/image.

    Its images were cut to 224 × 224 before they were corrupted, so they are evaluated whole, without the zoom of
    `data.eval_crop`.

    Raises:
        DataError: some of the 15 kinds or 5 severities are missing.
    """
    folder = Path(folder)
    require_imagenet_c(folder)
    data = trained.data.model_copy(update={"eval_crop": 1.0})
    kinds: dict[str, dict[str, list[float]]] = {}
    seen = 0
    with display.bar("ImageNet-C", len(CORRUPTIONS) * len(SEVERITIES)) as bar:
        for kind, severity in itertools.product(CORRUPTIONS, SEVERITIES):
            source = with_classes(open_source(f"folder:{folder / kind / str(severity)}"), trained.classes)
            accuracies, seen = _accuracies(trained, source, data, batch_size)
            for token, accuracy in accuracies.items():
                kinds.setdefault(token, {}).setdefault(kind, []).append(round(1 - accuracy, 6))
            bar.note(kind)
            bar.advance()
    return CorruptionErrors(kinds, seen)


def subset_accuracy(
    trained: TrainedModel, source: ImageSource, *, batch_size: int = 250, display: Display = QUIET
) -> tuple[dict[str, float], int]:
    """Top-1 of every token on images of some of the model's classes, counted among those alone.

    ImageNet-A and ImageNet-R have 200 of the 1,000 classes; logits of the others are left out, as is usual there.

    Returns:
        The shares, and the number of images that could be read.

    Raises:
        DataError: a class that the model does not know.
    """
    matched = with_classes(source, trained.classes)
    present = torch.tensor(sorted({trained.classes.index(name) for name in source.class_names}))
    return _accuracies(trained, matched, trained.data, batch_size, present, display)


@torch.no_grad()
def _accuracies(
    trained: TrainedModel,
    source: ImageSource,
    data: Data,
    batch_size: int,
    among: Tensor | None = None,
    display: Display = QUIET,
) -> tuple[dict[str, float], int]:
    """Top-1 of every token, and the number of images that could be read."""
    right: Counter[str] = Counter()
    seen = 0
    skipped: tuple[str, ...] = ()
    among = torch.arange(len(trained.classes)) if among is None else among
    with (
        closing(EvalLoader(source, data, batch_size, device=trained.device)) as loader,
        display.bar("evaluating", len(source)) as bar,
    ):
        for batch in loader:
            skipped += batch.skipped
            if not len(batch.label):
                continue
            seen += len(batch.label)
            for token, logits in trained.tokens(batch.images).items():
                answers = among.to(logits.device)[logits[:, among].argmax(dim=1)]
                right[token] += int((answers == batch.label).sum())
            bar.advance(len(batch.label))
    if not seen:
        raise DataError(f"none of the images can be read, such as {skipped[0]}; repair them")
    return {token: n / seen for token, n in right.items()}, seen
