"""Teachers asked about validation images: as evaluation shows them, and as the student's training would.

The latter are training views of the validation images: the same crops, flips, erased parts and mixing, from the same
keys (data seed, view, index), with partners from among the validation images. Three things of training are left out,
since they change what is asked and not what is seen: smoothed labels, weights of classes, and repeated copies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing

import numpy as np
import torch
from numpy.typing import NDArray

from ..data.loader import EvalLoader, TrainLoader
from ..data.sources.base import ImageSource
from ..data.views.finish import Batch
from ..data.views.order import Order
from ..errors import ModelError
from ..models.teachers import Teachers, class_count_message
from ..recipe.data import Data
from .headroom import outcomes_of
from .resampling import Outcomes, joined
from .teacher_check import advice_that_fits, finite

Rows = tuple[NDArray[np.bool_], NDArray[np.float32]]


def as_trained_on(data: Data) -> Data:
    """How validation images are seen as training ones."""
    augment = data.augment.model_copy(update={"label_smoothing": 0.0, "repeats": 1})
    return data.model_copy(update={"augment": augment, "balance": "none", "unlabelled": None, "views": None})


def asked_plainly(
    teachers: Teachers, source: ImageSource, data: Data, batch_size: int, advance: Callable[[int], None]
) -> Outcomes:
    """Outcomes on every image once, as in evaluation.

    Args:
        teachers: on their device.

    Raises:
        ModelError: teachers that do not fit the images or their classes.
    """
    device = _device(teachers)

    def parts() -> Iterator[tuple[*Rows, NDArray[np.int64]]]:
        with closing(EvalLoader(source, data, batch_size, device=device)) as loader:
            for batch in loader:
                if len(batch.label):
                    yield *_rows(teachers, batch), batch.index.numpy()
                    advance(len(batch.label))

    return joined(parts(), len(source))


def asked_as_trained_on(
    teachers: Teachers, source: ImageSource, data: Data, views: int, batch_size: int, advance: Callable[[int], None]
) -> Outcomes:
    """Outcomes on so many training views of every image.

    Right is the class with the larger share of a mixed image, and that image is what the sample counts for.

    Args:
        data: the student's.

    Raises:
        ModelError: as above.
    """
    seen = as_trained_on(data)
    batch_size, order = min(batch_size, len(source)), Order(seen, source.labels)
    loader = TrainLoader(source, seen, batch_size, device=_device(teachers), compiled=False)

    def parts() -> Iterator[tuple[*Rows, NDArray[np.int64]]]:
        for view in range(views):
            at = range(0, len(source), batch_size)
            keys = [loader.keys(view, start, min(start + batch_size, len(source))) for start in at]
            for one, batch in zip(keys, loader.batches(keys), strict=True):
                other = (batch.target.argmax(dim=1) != batch.label).cpu().numpy()
                yield (
                    *_rows(teachers, batch),
                    np.where(other, order.partners(view, one.index, one.repeat)[0], one.index),
                )
                advance(len(one.index))

    with closing(loader):
        return joined(parts(), len(source))


def _device(teachers: Teachers) -> torch.device:
    return next((one.device for one in teachers.parameters()), torch.device("cpu"))


@torch.no_grad()
def _rows(teachers: Teachers, batch: Batch) -> Rows:
    logs, classes = [], batch.target.shape[1]
    for name, logits in advice_that_fits(teachers, batch.images).items():
        if logits.shape[1] != classes:
            raise ModelError(class_count_message(name, logits.shape[1], classes))
        logs.append(finite(name, logits).log_softmax(dim=1))
    return outcomes_of(logs, batch.target)
