"""Fixtures for all tests."""

# ruff: noqa: E402  (what lies between the imports is for them)

from __future__ import annotations

import gc
import importlib
import os
import pkgutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

# Before OpenMP is loaded: its threads wait busily for each other, and beside other tests that takes 7 times as long.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell's background jobs ignore Ctrl-C, and so would the commands that are tested here.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# What is imported while tests are collected are half a million objects, and no garbage (system/imports.py).
gc.disable()

import numpy as np
import pytest
from helpers import SHARED
from PIL import Image

LONGEST = (
    "reproduce/test_runner.py",
    "cli/test_commands.py",
    "advice/test_cache.py",
    "training/test_distributed.py",
    "reports/test_demo_and_run.py",
    "reproduce/test_demo.py",
    "training/test_loop.py",
    "ops/test_involution_triton.py",
    "fuzz/test_fuzz.py",
    "advice/test_writer.py",
    "test_import.py",
    "ops/test_involution.py",
    "reproduce/test_experiments.py",
    "export/test_hub.py",
    "training/test_resume.py",
    "training/test_caching.py",
    "export/test_export.py",
    "data/test_loader.py",
    "checkpoints/test_loading.py",
)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real image data beside the repository, or `$COADVISE_DATA`; the test is skipped without it."""
    default = SHARED / "data"
    folder = Path(os.environ.get("COADVISE_DATA") or default)
    if not folder.is_dir():
        pytest.skip(f"no image data at {folder}; set COADVISE_DATA to a folder that has it")
    return folder


@pytest.fixture(autouse=True, scope="module")
def _frozen() -> None:
    """Collecting garbage, as every run does at its end, looks only at what was made since: 350 ms become 10."""
    gc.collect()
    gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that take longest come first, so that no process of xdist starts one while the others have ended."""
    place = {name: number for number, name in enumerate(LONGEST)}
    root = Path(__file__).parent
    items.sort(key=lambda item: place.get(item.path.relative_to(root).as_posix(), len(LONGEST)))


def pytest_collection_finish() -> None:
    """Garbage is collected again, of what tests make."""
    gc.freeze()
    gc.enable()


def pytest_sessionfinish() -> None:
    """What was frozen is freed at the end like everything else."""
    gc.unfreeze()


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """The images are small: more threads cost more than they bring, and tests run side by side."""
    import torch  # not by the process of xdist that runs no tests

    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def _quick_disk() -> Iterator[None]:
    """Files are written and not forced to the disk: no test cuts the power. Processes of their own do force them."""
    with mock.patch("os.fsync", lambda handle: None):
        yield


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests write no index or unpacked data into the user's cache; all processes of xdist compile for one of theirs.

    So do the fixtures that several tests share.
    """
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(shared / "cache"))
        yield


@pytest.fixture(scope="session")
def photo() -> Callable[..., Image.Image]:
    """Make an RGB image with gradients and blocks, different for each seed; size is (width, height)."""

    def make(seed: int = 0, size: tuple[int, int] = (40, 32)) -> Image.Image:
        generator = np.random.default_rng(seed)
        coarse = Image.fromarray(generator.integers(0, 256, (4, 5, 3), dtype=np.uint8))
        return coarse.resize(size, Image.Resampling.BICUBIC)

    return make


@pytest.fixture(scope="session")
def write_folder(photo: Callable[..., Image.Image]) -> Callable[..., Path]:
    """Write an image folder: root/<class>/NN.png with `count` images of each class."""

    def write(
        root: Path, classes: tuple[str, ...] = ("cat", "dog"), count: int = 5, size: tuple[int, int] = (40, 32)
    ) -> Path:
        for label, name in enumerate(classes):
            (root / name).mkdir(parents=True)
            for number in range(count):
                photo(100 * label + number, size).save(root / name / f"{number:02d}.png")
        return root

    return write


@pytest.fixture
def blank_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures of reports are empty, which takes a tenth of the time; their names, files and descriptions are there."""
    from matplotlib.figure import Figure

    from coadvise import reports
    from coadvise.reports.plots.style import Drawing, draw

    def blank(name: str, alt: str, build: Callable[[], Figure]) -> Drawing:
        return draw(name, alt, lambda: Figure((0.1, 0.1)))

    for found in pkgutil.iter_modules(reports.__path__, "coadvise.reports."):
        module = importlib.import_module(found.name)
        if getattr(module, "draw", None) is draw:
            monkeypatch.setattr(module, "draw", blank)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of two trained teachers."""
    from helpers.recipes import CNN, INN, tiny

    from coadvise.system.progress import Display
    from coadvise.training.train import train

    folder = tmp_path_factory.mktemp("trained")
    teachers = {"conv": {**CNN, "train": {"epochs": 15}}, "inv": {**INN, "train": {"epochs": 15}}}
    train(tiny(folder / "run", teachers=teachers), display=Display(quiet=True))
    return folder / "run" / "teachers"
