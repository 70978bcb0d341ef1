"""Writing the advice cache, in blocks of whole batches. Several processes can share the work; a kill loses one block.

A block is claimed by a lock on its byte of FOLDER/lock, which the system releases however the process ends.
Its records go to their places in the shards, then to the disk, and then the block is marked. What is computed depends
on the block alone, so that the bytes are the same however often the writing was cut off, and whoever shared it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor

from ..data.loader import TrainLoader
from ..data.sources.base import ImageSource
from ..data.states import bytes_digest
from ..errors import RunError
from ..evaluation.teacher_check import finite
from ..models.teachers import FrozenTeacher, Teachers
from ..system.files import remove_leftovers, write_atomic, write_json
from ..system.locks import lock_byte, unlock_byte
from ..system.progress import Display
from .cache import checksums, require_fitting, require_same_number, require_whole
from .claims import Claims
from .headers import FORMAT, IMAGE_BYTES, read_header, require_same_teacher
from .identity import data_facts, differences, kept_pixels, teacher_facts, versions
from .layout import BATCH, Layout, profile_path, shard_path
from .profile import ProfileSums
from .request import CacheRequest


@dataclass(frozen=True)
class _Task:
    """One call of `write_cache`.

    Attributes:
        teachers: on the device.
        missing: names of those whose columns are not complete.
        facts: what each teacher's column says of it.
    """

    request: CacheRequest
    source: ImageSource
    teachers: Teachers
    missing: list[str]
    facts: Mapping[str, dict[str, Any]]
    layout: Layout
    accelerator: Accelerator
    display: Display


def write_cache(
    request: CacheRequest,
    source: ImageSource,
    loaded: Mapping[str, FrozenTeacher],
    teachers: Teachers,
    accelerator: Accelerator,
    display: Display,
) -> Layout:
    """Write what is missing of a cache; columns and blocks that are there stay as they are.

    Args:
        loaded: the teachers as they were loaded, for the fingerprint.
        teachers: the same, on the device.

    Returns:
        Layout of the columns, which are complete: what other processes write is waited for.

    Raises:
        RunError: a cache of other data or teachers, a full or read-only disk.
        ModelError: logits that are not finite.
    """
    require_possible(request, source)
    folder, classes = request.folder, len(source.class_names)
    facts = {name: teacher_facts(request, name, teacher, classes) for name, teacher in loaded.items()}
    views = read_header(folder)["views"] if (folder / "header.json").is_file() else request.views
    layout = Layout(len(source), views, request.record(classes))
    require_same_number(folder, layout)
    # The answer of one process for all: another launch may finish a column in between.
    missing = broadcast_object_list([_missing(folder, facts, layout)])[0]
    if not missing:
        return layout
    _require_space(folder, missing, layout)
    task = _Task(request, source, teachers, missing, facts, layout, accelerator, display)
    try:
        _create(task)
        with (folder / "lock").open("r+b") as lock:
            if lock_byte(lock.fileno(), layout.blocks):  # one process makes them, the others begin with the blocks
                _write_profiles(task)
                unlock_byte(lock.fileno(), layout.blocks)
            _write_blocks(task, lock.fileno())
            accelerator.wait_for_everyone()
            if accelerator.is_main_process:
                _finish(task, lock.fileno())
        accelerator.wait_for_everyone()
    except OSError as error:
        raise RunError(f"cannot write to {folder}: {error.strerror}; everything written so far is kept") from error
    return layout


def require_possible(request: CacheRequest, source: ImageSource) -> None:
    """Check everything that can be checked without the teachers: foreign files in the folder, a cache of other data.

    Raises:
        RunError: with what is wrong and how to mend it.
    """
    folder = request.folder
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder} is a file; choose a folder with advice.folder=FOLDER")
    if not (folder / "header.json").is_file():
        # Another process may be about to write the header, under a temporary name.
        found = folder.iterdir() if folder.exists() else ()
        if not any(path.name != "header.json" and not path.name.startswith(".header.json.") for path in found):
            return
        if not (folder / "header.json").is_file():
            raise RunError(f"{folder} holds other files; choose another folder with advice.folder=FOLDER")
    require_fitting(request, source)


def _missing(folder: Path, facts: Mapping[str, dict[str, Any]], layout: Layout) -> list[str]:
    """Names of the teachers whose column is incomplete; raises on columns of other teachers and truncated shards."""
    if not (folder / "header.json").is_file():
        return list(facts)
    missing = []
    for name, own in facts.items():
        if (folder / name / "teacher.json").is_file():
            require_same_teacher(folder, name, own)
        if not (folder / name / "column.json").is_file():
            missing.append(name)
        else:
            require_whole(folder, name, layout)
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


def _create(task: _Task) -> None:
    """Create header, lock, shards and progress files that are missing; safe for several processes at once."""
    folder, layout = task.request.folder, task.layout
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "header.json").is_file():
        data = data_facts(task.request.data, task.source)
        header = {"format": FORMAT, "views": layout.views, "data": data, "versions": versions()}
        if (sizes := bytes_digest(task.source)) is not None:
            header[IMAGE_BYTES] = sizes
        write_json(folder / "header.json", header)
    _extend(folder / "lock", layout.blocks + 1)
    for name in task.missing:
        (folder / name).mkdir(exist_ok=True)
        if not (folder / name / "teacher.json").is_file():
            settings = task.request.teachers.get(name)
            if settings is not None and settings.train is not None:  # for students in other folders
                weights = task.request.trained / name / "best.safetensors"
                if weights.is_file():
                    write_atomic(folder / name / "weights.safetensors", weights.read_bytes())
            write_json(folder / name / "teacher.json", task.facts[name])
        for shard in range(layout.shards):
            _extend(shard_path(folder, name, shard), layout.shard_bytes(shard))
        _extend(folder / name / "progress", layout.blocks)


def _extend(path: Path, size: int) -> None:
    """Extend a file to `size` bytes; existing content stays, new bytes are zero."""
    with path.open("ab") as file:
        if file.seek(0, os.SEEK_END) < size:
            file.truncate(size)


def _loader(task: _Task) -> TrainLoader:
    """Its batches are not compiled: the same bytes must come out wherever the writing goes on."""
    data, device = task.request.data, task.accelerator.device
    return TrainLoader(task.source, data, 1, device=device, compiled=False, kept=kept_pixels(data, task.source))


def _write_profiles(task: _Task) -> None:
    """Write the profiles that are missing; none where records keep all logits.

    Made from the beginning of the first view, in whole batches and summed on the CPU: the same bytes whoever does it.
    """
    folder, layout, images = task.request.folder, task.layout, task.layout.profile_images
    names = [name for name in task.missing if not profile_path(folder, name).is_file()]
    if not names or not layout.record.profile_bytes:
        return
    sums = {name: ProfileSums(layout.record.classes) for name in names}
    loader = _loader(task)
    keys = (loader.keys(0, at, min(at + BATCH, images)) for at in range(0, images, BATCH))
    with closing(loader), task.display.bar("profiles", images) as bar:
        for batch in loader.batches(keys):
            with task.accelerator.autocast():
                advice = task.teachers.forward(batch.images, names)
            for name in names:
                sums[name].add(finite(name, advice[name]))
            bar.advance(len(batch.images))
    for name in names:
        write_atomic(profile_path(folder, name), sums[name].profile().numpy().tobytes())


def _write_blocks(task: _Task, lock: int) -> None:
    layout, display = task.layout, task.display
    loader = _loader(task)
    claims = Claims(task.request.folder, task.missing, layout, lock, loader)
    rows: list[dict[str, Tensor]] = []
    skipped: set[str] = set()
    per_block = layout.images * layout.views / layout.blocks
    with closing(loader), display.bar("advice", layout.records, round(claims.done * per_block)) as bar:
        while True:
            for batch in loader.batches(claims.keys()):
                block, last = claims.of(batch.view, batch.position)
                names = claims.lacking[block]
                with task.accelerator.autocast():
                    advice = task.teachers.forward(batch.images, names)
                rows.append({name: layout.record.encode(finite(name, advice[name])).cpu() for name in names})
                skipped.update(batch.skipped)
                bar.advance(len(batch.images))
                if last:
                    _store(task.request.folder, names, layout, block, rows)
                    claims.mark(block)
                    rows = []
            if not claims.wait_for_others():
                break
    if skipped:
        display.say(f"{len(skipped)} unreadable training images were replaced, such as {min(skipped)}")


def _store(folder: Path, names: list[str], layout: Layout, block: int, rows: list[dict[str, Tensor]]) -> None:
    """Write a block's records into the shards and flush them to disk."""
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


def _finish(task: _Task, lock: int) -> None:
    """Write the column headers once all blocks are written; the last process does it."""
    folder, layout = task.request.folder, task.layout
    lock_byte(lock, layout.blocks, wait=True)  # one at a time
    try:
        _write_profiles(task)  # those that a process which died has left undone
        for name in task.missing:
            done = (folder / name / "progress").read_bytes()
            if done.count(1) == layout.blocks and not (folder / name / "column.json").is_file():
                write_json(folder / name / "column.json", {"sha256": checksums(folder, name, layout)})
                # All of these are there: nobody writes them any more.
                remove_leftovers(folder / name, ["teacher.json", "weights.safetensors", "profile.bin", "column.json"])
        remove_leftovers(folder, ["header.json"])
    finally:
        unlock_byte(lock, layout.blocks)
