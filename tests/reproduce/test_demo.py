"""The demo: what its arms share, a whole small one, and the images on which its teachers disagree."""

import json
from pathlib import Path

import pytest
import yaml
from helpers.recipes import CNN, INN, tiny

from coadvise.checkpoints.trained import load_trained
from coadvise.data.sources.opening import open_sources
from coadvise.evaluation.disagreement import disagreements
from coadvise.evaluation.inference import class_probabilities
from coadvise.recipe.reading import builtin_recipes
from coadvise.reproduce import demo
from coadvise.system.progress import Display
from coadvise.training.train import train


def test_arms_of_a_seed_differ_in_their_teachers_only(tmp_path: Path) -> None:
    teachers, students = demo.demo_recipes(tmp_path, seeds=2)
    assert len(teachers) == 3 and len(students) == 10
    for seed in range(2):
        arms = [students[f"runs/{arm}-s{seed}"] for arm in demo.ARMS]
        for recipe in arms:
            alike = {"data", "optim", "schedule", "student"}
            assert recipe.model_dump(include=alike) == arms[0].model_dump(include=alike)
            assert recipe.run.seed == seed
    advised = students["runs/conv-conv-s1"]
    assert list(advised.teachers) == ["conv", "conv2"] and advised.tokens() == {"conv": "conv", "conv2": "conv"}
    assert len({recipe.run.seed for recipe in teachers.values()}) == 2


def test_a_whole_demo_in_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = yaml.safe_load(builtin_recipes()["digits"].read_text())
    content["schedule"] = {"epochs": 2, "warmup_epochs": 1}
    content["data"]["val_size"] = 100
    content["run"]["allow_weak"] = True
    for teacher in content["teachers"].values():
        teacher["train"]["epochs"] = 2
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(content))
    monkeypatch.setattr(demo, "builtin_recipes", lambda: {"digits": tmp_path / "small.yaml"})
    page = demo.run_demo(tmp_path / "demo", seeds=1, jobs=2)
    text = page.read_text()
    assert all(facts["label"] in text for facts in demo.ARMS.values())
    assert len(list((tmp_path / "demo" / "runs").glob("*/result.json"))) == 5
    # A second call finds everything finished, and writes the same page again.
    assert demo.run_demo(tmp_path / "demo", seeds=1, jobs=2) == page


def test_every_model_sees_images_as_it_was_trained_to(tmp_path: Path) -> None:
    """One teacher at 16 px, all others at 8 px."""
    cnn, inn = ({k: v for k, v in teacher.items() if k != "train"} for teacher in (CNN, INN))
    runs = {
        "teachers/conv": tiny(tmp_path / "teachers/conv", student=cnn),
        "teachers/inv": tiny(tmp_path / "teachers/inv", {"data.image_size": 16}, student=inn),
        "runs/none-s0": tiny(tmp_path / "runs/none-s0"),
        "runs/conv-inv-s0": tiny(tmp_path / "runs/conv-inv-s0"),
    }
    source = open_sources(runs["runs/none-s0"].data)[1]
    for folder, recipe in runs.items():
        result = train(recipe, display=Display(quiet=True))
        probabilities = class_probabilities(load_trained(tmp_path / folder), source)
        assert (probabilities.argmax(dim=1).numpy() == source.labels).mean() == pytest.approx(result["best"]["value"])
    shown = zip(("CNN", "INN", "labels only", "co-advised"), runs, strict=True)
    found = disagreements({label: load_trained(tmp_path / folder) for label, folder in shown}, count=4)
    assert len(found["images"]) == 4
    for image in found["images"]:
        top = {label: max(range(10), key=values.__getitem__) for label, values in image["outputs"].items()}
        assert top["CNN"] != top["INN"] and image["label"] == source.labels[image["index"]]
    assert json.dumps(found)
