"""The teachers of a folder of experiments, as a recipe."""

from pathlib import Path

import pytest
from helpers.recipes import CNN, INN, tiny
from helpers.untrained import untrained_run

from coadvise.errors import RunError
from coadvise.paper.arms import Arm
from coadvise.recipe.reading import dump_recipe
from coadvise.reproduce.planner import Planner
from coadvise.reproduce.scales import SCALES
from coadvise.reproduce.setup import set_up
from coadvise.reproduce.teaching import mark_of, recipe_of_teachers
from coadvise.system.files import write_json


def test_finished_runs_of_teachers_are_found_and_no_others(tmp_path: Path) -> None:
    changed = ["data.augment.mixup=0.7", "weight=2"]
    write_json(tmp_path / "reproduce.json", {"scale": "digits", "changed": changed})
    planner = Planner(set_up(SCALES["digits"], tmp_path, settings=changed))
    inn0, cnn0, cnn1 = (
        planner.run(Arm(model), seed).name for model, seed in (("rednet26", 0), ("resnet18", 0), ("resnet18", 1))
    )
    cnn = {"model": "resnet10", "options": CNN["options"], "small_stem": True}
    places = {
        "resnet18.s0.zzzzzzzz": cnn, cnn0: cnn, cnn1: cnn,  # the first of other settings
        inn0: {"model": "rednet26", "options": INN["options"]},
        "resnet10.s0.dddddddd": cnn, "resnet18-e25.s0.eeeeeeee": cnn, "resnet34.s0.ffffffff": cnn,
        "transformer_tiny.resnet18.s0.99999999": cnn,
        **{planner.run(Arm(one), 0).name: cnn for one in ("transformer_tiny", "transformer_small", "mixer_tiny")},
    }  # fmt: skip
    with pytest.raises(RunError, match="holds no finished run of a teacher"):
        recipe_of_teachers(tmp_path)
    for name, student in places.items():
        place = untrained_run(tmp_path / "runs" / name, student)
        (place / "recipe.yaml").write_text(dump_recipe(tiny(place, student=student)))
        if not name.startswith("resnet34"):
            (place / "result.json").write_text("{}")
    found = recipe_of_teachers(tmp_path, ["data.augment.cutmix=0.0"])
    assert {name: (one.model, one.bias) for name, one in found.teachers.items()} == {
        "rednet26": (f"run:{tmp_path}/runs/{inn0}", "inv"),
        "resnet18": (f"run:{tmp_path}/runs/{cnn0}", "conv"),
        "resnet18-s1": (f"run:{tmp_path}/runs/{cnn1}", "conv"),
    }
    # Images are those of the scale's student, and not of its teachers, which are larger.
    assert (found.data.image_size, found.data.source, found.data.views) == (SCALES["digits"].size, "digits", None)
    assert (found.data.augment.mixup, found.data.augment.cutmix) == (0.7, 0.0)
    write_json(tmp_path / "reproduce.json", {"scale": "digits", "changed": ["teachers.epochs=3"]})
    with pytest.raises(RunError, match="are of other settings than it was last used with"):
        recipe_of_teachers(tmp_path)
    brought = tmp_path / "runs" / "resnet18.s0.zzzzzzzz" / "recipe.yaml"  # by --weights
    brought.write_text(dump_recipe(tiny(tmp_path, student={**cnn, "checkpoint": "cnn.safetensors"})))
    assert list(recipe_of_teachers(tmp_path).teachers) == ["resnet18"]


def test_the_folder_says_which_images_and_weights_are_meant(tmp_path: Path) -> None:
    """And not the first run in it, which may be of a call before."""
    given = tmp_path / "cnn.safetensors"
    given.write_bytes(b"weights")
    cnn = {"model": "resnet10", "options": CNN["options"], "small_stem": True}
    trained, brought = (set_up(SCALES["digits"], tmp_path, weights=one) for one in ({}, {"resnet18": str(given)}))
    names = [Planner(one).run(Arm("resnet18"), 0).name for one in (trained, brought)]
    for name in names:
        place = untrained_run(tmp_path / "runs" / name, cnn)
        (place / "recipe.yaml").write_text(dump_recipe(tiny(place, {"data.source": "elsewhere"}, student=cnn)))
        (place / "result.json").write_text("{}")
    for setup, name in zip((trained, brought), names, strict=True):
        write_json(tmp_path / "reproduce.json", mark_of(setup))
        (teacher,) = recipe_of_teachers(tmp_path).teachers.values()
        assert teacher.model == f"run:{tmp_path}/runs/{name}"
