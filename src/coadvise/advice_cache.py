"""The advice cache: what frozen teachers say of every view of every training image, read by index.

FOLDER/header.json           what the views are made of: data set, augmentation, number of views
FOLDER/TEACHER/teacher.json  which teacher, and how many logits are kept
FOLDER/TEACHER/column.json   checksum of each shard and of the profile; written last
FOLDER/TEACHER/profile.bin   what it usually says beside its first class (`advice_format`), where logits are left out
FOLDER/TEACHER/weights.safetensors   of a teacher that the recipe trains: a student may come from another folder
FOLDER/TEACHER/00000.bin     shards of fixed-size records
FOLDER/TEACHER/progress      one byte for each block of views: 1 when it is written
FOLDER/lock                  writers hold the byte of the block they work on; the system frees it when they die

Record number = view · n + position, where the position is that in the order of the epoch (`data.order`), which follows
from the keys. A training step reads records that lie next to each other, whatever the batch size or the number of
processes. Nothing about the augmentation is stored: the views are made again from their keys.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from jaxtyping import Float, Int64
from numpy.typing import NDArray
from torch import Tensor

from .advice_format import RecordFormat
from .data.base import ImageSource, encoded_bytes
from .data.draws import Stream
from .errors import DataError, RunError
from .files import read_json
from .locks import locked_by_another
from .recipe import Recipe, flat
from .teachers import FrozenTeacher
from .training_state import digest

FORMAT = 2
# Images that the teachers see at once when a cache is written: part of the format, as rounding depends on it.
BATCH = 128
# Batches of a block, the unit that is claimed, written and marked.
BLOCK_BATCHES = 16
SHARD_BYTES = 2**28
# Views that make a profile: so many, and so many for each class, of the first view.
PROFILE_VIEWS, PROFILE_VIEWS_OF_CLASS = 2048, 32
# Images whose contents are part of the fingerprint.
SAMPLED = 64
VERSIONED = ("torch", "torchvision", "timm", "pillow", "numpy")


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where records lie.

    Attributes:
        images: of the training set, n.
        views: number of views, V.
        record: layout of a record.
    """

    images: int
    views: int
    record: RecordFormat

    @property
    def records(self) -> int:
        """Number of records in all."""
        return self.images * self.views

    @property
    def per_shard(self) -> int:
        """Records of a whole shard."""
        return max(SHARD_BYTES // self.record.bytes, 1)

    @property
    def shards(self) -> int:
        """Number of shards."""
        return -(-self.records // self.per_shard)

    def shard_bytes(self, shard: int) -> int:
        """Size of a shard's file."""
        return min(self.per_shard, self.records - shard * self.per_shard) * self.record.bytes

    @property
    def bytes(self) -> int:
        """Size of the column."""
        return self.records * self.record.bytes + self.record.profile_bytes

    @property
    def profile_images(self) -> int:
        """Images of the first view that make the profile."""
        return min(self.images, max(PROFILE_VIEWS, PROFILE_VIEWS_OF_CLASS * self.record.classes))

    @property
    def blocks_per_view(self) -> int:
        """Blocks of a view; the last may be smaller."""
        return -(-self.images // (BATCH * BLOCK_BATCHES))

    @property
    def blocks(self) -> int:
        """Number of blocks in all."""
        return self.views * self.blocks_per_view

    def block(self, number: int) -> tuple[int, int, int]:
        """View, first position and end of a block."""
        view, part = divmod(number, self.blocks_per_view)
        start = part * BATCH * BLOCK_BATCHES
        return view, start, min(start + BATCH * BLOCK_BATCHES, self.images)


def cache_path(recipe: Recipe) -> Path:
    """Folder of the recipe's cache."""
    return Path(recipe.advice.folder or f"caches/{recipe.name}")


def views_of(recipe: Recipe) -> int:
    """Number of distinct views in a run."""
    return min(recipe.data.views or recipe.schedule.epochs, recipe.schedule.epochs)


def profile_path(folder: Path, teacher: str) -> Path:
    """File of a teacher's profile."""
    return folder / teacher / "profile.bin"


def shard_path(folder: Path, teacher: str, shard: int) -> Path:
    """File of a shard."""
    return folder / teacher / f"{shard:05d}.bin"


# Settings of the augmentation that do nothing under a policy.
_UNUSED = {
    "deit": ("pad",),
    "light": ("scale", "ratio", "randaugment", "color_jitter"),
    "none": ("scale", "ratio", "randaugment", "color_jitter", "pad", "hflip", "erasing"),
}


# --- what a cache belongs to -------------------------------------------------------------------------------


def data_facts(recipe: Recipe, source: ImageSource) -> dict[str, Any]:
    """What decides the pixels that the teachers see: settings by their dotted names, and the data set in short."""
    data = recipe.data
    settings = flat(data.augment.model_dump(mode="json"), "augmentation.")
    for name in ("label_smoothing", *_UNUSED[data.augment.policy]):
        settings.pop(f"augmentation.{name}")
    facts = {
        "augmentation seed": data.seed,
        "image_size": data.image_size,
        "eval_crop": data.eval_crop if data.augment.policy == "none" else None,
        "interpolation": data.interpolation,
        "mean": list(data.mean),
        "std": list(data.std),
        "decoder": "pillow, smaller where possible" if data.shrink_on_load else "pillow",
        "resizer": data.resizer if data.augment.policy == "deit" else None,
        "images": len(source),
        "classes": list(source.class_names),
        "labels": digest([source.labels]),
        **_image_digests(source),
    }
    return settings | facts


_DIGESTS: WeakKeyDictionary[ImageSource, dict[str, str]] = WeakKeyDictionary()


def _image_digests(source: ImageSource) -> dict[str, str]:
    """Hashes of all names, and of the sizes and bytes of some images spread over the set; seconds for a large one."""
    if source not in _DIGESTS:
        names, contents = hashlib.sha256(), hashlib.sha256()
        for index in range(len(source)):
            last = source.describe(index).replace("\\", "/").rpartition("/")[2]
            names.update(last.encode(errors="surrogateescape") + b"\0")
        generator = np.random.default_rng(np.random.SeedSequence((Stream.SUBSET, len(source))))
        for index in sorted(generator.choice(len(source), min(SAMPLED, len(source)), replace=False).tolist()):
            try:
                raw = encoded_bytes(source, index)
            except DataError:  # `data.on_error` says what is to be done with it
                raw = b"unreadable"
            contents.update(str(len(raw)).encode() + b"\0" + raw)
        _DIGESTS[source] = {
            "image names": names.hexdigest()[:16],
            "image contents": contents.hexdigest()[:16],
        }
    return _DIGESTS[source]


def teacher_facts(recipe: Recipe, name: str, teacher: FrozenTeacher, classes: int) -> dict[str, Any]:
    """What decides a teacher's advice on given pixels, and how it is stored."""
    settings = recipe.teachers.get(name)
    return {
        "model": settings.model if settings else type(teacher.model).__name__,
        "weights": digest(teacher.model.state_dict().values()),
        "image_size": teacher.image_size,
        "mean": None if teacher.mean is None else list(teacher.mean),
        "std": None if teacher.std is None else list(teacher.std),
        "index map": None if teacher.classes is None else teacher.classes.tolist(),
        "classes": classes,
        "top_k": record_format(recipe, classes).top,
        "train": settings.train.model_dump(mode="json") if settings and settings.train else None,
    }


def record_format(recipe: Recipe, classes: int) -> RecordFormat:
    """Layout of the recipe's records."""
    return RecordFormat(classes, min(recipe.advice.top_k or classes, classes))


def versions() -> dict[str, str]:
    """Versions of the libraries that make the views: others may make slightly different ones."""
    return {name: importlib.metadata.version(name) for name in VERSIONED}


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """`augmentation.mixup 0.8 → 0.2` for every fact that is another."""
    return [
        f"{key} {_short(before.get(key))} → {_short(now.get(key))}"
        for key in sorted({*before, *now})
        if before.get(key) != now.get(key)
    ]


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else text[:37] + "…"


# --- reading ------------------------------------------------------------------------------------------------


def read_header(folder: Path) -> dict[str, Any]:
    """The header of a cache.

    Raises:
        RunError: there is no cache, or one of a newer format.
    """
    path = folder / "header.json"
    if not path.is_file():
        raise RunError(f"{folder} holds no advice cache; make one with `coadvise cache RECIPE`")
    header: dict[str, Any] = read_json(path)
    if not isinstance(header, dict) or not isinstance(header.get("format"), int):
        raise RunError(f"{path} is no header of an advice cache; choose another folder with advice.folder=FOLDER")
    if header["format"] != FORMAT:
        update = "update coadvise, or " if header["format"] > FORMAT else ""
        raise RunError(
            f"{folder} has format {header['format']}, this version of coadvise reads {FORMAT}; {update}"
            "delete it and write the cache again, or elsewhere with advice.folder=FOLDER"
        )
    kinds = {"views": int, "data": dict, "versions": dict}
    if not all(isinstance(header.get(key), kind) for key, kind in kinds.items()):
        raise RunError(f"{path} is damaged; restore it, or delete {folder} and write the cache again")
    return header


def teacher_differences(path: Path, now: Mapping[str, Any]) -> list[str]:
    """What differs between the teacher of a column and this one.

    Raises:
        RunError: a damaged file.
    """
    before = read_json(path)
    if not isinstance(before, dict):
        raise RunError(f"{path} is damaged; restore it, or delete {path.parent} and run `coadvise cache RECIPE`")
    if before.get("train") is None or now["train"] is None:  # the same weights may come from a checkpoint
        before, now = before | {"train": None}, {**now, "train": None}
    return differences(before, now)


def kept_weights(recipe: Recipe) -> dict[str, Path]:
    """Weights of the teachers that were trained for the recipe's cache, where it has them."""
    paths = {name: cache_path(recipe) / name / "weights.safetensors" for name in recipe.teachers}
    return {name: path for name, path in paths.items() if path.is_file() and recipe.teachers[name].train is not None}


def require_fitting(folder: Path, recipe: Recipe, source: ImageSource) -> dict[str, Any]:
    """The header of a cache that fits the recipe, as far as can be said without the teachers.

    Raises:
        RunError: no cache, one of other images or another augmentation, with too few views.
    """
    header = read_header(folder)
    changes = differences(header["data"], data_facts(recipe, source))
    if changes:
        raise RunError(
            f"{folder} holds advice on other views of the data ({'; '.join(changes)}); restore these settings, or "
            "write a new cache with advice.folder=FOLDER"
        )
    if header["views"] < views_of(recipe):
        raise RunError(
            f"{folder} has {header['views']} views, the run takes {views_of(recipe)}; set data.views="
            f"{header['views']}, or write a larger cache with advice.folder=FOLDER"
        )
    return header


class AdviceCache:
    """A complete cache, opened for reading; any number of processes may read it.

    Args:
        folder: of the cache.
        recipe: that will use it.
        source: training images.
        teachers: those whose advice is needed.

    Raises:
        RunError: no cache, one of other data or teachers, an incomplete or damaged one.
    """

    def __init__(
        self, folder: Path, recipe: Recipe, source: ImageSource, teachers: Mapping[str, FrozenTeacher]
    ) -> None:
        self.folder, self.names = folder, tuple(teachers)
        self.header = require_fitting(folder, recipe, source)
        record = record_format(recipe, len(source.class_names))
        self.layout = Layout(len(source), self.header["views"], record)
        for name, teacher in teachers.items():
            self._require_column(name, teacher_facts(recipe, name, teacher, len(source.class_names)))
        self._shards: dict[tuple[str, int], NDArray[np.uint8]] = {}
        self._profiles: dict[tuple[str, torch.device], Tensor] = {}

    def _require_column(self, name: str, facts: dict[str, Any]) -> None:
        path = self.folder / name / "column.json"
        if not (self.folder / name / "teacher.json").is_file():
            known = sorted(p.parent.name for p in self.folder.glob("*/teacher.json"))
            raise RunError(
                f"{self.folder} has no advice of teacher '{name}' (it has: {', '.join(known) or 'none'}); "
                "add it with `coadvise cache RECIPE`"
            )
        changes = teacher_differences(self.folder / name / "teacher.json", facts)
        if changes:
            raise RunError(
                f"{self.folder} holds the advice of another teacher '{name}' ({'; '.join(changes)}); restore it, "
                f"delete {self.folder / name} and run `coadvise cache RECIPE`, or choose another advice.folder"
            )
        if not path.is_file():
            done = written_blocks(self.folder, name)
            writing = "is being written by another process" if being_written(self.folder) else "is incomplete"
            raise RunError(
                f"the advice of teacher '{name}' in {self.folder} {writing} ({done} of {self.layout.blocks} blocks); "
                + ("wait until it is done" if "being" in writing else "go on with `coadvise cache RECIPE`")
            )
        if problem := cut_shard(self.folder, name, self.layout):
            raise RunError(problem)
        if self.layout.record.profile_bytes:  # small enough to be read whole, and used for every image
            file = profile_path(self.folder, name)
            if hashlib.sha256(file.read_bytes()).hexdigest() != read_json(path)["sha256"].get(file.name):
                raise RunError(
                    f"{file} holds something else than was written; restore it, or delete {self.folder / name} and run "
                    "`coadvise cache RECIPE`"
                )

    def read(
        self, view: int, positions: Int64[np.ndarray, " b"], device: torch.device | str = "cpu"
    ) -> dict[str, Float[Tensor, "b k"]]:
        """Logits of every teacher for samples of a view, up to a constant for each image."""
        records = view * self.layout.images + positions
        advice = {}
        for name in self.names:
            raw = torch.from_numpy(self._records(name, records)).to(device, non_blocking=True)
            advice[name] = self.layout.record.decode(raw, self.profile(name, device))
        return advice

    def profile(self, name: str, device: torch.device | str = "cpu") -> Tensor | None:
        """A teacher's profile, read once for a device; None where records have no outside, or too many classes."""
        key, record = (name, torch.device(device)), self.layout.record
        if record.profile_bytes and key not in self._profiles:
            path = profile_path(self.folder, name)
            try:
                table = np.fromfile(path, dtype=np.float16).reshape(record.classes, record.classes)
            except OSError as error:
                raise RunError(f"{path} cannot be read: {error.strerror}") from error
            self._profiles[key] = torch.from_numpy(table).to(device)
        return self._profiles.get(key)

    def _records(self, name: str, records: Int64[np.ndarray, " b"]) -> NDArray[np.uint8]:
        shard, row = np.divmod(records, self.layout.per_shard)
        out = np.empty((len(records), self.layout.record.bytes), dtype=np.uint8)
        for number in np.unique(shard).tolist():
            chosen = shard == number
            out[chosen] = self._shard(name, number)[row[chosen]]
        return out

    def _shard(self, name: str, number: int) -> NDArray[np.uint8]:
        key = name, number
        if key not in self._shards:
            path = shard_path(self.folder, name, number)
            try:
                mapped = np.memmap(path, dtype=np.uint8, mode="r")
            except OSError as error:
                raise RunError(f"{path} cannot be read: {error.strerror}") from error
            self._shards[key] = mapped.reshape(-1, self.layout.record.bytes)
        return self._shards[key]


def written_blocks(folder: Path, teacher: str) -> int:
    """Number of blocks that are done."""
    path = folder / teacher / "progress"
    return path.read_bytes().count(1) if path.is_file() else 0


def being_written(folder: Path) -> bool:
    """Whether another process holds a block."""
    return locked_by_another(folder / "lock")


def cut_shard(folder: Path, teacher: str, layout: Layout) -> str:
    """What is wrong with the first file of a column that has not its size; empty where all have."""
    sizes = {shard_path(folder, teacher, shard): layout.shard_bytes(shard) for shard in range(layout.shards)}
    if layout.record.profile_bytes:
        sizes[profile_path(folder, teacher)] = layout.record.profile_bytes
    for file, expected in sizes.items():
        found = file.stat().st_size if file.is_file() else 0
        if found != expected:
            return (
                f"{file} has {found:,} bytes, should have {expected:,}: it was cut off; restore it, or delete "
                f"{folder / teacher} and run `coadvise cache RECIPE`"
            )
    return ""


def checksums(folder: Path, teacher: str, layout: Layout) -> dict[str, str]:
    """Hash of the contents of each shard and of the profile, by the name of the file."""
    paths = [shard_path(folder, teacher, shard) for shard in range(layout.shards)]
    if layout.record.profile_bytes:
        paths.append(profile_path(folder, teacher))
    sums = {}
    for path in paths:
        with path.open("rb") as file:
            sums[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return sums


def damaged_files(folder: Path, teachers: Iterable[str], layout: Layout) -> list[Path]:
    """Shards and profiles whose contents are not those that were written."""
    damaged = []
    for name in teachers:
        expected = read_json(folder / name / "column.json")["sha256"]
        found = checksums(folder, name, layout)
        damaged += [folder / name / file for file, value in found.items() if expected.get(file) != value]
    return damaged
