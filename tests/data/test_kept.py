"""Pixels that are kept between runs: the same as those that are drawn, whoever wrote them."""

import errno
import fcntl
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.recipes import CNN, tiny
from PIL import Image

from coadvise.advice.identity import kept_pixels, open_kept
from coadvise.data.kept import KeptPixels
from coadvise.data.loader import TrainLoader
from coadvise.data.sources.base import ImageSource
from coadvise.data.sources.opening import open_source
from coadvise.data.sources.subsets import Subset
from coadvise.errors import DataError
from coadvise.recipe.data import Data
from coadvise.training.train import train


def settings(folder: Path | None, **changes: Any) -> Data:
    content: dict[str, Any] = {
        "source": "digits", "image_size": 8, "views": 2, "workers": 0, "seed": 3,
        "views_folder": None if folder is None else str(folder),
    }  # fmt: skip
    return Data.model_validate(content | changes)


def images() -> ImageSource:
    return Subset(open_source("digits", "train"), np.arange(24))


def batches(data: Data, source: ImageSource, kept: KeptPixels | None) -> list[torch.Tensor]:
    loader = TrainLoader(source, data, 8, kept=kept, keep=False)
    return [batch.images for epoch in range(3) for batch in loader.epoch(epoch)]


def test_kept_pixels_are_those_that_are_drawn(tmp_path: Path) -> None:
    data, source = settings(tmp_path), images()
    drawn = batches(settings(None), source, None)
    for _ in range(2):  # drawn and kept, then read
        kept = kept_pixels(data, source)
        assert kept is not None
        for one, other in zip(drawn, batches(data, source, kept), strict=True):
            assert torch.equal(one, other)


def test_what_is_kept_is_not_drawn_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, source = settings(tmp_path), images()
    first = batches(data, source, kept_pixels(data, source))

    def fail(*_: object) -> None:
        raise AssertionError("drawn again")

    kept = kept_pixels(data, source)
    monkeypatch.setattr(Subset, "read", fail)
    for one, other in zip(first, batches(data, source, kept), strict=True):
        assert torch.equal(one, other)


def test_a_damaged_row_is_drawn_again(tmp_path: Path) -> None:
    kept = KeptPixels(tmp_path, 2, 3, 4)
    assert kept.read(1, 2) is None
    black = np.zeros((4, 4, 3), np.uint8)
    kept.write(1, 2, black)
    kept.write(0, 0, black + 7)
    other = pickle.loads(pickle.dumps(kept))  # as a loader process gets it
    assert (other.read(1, 2) == 0).all() and (other.read(0, 0) == 7).all() and other.read(0, 1) is None
    with (tmp_path / "pixels.bin").open("r+b") as file:
        file.seek(5)
        file.write(b"\1")
    assert KeptPixels(tmp_path, 2, 3, 4).read(0, 0) is None


def test_images_that_were_replaced_are_drawn_again(
    tmp_path: Path, write_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where they are none of those whose contents are looked at; a copy with other times is the same."""
    monkeypatch.setattr("coadvise.advice.identity.SAMPLED", 1)
    root = write_folder(tmp_path / "images", ("a", "b"), 8)
    data = settings(tmp_path / "views", source=str(root))
    first = batches(data, source := open_source(str(root)), before := kept_pixels(data, source))
    replaced = [root / "a" / f"{i:02}.png" for i in (2, 3, 4)]
    for path in replaced:
        Image.fromarray(np.full((40, 40, 3), 77, np.uint8)).save(path)
    os.utime(root / "b" / "01.png", ns=(0, 0))
    source = open_source(str(root))
    kept = kept_pixels(data, source)
    assert before is not None and kept is not None and kept.folder == before.folder  # nothing else tells
    there = [kept.read(0, i) is not None for i in range(16)]
    assert there == [Path(source.describe(i)) not in replaced for i in range(16)]
    drawn = batches(settings(None, source=str(root)), source, None)
    for _ in range(2):
        for one, other in zip(drawn, batches(data, source, kept_pixels(data, source)), strict=True):
            assert torch.equal(one, other)
    assert not all(map(torch.equal, first, drawn))


def test_other_images_and_settings_have_other_folders(tmp_path: Path) -> None:
    source = images()
    changes: list[dict[str, Any]] = [
        {}, {"seed": 4}, {"image_size": 16}, {"augment": {"scale": [0.5, 1.0]}}, {"augment": {"hflip": 0.0}},
        {"augment": {"randaugment": None}}, {"resizer": "pillow"}, {"interpolation": "bilinear"},
    ]  # fmt: skip
    found = [kept_pixels(settings(tmp_path, **one), source) for one in changes]
    found.append(kept_pixels(settings(tmp_path), Subset(open_source("digits", "train"), np.arange(1, 25))))
    assert len({one.folder for one in found if one is not None}) == len(changes) + 1
    same = kept_pixels(settings(tmp_path, mean=[0.1, 0.1, 0.1], augment={"mixup": 0.1, "erasing": 0.0}), source)
    assert same is not None and found[0] is not None and same.folder == found[0].folder


@pytest.mark.parametrize("change", [{"views": None}, {"augment": {"policy": "light"}}, {"augment": {"repeats": 2}},
                                    {"balance": "sampling"}, {"views_folder": None}])  # fmt: skip
def test_nothing_is_kept_where_views_do_not_recur(tmp_path: Path, change: dict[str, Any]) -> None:
    data, said = settings(tmp_path, **change), list[str]()
    assert kept_pixels(data, images()) is None
    open_kept(data, images(), said.append)
    assert [line[:42] for line in said] == ["note: data.views_folder keeps nothing; it "] * (
        data.views_folder is not None
    )


def test_a_folder_that_cannot_be_is_said_before_teachers_are_trained(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    changes = {"data.views": 2, "data.views_folder": str(tmp_path / "file"), "data.augment.policy": "deit"}
    recipe = tiny(tmp_path / "run", changes, teachers={"conv": CNN})
    with pytest.raises(DataError, match=r"cannot keep views in .*file.*data.views_folder=FOLDER"):
        train(recipe)
    assert not (tmp_path / "run").exists()


def test_a_full_disk_is_said_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(DataError, match=r"cannot keep views in .*No space left on device.*views_folder"):
        KeptPixels(tmp_path / "views", 2, 3, 4).read(0, 0)


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="this system takes no disk space in advance")
def test_disks_that_take_no_space_by_themselves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There the C library writes the zeros, which it refuses for files that are open for appending alone."""

    def emulated(file: int, start: int, size: int) -> None:
        if fcntl.fcntl(file, fcntl.F_GETFL) & os.O_APPEND:
            raise OSError(errno.EBADF, "Bad file descriptor")
        os.pwrite(file, b"\0" * size, start)

    monkeypatch.setattr(os, "posix_fallocate", emulated)
    kept = KeptPixels(tmp_path, 2, 3, 4)
    kept.write(1, 2, np.full((4, 4, 3), 7, np.uint8))
    again = KeptPixels(tmp_path, 2, 3, 4).read(1, 2)
    assert again is not None and (again == 7).all()
