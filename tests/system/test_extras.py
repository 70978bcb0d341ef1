"""What a plain installation does, and what it says of the rest."""

from __future__ import annotations

import importlib.util
import re
import tomllib
from pathlib import Path

import pytest
from helpers.missing import Said, without
from helpers.recipes import CNN, tiny
from packaging.requirements import Requirement

from coadvise.recipe.reading import dump_recipe
from coadvise.system.extras import EXTRAS, MissingPackage, installed, need

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
MISSING = {
    "report": ["report", "runs/one"],
    "push": ["push", "runs/one", "me/one", "--dry-run"],
    "find-lr": ["find-lr", "digits"],
    "headroom": ["headroom", "digits"],
    "demo": ["demo", "--output", "runs/demo"],
    "plot": ["select-teachers", "digits", "runs/one", "resnet10t", "--plot", "pairs.png"],
    "onnx": ["export", "runs/one", "--to", "onnx"],
    "openvino": ["export", "runs/one", "--to", "openvino"],
    "exported": ["predict", "one.png", "--model", "model.onnx"],
    "transformers": ["train", "recipe.yaml", "run.output=runs/two", "teachers={conv: {model: 'transformers:x/y'}}"],
    "datasets": ["train", "recipe.yaml", "run.output=runs/two", "data.source=hf:mnist"],
}
"""Commands that a plain installation refuses."""
WANTED = {
    "report": "report", "push": "report", "find-lr": "report", "headroom": "report", "demo": "report", "plot": "report",
    "onnx": "export", "openvino": "export", "exported": "export", "transformers": "hf", "datasets": "hf",
}  # fmt: skip


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, photo) -> tuple[Path, dict[str, Said]]:  # type: ignore[no-untyped-def]
    """A folder, and what each command did in it where no optional package is installed."""
    folder = tmp_path_factory.mktemp("plain")
    photo().save(folder / "one.png")
    (folder / "model.onnx").write_bytes(b"")
    changes = {"run.tensorboard": True, "data.views": 2, "schedule.epochs": 2}
    recipe = tiny(Path("runs/one"), changes, teachers={"conv": CNN})
    (folder / "recipe.yaml").write_text(dump_recipe(recipe))
    works = {
        "train": ["train", "recipe.yaml"],
        "evaluate": ["evaluate", "runs/one"],
        "predict": ["predict", "one.png", "--model", "runs/one"],
        "plan": ["plan", "recipe.yaml", "--rounds", "1"],
        "cache": ["cache", "recipe.yaml", "advice.folder=cache"],
        "doctor": ["doctor"],
    }
    commands = works | MISSING
    return folder, dict(zip(commands, without([*EXTRAS, "tensorboardX"], folder, *commands.values()), strict=True))


def test_training_and_what_follows_from_it_need_no_extra(plain: tuple[Path, dict[str, Said]]) -> None:
    folder, said = plain
    for name in ("train", "evaluate", "predict", "plan", "cache", "doctor"):
        assert said[name].code == 0, (name, said[name].err)
    assert 'next: its report, with curves and pictures of mistakes: pip install "coadvise[report]"' in said["train"].out
    assert said["train"].err.count('pip install "coadvise[tensorboard]"') == 1
    assert (folder / "runs" / "one" / "metrics.jsonl").is_file() and not (folder / "runs/one/tensorboard").exists()
    for extra in set(EXTRAS.values()):
        assert f'pip install "coadvise[{extra}]"' in said["doctor"].out


@pytest.mark.parametrize("name", MISSING)
def test_what_is_missing_is_said_in_one_message(name: str, plain: tuple[Path, dict[str, Said]]) -> None:
    folder, said = plain
    errors = [line for line in said[name].err.splitlines() if "error" in line]
    assert said[name].code == 2 and "Traceback" not in said[name].err, said[name]
    assert len(errors) == 1 and f'pip install "coadvise[{WANTED[name]}]"' in errors[0]
    written = {"headroom": "runs/digits-headroom", "demo": "runs/demo", "plot": "pairs.png", "datasets": "runs/two"}
    assert not (folder / written.get(name, "runs/two")).exists()


def test_every_optional_package_is_brought_by_its_extra() -> None:
    extras = {
        extra: {Requirement(one).name for one in wanted} for extra, wanted in PROJECT["optional-dependencies"].items()
    }
    base = {Requirement(one).name for one in PROJECT["dependencies"]}
    for package, extra in EXTRAS.items():
        name = {"sklearn": "scikit-learn"}.get(package, package)
        assert name in extras[extra] and name not in base
    (everything,) = PROJECT["optional-dependencies"]["all"]
    assert set(re.findall(r"[a-z]+", everything)) - {"coadvise"} >= set(EXTRAS.values())


def test_what_is_needed_is_asked_for_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    need("matplotlib", "a figure")
    assert installed("json") and not installed("no_such_package")
    monkeypatch.setitem(EXTRAS, "no_such_package", "report")
    with pytest.raises(MissingPackage, match=r'^a figure needs no_such_package: pip install "coadvise\[report\]"$'):
        need("no_such_package", "a figure")


def test_a_folder_of_the_same_name_is_no_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mnist_images" / "train").mkdir(parents=True)
    monkeypatch.syspath_prepend(tmp_path)
    assert importlib.util.find_spec("mnist_images") is not None and not installed("mnist_images")
