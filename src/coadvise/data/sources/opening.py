"""From the `source` string of a recipe to a training and a validation source that fit together.

| string | source |
|---|---|
| `digits` | scikit-learn's 1,797 handwritten digits |
| `[folder:]PATH` | root/train/<class>/… and root/val/<class>/…, or root/<class>/… |
| `[parquet:]PATH` | a Parquet file, a folder or a pattern of them, in the Hugging Face image format |
| `[wds:]PATH` | WebDataset tars: a file, a folder or a pattern such as `train-{000..099}.tar` |
| `hf:NAME[:CONFIG]` | a Hugging Face data set, from the Hub or from `save_to_disk` |
| `torchvision:NAME[@ROOT]` | a torchvision data set |
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ...errors import DataError, did_you_mean
from ...recipe.schema import Data
from .base import ImageSource
from .digits import Digits
from .folder import folder_splits, open_folder
from .named import load_hf, open_hf, open_torchvision, torchvision_splits
from .parquet import Parquet
from .splits import TRAIN_NAMES, VALIDATION_NAMES, choose_split, find_split, pick_split, shards
from .subsets import Subset, balanced_subset, hold_out
from .webdataset import Tars


class _Kind(NamedTuple):
    """How one kind of source lists its splits and opens one; `rest` is the string without its prefix."""

    splits: Callable[[str], tuple[str, ...]]
    open: Callable[[str, str | None], ImageSource]


def _open_digits(rest: str, split: str | None) -> ImageSource:
    if rest:
        raise DataError(f"the source digits takes no further name, but has '{rest}'")
    return Digits(split)


def _sharded(ending: str, what: str, build: Callable[[Sequence[Path]], ImageSource]) -> _Kind:
    def splits(rest: str) -> tuple[str, ...]:
        """Splits by file name; a single name that is none of the usual ones is no split."""
        names = tuple(shards(rest, ending, what))
        return names if len(names) > 1 or names[0] in TRAIN_NAMES + VALIDATION_NAMES else ()

    def open_split(rest: str, split: str | None) -> ImageSource:
        groups = shards(rest, ending, what)
        return build(groups[pick_split(split, groups, rest)])

    return _Kind(splits, open_split)


_KINDS = {
    "digits": _Kind(lambda rest: Digits.splits, _open_digits),
    "folder": _Kind(lambda rest: folder_splits(_folder(rest)), lambda r, split: open_folder(_folder(r), split)),
    "parquet": _sharded(".parquet", "Parquet files", Parquet),
    "wds": _sharded(".tar", "tars", Tars),
    "hf": _Kind(lambda rest: tuple(load_hf(rest)), open_hf),
    "torchvision": _Kind(torchvision_splits, open_torchvision),
}


def open_source(source: str, split: str | None = None) -> ImageSource:
    """Open one split of a source.

    Args:
        source: see the table above.
        split: name of the split, which a source with several needs; `val` also finds `validation`.

    Raises:
        DataError: the source or the split is not there, has no images, or a label is out of range.
    """
    kind, rest = _kind(source)
    opened = _KINDS[kind].open(rest, split)
    _check(opened, source if split is None else f"{source} ({split})")
    return opened


def source_splits(source: str) -> tuple[str, ...]:
    """Names of the splits of a source; () where it has none.

    Raises:
        DataError: the source is not there.
    """
    kind, rest = _kind(source)
    return _KINDS[kind].splits(rest)


def open_sources(data: Data) -> tuple[ImageSource, ImageSource]:
    """The training and validation sources of a recipe, with the same classes in the same order.

    Where no validation split is found, `val_fraction` of each class is held out of the training split.
    `train_size` and `val_size` choose the same images for every seed.

    Raises:
        DataError: either is missing or empty, a label is out of range, or their classes differ.
    """
    train_split, val_split = _splits(data)
    train = open_source(data.source, train_split)
    if data.val_source is not None or val_split is not None:
        where = data.val_source or data.source
        validation = _same_classes(train, open_source(where, val_split), where)
    else:
        unused = [name for name in source_splits(data.source) if name != train_split]
        if unused and data.train_split is not None:
            raise DataError(
                f"{data.source} has other splits ({', '.join(unused)}), none of them known as one for validation; "
                "name it with data.val_split"
            )
        kept, held = hold_out(train.labels, data.val_fraction)
        if not len(held):
            raise DataError(
                f"{data.source}: no class has two images, so nothing can be held out and the validation set "
                "is empty; give data.val_source"
            )
        train, validation = Subset(train, kept), Subset(train, held)
    if data.classes is not None:
        names = _class_list(Path(data.classes), train.class_names)
        train, validation = only_classes(train, names), only_classes(validation, names)
    return (
        _resize(train, data.train_size, "data.train_size"),
        _resize(validation, data.val_size, "data.val_size"),
    )


def _class_list(path: Path, known: Sequence[str]) -> tuple[str, ...]:
    """Class names of a file, in the data's order; what follows a name on its line is a comment."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"data.classes: {path} cannot be read ({error}); give a text file, one class a line") from error
    names = {line.strip() if line.strip() in known else line.split()[0] for line in lines if line.strip()}
    unknown = sorted(names - set(known))
    if unknown or not names:
        first = f"'{unknown[0]}' is none of the data's classes{did_you_mean(unknown[0], known)}" if unknown else "empty"
        raise DataError(f"data.classes: {path}: {first}; write one class name a line, as the data has them")
    return tuple(name for name in known if name in names)


def only_classes(source: ImageSource, names: Sequence[str]) -> ImageSource:
    """The images of some classes, with labels as in `names`; a name that the source does not have gets no images."""
    wanted = np.array([name in names for name in source.class_names])
    return Subset(source, np.flatnonzero(wanted[source.labels]), names)


def _splits(data: Data) -> tuple[str | None, str | None]:
    """Names of the training and validation split: None stands for the whole source, or for held-out images."""
    known = source_splits(data.source)
    train = data.train_split
    if train is not None:
        train = find_split(train, known, data.source)
    elif known:
        train = choose_split(known, TRAIN_NAMES) or (known[0] if len(known) == 1 else None)
        if train is None:
            raise DataError(
                f"{data.source} has the splits {', '.join(known)}, none of them for training; set data.train_split"
            )
    if data.val_source is not None:
        others = source_splits(data.val_source)
        if data.val_split is not None or not others:
            return train, data.val_split
        return train, choose_split(others, VALIDATION_NAMES) or (others[0] if len(others) == 1 else None)
    if data.val_split is None:
        return train, choose_split([name for name in known if name != train], VALIDATION_NAMES)
    validation = find_split(data.val_split, known, data.source)
    if validation == train:
        raise DataError(
            f"data.train_split and data.val_split are both '{train}'; leave val_split out to hold out "
            "data.val_fraction of it"
        )
    return train, validation


def _kind(source: str) -> tuple[str, str]:
    """Kind of a source and the string without its prefix."""
    prefix, colon, rest = source.partition(":")
    if colon and prefix in _KINDS:
        return prefix, os.path.expanduser(rest)
    source = os.path.expanduser(source)
    if source == "digits":
        return "digits", ""
    path = Path(source)
    if path.is_dir():
        for kind, pattern in (("parquet", "*.parquet"), ("wds", "*.tar")):
            if any(path.glob(pattern)) or any(path.glob("*/" + pattern)):
                return kind, source
        return "folder", source
    if source.endswith(".parquet"):
        return "parquet", source
    if re.search(r"\.tar(\.\w+)?$", source):
        return "wds", source
    if path.exists():
        raise DataError(f"the source {source} is a file of an unknown kind; expected a folder, .parquet or .tar")
    # A prefix of a single letter is a drive on Windows.
    if colon and len(prefix) > 1 and "/" not in prefix:
        raise DataError(f"the source '{source}' is of an unknown kind '{prefix}'{did_you_mean(prefix, _KINDS)}")
    raise _no_folder(source)


def _folder(path: str) -> Path:
    if not Path(path).is_dir():
        raise _no_folder(path)
    return Path(path)


def _no_folder(path: str) -> DataError:
    near = did_you_mean(path, _KINDS) if "/" not in path else ""
    hint = near if near.startswith(" (did") else ""
    what = "is no folder" if Path(path).exists() else "does not exist"
    return DataError(
        f"the data source {path} {what}{hint}; give digits, a folder, a Parquet file, tars, hf:NAME or torchvision:NAME"
    )


def _check(source: ImageSource, where: str) -> None:
    if not len(source):
        raise DataError(f"{where} has no images; check the path and the split")
    classes = len(source.class_names)
    bad = np.flatnonzero((source.labels < 0) | (source.labels >= classes))
    if len(bad):
        first = int(bad[0])
        hint = " (−1 marks images without a label)" if source.labels[first] == -1 else ""
        raise DataError(
            f"{source.describe(first)} has label {source.labels[first]}{hint}, but there are {classes} "
            f"classes, 0 to {classes - 1}; {len(bad)} labels of {where} are out of range"
        )
    doubled = sorted(name for name, count in Counter(source.class_names).items() if count > 1)
    if doubled:
        raise DataError(f"{where} names the class '{doubled[0]}' twice; class names must differ")


def _same_classes(train: ImageSource, validation: ImageSource, where: str) -> ImageSource:
    """The validation source with the training source's order of classes."""
    if train.class_names == validation.class_names:
        return validation
    extra = [name for name in validation.class_names if name not in set(train.class_names)]
    missing = [name for name in train.class_names if name not in set(validation.class_names)]
    if extra or missing:
        problems = [f"{_few(missing)} missing from validation"] if missing else []
        problems += [f"{_few(extra)} not in training"] if extra else []
        raise DataError(
            f"the classes of training and validation ({where}) differ: {'; '.join(problems)}; "
            "both need the same class names"
        )
    return Subset(validation, np.arange(len(validation)), train.class_names)


def _few(names: list[str]) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:5])
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"


def _resize(source: ImageSource, size: int | None, setting: str) -> ImageSource:
    if size is None:
        return source
    if size > len(source):
        raise DataError(f"{setting} is {size}, but there are {len(source)} images; lower it or leave it out")
    return Subset(source, balanced_subset(source.labels, size))
