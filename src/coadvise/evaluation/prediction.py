"""Predictions for image files: which files are meant, what each one shows, and which cannot be read."""

from __future__ import annotations

import dataclasses
import glob
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import torch

from ..checkpoints.trained import TrainedModel
from ..data.sources.folder import images_below, in_words
from ..data.views.finish import Finish
from ..errors import DataError
from .inference import eval_images

BATCH = 16


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What a model sees in an image file.

    Attributes:
        classes: (name, probability in [0, 1]) of the likeliest classes, best first.
        problem: why the file cannot be read; None where it can.
    """

    path: Path
    classes: tuple[tuple[str, float], ...] = ()
    problem: str | None = None


def image_files(places: Iterable[str], say: Callable[[str], None] = lambda note: None) -> tuple[list[Path], list[str]]:
    """The files that are meant by paths of images, of folders (all images below them, by name), and by patterns.

    Args:
        say: is told what is left out of a folder.

    Returns:
        The files in the order given, each once, and what cannot be used, in words.
    """
    files: dict[Path, None] = {}
    problems = []
    for place in places:
        try:
            files |= dict.fromkeys(_files_of(place, say))
        except DataError as error:
            problems.append(str(error))
    return list(files), problems


def _files_of(place: str, say: Callable[[str], None]) -> list[Path]:
    if os.path.isfile(place):
        return [Path(place)]
    if os.path.isdir(place):
        if found := _below(place, say):
            return found
        raise DataError(f"{place}: the folder holds no images (.jpg, .png, .webp, .tif, …)")
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", place):
        raise DataError(f"{place}: predict reads files and nothing from the network; download it, and give the file")
    if os.path.exists(place):
        raise DataError(f"{place}: this is neither a file nor a folder")
    if glob.has_magic(place):
        matches = sorted(glob.glob(place, recursive=True))
        inside = [path for match in matches if os.path.isdir(match) for path in _below(match, say)]
        if files := [Path(match) for match in matches if os.path.isfile(match)] + inside:
            return files
        raise DataError(f"{place}: no image file has a name of that pattern")
    raise DataError(f"{place}: there is no such image file")


def _below(folder: str, say: Callable[[str], None]) -> list[Path]:
    """Images below a folder; what else lies there is said."""
    found, other = images_below(Path(folder))
    if other:
        say(f"left out of {folder}: {in_words(other)}")
    return [Path(path) for path in found]


@torch.no_grad()
def predict(trained: TrainedModel, paths: Sequence[Path], top: int = 5) -> Iterator[Prediction]:
    """The likeliest classes of image files, in the order of `paths`; a file that cannot be read stops no other."""
    normalise = Finish(trained.data, len(trained.classes), trained.device)
    for start in range(0, len(paths), BATCH):
        read = [_read(trained, path) for path in paths[start : start + BATCH]]
        images = [one for one in read if isinstance(one, torch.Tensor)]
        rows = iter(trained.model(normalise.images(torch.cat(images))).float().softmax(dim=1) if images else ())
        for path, one in zip(paths[start : start + BATCH], read, strict=True):
            if isinstance(one, str):
                yield Prediction(path, problem=one)
                continue
            values, indices = next(rows).topk(min(top, len(trained.classes)))
            named = zip((trained.classes[i] for i in indices.tolist()), values.tolist(), strict=True)
            yield Prediction(path, tuple(named))


def _read(trained: TrainedModel, path: Path) -> torch.Tensor | str:
    """An image as the model's evaluation sees it (1, h, w, 3), or why there is none."""
    try:
        return torch.from_numpy(eval_images(trained, [(path.read_bytes(), str(path))]))
    except OSError as error:
        return f"{path} cannot be read: {error.strerror or error}"
    except DataError as error:
        return str(error)
