"""Which Parquet files or tars belong to a source, and to which of its splits."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from pathlib import Path

from ...errors import DataError, escaped
from .listing import is_litter, walk
from .splits import for_training, meaning, paired

# -00000-of-00002, _03, -00000-of-00001-0123456789abcdef, or the part of a pattern that stands for it.
_SHARD = re.compile(r"((^|[-_.])\d+([-_]of[-_]\d+(-[0-9a-f]{8,})?)?|[-_.]?\{[^}]*\}|[-_.]?[*?]+)$")
# Names that a program makes up: part-00000-… of Spark, part.0 of Dask, and random ones.
_MADE_UP = re.compile(r"^part([-_.]\d|$)|^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|^[0-9a-f]{16,}$")
_CODEC = re.compile(r"\.(snappy|gz|gzip|zst|zstd|lz4|br|brotli)$")
_VALUE = re.compile(r"^(?:split|subset|partition|set)=(.+)$", re.IGNORECASE)
_ENDING = re.compile(r"\.(parquet|tar)$", re.IGNORECASE)
_NUMBERED = re.compile(r"(.*[^\W\d_])(\d{1,9})")
# Words whose numbers tell versions or ways of splitting apart, and no parts of one whole.
_APART = re.compile(r"(^|[^a-z])(v|ver|version|fold|split)$", re.IGNORECASE)
_YEARS = 1900  # a number from here on is a year


def split_of(file: Path, root: Path, naming: Collection[str] = ()) -> str:
    """Split of a shard.

    The nearest folder that names a split decides; else the file's own name without its number: that of
    `train-00000-of-00002`, `train_03`, `train/0000`, `train/shard-07`, `split=train/part-0` and `train` is `train`.

    Args:
        root: folders below it count.
        naming: further names of folders that name a split, such as `cifar_train` where there is a `cifar_test`.

    Raises:
        DataError: a folder says training and the file's name, or another folder, validation.
    """
    folders = file.relative_to(root).parts[:-1]
    name = _SHARD.sub("", _own_name(file))
    name = "" if _MADE_UP.match(name) else name
    telling = [one for one in map(_plain, folders) if meaning(one) or one in naming]
    telling += [_plain(one) for one in folders if one.lower().startswith("split=") and _plain(one) not in telling]
    if not telling:
        return name or (_plain(folders[-1]) if folders else "all")
    says = {for_training(one) for one in (*telling, name)} - {None}
    if len(says) > 1:
        raise DataError(
            f"{file} is named as one for training and as one for validation ({' and '.join((*telling, name))}); "
            f"give the files of each by a pattern: data.source={file.parent}/…*{file.suffix} and data.val_source"
        )
    return telling[-1]


def _own_name(file: Path) -> str:
    return _CODEC.sub("", file.stem)


def _plain(folder: str) -> str:
    """Name of a folder without what other programs add: `split=train` and `train.parquet` are `train`."""
    value = _VALUE.match(folder)
    return _ENDING.sub("", value[1] if value else folder)


def group_by_split(files: Sequence[Path], root: Path) -> dict[str, list[Path]]:
    """Shards by split, in order of their names."""
    folders = {_plain(part) for file in files for part in file.relative_to(root).parts[:-1]}
    naming = {folder for folder in folders if paired(folder, folders)}
    groups: dict[str, list[Path]] = {}
    for file in sorted(files):
        groups.setdefault(split_of(file, root, naming), []).append(file)
    return groups


def joined(groups: dict[str, list[Path]]) -> dict[str, list[Path]]:
    """Shards by split, where files that are numbered without a separator, `part1` and `part2`, are one split.

    Names say little, so numbers have to follow each other: `cifar10` and `cifar100`, `train2014` and `train2017` stay
    apart. So do files for training and for validation of the same numbers, which may be ways of splitting one data set.
    """
    numbered: dict[str, list[tuple[int, str]]] = {}
    for name, files in groups.items():
        match = _NUMBERED.fullmatch(name)
        if match and len(files) == 1 and _own_name(files[0]) == name:
            numbered.setdefault(match[1], []).append((int(match[2]), name))
    numbers = {rest: sorted(number for number, _ in found) for rest, found in numbered.items()}
    whole = [rest for rest in numbered if rest not in groups and _are_parts(rest, numbers[rest])]
    sides = {(for_training(rest), tuple(numbers[rest])) for rest in whole}
    rivals = {counted for _, counted in sides if {(True, counted), (False, counted)} <= sides}
    split = {name: rest for rest in whole if tuple(numbers[rest]) not in rivals for _, name in numbered[rest]}
    together: dict[str, list[Path]] = {}
    for name, files in groups.items():
        together.setdefault(split.get(name, name), []).extend(files)
    return together


def may_be_parts(names: Sequence[str]) -> bool:
    """Whether the number that one of these splits ends in may be a part's, and not a version's, fold's or year's."""
    found = [match for match in map(_NUMBERED.fullmatch, names) if match]
    return any(int(match[2]) < _YEARS and not _APART.search(match[1]) for match in found)


def _are_parts(rest: str, numbers: Sequence[int]) -> bool:
    """Whether files whose names differ in these numbers alone are taken for parts of one whole."""
    follow = list(range(numbers[0], numbers[0] + len(numbers))) == numbers
    return len(numbers) > 1 and follow and numbers[0] < _YEARS and not _APART.search(rest)


def shards(source: str, ending: str, what: str) -> dict[str, list[Path]]:
    """Files of a folder (at any depth), or of a file, glob or brace pattern, by split.

    Args:
        ending: such as `.tar`.
        what: such as `tars`, for messages.

    Raises:
        DataError: there are none, or one that is named does not exist.
    """
    root = Path(source)
    if root.is_dir():
        found = (Path(entry.path) for entry in walk(root) if entry.name.endswith(ending))
        files = [one for one in found if _is_data(one.relative_to(root), ending)]
    elif root.is_file():  # whatever its name means as a pattern
        files, root = [root], root.parent
    else:
        files, root = expand(source), _fixed(root)
    missing = [file for file in files if not file.is_file()]
    reason = f": {missing[0]} does not exist" if missing else ""
    if len(missing) == len(files):
        raise DataError(f"there are no {what} at {source}{reason}; check the path")
    if missing:
        raise DataError(f"some {what} are missing at {source}{reason}; check the pattern")
    for file in files:
        if escaped(str(file)) != str(file):
            raise DataError(f"the name of {escaped(str(file))} is not UTF-8, so it cannot be read; rename it")
    return group_by_split(files, root)


def _is_data(inside: Path, ending: str) -> bool:
    """Whether a file is a shard; as for Arrow and Spark, Parquet whose name or folder begins with `_` is none."""
    skipped = any(is_litter(part) or (ending == ".parquet" and part.startswith("_")) for part in inside.parts)
    return not skipped


def _fixed(pattern: Path) -> Path:
    """The folder up to which a pattern has no wildcards."""
    place = pattern.parent
    while re.search(r"[*?\[{]", str(place)):
        place = place.parent
    return place


def expand(pattern: str) -> list[Path]:
    """Files of a glob and brace pattern such as `train-{000..012}.tar` or `{a,b}/*.parquet`, sorted."""
    brace = re.search(r"\{([^{}]*)\}", pattern)
    if brace is None:
        if not re.search(r"[*?\[]", pattern):
            return [Path(pattern)]
        path = Path(pattern)
        anchor = Path(path.anchor) if path.is_absolute() else Path()
        return sorted(anchor.glob(str(path.relative_to(anchor))))
    first, dots, last = brace[1].partition("..")
    if dots and first.isdigit() and last.isdigit():
        options = [str(number).zfill(len(first)) for number in range(int(first), int(last) + 1)]
    else:
        options = brace[1].split(",")
    return [path for option in options for path in expand(pattern[: brace.start()] + option + pattern[brace.end() :])]
