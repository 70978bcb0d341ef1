"""How a folder is laid out: where its class folders lie, and which of its folders are splits."""

from __future__ import annotations

from pathlib import Path

from ...errors import DataError
from .listing import folders_in, has_image, images_in
from .splits import TEST_NAMES, for_training, meaning, paired, split_word


def look_deeper(root: Path) -> Path:
    """The folder that holds the class or split folders: `root`, or what it wraps, as `root/PetImages/{Cat,Dog}` does.

    A folder wraps another where that is its only one, and has folders and no images of its own.
    """
    for _ in range(3):
        inside = folders_in(root)
        if len(inside) != 1 or meaning(inside[0]) or not _only_folders(root / inside[0]):
            break
        root = root / inside[0]
    return root


def _only_folders(place: Path) -> list[str]:
    """The folders of a folder that has no images beside them; none of any other."""
    return [] if next(images_in(place), None) is not None else folders_in(place)


def folder_splits(root: Path) -> tuple[str, ...]:
    """Split folders of `root`, or () where its folders are classes.

    A folder named like a split (train, val, test_set, …, or NAME_train beside NAME_test) is one if it holds folders;
    a class may be called `train`.

    Raises:
        DataError: folders named like splits hold no class folders.
    """
    folders = folders_in(root)
    pairs = [name for name in folders if paired(name, folders)]
    named = [name for name in folders if meaning(name) or name in pairs]
    if any(folders_in(root / name) for name in named):
        return tuple(folders)
    both = len({for_training(name) for name in named}) == 2
    if folders and (len(named) == len(folders) or (both and set(named) != set(pairs))):
        raise DataError(
            f"{root} has {' and '.join(named)}, but no class folders in there; "
            "put each class's images into a folder of its own"
        )
    return ()


def split_root(root: Path, split: str) -> Path:
    """The folder of a split's class folders: `root/split`, or `root/train_set/train_set` where it is wrapped."""
    place = root / split
    inside = folders_in(place)
    if len(inside) == 1 and split_word(inside[0]) and _only_folders(place / inside[0]):
        return place / inside[0]
    return place


def unlabelled_splits(root: Path, splits: tuple[str, ...]) -> tuple[str, ...]:
    """Splits for testing whose images lie in no class folders, as in competitions: `test/*.jpg`, `test/unknown/*.jpg`.

    The same in a validation split is a mistake, and is not among them.
    """
    tests = [name for name in splits if split_word(name) in TEST_NAMES]
    classes = {name for split in splits if for_training(split) for name in folders_in(split_root(root, split))}
    return tuple(name for name in tests if _unlabelled(split_root(root, name), classes))


def _unlabelled(place: Path, classes: set[str]) -> bool:
    inside = folders_in(place)
    return not inside or (len(inside) == 1 and len(classes) > 1 and inside[0] not in classes)


def require_classes_once(root: Path) -> None:
    """Refuse class folders of which images would be taken together, or twice, without a word.

    Raises:
        DataError: `class/{train,test}/…` for every class, or a folder that holds the other classes again.
    """
    classes = folders_in(root)
    _require_splits_outside(root, classes)
    for name in classes:
        inner = _only_folders(root / name)
        if len(inner) > 1 and set(inner) <= set(classes):
            raise DataError(
                f"{root / name} holds folders of the same names as {root} ({', '.join(inner[:5])}), so it is no class; "
                f"remove it, or give it as data.source, or write data.source=folder:{root} to take it as a class"
            )


def _require_splits_outside(root: Path, classes: list[str]) -> None:
    inside = ([one for one in _only_folders(root / name) if meaning(one)] for name in classes)
    if classes and all(len(set(map(for_training, inner))) == 2 for inner in inside):
        inner = [one for one in folders_in(root / classes[0]) if meaning(one)]
        raise DataError(
            f"every class folder of {root} has {' and '.join(inner)} inside; put these outside and the classes inside "
            f"({inner[-1]}/{classes[0]}), or write data.source=folder:{root} to take all images together"
        )


def same_inside(root: Path, classes: list[str]) -> list[str]:
    """Folders that every class folder has, where all have the same ones, two at least, and no images beside them."""
    inside = (_only_folders(root / name) for name in classes)
    first = next(inside, [])
    return first if len(classes) > 1 and len(first) > 1 and all(other == first for other in inside) else []


def holds_classes(root: Path) -> bool:
    """Whether there are images of two classes at least, in class folders of `root` or of one of its splits."""
    try:
        splits = folder_splits(root)
        places = [split_root(root, split) for split in splits] or [root]
        return any(_two_classes(place) for place in places)
    except DataError:
        return False


def _two_classes(place: Path) -> bool:
    holding = (name for name in folders_in(place) if has_image(place / name))
    return next(holding, None) is not None and next(holding, None) is not None
