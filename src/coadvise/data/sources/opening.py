"""From the `source` string of a recipe to a training and a validation source that fit together.

| string | source |
|---|---|
| `digits` | scikit-learn's 1,797 handwritten digits |
| `[folder:]PATH` | root/train/<class>/… and root/val/<class>/…, or root/<class>/… |
| `[parquet:]PATH` | a Parquet file, a folder or a pattern of them, in the Hugging Face image format |
| `[csv:]PATH` | a CSV, TSV or JSON-lines file of paths and labels |
| `[wds:]PATH` | WebDataset tars: a file, a folder or a pattern such as `train-{000..099}.tar` |
| `hf:NAME[:CONFIG]` | a Hugging Face data set, from the Hub or from `save_to_disk` |
| `torchvision:NAME[@ROOT]` | a torchvision data set |

A folder without a prefix may also lie in a folder of its own; with `folder:` it is taken as it is, also with one class.
Columns of CSV, Parquet and Hugging Face data with unusual names are named behind it: `PATH:image=foto:label=kind`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from ...errors import DataError, NoLabels, did_you_mean, escaped, few
from ...recipe.schema import Data
from ...system.files import lines_of
from .base import ImageSource, class_sizes, sets_of, strata
from .folder import Folder, no_images
from .kinds import KINDS, Found, find_kind
from .shards import may_be_parts
from .splits import TEST_NAMES, TRAIN_NAMES, VALIDATION_NAMES, choose_split, find_split, split_word
from .subsets import Subset, balanced_subset, hold_out
from .summary import balance, summary

ONE_CLASS = "this is made for images of one class each"
CAN_SEVERAL = "train, find-lr, evaluate, report, predict and export can do with several"
"""What is said where images of several classes cannot be used, and where they can."""


def open_source(
    source: str,
    split: str | None = None,
    say: Callable[[str], None] | None = None,
    *,
    labels: Literal["one", "several"] = "one",
) -> ImageSource:
    """Open one split of a source.

    Args:
        source: see the table above.
        split: name of the split, which a source with several needs; `val` also finds `validation`.
        say: is given lines for people: what the source is, how many images and classes it has, what was left out.
        labels: as `data.labels`.

    Raises:
        DataError: the source or the split is not there, has no images, or a label is out of range.
    """
    found = find_source(source, labels)
    opened = _open(found, source, split)
    if say is not None:
        say(summary("data", opened, f"from {_place(opened, source, split)}"))
        for note in (*found.notes, *_notes_of(opened)):
            say(f"note: {note}")
    return opened


def open_sources(
    data: Data, say: Callable[[str], None] | None = None, *, several: bool = False
) -> tuple[ImageSource, ImageSource]:
    """The training and validation sources of a recipe, with the same classes in the same order.

    Where no validation split is found, `val_fraction` of each class is held out of the training split.
    `train_size` and `val_size` choose the same images for every seed.

    Args:
        say: is given lines for people: which splits these are, how many images and classes they have, and what
            was left out.
        several: whether the caller can do with images of any number of classes.

    Raises:
        DataError: either is missing or empty, a label is out of range, their classes differ, or images have another
            number of classes than the caller can do with.
    """
    if data.labels == "several" and not several:
        raise DataError(f"{ONE_CLASS}, and data.labels=several gives an image any number of them; {CAN_SEVERAL}")
    found = find_source(data.source, data.labels)
    chosen = _choose(data, found)
    train = _open(found, data.source, chosen.train)
    _require_classes(train, found, _place(train, data.source, chosen.train))
    notes = [*found.notes, *_notes_of(train), *chosen.notes]
    places = [f"from {_place(train, data.source, chosen.train)}"]
    asked = data.val_split is not None or data.val_source is not None
    validation = _open_validation(chosen, asked, getattr(train, "separator", None))
    if validation is not None and chosen.validation is not None:
        places.append(f"from {_place(validation, chosen.source, chosen.val_split)}")
        notes += [note for note in (*chosen.validation.notes, *_notes_of(validation)) if note not in notes]
        validation = _same_classes(train, validation, chosen.source)
    else:
        if chosen.val_split is not None:
            notes.append(f"{chosen.val_split} has no labels, so it is no use for validation")
        train, validation = _held_out(train, data)
        places.append(f"held out of the training images (data.val_fraction={data.val_fraction:g})")
    if data.classes is not None:
        names = _class_list(Path(data.classes), train.class_names)
        train, validation = only_classes(train, names), only_classes(validation, names)
    train = _resize(train, data.train_size, "data.train_size")
    validation = _resize(validation, data.val_size, "data.val_size")
    if say is not None:
        for word, source, place in zip(("training", "validation"), (train, validation), places, strict=True):
            say(summary(word, source, place))
        if (line := balance(data, train)) is not None:
            say(line)
        for note in (*notes, *_without_images(train, validation)):
            say(f"note: {note}")
    return train, validation


def _held_out(train: ImageSource, data: Data) -> tuple[ImageSource, ImageSource]:
    """The training source in two parts."""
    kept, held = hold_out(strata(train), data.val_fraction)
    if not len(held):
        raise DataError(
            f"{data.source}: no class has two images, so nothing can be held out and the validation set "
            "is empty; give data.val_source"
        )
    return Subset(train, kept), Subset(train, held)


def find_source(source: str, labels: Literal["one", "several"] = "one") -> Found:
    """The kind of a source.

    Raises:
        DataError: see `find_kind`; or a path that no file of a run could hold.
    """
    if escaped(source) != source:
        raise DataError(f"the data source {escaped(source)} is not UTF-8; rename the folder or link to it")
    found = find_kind(source)
    return found._replace(columns=found.columns._replace(several=labels == "several"))


def _open(found: Found, source: str, split: str | None) -> ImageSource:
    opened = found.open(split)
    _check(opened, source if split is None else f"{source} ({split})")
    return opened


def _open_validation(chosen: _Chosen, asked: bool, separator: str | None) -> ImageSource | None:
    """The validation source; None where there is none, or a test set without labels that nobody asked for.

    Args:
        separator: what stands between names in labels of the training images.
    """
    if chosen.validation is None:
        return None
    split, columns = chosen.val_split, chosen.validation.columns
    found = chosen.validation._replace(columns=columns._replace(separator=separator))
    may_leave = not asked and split is not None and split_word(split) in TEST_NAMES
    try:
        opened = found.open(split)
    except NoLabels:
        if may_leave:
            return None
        raise
    if may_leave and len(opened) and (opened.labels == -1).all():
        return None
    _check(opened, chosen.source if split is None else f"{chosen.source} ({split})")
    return opened


def _place(opened: ImageSource, source: str, split: str | None) -> str:
    """Where images come from, in words."""
    if isinstance(opened, Folder):
        return str(opened.root)
    return source if split is None else f"{source}, split {split}"


def _notes_of(source: ImageSource) -> tuple[str, ...]:
    """What was left out, and why; a sentence each, without a full stop."""
    return getattr(source, "notes", ())


def _require_classes(train: ImageSource, found: Found, where: str) -> None:
    """Refuse training data that can teach nothing: a class without images, or a single class that nobody asked for."""
    if sets_of(train) is not None and len(train.class_names) < 2:
        raise DataError(
            f"{where} has {_single(train)}, and with data.labels=several there are two at least, each of which an "
            "image may have or not; name the columns that are meant, :label=dog,cat, or leave data.labels out"
        )
    if isinstance(train, Folder) and train.empty:
        name, instead = next(iter(train.empty.items()))
        raise DataError(no_images(train.root, name, instead, train.class_names))
    if len(train.class_names) == 1 and not found.asked:
        own = "a folder" if isinstance(train, Folder) else "a label"
        raise DataError(
            f"{where} has a single class, '{train.class_names[0]}', so there is nothing to tell apart; each class "
            f"needs {own} of its own, or say that one class is meant: data.source={found.name}:{found.rest}"
        )


def _single(source: ImageSource) -> str:
    return f"a single class, '{source.class_names[0]}'" if source.class_names else "no image of any class"


def _class_list(path: Path, known: Sequence[str]) -> tuple[str, ...]:
    """Class names of a file, in the data's order; what follows a name on its line is a comment."""
    try:
        lines = lines_of(path)
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"data.classes: {path} cannot be read ({error}); give a text file, one class a line") from error
    names = {line if line in known else line.split()[0] for line in lines}
    unknown = sorted(names - set(known))
    if unknown or not names:
        first = f"'{unknown[0]}' is none of the data's classes{did_you_mean(unknown[0], known)}" if unknown else "empty"
        raise DataError(f"data.classes: {path}: {first}; write one class name a line, as the data has them")
    return tuple(name for name in known if name in names)


def only_classes(source: ImageSource, names: Sequence[str]) -> ImageSource:
    """The images of some classes, with labels as in `names`; a name that the source does not have gets no images."""
    if sets_of(source) is not None:  # an image of none of them is one all the same
        return Subset(source, np.arange(len(source)), names)
    wanted = np.array([name in names for name in source.class_names])
    return Subset(source, np.flatnonzero(wanted[source.labels]), names)


@dataclass(frozen=True)
class _Chosen:
    """Splits of a recipe's data.

    Attributes:
        train, val_split: None stands for the whole source.
        validation: kind of the source for validation; None where images are held out.
        source: the string of that source.
    """

    train: str | None
    validation: Found | None = None
    source: str = ""
    val_split: str | None = None
    notes: tuple[str, ...] = ()


def _choose(data: Data, found: Found) -> _Chosen:
    """The splits for training and validation: those that the recipe names, else those with the usual names."""
    known = found.splits(data.train_split, data.val_split if data.val_source is None else None)
    train = _training_split(data, known, found)
    if data.val_source is not None:
        other = find_source(data.val_source, data.labels)
        splits = other.splits(data.val_split)
        split = data.val_split
        if split is None and splits:
            split = choose_split(splits, VALIDATION_NAMES, splits) or (splits[0] if len(splits) == 1 else None)
        return _Chosen(train, other, data.val_source, split)
    if data.val_split is not None:
        split = find_split(data.val_split, known, data.source)
        if split == train:
            raise DataError(
                f"data.train_split and data.val_split are both '{train}'; leave val_split out to hold out "
                "data.val_fraction of it"
            )
        return _Chosen(train, found, data.source, split)
    others = [name for name in known if name != train]
    unlabelled = KINDS[found.name].unlabelled(found.rest, known)
    split = choose_split([name for name in others if name not in unlabelled], VALIDATION_NAMES, [train or ""])
    unused = [name for name in others if name not in (*unlabelled, split)]
    notes = [f"{name} has images in no class folders, so it is no use for validation" for name in unlabelled]
    notes += [f"not used: {', '.join(unused)}"] if unused else []
    if split is not None:
        return _Chosen(train, found, data.source, split, tuple(notes))
    if unused and data.train_split is not None:
        raise DataError(
            f"{data.source} has other splits ({', '.join(unused)}), none of them known as one for validation; "
            "name it with data.val_split"
        )
    return _Chosen(train, notes=tuple(notes))


def _training_split(data: Data, known: Sequence[str], found: Found) -> str | None:
    if data.train_split is not None:
        return find_split(data.train_split, known, data.source)
    if not known:
        return None
    train = choose_split(known, TRAIN_NAMES, known) or (known[0] if len(known) == 1 else None)
    if train is None:
        numbered = found.name in ("parquet", "wds") and may_be_parts(known)
        hint = (
            ", or put a hyphen before the numbers of files that belong together (train-1, train-2)" if numbered else ""
        )
        raise DataError(
            f"{data.source} has the splits {', '.join(known)}, none of them for training; set data.train_split{hint}"
        )
    return train


def _check(source: ImageSource, where: str) -> None:
    if not len(source):
        raise DataError(f"{where} has no images; check the path and the split")
    sets = sets_of(source)
    classes = len(source.class_names if sets is None else sets)
    bad = np.flatnonzero((source.labels < 0) | (source.labels >= classes))
    if len(bad):
        first = int(bad[0])
        if sets is not None:
            raise DataError(
                f"{source.describe(first)} has no label ({len(bad):,} such images in {where}): leave them out; for an "
                "image of none of the classes write an empty label in place of −1"
            )
        hint = " (−1 marks images without a label: leave them out)" if source.labels[first] == -1 else ""
        raise DataError(
            f"{source.describe(first)} has label {source.labels[first]}{hint}, but there are {classes} "
            f"classes, 0 to {classes - 1}; {len(bad)} labels of {where} are out of range"
        )
    for name in source.class_names:
        if escaped(name) != name:
            raise DataError(
                f"{where}: the class name {escaped(name)} is not UTF-8, so no file of a run can hold it; rename it "
                "(all of them from Latin-1: convmv -r -f latin1 -t utf8 --notest FOLDER)"
            )
    doubled = sorted(name for name, count in Counter(source.class_names).items() if count > 1)
    if doubled:
        raise DataError(f"{where} names the class '{doubled[0]}' twice; class names must differ")


def _same_classes(train: ImageSource, validation: ImageSource, where: str) -> ImageSource:
    """The validation source with the training source's order of classes."""
    if train.class_names == validation.class_names:
        return validation
    extra = [name for name in validation.class_names if name not in set(train.class_names)]
    if extra:
        missing = [name for name in train.class_names if name not in set(validation.class_names)]
        other = f", which has images of {few(missing)} instead" if missing else ""
        raise DataError(
            f"the classes of training and validation ({where}) differ: {few(extra)} in validation, not in training"
            f"{other}; add images of it to training, remove it from validation, or give both the same names"
        )
    return Subset(validation, np.arange(len(validation)), train.class_names)


def _without_images(train: ImageSource, validation: ImageSource) -> list[str]:
    """A note on classes that are never seen in training or never asked for in validation."""
    notes = []
    for word, source in (("training", train), ("validation", validation)):
        counts = class_sizes(source)
        absent = [name for name, count in zip(source.class_names, counts, strict=True) if not count]
        notes += [f"there are no {word} images of {few(absent)}"] if absent else []
    return notes


def _resize(source: ImageSource, size: int | None, setting: str) -> ImageSource:
    if size is None:
        return source
    if size > len(source):
        raise DataError(
            f"{setting} is {size}, but there are {len(source)} images; lower it, or take all with {setting}=null"
        )
    return Subset(source, balanced_subset(strata(source), size))
