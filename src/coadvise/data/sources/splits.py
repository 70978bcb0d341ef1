"""Names of splits, and which shard belongs to which."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from ...errors import DataError, did_you_mean

TRAIN_NAMES = ("train", "training", "trainval")
VALIDATION_NAMES = ("validation", "val", "valid", "dev", "test", "testing")
_SAME = (("train", "training"), ("validation", "val", "valid", "dev"), ("test", "testing"))


def find_split(split: str, known: Iterable[str], where: str) -> str:
    """The split of that name, or of one that means the same (`val` for `validation`).

    Raises:
        DataError: there is none, with the nearest name or all of them.
    """
    known = list(known)
    if split in known:
        return split
    lower = {name.lower(): name for name in known}
    if split.lower() in lower:
        return lower[split.lower()]
    for group in _SAME:
        if split.lower() in group:
            for name in group:
                if name in lower:
                    return lower[name]
    if not known:
        raise DataError(f"{where} has no splits; leave the split '{split}' out")
    raise DataError(f"{where} has no split '{split}'{did_you_mean(split, known)}")


def choose_split(known: Sequence[str], wanted: Iterable[str]) -> str | None:
    """The first of the wanted names that is there, in small or capital letters."""
    lower = {name.lower(): name for name in known}
    return next((lower[name] for name in wanted if name in lower), None)


# -00000-of-00002, _03, -00000-of-00001-0123456789abcdef, or the part of a pattern that stands for it.
_SHARD = re.compile(r"((^|[-_.])\d+([-_]of[-_]\d+(-[0-9a-f]{8,})?)?|[-_.]?\{[^}]*\}|[-_.]?[*?]+)$")


def split_of(file: Path, root: Path) -> str:
    """Split of a shard: that of `train-00000-of-00002`, `train_03`, `train/0000` and `train` is `train`."""
    name = _SHARD.sub("", file.stem)
    if name and name != "part":
        return name
    return file.parent.name if file.parent != root else "all"


def group_by_split(files: Sequence[Path], root: Path) -> dict[str, list[Path]]:
    """Shards by split, in order of their names."""
    groups: dict[str, list[Path]] = {}
    for file in sorted(files):
        groups.setdefault(split_of(file, root), []).append(file)
    return groups


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
        files = [file for file in root.rglob(f"*{ending}") if not file.name.startswith(".")]
    else:
        files, root = expand(source), root.parent
    missing = [file for file in files if not file.is_file()]
    reason = f": {missing[0]} does not exist" if missing else ""
    if len(missing) == len(files):
        raise DataError(f"there are no {what} at {source}{reason}; check the path")
    if missing:
        raise DataError(f"some {what} are missing at {source}{reason}; check the pattern")
    return group_by_split(files, root)


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
