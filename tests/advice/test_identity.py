"""A cache of other data or of another teacher is refused."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

from helpers.caches import QUIET, recipe_with, refused, write
from helpers.recipes import tiny
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from coadvise.advice.identity import data_facts
from coadvise.data.sources.opening import open_sources
from coadvise.recipe.schema import Recipe
from coadvise.training.caching import cache_advice
from coadvise.training.train import train


def test_a_cache_of_something_else(complete, tmp_path, trained):
    def changed(**changes: Any) -> Recipe:
        settings = {name.replace("__", "."): value for name, value in changes.items()}
        return recipe_with(trained, tmp_path, {"advice.source": "cache"} | settings)

    for action in (train, cache_advice):
        refused(
            changed(data__augment__mixup=0.2), r"other views of the data \(augmentation\.mixup 0\.4 → 0\.2\)", action
        )
        refused(changed(data__seed=5), "augmentation seed 0 → 5", action)
        refused(changed(data__train_size=99), "images 100 → 99", action)
        refused(changed(advice__top_k=2), r"another teacher 'conv' \(top_k 10 → 2\)", action)
        refused(changed(schedule__epochs=9), "has 4 views, the run takes 9; set data.views=4", action)
    train(changed(data__augment__label_smoothing=0.0, schedule__epochs=3), display=QUIET)  # other targets, same views
    weights = trained / "conv" / "best.safetensors"
    with safe_open(weights, "pt") as file:
        facts, tensors = file.metadata(), {key: file.get_tensor(key) * 1.01 for key in file.keys()}  # noqa: SIM118
    save_file(tensors, tmp_path / "other.safetensors", facts)
    other = copy.deepcopy(complete.model_dump(mode="json")["teachers"])
    other["conv"]["checkpoint"] = str(tmp_path / "other.safetensors")
    changes = {"advice.source": "cache", "run.output": str(tmp_path / "b")}
    refused(recipe_with(trained, tmp_path, changes, teachers=other), r"another teacher 'conv' \(weights")


def test_other_images_under_the_same_names(small, trained, tmp_path, write_folder):
    source = write_folder(tmp_path / "photos", tuple("0123456789"), 4)
    changes = {"data.source": str(source), "data.train_size": None, "data.val_size": None, "data.val_fraction": 0.25,
               "optim.batch_size": 10, "advice.source": "cache"}  # fmt: skip
    recipe = recipe_with(trained, tmp_path, changes)
    write(recipe)
    for path in source.glob("0/*.png"):
        shutil.copy(next(source.glob("1/*.png")), path)
    refused(recipe, "image contents")


def test_images_of_other_lengths_under_the_same_names(small, trained, tmp_path, write_folder, monkeypatch):
    """Noticed though their contents are not looked at; a cache of an earlier version, which does not say, is taken."""
    monkeypatch.setattr("coadvise.advice.identity.SAMPLED", 1)
    source = write_folder(tmp_path / "photos", tuple("0123456789"), 4)
    changes = {"data.source": str(source), "data.train_size": None, "data.val_size": None, "data.val_fraction": 0.25,
               "optim.batch_size": 10, "advice.source": "cache"}  # fmt: skip
    recipe = recipe_with(trained, tmp_path, changes)
    header = write(recipe) / "header.json"
    written = json.loads(header.read_text())
    assert written["data"] == data_facts(recipe.data, open_sources(recipe.data)[0]) and "image bytes" in written
    for path in source.glob("6/*.png"):
        Image.new("RGB", (30, 50)).save(path)
    assert written["data"] == data_facts(recipe.data, open_sources(recipe.data)[0])
    for action in (train, cache_advice):
        refused(recipe, r"some were replaced under their names .*; restore them, or write a new cache", action)
    new = recipe.model_copy(update={"advice": recipe.advice.model_copy(update={"folder": str(tmp_path / "new")})})
    refused(new, "new holds no advice cache; make one with")
    del written["image bytes"]
    header.write_text(json.dumps(written))
    assert cache_advice(recipe, display=QUIET)[0] == tmp_path / "cache"


def test_facts_leave_out_what_changes_no_pixel():
    recipe = tiny(Path("x"), {"data.augment.label_smoothing": 0.3})
    source = open_sources(recipe.data)[0]
    assert data_facts(recipe.data, source) == data_facts(tiny(Path("y"), {"data.workers": 1}).data, source)
