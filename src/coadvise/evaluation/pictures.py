"""Small pictures of validation images, for a report that needs neither the images nor PyTorch."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from PIL import Image, ImageOps

from ..data.decode import decode
from ..data.sources.base import ImageSource
from ..errors import DataError, escaped
from ..run.answers import Answers
from ..run.pictures import SURE, Picture, chosen
from ..shapes import UInt8
from ..system.extras import installed

SIDE = 112
"""Pixels of the longer side; smaller images stay as they are."""
MOST_CLASSES = 40
"""Classes of which a confusion matrix can still be read as a picture."""


def pictures_of(answers: Answers, source: ImageSource) -> dict[str, list[Picture]]:
    """The images worth looking at, by kind (`run.pictures.chosen`); one that cannot be read any more is left out."""
    return {kind: list(_pictures(answers, source, rows.tolist())) for kind, rows in chosen(answers).items()}


def _pictures(answers: Answers, source: ImageSource, rows: Iterable[int]) -> Iterable[Picture]:
    names = answers.classes
    for row in rows:
        index = int(answers.index[row])
        try:
            jpeg = thumbnail(decode(source.read(index), source.describe(index)))
        except DataError:
            continue
        yield Picture(
            jpeg=base64.b64encode(jpeg).decode(),
            name=escaped(source.describe(index).replace("\\", "/").rpartition("/")[2]),
            index=index,
            label=names[answers.label[row]],
            answer=names[answers.answer[row]],
            confidence=round(float(answers.sure[row]), 4),
            teachers={name: names[values[row]] for name, values in answers.teachers.items()},
        )


def thumbnail(image: Image.Image, side: int = SIDE) -> bytes:
    """An RGB image as a small JPEG, with at most so many pixels a side."""
    image = image.copy()
    image.thumbnail((side, side))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


def tracked_images(
    answers: Answers, pictures: Mapping[str, Sequence[Picture]]
) -> dict[str, list[UInt8[np.ndarray, "h w 3"]]]:
    """What trackers are shown at the end of a run: the confusion matrix, and the surest mistakes as squares.

    There is no matrix where Matplotlib is not installed.
    """
    found = {}
    if len(answers.classes) <= MOST_CLASSES and installed("matplotlib"):
        from ..reports.plots.classes import confusion_figure  # imports Matplotlib, which no other run needs
        from ..reports.plots.style import draw

        drawing = draw("confusion", "", lambda: confusion_figure(answers.confusion(), answers.classes))
        with Image.open(io.BytesIO(drawing.png)) as image:
            found["confusion matrix"] = [np.asarray(image.convert("RGB"))]
    squares = []
    for one in pictures.get(SURE, ()):
        with Image.open(io.BytesIO(base64.b64decode(one.jpeg))) as image:
            squares.append(np.asarray(ImageOps.pad(image.convert("RGB"), (SIDE, SIDE))))
    return found | ({SURE: squares} if squares else {})
