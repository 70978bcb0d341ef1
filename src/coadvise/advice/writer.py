"""Writing the advice cache: blocks of whole batches, which any number of processes share and a kill cannot spoil.

A block is claimed by a lock on its byte of FOLDER/lock, which the system frees when the process ends in whatever way.
Its records go to their places in the shards, then to the disk, and then the block is marked. What is computed depends
on the block alone, so that the bytes are the same however often the writing was cut off, and whoever shared it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor

from ..data.loader import TrainLoader
from ..data.samples import Keys
from ..data.sources.base import ImageSource
from ..errors import RunError
from ..models.teachers import FrozenTeacher, Teachers
from ..recipe.schema import Recipe
from ..system.files import write_atomic, write_json
from ..system.locks import lock_byte, unlock_byte
from ..system.progress import Display
from .cache import FORMAT, checksums, cut_shard, read_header, require_fitting, teacher_differences
from .identity import data_facts, differences, teacher_facts, versions
from .layout import BATCH, Layout, record_format, shard_path, views_of
from .profile import finite, write_profiles


def write_cache(
    folder: Path,
    recipe: Recipe,
    source: ImageSource,
    teachers: Mapping[str, FrozenTeacher],
    advisers: Teachers,
    accelerator: Accelerator,
    display: Display,
) -> Layout:
    """Write what is missing of a cache; columns and blocks that are there stay as they are.

    Args:
        teachers: as they were loaded, for the fingerprint.
        advisers: the same, ready to advise.

    Returns:
        Layout of the columns, which are complete: what other processes write is waited for.

    Raises:
        RunError: a cache of other data or teachers, a full or read-only disk.
        ModelError: logits that are not finite.
    """
    require_possible(folder, recipe, source)
    classes = len(source.class_names)
    facts = {name: teacher_facts(recipe, name, teacher, classes) for name, teacher in teachers.items()}
    views = read_header(folder)["views"] if (folder / "header.json").is_file() else views_of(recipe)
    layout = Layout(len(source), views, record_format(recipe, classes))
    # The answer of one process for all: another launch may finish a column in between.
    missing = broadcast_object_list([_missing(folder, recipe, source, facts, layout)])[0]
    if not missing:
        return layout
    _require_space(folder, missing, layout)
    try:
        _create(folder, recipe, source, facts, missing, layout)
        with (folder / "lock").open("r+b") as lock:
            profiles = partial(
                write_profiles,
                folder,
                recipe,
                source,
                advisers,
                missing,
                layout,
                accelerator=accelerator,
                display=display,
            )
            if lock_byte(lock.fileno(), layout.blocks):  # one process makes them, the others begin with the blocks
                profiles()
                unlock_byte(lock.fileno(), layout.blocks)
            _write_blocks(folder, recipe, source, advisers, missing, layout, lock.fileno(), accelerator, display)
            accelerator.wait_for_everyone()
            if accelerator.is_main_process:
                _finish(folder, missing, layout, lock.fileno(), profiles)
        accelerator.wait_for_everyone()
    except OSError as error:
        raise RunError(f"cannot write to {folder}: {error.strerror}; everything written so far is kept") from error
    return layout


def require_possible(folder: Path, recipe: Recipe, source: ImageSource) -> None:
    """Check all that can be checked without the teachers: a folder of other files, a cache of something else.

    Raises:
        RunError: with what is wrong and how to mend it.
    """
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder} is a file; choose a folder with advice.folder=FOLDER")
    if not (folder / "header.json").is_file():
        # Another process may be about to write the header, under a temporary name.
        found = folder.iterdir() if folder.exists() else ()
        if not any(path.name != "header.json" and not path.name.startswith(".header.json.") for path in found):
            return
        if not (folder / "header.json").is_file():
            raise RunError(f"{folder} holds other files; choose another folder with advice.folder=FOLDER")
    require_fitting(folder, recipe, source)


def _missing(
    folder: Path, recipe: Recipe, source: ImageSource, facts: Mapping[str, dict[str, Any]], layout: Layout
) -> list[str]:
    """Teachers whose column is not complete; refuses columns of other teachers, and what was cut off."""
    if not (folder / "header.json").is_file():
        return list(facts)
    missing = []
    for name, own in facts.items():
        path = folder / name / "teacher.json"
        changes = "; ".join(teacher_differences(path, own)) if path.is_file() else ""
        if changes:
            raise RunError(
                f"{folder} holds the advice of another teacher '{name}' ({changes}); delete {folder / name}, "
                "or choose another folder with advice.folder=FOLDER"
            )
        if not (folder / name / "column.json").is_file():
            missing.append(name)
        elif problem := cut_shard(folder, name, layout):
            raise RunError(problem)
    written = read_header(folder)["versions"]
    if missing and written != versions():
        raise RunError(
            f"{folder} was begun with other versions of the libraries ({'; '.join(differences(written, versions()))}), "
            "which may draw other views; go on with those, or choose another folder with advice.folder=FOLDER"
        )
    return missing


def _require_space(folder: Path, missing: list[str], layout: Layout) -> None:
    written = sum(
        path.stat().st_blocks * 512 for name in missing for path in (folder / name).glob("*.bin") if path.is_file()
    )
    needed = max(len(missing) * layout.bytes - written, 0)
    place = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    free = shutil.disk_usage(place).free
    if needed > free:
        raise RunError(
            f"the cache needs {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free in {place}; fewer views "
            "(data.views) or logits (advice.top_k) take less, or choose another disk with advice.folder=FOLDER"
        )


def _create(
    folder: Path,
    recipe: Recipe,
    source: ImageSource,
    facts: Mapping[str, dict[str, Any]],
    missing: list[str],
    layout: Layout,
) -> None:
    """Make header, lock, shards and progress where they are not there yet; several processes may do so at once."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "header.json").is_file():
        write_json(
            folder / "header.json",
            {"format": FORMAT, "views": layout.views, "data": data_facts(recipe, source), "versions": versions()},
        )
    _extend(folder / "lock", layout.blocks + 1)
    for name in missing:
        (folder / name).mkdir(exist_ok=True)
        if not (folder / name / "teacher.json").is_file():
            settings = recipe.teachers.get(name)
            if settings is not None and settings.train is not None:  # for students in other folders
                weights = Path(recipe.run.output or f"runs/{recipe.name}") / "teachers" / name / "best.safetensors"
                if weights.is_file():
                    write_atomic(folder / name / "weights.safetensors", weights.read_bytes())
            write_json(folder / name / "teacher.json", facts[name])
        for shard in range(layout.shards):
            _extend(shard_path(folder, name, shard), layout.shard_bytes(shard))
        _extend(folder / name / "progress", layout.blocks)


def _extend(path: Path, size: int) -> None:
    """Give a file its size; what it holds stays, what is new reads as zeros."""
    with path.open("ab") as file:
        if file.seek(0, os.SEEK_END) < size:
            file.truncate(size)


def _write_blocks(
    folder: Path,
    recipe: Recipe,
    source: ImageSource,
    advisers: Teachers,
    missing: list[str],
    layout: Layout,
    lock: int,
    accelerator: Accelerator,
    display: Display,
) -> None:
    loader = TrainLoader(source, recipe.data, 1, device=accelerator.device)
    claims = _Claims(folder, missing, layout, lock, loader)
    rows: list[dict[str, Tensor]] = []
    skipped: set[str] = set()
    per_block = layout.images * layout.views / layout.blocks
    with display.bar("advice", layout.records, round(claims.done * per_block)) as bar:
        while True:
            for batch in loader.batches(claims.keys()):
                block, last = claims.of(batch.view, batch.position)
                names = claims.lacking[block]
                with accelerator.autocast():
                    advice = advisers.forward(batch.images, names)
                rows.append({name: layout.record.encode(finite(name, advice[name])).cpu() for name in names})
                skipped.update(batch.skipped)
                bar.advance(len(batch.images))
                if last:
                    _store(folder, names, layout, block, rows)
                    claims.mark(block)
                    rows = []
            if not claims.wait_for_others():
                break
    loader.close()
    if skipped:
        display.say(f"{len(skipped)} unreadable training images were replaced, such as {min(skipped)}")


def _store(folder: Path, names: list[str], layout: Layout, block: int, rows: list[dict[str, Tensor]]) -> None:
    """Write a block's records to their places and have them reach the disk."""
    view, start, _ = layout.block(block)
    for name in names:
        first = view * layout.images + start
        records = torch.cat([row[name] for row in rows]).numpy()
        while len(records):
            shard, row = divmod(first, layout.per_shard)
            part = records[: layout.per_shard - row]
            with shard_path(folder, name, shard).open("r+b") as file:
                file.seek(row * layout.record.bytes)
                file.write(part.tobytes())
                file.flush()
                os.fsync(file.fileno())
            records, first = records[len(part) :], first + len(part)


class _Claims:
    """Blocks that this process works on: locked when their first batch is asked for, marked when they are written."""

    def __init__(self, folder: Path, names: list[str], layout: Layout, lock: int, loader: TrainLoader) -> None:
        self.paths = {name: folder / name / "progress" for name in names}
        self.layout, self.lock, self.loader = layout, lock, loader
        self.lacking: dict[int, list[str]] = {}
        """Claimed blocks, with the teachers whose records they lack."""

    @property
    def done(self) -> int:
        """Number of blocks that are written for every teacher."""
        marks = [np.frombuffer(path.read_bytes(), np.uint8) for path in self.paths.values()]
        return int(np.all(marks, axis=0).sum())

    def keys(self) -> Iterator[Keys]:
        """Batches of every block that is neither written nor claimed by another process."""
        found = True
        while found:  # what another process gave up half-way is found by the next round
            found = False
            for block in range(self.layout.blocks):
                if block in self.lacking or not self._unwritten(block) or not lock_byte(self.lock, block):
                    continue
                names = self._unwritten(block)
                if not names:  # written by another process a moment ago
                    unlock_byte(self.lock, block)
                    continue
                self.lacking[block] = names
                found = True
                view, start, stop = self.layout.block(block)
                for at in range(start, stop, BATCH):
                    yield self.loader.keys(view, at, min(at + BATCH, stop))

    def wait_for_others(self) -> bool:
        """Wait until another process has left a block that is not written; False where all are.

        Not while this process holds a block: two could wait for each other.
        """
        for block in range(self.layout.blocks):
            if self._unwritten(block):
                lock_byte(self.lock, block, wait=True)
                unlock_byte(self.lock, block)
                return True
        return False

    def of(self, view: int, position: np.ndarray) -> tuple[int, bool]:
        """Block of a batch, and whether it is the block's last."""
        size = self.layout.block(0)[2]
        block = view * self.layout.blocks_per_view + int(position[0]) // size
        return block, int(position[-1]) + 1 == self.layout.block(block)[2]

    def mark(self, block: int) -> None:
        """Note that a block is written, and leave it."""
        for name in self.lacking[block]:
            with self.paths[name].open("r+b") as file:
                file.seek(block)
                file.write(b"\1")
                file.flush()
                os.fsync(file.fileno())
        unlock_byte(self.lock, block)

    def _unwritten(self, block: int) -> list[str]:
        names = []
        for name, path in self.paths.items():
            with path.open("rb") as file:
                file.seek(block)
                if file.read(1) != b"\1":
                    names.append(name)
        return names


def _finish(folder: Path, missing: list[str], layout: Layout, lock: int, profiles: Callable[[], None]) -> None:
    """Write the columns' headers when all blocks are there; the process that is last does it."""
    lock_byte(lock, layout.blocks, wait=True)  # one at a time
    try:
        profiles()  # that a process which died has left undone
        for name in missing:
            done = (folder / name / "progress").read_bytes()
            if done.count(1) == layout.blocks and not (folder / name / "column.json").is_file():
                write_json(folder / name / "column.json", {"sha256": checksums(folder, name, layout)})
    finally:
        unlock_byte(lock, layout.blocks)
