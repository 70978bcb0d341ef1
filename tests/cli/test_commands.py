"""The command line as a user meets it: real processes, their output and exit codes."""

import io
import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import yaml
from helpers import processes
from helpers.recipes import CNN, INN, TINY, tiny
from helpers.untrained import untrained_run
from PIL import Image

from coadvise.cli.main import app
from coadvise.recipe.reading import dump_recipe
from coadvise.system.progress import Display
from coadvise.training.train import train


def coadvise(*arguments: str | Path, timeout: float = 120) -> processes.Done:
    words = map(str, arguments)
    return processes.run("coadvise", *words, environment={"COLUMNS": "120"}, timeout=timeout)


def refused(*arguments: str | Path) -> str:
    """The message of a refusal: exit code 2, on stderr, no traceback."""
    done = coadvise(*arguments)
    assert done.returncode == 2, done.stdout + done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and "Traceback" not in done.stderr and "Warning" not in done.stderr, done.stderr
    return done.stderr


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A co-advised run on images of a folder, whose classes have names."""
    root = tmp_path_factory.mktemp("trained")
    rng = np.random.default_rng(0)
    for split, count in (("train", 24), ("val", 7)):
        for name, colour in (("night sky", 40), ("snow", 215)):
            (root / "photos" / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = np.clip(rng.normal(colour, 20, size=(12, 14, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(root / "photos" / split / name / f"{i}.png")
    data = {key: value for key, value in TINY["data"].items() if key not in ("train_size", "val_size")}
    data |= {"source": str(root / "photos"), "augment": {"policy": "light", "mixup": 0, "cutmix": 0, "erasing": 0}}
    changes = {"schedule.epochs": 20, "optim.batch_size": 12, "optim.lr": 3e-3}
    train(tiny(root / "run", changes, data=data, teachers={"conv": CNN, "inv": INN}), display=Display(quiet=True))
    return root


def test_predict_prints_classes_with_probabilities(trained: Path, tmp_path: Path) -> None:
    Image.new("RGB", (40, 30), (30, 35, 50)).save(tmp_path / "dark.jpg")
    done = coadvise("predict", tmp_path / "dark.jpg", "--model", trained / "run")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].endswith("dark.jpg") and lines[1].endswith("%  night sky") and lines[2].endswith("%  snow")
    shown = json.loads(coadvise("predict", tmp_path / "dark.jpg", "-m", trained / "run", "--json").stdout)
    assert shown["classes"]["night sky"] > 0.5
    assert sum(shown["classes"].values()) == pytest.approx(1, abs=1e-5)


def test_evaluate_prints_what_training_measured(trained: Path) -> None:
    result = json.loads((trained / "run" / "result.json").read_text())
    shown = json.loads(coadvise("evaluate", trained / "run", "--json").stdout)
    assert shown["samples"] == 14
    # best.safetensors holds the best epoch, result.json its accuracy
    assert shown["accuracy/class"] == pytest.approx(result["best"]["value"])
    table = coadvise("evaluate", trained / "run" / "best.safetensors", "--data", trained / "photos", "--split", "train")
    assert all(word in table.stdout for word in ("48 images", "class", "conv", "inv", "average"))
    said = table.stdout.replace("\n", " ")
    assert f"--data {trained / 'photos'} --split train --per-class" in said  # the next step is about the same images


def test_evaluate_takes_the_classes_that_a_run_took_of_its_data(tmp_path: Path) -> None:
    """Of another split, as of the validation set: what a folder of these classes alone gives."""
    rng = np.random.default_rng(0)
    for place, names in (("all", ("cat", "dog", "fox")), ("some", ("cat", "fox"))):
        for split in ("train", "val", "test"):
            for name in names:
                (tmp_path / place / split / name).mkdir(parents=True)
    for split in ("train", "val", "test"):
        for name in ("cat", "dog", "fox"):
            for i in range(5):
                file = tmp_path / "all" / split / name / f"{i}.png"
                Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(file)
                if name != "dog":
                    shutil.copy(file, tmp_path / "some" / split / name)
    (tmp_path / "names.txt").write_text("cat\nfox\n")
    sizes = {"data__train_size": None, "data__val_size": None, "data__classes": str(tmp_path / "names.txt")}
    own = {"data__source": str(tmp_path / "all"), **sizes}
    run = untrained_run(tmp_path / "run", TINY["student"], ("cat", "fox"), **own)
    wanted = coadvise("evaluate", run, "--data", tmp_path / "some", "--split", "test", "--json")
    done = coadvise("evaluate", run, "--split", "test", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == json.loads(wanted.stdout) and json.loads(done.stdout)["samples"] == 10
    named = coadvise("evaluate", run, "--data", tmp_path / "all", "--split", "test")
    assert "10 images of the run's classes (data.classes)" in named.stderr and "10 images" in named.stdout
    shutil.copytree(tmp_path / "all", tmp_path / "other")
    assert "does not know 1 of the data's 3 classes" in refused(
        "evaluate", run, "--data", tmp_path / "other", "--split", "test"
    )


def test_evaluate_leaves_out_what_cannot_be_read(
    trained: Path, write_folder: Callable[..., Path], tmp_path: Path
) -> None:
    """In the words that its message names: settings are a recipe's alone."""
    photos = write_folder(tmp_path / "more", classes=("night sky", "snow"), count=3)
    (photos / "snow" / "broken.png").write_bytes(b"nothing")
    said = refused("evaluate", trained / "run", "--data", photos)
    option = re.search(r"evaluate: (--[a-z-]+)", said)
    assert option is not None, said
    done = coadvise("evaluate", trained / "run", "--data", photos, option[1])
    assert done.returncode == 0 and "1 unreadable images were left out" in done.stdout, done.stderr
    assert f"{option[1]} --per-class" in done.stdout.replace("\n", " ")


def test_evaluate_shows_each_class(trained: Path) -> None:
    result = json.loads((trained / "run" / "result.json").read_text())
    shown = json.loads(coadvise("evaluate", trained / "run", "--per-class", "--json").stdout)["classes"]
    assert set(shown["per_class"]) == {"night sky", "snow"} == set(result["per_class"])
    assert [one["support"] for one in shown["per_class"].values()] == [7, 7]
    assert sum(map(sum, shown["confusion"])) == 14
    table = coadvise("evaluate", trained / "run", "--per-class")
    assert all(word in table.stdout for word in ("recall", "precision", "F1", "night sky", "next: "))
    assert "exclude each other" in refused("evaluate", trained / "run", "--per-class", "--only-its-classes")


def test_report_of_a_run(trained: Path) -> None:
    done = coadvise("report", trained / "run")
    assert done.returncode == 0 and (trained / "run" / "report.html").stat().st_size > 10_000
    assert "next: " in done.stdout
    page = (trained / "run" / "report.html").read_text()
    assert 'id="classes"' in page and 'id="calibration"' in page and "data:image/jpeg;base64," in page


def test_compare_refuses_what_it_cannot_compare(trained: Path, tmp_path: Path) -> None:
    assert "two runs or more" in refused("compare", trained / "run")
    teachers = [trained / "run" / "teachers" / name for name in ("conv", "inv")]
    done = coadvise("compare", *teachers)
    assert done.returncode == 0, done.stderr
    assert "student.model" in done.stdout and "McNemar" in done.stdout and "next: " in done.stdout
    shown = json.loads(coadvise("compare", *teachers, "--json").stdout)
    assert shown["differences"]["student.model"] == ["resnet10", "rednet26"]
    assert "no finished run" in refused("compare", trained / "run", tmp_path)


@pytest.mark.parametrize(
    "command",
    [
        "",
        "init",
        "select-teachers",
        "train",
        "evaluate",
        "predict",
        "export",
        "models",
        "doctor",
        "demo",
        "report",
        "recipe",
    ],
)
def test_help_shows_an_example(command: str) -> None:
    done = coadvise(*([command] if command else []), "--help")
    assert done.returncode == 0
    assert f"coadvise {command}" in done.stdout if command else "train" in done.stdout


def test_models_recipes_schema_doctor() -> None:
    models = coadvise("models", "rednet").stdout
    assert "rednet101" in models and "25.65 M" in models
    regnets = coadvise("models", "regnet").stdout
    assert all(f" {name} " in regnets for name in timm.list_models("*regnet*")) and "coadvise" not in regnets
    assert coadvise("models", "*patch16*dinov3").stdout.count("timm") == len(timm.list_models("*patch16*dinov3"))
    assert "did you mean regnet" in refused("models", "regnte")
    assert "cit-sak" in coadvise("recipes").stdout
    assert "optim" in json.loads(coadvise("schema").stdout)["properties"]
    found = coadvise("doctor").stdout
    assert "torch" in found
    if Path("/dev/shm").is_dir():
        size = os.statvfs("/dev/shm")
        assert f"{size.f_blocks * size.f_frsize / 2**20:,.0f} MiB" in found
    assert yaml.safe_load(coadvise("recipe", "cit-s", "optim.lr=1e-3").stdout)["optim"]["lr"] == 0.001


@pytest.mark.skipif(not Path("/dev/fd").is_dir(), reason="a pipe has no name on this system")
def test_a_recipe_from_a_pipe_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as pipe:
        pipe.write("name: piped\ndata: {source: digits}\nstudent: {model: cit_tiny}\n")
    app(["recipe", f"/dev/fd/{reading}"], standalone_mode=False)
    os.close(reading)
    assert yaml.safe_load(capsys.readouterr().out)["name"] == "piped"


# --- refusals --------------------------------------------------------------------------------------------


@pytest.fixture
def recipe(tmp_path: Path) -> Callable[..., Path]:
    """Write the tiny recipe with changes, without validating it."""

    def write(**parts: object) -> Path:
        content = {**TINY, **parts}
        content["run"] = {**TINY["run"], "output": str(tmp_path / "run"), **content["run"]}  # type: ignore[dict-item]
        path = tmp_path / "mine.yaml"
        path.write_text(yaml.safe_dump(content))
        return path

    return write


def test_names_of_experiments_are_listed_once() -> None:
    message = refused("reproduce", "nosuch")
    assert message.count("table7") == 1 and "or all (of the paper)" in message
    assert "there is no 'tabel6' (did you mean table6?)" in refused("reproduce", "tabel6")


def test_a_folder_that_cannot_be_written_names_the_setting(recipe: Callable[..., Path]) -> None:
    assert "choose another folder with run.output=FOLDER" in refused("train", recipe(), "run.output=/proc/x")


def test_recipes_that_do_not_fit(recipe: Callable[..., Path], tmp_path: Path) -> None:
    message = refused("train", recipe(), "optim.lrr=1", "schedule.epochs=0")
    assert "2 problems" in message and "did you mean lr?" in message and "must be ≥ 1" in message
    assert "did you mean cit-s" in refused("train", "cit-z")
    assert "resnet18" in refused("train", recipe(student={"model": "resnet81"}))
    assert "has no option 'dpth'" in refused(
        "train", recipe(student={"model": "cit_tiny", "options": {"patch_size": 2, "dpth": 3}})
    )
    assert not (tmp_path / "run").exists()


def test_teachers_that_do_not_fit(recipe: Callable[..., Path], trained: Path) -> None:
    two_classes = {**CNN, "train": None, "checkpoint": str(trained / "run" / "teachers" / "conv" / "best.safetensors")}
    message = refused("train", recipe(teachers={"conv": two_classes}))
    assert "knows none of the data's classes by name" in message and "teachers.conv.classes" in message
    small = {**two_classes, "classes": [0, 1] * 5, "options": {"channels": [8, 8, 8, 8]}}
    assert "another architecture" in refused("train", recipe(teachers={"conv": small}))
    gone = {**two_classes, "checkpoint": "gone.safetensors"}
    assert "gone.safetensors does not exist" in refused("train", recipe(teachers={"conv": gone}))


class Attack:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_a_pickle_with_code_is_refused_and_does_not_run(recipe: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "attack.pth").write_bytes(pickle.dumps(Attack(tmp_path / "owned")))
    torch.save({"model": 3, "x": Attack(tmp_path / "owned")}, tmp_path / "attack2.pth")
    (tmp_path / "text.pth").write_text("hello")
    for name in ("attack.pth", "attack2.pth", "text.pth"):
        teacher = {**CNN, "train": None, "checkpoint": str(tmp_path / name)}
        assert name in refused("train", recipe(teachers={"conv": teacher}))
    assert not (tmp_path / "owned").exists()


def test_data_that_does_not_fit(recipe: Callable[..., Path], trained: Path, tmp_path: Path) -> None:
    assert "no/where" in refused("train", recipe(), "data.source=no/where")
    assert "fewer samples than a batch" in refused(
        "train", recipe(), "optim.batch_size=101", "schedule.warmup_epochs=0"
    )
    data = {**TINY["data"], "source": str(tmp_path / "photos"), "train_size": None, "val_size": None}
    for split in ("train", "val"):
        for name in ("a", "b"):
            (tmp_path / "photos" / split / name).mkdir(parents=True)
            for i in range(12):
                Image.new("RGB", (9, 9)).save(tmp_path / "photos" / split / name / f"{i}.png")
    bad = tmp_path / "photos" / "train" / "a" / "bad.jpg"
    bad.write_bytes(b"no image at all")
    assert str(bad) in refused("train", recipe(data=data), "optim.batch_size=5")
    for path in (tmp_path / "run").iterdir():
        path.unlink()
    done = coadvise("train", recipe(data={**data, "on_error": "skip"}), "optim.batch_size=5")
    assert done.returncode == 0, done.stderr
    skipped = json.loads((tmp_path / "run" / "result.json").read_text())["skipped"]
    assert skipped["train"] == 1 and skipped["names"] == [str(bad)]
    bad.rename(tmp_path / "photos" / "val" / "a" / "bad.jpg")
    (tmp_path / "photos" / "train" / "c").mkdir()
    assert "holds no images" in refused("train", recipe(data=data), f"run.output={tmp_path / 'other'}")


def test_predict_and_evaluate_refuse(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8 nothing")
    assert "broken.jpg" in refused("predict", tmp_path / "broken.jpg", "-m", trained / "run")
    assert "no such image file" in refused("predict", tmp_path / "none.jpg", "-m", trained / "run")
    assert "does not exist" in refused("predict", tmp_path / "broken.jpg", "-m", tmp_path / "none.safetensors")
    assert "holds no best.safetensors" in refused("evaluate", tmp_path)
    assert "does not know" in refused("evaluate", trained / "run", "--data", "digits", "--split", "validation")


@pytest.mark.slow
def test_sigterm_for_all_processes_says_how_to_resume(recipe: Callable[..., Path], tmp_path: Path) -> None:
    """As `timeout`, systemd and batch systems send it: the loader processes leave it to the one that saves."""
    arguments = ["train", recipe(), "schedule.epochs=20", "run.eval_every=20", "data.workers=2"]
    arguments.append("data.augment.policy=deit")  # which keeps them at work
    done = coadvise(*stop_and_read(arguments, tmp_path / "run" / "metrics.jsonl", signal.SIGTERM), timeout=300)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "run" / "result.json").read_text())["steps"] == 100


def test_ctrl_c_while_a_teacher_is_trained(recipe: Callable[..., Path], tmp_path: Path) -> None:
    """The printed command goes on with the whole run, not with the teacher alone."""
    teacher = {**CNN, "train": {"epochs": 3}}
    there = tmp_path / "there"
    started = processes.start(
        "helpers.wait_at_step", str(there), "train", str(recipe(teachers={"conv": teacher})), group=True
    )
    while not there.exists():
        time.sleep(0.01)
        assert started.process.is_alive()
    os.killpg(started.pid, signal.SIGINT)
    there.unlink()
    stopped = started.wait(60)
    printed = command_printed(stopped.returncode, stopped.stderr)
    begun = tmp_path / "run" / "teachers" / "conv"
    assert (begun / "last.safetensors").exists() and not (begun / "result.json").exists()
    done = coadvise(*printed)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["steps"] == 20 and set(result["teachers"]) == {"conv"}


def stop_and_read(arguments: list[str | Path], metrics: Path, number: int) -> list[str]:
    """Send a signal once the metrics have a line, which all processes get; the arguments of the printed command."""
    started = processes.start("coadvise", *map(str, arguments), group=True)
    while not (metrics.exists() and metrics.stat().st_size):
        time.sleep(0.05)
        assert started.process.is_alive()
    os.killpg(started.pid, number)
    done = started.wait(60)
    return command_printed(done.returncode, done.stderr)


def command_printed(code: int, errors: str) -> list[str]:
    assert code == 130 and "--resume" in errors and "Traceback" not in errors, errors
    printed = errors.splitlines()[-1].split()
    assert printed[:2] == ["coadvise", "train"]
    return printed[1:]


def test_output_into_a_closed_pipe_is_quiet() -> None:
    done = subprocess.run(
        f"{sys.executable} -m coadvise schema | head -1", shell=True, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.startswith("{") and "Traceback" not in done.stderr


def test_recipe_written_by_a_run_is_complete(trained: Path) -> None:
    text = (trained / "run" / "recipe.yaml").read_text()
    assert yaml.safe_load(io.StringIO(text))["optim"]["eps"] == 1e-8
    assert dump_recipe(tiny(trained)).count("\n") > 60
