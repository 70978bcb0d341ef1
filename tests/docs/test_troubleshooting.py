"""Every message that docs/troubleshooting.md quotes is provoked, and said as it stands there."""

from __future__ import annotations

import os
import re
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.recipes import CNN, tiny
from PIL import Image

from coadvise.cli.main import main
from coadvise.data.feed import Feed
from coadvise.errors import CoadviseError
from coadvise.evaluation.teacher_check import TeacherCheck, require_able
from coadvise.models.factory import build_model
from coadvise.recipe.reading import dump_recipe
from coadvise.recipe.schema import Loss
from coadvise.run.result import RunResult
from coadvise.run.standing import verdict_of
from coadvise.training.student import make_objective

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "troubleshooting.md").read_text()
QUOTED = dict(re.findall(r"^### (.*)\n\n<!-- .* -->\n```{ \.text \.said }\n(.*)\n```$", PAGE, re.M))
FOLDER = "data.train_size=null data.val_size=null"
"""With the images of a folder, all are taken."""
CACHED = "run.output=runs/new advice=cache"


def photographs(place: str, train: str, val: str, colour: int = 100) -> None:
    for split, classes in (("train", train), ("val", val)):
        for name in classes.split():
            folder = Path(place, split, name)
            folder.mkdir(parents=True)
            for i in range(3):
                Image.fromarray(np.full((9, 9, 3), colour + i, np.uint8)).save(folder / f"{i}.png")


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a recipe, its run and its cache, and folders of photographs with a fault each."""
    signals = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGCHLD)}
    hook, before = threading.excepthook, Path.cwd()
    os.chdir(tmp_path_factory.mktemp("desk"))
    changes = {"schedule.epochs": 1, "schedule.warmup_epochs": 0, "advice.folder": "caches/tiny", "run.baselines": []}
    for seed, name in enumerate(("cnn", "twin")):
        torch.manual_seed(seed)
        cnn = build_model(str(CNN["model"]), 10, small=True, options=CNN["options"])
        torch.save(cnn.state_dict(), f"{name}.pth")
    teacher = {key: value for key, value in CNN.items() if key != "train"} | {"checkpoint": "cnn.pth"}
    Path("tiny.yaml").write_text(dump_recipe(tiny(Path("runs/tiny"), changes, teachers={"conv": teacher})))
    Path("plain.yaml").write_text(dump_recipe(tiny(Path("runs/plain"), changes)))
    photographs("photos", "cat dog", "cat dog")
    photographs("other", "cat dog", "cat cow")
    photographs("broken", "cat dog", "cat dog")
    for path in Path("broken/train").glob("*/*.png"):
        path.write_bytes(b"no image")
    shutil.copytree("photos/train/cat", "single/cat")
    shutil.copytree("photos/train/cat", "empty/cat")
    Path("empty/dog").mkdir()
    Path("quoted.csv").write_text('image,label\nempty/cat/0.png,"cat\n')
    yield Path.cwd()
    os.chdir(before)
    threading.excepthook = hook
    for number, handler in signals.items():
        signal.signal(number, handler)


@pytest.fixture
def said(desk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[[str, int], str]:
    def run(words: str, code: int = 2) -> str:
        monkeypatch.setattr(sys, "argv", ["coadvise", *words.split()])
        with pytest.raises(SystemExit) as leaving:
            main()
        out, err = capsys.readouterr()
        assert (leaving.value.code or 0) == code, err
        return out if code == 0 else err

    return run


@pytest.fixture(scope="module")
def finished(desk: Path) -> Path:
    """A finished run, and one that was stopped."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(sys, "argv", ["coadvise", "train", "tiny.yaml", "--quiet"])
        main()
    shutil.copytree("runs/tiny", "runs/half")
    Path("runs/half/result.json").unlink()
    return desk


@pytest.fixture(scope="module")
def cache(finished: Path) -> Path:
    """A cache of two views."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(sys, "argv", ["coadvise", "cache", "tiny.yaml", "data.views=2", "--quiet"])
        main()
    return finished / "caches" / "tiny"


def fits(title: str, text: str) -> None:
    """The quoted message is in the text; `…` stands for anything."""
    pattern = ".*?".join(re.escape(part.strip()) for part in QUOTED[title].split("…"))
    assert re.search(pattern, " ".join(text.split())), f"{QUOTED[title]}\n\n{text}"


COMMANDS = {
    "A key is unknown": "train tiny.yaml optim.lrr=1e-3 schedule.epochs=0",
    "A folder is no recipe": "train photos",
    "The image size does not fit the patches": "train tiny.yaml student.options.patch_size=3",
    "The source does not exist": "train tiny.yaml data.source=nowhere",
    "A class folder is empty": f"train tiny.yaml run.output=runs/new data.source=empty {FOLDER}",
    "There is a single class": f"train tiny.yaml run.output=runs/new data.source=single {FOLDER}",
    "Fewer images than a batch": f"train tiny.yaml run.output=runs/new data.source=photos {FOLDER}",
    "An image cannot be read": f"train plain.yaml data.source=broken optim.batch_size=2 {FOLDER}",
    "A quotation mark is never closed": "train tiny.yaml run.output=runs/new data.source=quoted.csv",
    "Training and validation have other classes": f"train tiny.yaml run.output=runs/new data.source=other {FOLDER}",
    "A teacher is near chance": "train tiny.yaml run.output=runs/new run.allow_weak=false",
    "There is no GPU": "train tiny.yaml run.output=runs/new run.device=cuda",
    "The disk is full, or read-only": "train tiny.yaml run.output=/proc/nothing",
    "There is no cache": f"train tiny.yaml {CACHED} data.views=2 advice.folder=caches/none",
    "It is no run": "report runs/none",
    "A file does not say what it is": "evaluate tiny.yaml",
}
AFTER_A_RUN = {
    "A checkpoint does not fit": "train tiny.yaml run.output=a teachers.conv.checkpoint=runs/tiny/best.safetensors",
    "The folder holds a finished run": "train tiny.yaml",
    "The folder holds an unfinished run": "train tiny.yaml run.output=runs/half",
    "The folder holds another recipe": "train tiny.yaml optim.lr=2e-3",
    "The loss is not finite": "train plain.yaml run.output=runs/wild optim.lr=1e30 optim.clip=null",
    "A file is there already": "export runs/tiny --to timm --output photos",
}
WITH_A_CACHE = {
    "The cache is of other views": f"train tiny.yaml {CACHED} data.views=2 data.seed=9",
    "The cache has too few views": f"train tiny.yaml {CACHED} data.views=3 schedule.epochs=3",
    "The cache is of another teacher": f"train tiny.yaml {CACHED} data.views=2 teachers.conv.checkpoint=twin.pth",
}


@pytest.mark.parametrize("title", COMMANDS)
def test_a_command_is_refused(said: Callable[[str], str], title: str) -> None:
    if title == "There is no GPU" and torch.cuda.is_available():
        pytest.skip("there is one")
    if "/proc" in COMMANDS[title] and not Path("/proc").is_dir():
        pytest.skip("this system has no folder that nobody can write to")
    fits(title, said(COMMANDS[title]))


@pytest.mark.parametrize("title", AFTER_A_RUN)
def test_a_command_after_a_run_is_refused(finished: Path, said: Callable[[str], str], title: str) -> None:
    fits(title, said(AFTER_A_RUN[title]))


@pytest.mark.parametrize("title", WITH_A_CACHE)
def test_a_command_with_a_cache_is_refused(cache: Path, said: Callable[[str], str], title: str) -> None:
    fits(title, said(WITH_A_CACHE[title]))


def test_a_cache_that_was_cut_off(cache: Path, said: Callable[[str], str]) -> None:
    path = cache / "conv" / "00000.bin"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    fits("A file of the cache is cut off", said(f"train tiny.yaml {CACHED} data.views=2"))
    path.write_bytes(whole)


def test_another_process_has_the_run(
    finished: Path, said: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("runs/half/.run.lock").write_text("process 7 on this machine")
    monkeypatch.setattr("coadvise.run.folder.locked_by_another", lambda path: True)
    fits("Another process has the run", said("train tiny.yaml run.output=runs/half --resume"))


def test_too_little_memory(desk: Path, said: Callable[[str], str], monkeypatch: pytest.MonkeyPatch) -> None:
    def no_room(*_: object) -> None:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 GB")

    monkeypatch.setattr("coadvise.training.train.train_epoch", no_room)
    fits("There is too little memory", said("train plain.yaml run.output=runs/large"))


def test_a_package_that_is_not_there(
    finished: Path, said: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coadvise.system.extras.installed", lambda package: False)
    fits("Something is not installed", said("export runs/tiny --to onnx"))


def test_a_loader_process_that_has_ended() -> None:
    feed: Feed[int] = Feed(None, 1, torch.device("cpu"))  # type: ignore[arg-type]
    feed._workers = [SimpleNamespace(exitcode=-signal.SIGKILL)]  # type: ignore[list-item]
    fits("A loader process has ended", str(feed._ended()))


def test_published_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **options: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr("coadvise.models.factory.require_reachable", lambda *_: None)
    monkeypatch.setattr("timm.models._builder.load_pretrained", offline)
    with pytest.raises(CoadviseError) as caught:
        build_model("resnet18", 5, pretrained=True)
    fits("Published weights cannot be had", str(caught.value))


def test_teachers_that_do_not_fit() -> None:
    reordered = TeacherCheck(accuracy=0.1, chance=0.1, order=0.9, renaming=((0, 1), (1, 0)), samples=100)
    with pytest.raises(CoadviseError) as caught:
        require_able({"conv": reordered}, ["cat", "dog"])
    fits("A teacher has its classes in another order", str(caught.value))
    with pytest.raises(CoadviseError) as caught:
        make_objective(Loss(), ["class", "inv"], ["conv"])
    fits("A teacher has no token", str(caught.value))


def test_what_a_run_says_of_a_bad_model(finished: Path) -> None:
    result, folder = RunResult.read(finished / "runs" / "tiny" / "result.json"), finished / "runs" / "tiny"
    for name in ("baselines", "teachers"):  # a teacher that the run has trained
        (folder / name / "conv").mkdir(parents=True, exist_ok=True)
        (folder / name / "conv" / "best.safetensors").touch()
    measured = lambda own, teacher: {**result.final, "accuracy/class": own, "teacher/conv": teacher}
    weak = replace(result, final=measured(0.1, 0.1), delivered={}, baselines=None)
    below = replace(weak, final=measured(0.6, 0.95))
    for one, title in ((weak, "No better than guessing"), (below, "Below a teacher")):
        verdict = verdict_of(one, folder)
        assert verdict is not None
        fits(title, "\n".join(f"next: {line}" for line in verdict.advice))


def test_every_quoted_message_is_provoked() -> None:
    text = Path(__file__).read_text()
    assert len(QUOTED) > 30 and PAGE.count("```{") == len(QUOTED)
    assert not [title for title in QUOTED if f'"{title}"' not in text]
