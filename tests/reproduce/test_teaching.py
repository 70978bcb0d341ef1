"""The teachers of a folder of experiments, as a recipe."""

from pathlib import Path

import pytest
from helpers.recipes import CNN, INN, tiny
from helpers.untrained import untrained_run

from coadvise.errors import RunError
from coadvise.recipe.reading import dump_recipe
from coadvise.reproduce.scales import SCALES
from coadvise.reproduce.teaching import recipe_of_teachers
from coadvise.system.files import write_json


def test_finished_runs_of_teachers_are_found_and_no_others(tmp_path: Path) -> None:
    write_json(tmp_path / "reproduce.json", {"scale": "digits", "changed": ["data.augment.mixup=0.7", "weight=2"]})
    cnn = {"model": "resnet10", "options": CNN["options"], "small_stem": True}
    places = {
        "resnet18.s0.aaaaaaaa": cnn, "resnet18.s1.bbbbbbbb": cnn,
        "rednet26.s0.cccccccc": {"model": "rednet26", "options": INN["options"]},
        "resnet10.s0.dddddddd": cnn, "resnet18-e25.s0.eeeeeeee": cnn, "resnet34.s0.ffffffff": cnn,
        "transformer_tiny.resnet18.s0.99999999": cnn,
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
        "rednet26": (f"run:{tmp_path}/runs/rednet26.s0.cccccccc", "inv"),
        "resnet18": (f"run:{tmp_path}/runs/resnet18.s0.aaaaaaaa", "conv"),
        "resnet18-s1": (f"run:{tmp_path}/runs/resnet18.s1.bbbbbbbb", "conv"),
    }
    # Images are those of the scale's student, and not of its teachers, which are larger.
    assert (found.data.image_size, found.data.source, found.data.views) == (SCALES["digits"].size, "digits", None)
    assert (found.data.augment.mixup, found.data.augment.cutmix) == (0.7, 0.0)
