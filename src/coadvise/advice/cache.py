"""Reading the advice cache: the logits of frozen teachers for every view of every training image, by index.

FOLDER/header.json           what the views are made of: data set, augmentation, number of views
FOLDER/TEACHER/teacher.json  which teacher, and how many logits are kept
FOLDER/TEACHER/column.json   checksum of each shard and of the profile; written last
FOLDER/TEACHER/profile.bin   mean logits by first class (`record`), where logits are left out
FOLDER/TEACHER/weights.safetensors   weights of a teacher that the recipe trains, for students in other folders
FOLDER/TEACHER/00000.bin     shards of fixed-size records
FOLDER/TEACHER/progress      one byte for each block of views: 1 when it is written
FOLDER/lock                  writers lock the byte of the block they work on; the system releases it when they die

Record number = view · n + position, where the position is that in the order of the epoch (`data.views.order`), which
follows from the keys. A training step reads records that lie next to each other, whatever the batch size or the number
of processes. Nothing about the augmentation is stored: the views are made again from their keys.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..data.sources.base import ImageSource
from ..data.states import bytes_digest
from ..errors import RunError, few
from ..models.teachers import FrozenTeacher
from ..shapes import Float, Int64
from ..system.locks import locked_by_another
from .headers import IMAGE_BYTES, read_column, read_header, require_same_teacher
from .identity import data_facts, differences, teacher_facts
from .layout import Layout, profile_path, shard_path
from .request import CacheRequest


def kept_weights(request: CacheRequest) -> dict[str, Path]:
    """Weights of the teachers that were trained for the cache, where it has them."""
    paths = {name: request.folder / name / "weights.safetensors" for name in request.teachers}
    return {name: path for name, path in paths.items() if path.is_file() and request.teachers[name].train is not None}


def require_fitting(request: CacheRequest, source: ImageSource) -> dict[str, Any]:
    """The header of a cache that fits the request, as far as can be said without the teachers.

    Raises:
        RunError: no cache, one of other images or another augmentation, with too few views.
    """
    folder = request.folder
    if not (folder / "header.json").is_file() and (others := _others_that_fit(request, source)):
        raise RunError(
            f"{folder} holds no advice cache; {few([str(one) for one in others])} beside it fits this data: take it "
            f"with advice.folder={others[0]}, or make a new one with `coadvise cache RECIPE`"
        )
    header = read_header(folder)
    changes = differences(header["data"], data_facts(request.data, source))
    if changes:
        raise RunError(
            f"{folder} holds advice on other views of the data ({'; '.join(changes)}); restore these settings, or "
            "write a new cache with advice.folder=FOLDER"
        )
    if _replaced(header, source):
        raise RunError(
            f"{folder} holds advice on other images: since it was written, some were replaced under their names (they "
            "have another number of bytes); restore them, or write a new cache with advice.folder=FOLDER"
        )
    if header["views"] < request.views:
        raise RunError(
            f"{folder} has {header['views']} views, the run takes {request.views}; set data.views="
            f"{header['views']}, or write a larger cache with advice.folder=FOLDER"
        )
    return header


def _replaced(header: Mapping[str, Any], source: ImageSource) -> bool:
    """Whether images have another number of bytes than those that a cache was made of, as far as both are known."""
    written = header.get(IMAGE_BYTES)
    return written is not None and bytes_digest(source) not in (None, written)


def _others_that_fit(request: CacheRequest, source: ImageSource) -> list[Path]:
    """Caches beside the one that is wanted, with the same views of the same data."""
    fitting = []
    for path in sorted(request.folder.parent.glob("*/header.json")):
        with suppress(RunError):  # damaged, of another format, or no cache
            header = read_header(path.parent)
            same = header["data"] == data_facts(request.data, source) and not _replaced(header, source)
            if header["views"] >= request.views and same:
                fitting.append(path.parent)
    return fitting


class AdviceCache:
    """A complete cache, opened for reading; any number of processes may read it.

    Args:
        request: of the recipe that will use it.
        source: training images.
        teachers: those whose advice is needed.

    Raises:
        RunError: no cache, one of other data or teachers, an incomplete or damaged one.
    """

    def __init__(self, request: CacheRequest, source: ImageSource, teachers: Mapping[str, FrozenTeacher]) -> None:
        self.folder, self.names = request.folder, tuple(teachers)
        self.header = require_fitting(request, source)
        self.layout = Layout(len(source), self.header["views"], request.record(len(source.class_names)))
        require_same_number(self.folder, self.layout)
        for name, teacher in teachers.items():
            self._require_column(name, teacher_facts(request, name, teacher, len(source.class_names)))
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
        require_same_teacher(self.folder, name, facts)
        if not path.is_file():
            done = f"({written_blocks(self.folder, name)} of {self.layout.blocks} blocks)"
            state = f"is incomplete {done}; go on with `coadvise cache RECIPE`"
            if locked_by_another(self.folder / "lock"):
                state = f"is being written by another process {done}; wait until it is done"
            raise RunError(f"the advice of teacher '{name}' in {self.folder} {state}")
        require_whole(self.folder, name, self.layout)
        if self.layout.record.profile_bytes:  # small enough to be read whole, and used for every image
            file = profile_path(self.folder, name)
            table = _mapped(file, np.float16)
            if hashlib.sha256(table.tobytes()).hexdigest() != read_column(self.folder, name).get(file.name):
                raise RunError(
                    f"{file} holds something else than was written; restore it, or delete {self.folder / name} and run "
                    "`coadvise cache RECIPE`"
                )

    def read(
        self, view: int, positions: Int64[np.ndarray, " b"], device: torch.device | str = "cpu"
    ) -> dict[str, Float[Tensor, "b k"]]:
        """Logits of every teacher for samples of a view, up to a constant for each image.

        Raises:
            RunError: a record that no teacher can have left.
        """
        records = view * self.layout.images + positions
        advice = {}
        for name in self.names:
            found = self._records(name, records)
            if (bad := self.layout.record.damaged(found)).any():
                raise RunError(self._damage(name, int(records[bad.argmax()])))
            raw = torch.from_numpy(found)
            if torch.device(device).type == "cuda":  # otherwise the copy waits for the device
                raw = raw.pin_memory()
            advice[name] = self.layout.record.decode(raw.to(device, non_blocking=True), self.profile(name, device))
        return advice

    def _damage(self, name: str, record: int) -> str:
        shard, row = divmod(record, self.layout.per_shard)
        return (
            f"{shard_path(self.folder, name, shard)} is damaged: record {row} holds no logits of "
            f"{self.layout.record.classes} classes; restore it, or delete {self.folder / name} and run "
            "`coadvise cache RECIPE`"
        )

    def profile(self, name: str, device: torch.device | str = "cpu") -> Tensor | None:
        """A teacher's profile, read once for a device; None where records have no outside, or too many classes."""
        key, record = (name, torch.device(device)), self.layout.record
        if record.profile_bytes and key not in self._profiles:
            table = np.array(_mapped(profile_path(self.folder, name), np.float16))
            self._profiles[key] = torch.from_numpy(table.reshape(record.classes, record.classes)).to(device)
        return self._profiles.get(key)

    def _records(self, name: str, records: Int64[np.ndarray, " b"]) -> NDArray[np.uint8]:
        shard, row = np.divmod(records, self.layout.per_shard)
        out = np.empty((len(records), self.layout.record.bytes), dtype=np.uint8)
        for number in np.unique(shard).tolist():
            chosen = shard == number
            if (name, number) not in self._shards:
                mapped = _mapped(shard_path(self.folder, name, number), np.uint8)
                self._shards[name, number] = mapped.reshape(-1, self.layout.record.bytes)
            out[chosen] = self._shards[name, number][row[chosen]]
        return out


def _mapped(path: Path, dtype: type[np.generic]) -> NDArray[Any]:
    try:
        return np.memmap(path, dtype, mode="r")
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror}") from error


def written_blocks(folder: Path, teacher: str) -> int:
    """Number of blocks that are done."""
    path = folder / teacher / "progress"
    return path.read_bytes().count(1) if path.is_file() else 0


def _sizes(folder: Path, teacher: str, layout: Layout) -> Iterator[tuple[Path, int]]:
    """Each shard, and the profile, with its size in bytes."""
    for shard in range(layout.shards):
        yield shard_path(folder, teacher, shard), layout.shard_bytes(shard)
    if layout.record.profile_bytes:
        yield profile_path(folder, teacher), layout.record.profile_bytes


def require_same_number(folder: Path, layout: Layout) -> None:
    """Refuse a header whose number of views is not that of the files: a column has a byte for each block of views.

    Raises:
        RunError: another number.
    """
    sizes = [path.stat().st_size for path in folder.glob("*/progress")]
    if any(size not in (0, layout.blocks) for size in sizes):  # 0: another process is just making it
        raise RunError(
            f"{folder / 'header.json'} is damaged: it says {layout.views:,} views, and the files beside it were made "
            f"for another number of views; restore it, or delete {folder} and write the cache again"
        )


def require_whole(folder: Path, teacher: str, layout: Layout) -> None:
    """Refuse a column of which a file has the wrong size.

    Raises:
        RunError: names the first such file.
    """
    for file, expected in _sizes(folder, teacher, layout):
        found = file.stat().st_size if file.is_file() else 0
        if found != expected:
            what = "was cut off" if found < expected else "has grown"
            raise RunError(
                f"{file} has {found:,} bytes, should have {expected:,}: it {what}; restore it, or delete "
                f"{folder / teacher} and run `coadvise cache RECIPE`"
            )


def checksums(folder: Path, teacher: str, layout: Layout) -> dict[str, str]:
    """Hash of the contents of each shard and of the profile, by the name of the file."""
    sums = {}
    for path, _ in _sizes(folder, teacher, layout):
        with path.open("rb") as file:
            sums[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return sums


def require_undamaged(cache: AdviceCache) -> None:
    """Hash all shards and profiles.

    Raises:
        RunError: names those whose contents are not what was written.
    """
    damaged = []
    for name in cache.names:
        folder, expected = cache.folder / name, read_column(cache.folder, name)
        found = checksums(cache.folder, name, cache.layout)
        damaged += [str(folder / file) for file, value in found.items() if expected.get(file) != value]
    if damaged:
        raise RunError(
            f"{', '.join(damaged)}: the contents are not what was written; restore them, or delete the teacher's "
            "folder and run `coadvise cache RECIPE`"
        )
