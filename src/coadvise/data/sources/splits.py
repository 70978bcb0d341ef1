"""Names of splits: what a name stands for, and which splits of a source are for training and for validation."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from ...errors import DataError, did_you_mean

TRAIN_NAMES = ("train", "training", "trainval")
VALIDATION_NAMES = ("validation", "val", "valid", "dev", "eval", "evaluation", "test", "testing")
TEST_NAMES = ("test", "testing")
_SAME = (("train", "training"), ("validation", "val", "valid", "dev", "eval", "evaluation"), TEST_NAMES)

# Words that add nothing: `train_set`, `split=train`, `Test Images`, `partial-train`.
_FILLERS = frozenset(
    {"set", "sets", "split", "subset", "partition", "partial", "data", "dataset", "folder", "files"}
    | {"image", "images", "img", "imgs", "photo", "photos", "pictures"}
)
_GLUED = re.compile(rf"^({'|'.join((*TRAIN_NAMES, *VALIDATION_NAMES))})(set|data|images|imgs)$")


def _words(name: str) -> list[str]:
    """Words of a name, without numbers: `ILSVRC2012_img_train`, `trainSet` and `val2017` have two, two and one."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    words = (word.rstrip("0123456789") for word in re.split(r"[\W_]+", spaced.lower()))
    return [part for word in words if word for part in _unglued(word)]


def _unglued(word: str) -> tuple[str, ...]:
    glued = _GLUED.match(word)
    return glued.groups() if glued else (word,)


def meaning(name: str) -> str | None:
    """The split that a name stands for: `train` for `Train`, `train_set`, `split=train` or `train2017`; else None."""
    words = [word for word in _words(name) if word not in _FILLERS]
    if words == ["train", "val"]:
        return "trainval"
    return words[0] if len(words) == 1 and words[0] in TRAIN_NAMES + VALIDATION_NAMES else None


class Marked(NamedTuple):
    """A name such as `cifar_train`: the split that it names first or last, and the rest of its words."""

    word: str
    rest: tuple[str, ...]


def marked(name: str) -> Marked | None:
    """The mark of a split at the end or the beginning of a name that has other words, too; else None."""
    words = _words(name)
    for place in (-1, 0):
        if len(words) > 1 and words[place] in TRAIN_NAMES + VALIDATION_NAMES:
            word = words.pop(place)
            return Marked(word, tuple(words))
    return None


def split_word(name: str) -> str | None:
    """The split that a name stands for or is marked with; None where it says nothing."""
    mark = marked(name)
    return meaning(name) or (mark.word if mark else None)


def for_training(name: str) -> bool | None:
    """Whether a name is that of a split for training, or one for validation; None where it says nothing."""
    word = split_word(name)
    return None if word is None else word in TRAIN_NAMES


def paired(name: str, beside: Iterable[str]) -> bool:
    """Whether another name differs in nothing but the split: `cifar_test` beside `cifar_train`.

    A mark alone says little: `bullet_train` may be a class.
    """
    mark = marked(name)
    if mark is None:
        return False
    alike = (other for other in map(marked, beside) if other is not None and other.rest == mark.rest)
    return any((other.word in TRAIN_NAMES) != (mark.word in TRAIN_NAMES) for other in alike)


def find_split(split: str, known: Iterable[str], where: str) -> str:
    """The split of that name, or of one that means the same (`val` for `validation`).

    Raises:
        DataError: there is none, with the nearest name or all of them.
    """
    known = list(known)
    if split in known:
        return split
    lower = {name.lower(): name for name in known}
    group = (split.lower(), *next((group for group in _SAME if split.lower() in group), ()))
    for name in group:
        if name in lower:
            return lower[name]
    meant = [name for name in known if meaning(name) in group]
    if len(meant) == 1:
        return meant[0]
    if not known:
        raise DataError(f"{where} has no splits; leave the split '{split}' out")
    raise DataError(f"{where} has no split '{split}'{did_you_mean(split, known)}")


def choose_split(known: Sequence[str], wanted: Iterable[str], beside: Collection[str]) -> str | None:
    """The first of the wanted names that is there.

    A name in other words (`train_set`) counts where none is there as it is, and `NAME_train` where `NAME_test`
    is `beside` it. None where there is no such split, or several that are as good.
    """
    lower, wanted = {name.lower(): name for name in known}, list(wanted)
    exact = next((lower[name] for name in wanted if name in lower), None)
    if exact is not None:
        return exact
    pairs = [name for name in known if paired(name, beside)]
    for names, word_of in ((known, meaning), (pairs, split_word)):
        for word in wanted:
            found = [name for name in names if word_of(name) == word]
            if found:
                return found[0] if len(found) == 1 else None
    return None


def pick_split(split: str | None, known: Iterable[str], where: str) -> str:
    """The named split; without a name the only one.

    Raises:
        DataError: there is no such split, or no name and several splits.
    """
    known = list(known)
    if split is not None:
        return find_split(split, known, where)
    if len(known) > 1:
        raise DataError(
            f"{where} has the splits {', '.join(known)}; "
            "say which one to use (--split, or data.train_split and data.val_split)"
        )
    return known[0]
