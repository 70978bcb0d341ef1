"""The demo: what its arms share, a whole small one, and the images on which its teachers disagree."""

import json
from functools import partial
from html import unescape
from pathlib import Path

import pytest
from helpers.experiments import SHORT
from helpers.recipes import CNN, INN, tiny

from coadvise.checkpoints.trained import load_trained
from coadvise.cli.main import app
from coadvise.data.sources.opening import open_sources
from coadvise.evaluation.disagreement import disagreements
from coadvise.evaluation.inference import class_probabilities
from coadvise.paper.ablations import LABELS_ONLY, SAME_TWICE
from coadvise.paper.beyond import DEMO, DEMO_TITLES
from coadvise.paper.imagenet import EXPERIMENTS
from coadvise.reproduce import setup
from coadvise.reproduce.planner import Planner, in_order
from coadvise.reproduce.scales import find_scale
from coadvise.reproduce.setup import set_up
from coadvise.system.progress import Display
from coadvise.training.train import train


def test_arms_of_a_seed_differ_in_their_teachers_only(tmp_path: Path) -> None:
    planner = Planner(set_up(find_scale("digits"), tmp_path))
    for seed in range(2):
        runs = [planner.run(one, seed) for one in DEMO.arms()]
        for recipe in [one.recipe for one in runs]:
            assert (recipe.data, recipe.schedule, recipe.optim) == (
                runs[0].recipe.data,
                runs[0].recipe.schedule,
                runs[0].recipe.optim,
            )
            assert recipe.student.options == runs[0].recipe.student.options
            assert recipe.run.seed == recipe.data.seed == seed
    twice = planner.run(SAME_TWICE, 1)
    assert twice.recipe.tokens() == {"resnet18": "conv", "resnet18-s1": "conv"}
    assert [one.recipe.run.seed for one in twice.teachers.values()] == [0, 1]


def test_the_runs_of_the_demo_are_those_of_table_6(tmp_path: Path) -> None:
    planner = Planner(set_up(find_scale("digits"), tmp_path))
    demo, table = (in_order(planner, [one], 2) for one in (DEMO, EXPERIMENTS["table6"]))
    assert {run.name for run in demo} < {run.name for run in table}
    assert len([run for run in demo if run.teachers or run.arm == LABELS_ONLY]) == 10
    assert sorted(run.name.partition(".s")[0] for run in demo if run.arm.model != "transformer_tiny") == [
        "rednet26", "resnet18", "resnet18",
    ]  # fmt: skip


@pytest.mark.usefixtures("blank_figures")
def test_a_whole_demo_in_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setup, "set_up", partial(set_up, settings=SHORT))
    words = ["demo", "--output", str(tmp_path / "demo"), "--seeds", "1", "--jobs", "1"]
    app(words, standalone_mode=False)
    page = tmp_path / "demo" / "report.html"
    text = unescape(page.read_text())
    assert all(label in text for label in DEMO_TITLES.values())
    assert "Where the teachers disagree" in text and "One seed decides nothing: the vision transformer reaches" in text
    assert len(list((tmp_path / "demo" / "runs").glob("*/result.json"))) == 8
    # A second call finds everything finished, and writes the same page again.
    before = page.read_bytes()
    app(words, standalone_mode=False)
    assert page.read_bytes() == before


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
        assert (probabilities.argmax(dim=1).numpy() == source.labels).mean() == pytest.approx(result.best.value)
    shown = zip(("CNN", "INN", "labels only", "co-advised"), runs, strict=True)
    found = disagreements({label: load_trained(tmp_path / folder) for label, folder in shown}, count=4)
    assert len(found["images"]) == 4
    for image in found["images"]:
        top = {label: max(range(10), key=values.__getitem__) for label, values in image["outputs"].items()}
        assert top["CNN"] != top["INN"] and image["label"] == source.labels[image["index"]]
    assert json.dumps(found)
